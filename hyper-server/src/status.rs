//! `hyperregistry status`: asks a running server whether it is ready, and for its counts. It is for people, and for the health
//! checks of containers, whose images have no other program.

use crate::config::Config;
use crate::listen_on::ListenOn;
use crate::standard_io::print;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_sdk::small_file::{self, Kinds};
use hyper_sdk::{Error, ErrorKind, Result, ResultExt as _};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;

/// How long the server may take for all answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer.
const LIMIT: usize = 16 << 20;
const PREFIX: &str = "hyperregistry_";

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// A line for each count
    #[default]
    Text,
    /// One JSON object
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Where the server listens: `HOST:PORT`, `https://HOST:PORT` or `unix:PATH` [default: the first listener of the
    /// configuration]
    #[arg(value_name = "ADDRESS")]
    server: Option<ListenOn>,
    /// Configuration file of the server, TOML. With TLS it names the certificate that the server must show
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

/// What a server says of itself.
struct Status {
    server: String,
    /// Why it is not ready.
    fault: Option<String>,
    /// The breakers in front of what it needs elsewhere, with their states.
    dependencies: Vec<(String, String)>,
    /// The series without labels, without the name of the program.
    counts: Vec<(String, f64)>,
}

/// Prints the status. Returns whether the server is ready.
pub(crate) fn run(args: StatusArgs) -> Result<bool> {
    let config = Config::load(args.config.as_deref())?;
    let server = args.server.or_else(|| config.listen.first().cloned());
    let server = server.ok_or_else(|| Error::invalid("the configuration has no listener"))?;
    let certificates = config.tls.certificate_files()?;
    let ask = async {
        let asking = ask(&server, &certificates);
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the server does not answer").with_context("server", &server))
        })
    };
    let status = hyper_sdk::runtime::start()?.block_on(ask).map_err(|e| match e.kind() {
        ErrorKind::NotFound if config.tls.acme.is_set() => {
            Error::new(ErrorKind::Unavailable, "the server has no certificate by ACME yet")
                .with_context("server", &server)
                .with_source(e)
        }
        _ => e,
    })?;
    print(&match args.format {
        Format::Text => status.text(),
        Format::Json => status.json(),
    })?;
    Ok(status.fault.is_none())
}

async fn ask(server: &ListenOn, certificates: &[PathBuf]) -> Result<Status> {
    let (code, ready) = get(server, certificates, "/readyz").await?;
    let fault = (code != StatusCode::OK).then(|| reason(code, &ready));
    // A registry may show its counts to nobody, or to users alone.
    let (code, metrics) = get(server, certificates, "/metrics").await?;
    let counts = if code == StatusCode::OK { counts(&metrics) } else { Vec::new() };
    Ok(Status { server: server.to_string(), fault, dependencies: dependencies(&ready), counts })
}

/// One request by a connection of its own.
async fn get(server: &ListenOn, certificates: &[PathBuf], path: &str) -> Result<(StatusCode, String)> {
    let failed = |e| {
        Error::new(ErrorKind::Unavailable, "cannot connect to the server: is it running?")
            .with_context("server", server)
            .with_source(e)
    };
    match server {
        ListenOn::Unix(socket) => exchange(UnixStream::connect(socket).await.map_err(failed)?, path).await,
        ListenOn::Address { address, .. } => {
            let stream = address.connect().await.map_err(failed)?;
            if !server.needs_tls() && (certificates.is_empty() || !server.may_speak_tls()) {
                return exchange(stream, path).await;
            }
            if certificates.is_empty() {
                let message = "with https:// the certificate of the server must be known: use --config";
                return Err(Error::invalid(message));
            }
            let connector = TlsConnector::from(Arc::new(only(certificates)?));
            let name = ServerName::try_from("localhost").expect("it is a DNS name");
            let stream = connector.connect(name, stream).await.map_err(|e| {
                Error::new(ErrorKind::Unavailable, "cannot begin TLS with the server")
                    .with_context("server", server)
                    .with_source(e)
            })?;
            exchange(stream, path).await
        }
    }
}

async fn exchange<S>(stream: S, path: &str) -> Result<(StatusCode, String)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |e: hyper::Error| {
        Error::new(ErrorKind::Unavailable, "the server does not answer as a registry does").with_source(e)
    };
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(|e| Error::internal("a request cannot be made").with_source(e))?;
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = Limited::new(body, LIMIT).collect().await.map_err(|e| {
        Error::new(ErrorKind::Unavailable, format!("the answer of the server is cut or too long: {e}"))
    });
    connection.abort();
    Ok((head.status, String::from_utf8_lossy(&body?.to_bytes()).into_owned()))
}

fn first_certificate(path: &Path) -> Result<CertificateDer<'static>> {
    let text = small_file::read(path, "the certificate", LIMIT as u64, Kinds::Files)?;
    let certificate = CertificateDer::pem_slice_iter(&text).flatten().next();
    let certificate = certificate.ok_or_else(|| Error::invalid("there is no certificate in the file"));
    certificate.context("path", path.display())
}

/// TLS with a server that has the very certificate of one of these files, whatever its names and its authorities are. When none can be
/// read, the error is that of the first.
fn only(paths: &[PathBuf]) -> Result<ClientConfig> {
    let mut certificates = Vec::new();
    let mut fault = None;
    for path in paths {
        match first_certificate(path) {
            Ok(certificate) => certificates.push(certificate),
            Err(e) => fault = fault.or(Some(e)),
        }
    }
    if let Some(fault) = fault.filter(|_| certificates.is_empty()) {
        return Err(fault);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Error::internal("TLS cannot be used").with_source(e))?;
    let verifier = Arc::new(Only { certificates, algorithms });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Accepts these certificates. The server proves that it has the key, as always.
#[derive(Debug)]
struct Only {
    certificates: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.certificates.contains(shown) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The message of an error of the protocol, else the status.
fn reason(code: StatusCode, body: &str) -> String {
    let body: Option<Value> = serde_json::from_str(body).ok();
    let message = body.as_ref().and_then(|b| b["errors"][0]["message"].as_str());
    message.map_or_else(|| format!("the answer to /readyz is {code}"), str::to_owned)
}

/// What the answer to `/readyz` says of dependencies: lines after the first, or details of an error.
fn dependencies(ready: &str) -> Vec<(String, String)> {
    if let Ok(body) = serde_json::from_str::<Value>(ready) {
        let detail = body["errors"][0]["detail"].as_object();
        let states = detail.into_iter().flatten();
        return states.filter_map(|(name, state)| Some((name.clone(), state.as_str()?.to_owned()))).collect();
    }
    let lines = ready.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.map(|(name, state)| (name.to_owned(), state.to_owned())).collect()
}

/// The series without labels.
fn counts(text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter_map(|line| line.strip_prefix(PREFIX)?.split_once(' '))
        .filter(|(name, _)| !name.contains('{'))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

impl Status {
    fn text(&self) -> String {
        let mut out = match &self.fault {
            None => format!("{} is ready\n", self.server),
            Some(why) => format!("{} is not ready: {}\n", self.server, why.escape_debug()),
        };
        for (name, state) in &self.dependencies {
            let _ =
                writeln!(out, "{:<26} {}", format!("breaker {}", name.escape_debug()), state.escape_debug());
        }
        for (name, value) in &self.counts {
            let _ = writeln!(out, "{:<26} {value}", name.replace('_', " "));
        }
        out
    }

    fn json(&self) -> String {
        let counts: Map<String, Value> =
            self.counts.iter().map(|(name, value)| (name.clone(), number(*value))).collect();
        let states =
            self.dependencies.iter().map(|(name, state)| (name.clone(), Value::from(state.as_str())));
        let status = serde_json::json!({
            "server": self.server, "ready": self.fault.is_none(), "fault": self.fault,
            "breakers": states.collect::<Map<String, Value>>(), "counts": counts,
        });
        format!("{status}\n")
    }
}

/// A whole number as such.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { Value::from(value as i64) } else { Value::from(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_series_without_labels() {
        let text = "# HELP hyperregistry_a_total A\nhyperregistry_a_total 3\nhyperregistry_b{x=\"y z\"} 4\nother 5\nhyperregistry_c 0.5\n";
        let dependencies = dependencies("ok\ndatabase: closed\n");
        let status = Status { server: ":5000".to_owned(), fault: None, dependencies, counts: counts(text) };
        let lines = format!("{:<26} closed\n{:<26} 3\n{:<26} 0.5\n", "breaker database", "a total", "c");
        assert_eq!(status.text(), format!(":5000 is ready\n{lines}"));
        let json: Value = serde_json::from_str(&status.json()).unwrap();
        assert_eq!(json["breakers"], serde_json::json!({ "database": "closed" }));
        assert_eq!(json["counts"], serde_json::json!({ "a_total": 3, "c": 0.5 }));
    }

    #[test]
    fn the_reason_is_the_message_of_the_server() {
        let code = StatusCode::SERVICE_UNAVAILABLE;
        let body = r#"{"errors":[{"code":"X","message":"full","detail":{"bucket":"open"}}]}"#;
        assert_eq!(reason(code, body), "full");
        assert_eq!(dependencies(body), [("bucket".to_owned(), "open".to_owned())]);
        assert!(dependencies("ok\n").is_empty() && dependencies("<html>").is_empty());
        assert_eq!(reason(code, "<html>"), "the answer to /readyz is 503 Service Unavailable");
    }
}
