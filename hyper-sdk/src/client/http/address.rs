//! The address of a registry, and whether it speaks TLS.
//!
//! A registry on this machine usually speaks plain HTTP, and sometimes TLS. The first request decides: it is sent in plain
//! HTTP and without credentials. When it fails, or gets the status 400, as plain requests do at a port for TLS, a TLS
//! greeting is sent to the port. If that is answered, everything goes over TLS from then on, and the certificate is checked
//! like any other.

use crate::reference::RegistryHost;
use crate::{Error, Result};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use url::Url;

/// How long a server on this machine may take to show that it speaks TLS.
const LIMIT: Duration = Duration::from_secs(3);
/// The first byte of the answer of a TLS server: a handshake or an alert.
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;

pub(super) struct Address {
    plain: Url,
    tls: Url,
    is_tls: AtomicBool,
    is_settled: AtomicBool,
    greeting: Option<Arc<rustls::ClientConfig>>,
}

impl Address {
    /// The address of a host; `greeting` is the configuration to find out about TLS with, when that is open.
    pub(super) fn new(
        address: &str,
        is_tls: bool,
        greeting: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self> {
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{address}/"))
                .map_err(|e| Error::invalid("the registry host makes no URL").with_source(e))
        };
        let is_settled = AtomicBool::new(greeting.is_none());
        Ok(Self { plain: url("http")?, tls: url("https")?, is_tls: is_tls.into(), is_settled, greeting })
    }

    /// The root of the registry, as far as is known.
    pub(super) fn base(&self) -> &Url {
        if self.is_tls.load(Ordering::Acquire) { &self.tls } else { &self.plain }
    }

    /// A URL of the registry that was made before it was known to speak TLS.
    pub(super) fn adapt(&self, url: &mut Url) {
        if self.is_tls.load(Ordering::Acquire)
            && self.greeting.is_some()
            && url.origin() == self.plain.origin()
        {
            let _ = url.set_scheme("https");
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    /// Notes that the registry answered as servers of plain HTTP do.
    pub(super) fn is_plain(&self) {
        self.is_settled.store(true, Ordering::Release);
    }

    /// Whether the registry speaks TLS after all, which is kept in mind.
    pub(super) async fn speaks_tls(&self, host: &RegistryHost) -> bool {
        let Some(config) = &self.greeting else { return false };
        let answer = tokio::time::timeout(LIMIT, greet(&self.tls, host, config)).await;
        if !matches!(answer, Ok(Ok(HANDSHAKE | ALERT))) {
            return false;
        }
        self.is_tls.store(true, Ordering::Release);
        self.is_settled.store(true, Ordering::Release);
        true
    }
}

/// The first byte of the answer to a TLS greeting.
async fn greet(url: &Url, host: &RegistryHost, config: &Arc<rustls::ClientConfig>) -> std::io::Result<u8> {
    let name = ServerName::try_from(host.name().to_owned()).map_err(std::io::Error::other)?;
    let mut tls = rustls::ClientConnection::new(config.clone(), name).map_err(std::io::Error::other)?;
    let mut greeting = Vec::new();
    tls.write_tls(&mut greeting)?;
    let mut stream = TcpStream::connect((host.name(), url.port_or_known_default().unwrap_or(443))).await?;
    stream.write_all(&greeting).await?;
    stream.read_u8().await
}
