//! A directory of ACME for tests (RFC 8555), on the loopback interface, over TLS. It checks what clients send, connects to those who say
//! that a domain is theirs, and can be told to fail.

use super::tls::Authority;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_sdk::clock::rfc3339;
use hyper_server::{Listener, ServerOptions, Tls, TlsOptions, serve};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the directory does in place of its work, at one request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Says that the nonce was used before.
    BadNonce,
    /// Answers with a problem of this status and type, and perhaps wants a pause of so many seconds.
    Problem(u16, &'static str, Option<u32>),
    /// Answers with a page of something in between.
    Page,
    /// Closes the connection.
    Cut,
}

#[derive(Debug)]
struct Order {
    account: usize,
    domains: Vec<String>,
    status: &'static str,
    certificate: Option<String>,
}

#[derive(Debug)]
struct Authorization {
    order: usize,
    domain: String,
    token: String,
    status: &'static str,
    /// The challenge that was tried, and why it failed.
    failed: Option<(String, String)>,
}

#[derive(Default)]
pub(super) struct Book {
    nonces: HashSet<String>,
    count: usize,
    /// The keys of accounts, and their contacts.
    pub(super) accounts: Vec<(Value, Value)>,
    orders: Vec<Order>,
    authorizations: Vec<Authorization>,
    /// The external account that one must have, and its key.
    pub(super) external: Option<(&'static str, Vec<u8>)>,
    /// How long certificates last.
    pub(super) life: Duration,
    /// Where the servers are whose answers are checked, all of them; the directory waits until there is one.
    pub(super) servers: Vec<SocketAddr>,
    /// What goes wrong at the next request whose path begins so.
    pub(super) faults: VecDeque<(&'static str, Fault)>,
    /// When certificates are to be renewed, whichever (RFC 9773).
    pub(super) window: Option<(i64, i64)>,
    /// The header `Retry-After` of answers about orders.
    pub(super) wait: Option<&'static str>,
    /// What the directory says in place of the address for nonces.
    pub(super) nonces_at: Option<&'static str>,
    /// The paths of all requests.
    pub(super) asked: Vec<String>,
}

impl Book {
    pub(super) fn orders(&self) -> usize {
        self.orders.len()
    }

    fn nonce(&mut self) -> String {
        self.count += 1;
        let nonce = format!("nonce-{}", self.count);
        self.nonces.insert(nonce.clone());
        nonce
    }
}

#[derive(Clone)]
pub(super) struct Directory(Arc<Inner>);

struct Inner {
    root: String,
    book: Mutex<Book>,
    /// Signs certificates of clients.
    authority: Authority,
    dir: tempfile::TempDir,
}

/// A status, the body, and headers.
type Answer = Result<(u16, Value, Vec<(&'static str, String)>), (u16, &'static str, String)>;

fn malformed(why: impl Into<String>) -> (u16, &'static str, String) {
    (400, "malformed", why.into())
}

impl Directory {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let web = Authority::new("web");
        let (certificate, key) = web.issue_for(&["127.0.0.1"], "directory", 1, 2090);
        let path = |name: &str| dir.path().join(name);
        for (name, text) in [("crt", &certificate), ("key", &key), ("ca", &web.pem)] {
            std::fs::write(path(name), text).unwrap();
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let tls =
            Tls::open(TlsOptions { certificate: path("crt"), key: path("key"), ..TlsOptions::default() });
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let root = format!("https://{}", socket.local_addr().unwrap());
        let book = Mutex::new(Book { life: Duration::from_secs(90 * 86_400), ..Book::default() });
        let directory = Self(Arc::new(Inner { root, book, authority: Authority::new("authority"), dir }));
        let serving = directory.clone();
        let service = tower::service_fn(move |request| serving.clone().respond(request));
        tokio::spawn(serve(
            Listener::tls(socket, tls.unwrap()),
            service,
            ServerOptions::default(),
            std::future::pending(),
        ));
        directory
    }

    pub(super) fn url(&self) -> String {
        format!("{}/directory", self.0.root)
    }

    /// The file of the authority of the directory itself.
    pub(super) fn ca(&self) -> PathBuf {
        self.0.dir.path().join("ca")
    }

    /// The authority of the certificates that it gives.
    pub(super) fn authority(&self) -> &Authority {
        &self.0.authority
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap()
    }

    /// How many orders and accounts there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let book = self.book();
        (book.orders.len(), book.accounts.len())
    }

    async fn respond(self, request: Request<Incoming>) -> std::io::Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let fault = {
            let mut book = self.book();
            book.asked.push(path.clone());
            let at = book.faults.iter().position(|(start, _)| path.starts_with(start));
            at.and_then(|at| book.faults.remove(at)).map(|(_, fault)| fault)
        };
        let answer = match fault {
            Some(Fault::Cut) => return Err(std::io::Error::other("cut")),
            Some(Fault::Page) => {
                // The answer to HEAD has no body.
                let page = if head.method == Method::HEAD { "" } else { "<html>bad gateway" };
                return Ok(Response::builder().status(502).body(page.into()).unwrap());
            }
            Some(Fault::BadNonce) => Err((400, "badNonce", "it was used".to_owned())),
            Some(Fault::Problem(status, kind, None)) => Err((status, kind, "told to fail".to_owned())),
            Some(Fault::Problem(status, kind, Some(wait))) => {
                let problem =
                    json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "too many"});
                Ok((status, problem, vec![("retry-after", wait.to_string())]))
            }
            None if path == "/directory" => Ok((200, self.directory(), vec![])),
            // The answer to HEAD has no body.
            None if path == "/nonce" => Ok((200, json!(""), vec![])),
            None if path.starts_with("/renewal/") && head.method == Method::GET => {
                let (start, end) = self.book().window.unwrap();
                let window = json!({"start": rfc3339(start), "end": rfc3339(end)});
                Ok((200, json!({"suggestedWindow": window}), vec![("retry-after", "21600".to_owned())]))
            }
            None if head.method == Method::POST => self.post(&path, &body),
            None => Err((405, "malformed", "use POST".to_owned())),
        };
        let (status, json, headers) = answer.unwrap_or_else(|(status, kind, detail)| {
            let kind = format!("urn:ietf:params:acme:error:{kind}");
            (status, json!({"type": kind, "detail": detail, "status": status}), vec![])
        });
        let mut response = Response::builder().status(status).header("replay-nonce", self.book().nonce());
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let body = match json {
            Value::String(text) => text,
            json => json.to_string(),
        };
        Ok(response.body(body.into()).unwrap())
    }

    fn directory(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.0.root);
        let mut json = json!({
            "newNonce": at("/nonce"), "newAccount": at("/new-account"), "newOrder": at("/new-order"),
        });
        if let Some(nonces) = self.book().nonces_at {
            json["newNonce"] = json!(nonces);
        }
        if self.book().window.is_some() {
            json["renewalInfo"] = json!(at("/renewal"));
        }
        json
    }

    /// Checks the signature (RFC 8555, section 6.2), and does what is asked.
    fn post(&self, path: &str, body: &[u8]) -> Answer {
        let body: Value = serde_json::from_slice(body).map_err(|_| malformed("no JSON"))?;
        let part = |name: &str| body[name].as_str().unwrap_or_default();
        let decoded = |name: &str| URL_SAFE_NO_PAD.decode(part(name)).map_err(|_| malformed(name));
        let head: Value = serde_json::from_slice(&decoded("protected")?).map_err(|_| malformed("head"))?;
        if head["alg"] != "ES256" || head["url"] != format!("{}{path}", self.0.root) {
            return Err(malformed(format!("the head is {head}")));
        }
        if !self.book().nonces.remove(head["nonce"].as_str().unwrap_or_default()) {
            return Err((400, "badNonce", "it is not mine".to_owned()));
        }
        let account = match (head["kid"].as_str(), path) {
            (None, "/new-account") => None,
            (Some(kid), _) => {
                let number = kid.strip_prefix(&format!("{}/account/", self.0.root));
                Some(number.and_then(|number| number.parse::<usize>().ok()).unwrap_or(usize::MAX))
            }
            (None, _) => return Err(malformed("no kid")),
        };
        let key = match account {
            None => head["jwk"].clone(),
            Some(account) => {
                let book = self.book();
                let known = book.accounts.get(account).map(|(key, _)| key.clone());
                known.ok_or((400, "accountDoesNotExist", "who is it?".to_owned()))?
            }
        };
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap_or_default()).unwrap();
        let point = [&[4][..], &coordinate("x"), &coordinate("y")].concat();
        let algorithm = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED;
        let signed = format!("{}.{}", part("protected"), part("payload"));
        aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, point)
            .verify(signed.as_bytes(), &decoded("signature")?)
            .map_err(|_| malformed("the signature is wrong"))?;
        let payload = match decoded("payload")?.as_slice() {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes).map_err(|_| malformed("payload"))?,
        };
        match account {
            None => self.new_account(key, &payload),
            Some(account) => self.act(account, path, &payload),
        }
    }

    fn new_account(&self, key: Value, payload: &Value) -> Answer {
        let mut book = self.book();
        if payload["termsOfServiceAgreed"] != true {
            return Err((403, "userActionRequired", "the terms".to_owned()));
        }
        if let Some((id, secret)) = &book.external {
            let bound = &payload["externalAccountBinding"];
            let refused = |why: &str| (401, "externalAccountRequired", why.to_owned());
            let part = |name: &str| bound[name].as_str().ok_or_else(|| refused("it is missing"));
            let decoded = |name: &str| Ok(URL_SAFE_NO_PAD.decode(part(name)?).unwrap());
            let head: Value = serde_json::from_slice(&decoded("protected")?).unwrap();
            let inner: Value = serde_json::from_slice(&decoded("payload")?).unwrap();
            let key_of_mac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
            let signed = format!("{}.{}", part("protected")?, part("payload")?);
            let is_right = head["alg"] == "HS256"
                && head["kid"] == *id
                && head["url"] == format!("{}/new-account", self.0.root)
                && inner == key;
            let mac = aws_lc_rs::hmac::verify(&key_of_mac, signed.as_bytes(), &decoded("signature")?);
            if !is_right || mac.is_err() {
                return Err((403, "unauthorized", "the binding is wrong".to_owned()));
            }
        }
        book.accounts.push((key, payload["contact"].clone()));
        let place = format!("{}/account/{}", self.0.root, book.accounts.len() - 1);
        Ok((201, json!({"status": "valid"}), vec![("location", place)]))
    }

    fn act(&self, account: usize, path: &str, payload: &Value) -> Answer {
        let mut book = self.book();
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let number = parts.get(1).and_then(|part| part.parse::<usize>().ok()).unwrap_or(usize::MAX);
        let unknown = || (404, "malformed", "there is none".to_owned());
        if path.starts_with("/order/") && book.orders.get(number).is_none_or(|order| order.account != account)
        {
            return Err(unknown());
        }
        match *parts.as_slice() {
            ["account", _] if number == account => {
                book.accounts[number].1 = payload["contact"].clone();
                Ok((200, json!({"status": "valid"}), vec![]))
            }
            ["new-order"] => {
                let order = book.orders.len();
                let mut domains = Vec::new();
                for one in payload["identifiers"].as_array().ok_or_else(|| malformed("identifiers"))? {
                    assert_eq!(one["type"], "dns");
                    let domain = one["value"].as_str().unwrap().to_owned();
                    domains.push(domain.clone());
                    let token = format!("token-of-{order:08}-{}", book.authorizations.len());
                    book.authorizations.push(Authorization {
                        order,
                        domain,
                        token,
                        status: "pending",
                        failed: None,
                    });
                }
                book.orders.push(Order { account, domains, status: "pending", certificate: None });
                let place = format!("{}/order/{order}", self.0.root);
                Ok((201, self.order(&book, order), vec![("location", place)]))
            }
            ["order", _] => {
                let answer = self.order(&book, number);
                if book.orders[number].status == "processing" {
                    book.orders[number].status = "valid";
                }
                let wait = book.wait.iter().map(|wait| ("retry-after", (*wait).to_owned())).collect();
                Ok((200, answer, wait))
            }
            ["order", _, "finalize"] => {
                let csr = URL_SAFE_NO_PAD.decode(payload["csr"].as_str().unwrap_or_default()).unwrap();
                let life = book.life;
                let order = &mut book.orders[number];
                if order.status != "ready" {
                    return Err((403, "orderNotReady", order.status.to_owned()));
                }
                let chain = self.0.authority.sign(&csr, &order.domains, SystemTime::now() + life);
                order.certificate = Some(chain.map_err(|why| (400, "badCSR", why))?);
                order.status = "processing";
                Ok((200, self.order(&book, number), vec![]))
            }
            ["certificate", _] => {
                let chain = book.orders.get(number).and_then(|order| order.certificate.clone());
                Ok((200, Value::String(chain.ok_or_else(unknown)?), vec![]))
            }
            ["authorization", _] if number < book.authorizations.len() => {
                Ok((200, self.authorization(&book.authorizations[number], number), vec![]))
            }
            ["challenge", _, kind] if number < book.authorizations.len() => {
                let this = self.clone();
                let kind = kind.to_owned();
                let thumb = thumbprint(&book.accounts[account].0);
                let answer = json!({"type": kind, "url": format!("{}{path}", self.0.root), "token": book.authorizations[number].token, "status": "processing"});
                tokio::spawn(async move { this.validate(number, &kind, &thumb).await });
                Ok((200, answer, vec![]))
            }
            _ => Err(unknown()),
        }
    }

    fn order(&self, book: &Book, number: usize) -> Value {
        let (order, root) = (&book.orders[number], &self.0.root);
        let of_order = (0..book.authorizations.len()).filter(|at| book.authorizations[*at].order == number);
        let authorizations: Vec<String> = of_order.map(|at| format!("{root}/authorization/{at}")).collect();
        let mut json = json!({
            "status": order.status, "authorizations": authorizations, "finalize": format!("{root}/order/{number}/finalize"),
        });
        if order.status == "valid" {
            json["certificate"] = json!(format!("{root}/certificate/{number}"));
        }
        json
    }

    fn authorization(&self, one: &Authorization, number: usize) -> Value {
        let challenges = ["http-01", "dns-01", "tls-alpn-01"].map(|kind| {
            let mut json = json!({
                "type": kind, "token": one.token, "status": one.status,
                "url": format!("{}/challenge/{number}/{kind}", self.0.root),
            });
            if let Some((_, why)) = one.failed.as_ref().filter(|(failed, _)| failed == kind) {
                json["error"] =
                    json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": why, "status": 403});
            }
            json
        });
        json!({"identifier": {"type": "dns", "value": one.domain}, "status": one.status, "challenges": challenges})
    }

    /// Connects to all servers, as directories do from several places.
    async fn validate(&self, number: usize, kind: &str, thumb: &str) {
        let (domain, token) = {
            let one = &self.book().authorizations[number];
            (one.domain.clone(), one.token.clone())
        };
        let mut servers = self.book().servers.clone();
        for _ in 0..1000 {
            if !servers.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            servers = self.book().servers.clone();
        }
        let proof = format!("{token}.{thumb}");
        let mut outcome = Err("there is no server".to_owned());
        for server in servers {
            let answer = async {
                match kind {
                    "tls-alpn-01" => by_tls(server, &domain, &proof).await,
                    "http-01" => by_http(server, &domain, &token, &proof).await,
                    kind => Err(format!("{kind} is not offered")),
                }
            };
            outcome = match tokio::time::timeout(Duration::from_secs(5), answer).await {
                Ok(outcome) => outcome,
                Err(_) => Err("the server does not answer".to_owned()),
            };
            if outcome.is_err() {
                break;
            }
        }
        let mut book = self.book();
        let one = &mut book.authorizations[number];
        one.status = if outcome.is_ok() { "valid" } else { "invalid" };
        one.failed = outcome.err().map(|why| (kind.to_owned(), why));
        let order = one.order;
        let of_order = book.authorizations.iter().filter(|one| one.order == order);
        let statuses: HashSet<&str> = of_order.map(|one| one.status).collect();
        book.orders[order].status = match statuses.contains("invalid") {
            true => "invalid",
            false if statuses.len() == 1 && statuses.contains("valid") => "ready",
            false => "pending",
        };
    }
}

/// The thumbprint of a key (RFC 7638).
fn thumbprint(key: &Value) -> String {
    let of = |name: &str| key[name].as_str().unwrap();
    let text =
        format!(r#"{{"crv":"{}","kty":"{}","x":"{}","y":"{}"}}"#, of("crv"), of("kty"), of("x"), of("y"));
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

async fn by_http(server: SocketAddr, domain: &str, token: &str, proof: &str) -> Result<(), String> {
    let mut stream = TcpStream::connect(server).await.map_err(|e| e.to_string())?;
    let request = format!(
        "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nhost: {domain}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
    match answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n{proof}")) {
        true => Ok(()),
        false => Err(format!("the answer is {answer}")),
    }
}

/// Checks the handshake and its certificate (RFC 8737, section 3).
async fn by_tls(server: SocketAddr, domain: &str, proof: &str) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let stream = TcpStream::connect(server).await.map_err(|e| e.to_string())?;
    let name = ServerName::try_from(domain.to_owned()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("the protocol is another one".to_owned());
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|e| e.to_string())?;
    let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    if names != [x509_parser::extensions::GeneralName::DNSName(domain)] {
        return Err(format!("the names are {names:?}"));
    }
    let identifier =
        certificate.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
    let expected = [&[4, 32][..], &Sha256::digest(proof)].concat();
    match identifier {
        Some(identifier) if identifier.critical && identifier.value == expected => Ok(()),
        other => Err(format!("the identifier is {other:?}")),
    }
}

/// Accepts every certificate: what counts is what it says.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    // The verifier of rustls refuses every certificate with the critical extension of the challenge.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
