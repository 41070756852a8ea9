//! Registries of this machine with TLS and certificates of their own.

use super::*;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// A key and a certificate that it signs itself, for `localhost` and 127.0.0.1.
fn certificate(folder: &Path, authority: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let path = |name: &str| folder.join(name).display().to_string();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=test", "-days", "3650", "-keyout", &path("key"), "-out", &path("certificate")])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args([
            "-addext",
            if authority { "basicConstraints=critical,CA:TRUE" } else { "basicConstraints=CA:FALSE" },
        ])
        .output();
    let Ok(made) = made else {
        println!("SKIPPED: openssl is not installed");
        return None;
    };
    assert!(made.status.success(), "{made:?}");
    Some((std::fs::read(path("certificate")).unwrap(), std::fs::read(path("key")).unwrap()))
}

/// What a server for TLS does with a request in plain HTTP.
#[derive(Clone, Copy, Debug)]
enum ToPlain {
    Status400,
    Alert,
    HangUp,
}

struct TlsServer {
    host: RegistryHost,
    /// The heads of the requests, and whether each came over TLS.
    seen: Arc<Mutex<Vec<(bool, String)>>>,
}

fn serve(certificate: &[u8], key: &[u8], to_plain: ToPlain, name: &str) -> TlsServer {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate).unwrap()],
            PrivateKeyDer::from_pem_slice(key).unwrap(),
        )
        .unwrap();
    let (config, seen) = (Arc::new(config), Arc::new(Mutex::new(Vec::new())));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let log: Arc<Mutex<Vec<(bool, String)>>> = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, log) = (config.clone(), log.clone());
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || answer(stream, config, to_plain, &log));
        }
    });
    TlsServer { host: RegistryHost::parse(&format!("{name}:{port}")).unwrap(), seen }
}

fn head(stream: &mut impl std::io::Read) -> std::io::Result<String> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while stream.read_line(&mut head)? > 2 {}
    Ok(head)
}

fn answer(
    mut stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    to_plain: ToPlain,
    log: &Mutex<Vec<(bool, String)>>,
) {
    let mut first = [0];
    let _ = stream.peek(&mut first);
    if first[0] != 22 {
        let text = head(&mut stream).unwrap_or_default();
        log.lock().unwrap().push((false, text));
        let _ = match to_plain {
            ToPlain::Status400 => stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            ToPlain::Alert => stream.write_all(&[21, 3, 1, 0, 2, 2, 70]),
            ToPlain::HangUp => Ok(()),
        };
        return;
    }
    let tls = rustls::ServerConnection::new(config).unwrap();
    let mut stream = rustls::StreamOwned::new(tls, stream);
    while let Ok(text) = head(&mut stream) {
        if text.is_empty() {
            return;
        }
        let reply = if text.to_ascii_lowercase().contains("authorization: basic") {
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        } else {
            "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
        };
        log.lock().unwrap().push((true, text));
        if stream.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

fn joe(server: &TlsServer) -> crate::client::HttpClientBuilder {
    let keychain = StaticKeychain::default().with(server.host.clone(), Credentials::basic("joe", "hunter2"));
    HttpClient::builder(server.host.clone()).retry(QUICK).keychain(Arc::new(keychain))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_this_machine_with_tls_gets_credentials_only_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let Some((certificate, key)) = certificate(folder.path(), false) else { return };
    for to_plain in [ToPlain::Status400, ToPlain::Alert, ToPlain::HangUp] {
        let server = serve(&certificate, &key, to_plain, "localhost");
        let e = joe(&server).build().unwrap().ping().await.unwrap_err();
        assert!(e.to_string().contains("not trusted") && !e.is_retryable(), "{to_plain:?}: {e}");
        joe(&server).extra_roots(certificate.clone()).build().unwrap().ping().await.unwrap();
        joe(&server).insecure_tls(true).build().unwrap().ping().await.unwrap();
        for (tls, head) in server.seen.lock().unwrap().iter() {
            let carries = head.to_ascii_lowercase().contains("authorization");
            assert!(*tls || !carries, "{to_plain:?}: {head}");
        }
        assert!(server.seen.lock().unwrap().iter().any(|(tls, _)| *tls));
        // Plain HTTP was asked for: nothing else is spoken.
        let plain = joe(&server).plain_http(true).extra_roots(certificate.clone()).build().unwrap();
        assert!(plain.ping().await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_server_itself_is_trusted_for_its_names() {
    let folder = tempfile::tempdir().unwrap();
    for authority in [false, true] {
        let Some((certificate, key)) = certificate(folder.path(), authority) else { return };
        for name in ["localhost", "127.0.0.1"] {
            let server = serve(&certificate, &key, ToPlain::HangUp, name);
            joe(&server).extra_roots(certificate.clone()).build().unwrap().ping().await.unwrap();
        }
        let server = serve(&certificate, &key, ToPlain::HangUp, "other.localhost");
        let e = joe(&server).extra_roots(certificate.clone()).build().unwrap().ping().await.unwrap_err();
        assert!(e.to_string().contains("not trusted") || e.to_string().contains("connect"), "{e}");
        let Some((another, _)) = self::certificate(folder.path(), authority) else { return };
        let server = serve(&certificate, &key, ToPlain::HangUp, "localhost");
        let e = joe(&server).extra_roots(another).build().unwrap().ping().await.unwrap_err();
        assert!(e.to_string().contains("not trusted"), "{e}");
    }
}

#[test]
fn a_certificate_of_the_server_itself_expires_and_has_names() {
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};
    let folder = tempfile::tempdir().unwrap();
    let Some((pem, _)) = certificate(folder.path(), true) else { return };
    let given = crate::client::tls::certificates(&pem).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = crate::client::tls::Verifier::new(&given, provider).unwrap();
    let now = UnixTime::now().as_secs();
    let verify = |name: &str, at: u64| {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        verifier
            .verify_server_cert(&given[0], &[], &name, &[], at)
            .map(|_| ())
            .map_err(|e| e.to_string().to_lowercase().replace(' ', ""))
    };
    assert_eq!(verify("localhost", now), Ok(()));
    assert!(verify("r.example", now).unwrap_err().contains("notvalidforname"));
    assert!(verify("localhost", now + 3651 * 86_400).unwrap_err().contains("expired"));
    assert!(verify("localhost", now - 86_400).unwrap_err().contains("notvalidyet"));
}
