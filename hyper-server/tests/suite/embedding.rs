//! What a program brings of its own: an authenticator, an authorizer, routes and services beside the registry.

use super::support::{Api, memory, noise};
use async_trait::async_trait;
use axum::routing::get;
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Tag};
use hyper_server::auth::{
    Action, AnonymousAccess, AuthError, AuthRequest, Authenticator, Authorizer, Challenge, Denial, Principal,
    Scope,
};
use hyper_server::{ConnectionInfo, Registry, RegistryOptions, ServerOptions, router, serve};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Knows tokens. A caller without one is anonymous.
#[derive(Debug, Default)]
struct Tokens {
    known: HashMap<&'static str, Principal>,
    denials: Arc<Mutex<Vec<Denial>>>,
}

impl Tokens {
    fn with(mut self, token: &'static str, principal: Principal) -> Self {
        self.known.insert(token, principal);
        self
    }

    fn ask() -> Challenge {
        Challenge::bearer("https://auth.example.com/token", "registry.example.com")
    }
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        match request.bearer() {
            None if request.has_authorization() => Err(Self::ask().because("a token is needed").into()),
            None => Ok(Principal::anonymous()),
            // The directory that knows these tokens is not there.
            Some("remote") => Err(Error::new(ErrorKind::Unavailable, "ldap.internal does not answer").into()),
            Some(token) => match self.known.get(token) {
                Some(principal) => Ok(principal.clone()),
                None => Err(Self::ask().with("error", "invalid_token").because("unknown token").into()),
            },
        }
    }

    fn challenge(
        &self,
        request: &AuthRequest<'_>,
        principal: &Principal,
        denial: Denial,
    ) -> Option<Challenge> {
        self.denials.lock().unwrap().push(denial);
        if !principal.is_anonymous() && denial != Denial::OutOfScope {
            return None;
        }
        let scope = request.scope().map(|scope| scope.to_string());
        Some(scope.into_iter().fold(Self::ask(), |challenge, scope| challenge.with("scope", &scope)))
    }
}

fn own(tokens: Tokens) -> RegistryOptions {
    RegistryOptions { authenticator: Some(Arc::new(tokens)), ..RegistryOptions::default() }
}

const REALM: &str = r#"Bearer realm="https://auth.example.com/token",service="registry.example.com""#;

#[tokio::test]
async fn a_custom_authenticator_accepts_tokens_and_challenges_other_requests() {
    let api = Api::with(own(Tokens::default().with("good", Principal::user("alice"))));
    let good = [("authorization", "Bearer good")];
    let digest = Digest::sha256(b"x");
    let push = format!("/v2/a/blobs/uploads/?digest={digest}");
    let blob = format!("/v2/a/blobs/{digest}");

    api.request("POST", &push, &good, "x").await.expect(201);
    assert_eq!(api.request("GET", &blob, &good, "").await.expect(200).text(), "x");
    api.request("GET", "/v2/", &good, "").await.expect(200);

    for (authorization, error) in [("Bearer bad", r#",error="invalid_token""#), ("Basic YTpi", "")] {
        for (method, path) in [("GET", "/v2/"), ("POST", &push), ("GET", &blob), ("GET", "/v2/NOT_VALID")] {
            let headers = [("authorization", authorization)];
            let reply = api.request(method, path, &headers, "").await.refused(401, "UNAUTHORIZED");
            assert_eq!(reply.header("www-authenticate"), format!("{REALM}{error}"), "{method} {path}");
        }
    }
    let reply = api.request("GET", "/v2/", &[("authorization", "Bearer bad")], "").await;
    assert_eq!(reply.json()["errors"][0]["message"], "unknown token");

    // With an authenticator nothing is open to anonymous callers, unless the options say so.
    let reply = api.get(&blob).await.refused(401, "UNAUTHORIZED");
    assert_eq!(reply.header("www-authenticate"), format!(r#"{REALM},scope="repository:a:pull""#));
    let reply = api.request("POST", &push, &[], "x").await.refused(401, "UNAUTHORIZED");
    assert_eq!(reply.header("www-authenticate"), format!(r#"{REALM},scope="repository:a:pull,push""#));
    // The registry's own tokens are not for others.
    api.get("/v2/token?scope=repository:a:pull").await.refused(404, "NOT_FOUND");
    for open in ["/livez", "/readyz", "/metrics"] {
        api.get(open).await.expect(200);
    }
}

#[tokio::test]
async fn an_authenticator_gets_the_reason_of_a_denial() {
    let scope: Scope = "repository:a:pull".parse().unwrap();
    let tokens = Tokens::default()
        .with("alice", Principal::user("alice"))
        .with("limited", Principal::user("alice").with_scopes([scope]));
    let denials = tokens.denials.clone();
    let options =
        RegistryOptions { anonymous: Some(AnonymousAccess::Pull), metrics_for_users: true, ..own(tokens) };
    let api = Api::with(options);
    let upload = "/v2/b/blobs/uploads/";
    for (method, path, token, status, expected) in [
        // Clients look for the way to log in at the probe, and nowhere else.
        ("GET", "/v2/", "", 401, Some(Denial::Login)),
        ("GET", "/v2/", "limited", 200, None),
        ("GET", "/v2/_catalog", "", 200, None),
        ("POST", upload, "", 401, Some(Denial::Forbidden)),
        ("POST", upload, "limited", 401, Some(Denial::OutOfScope)),
        ("POST", upload, "alice", 202, None),
        ("GET", "/v2/b/tags/list", "limited", 404, None),
        ("GET", "/metrics", "", 401, Some(Denial::Forbidden)),
        ("GET", "/metrics", "alice", 200, None),
        ("GET", "/metrics", "limited", 401, Some(Denial::OutOfScope)),
    ] {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &headers[..] };
        let reply = api.request(method, path, headers, "").await.expect(status);
        assert_eq!(denials.lock().unwrap().pop(), expected, "{method} {path} {token}");
        assert_eq!(reply.header("www-authenticate").is_empty(), status != 401, "{method} {path} {token}");
    }
    assert!(denials.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_authenticator_gives_no_challenge_and_no_details() {
    let api = Api::with(own(Tokens::default()));
    let reply = api.request("GET", "/v2/", &[("authorization", "Bearer remote")], "").await;
    let reply = reply.refused(503, "UNAVAILABLE");
    assert_eq!(reply.header("www-authenticate"), "");
    assert_eq!(reply.header("retry-after"), "1");
    assert!(!reply.text().contains("ldap"), "{}", reply.text());
}

#[tokio::test]
async fn a_registry_takes_either_an_authenticator_or_a_file_of_users() {
    let file = super::access::users();
    let options = RegistryOptions { htpasswd: Some(file.path().to_owned()), ..own(Tokens::default()) };
    let e = Registry::new(memory(), options).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Invalid);
    assert!(e.to_string().contains("`authenticator`") && e.to_string().contains("`htpasswd`"), "{e}");
}

/// A team pushes to its own repositories; auditors read everything.
#[derive(Debug)]
struct Teams;

impl Authorizer for Teams {
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool {
        let team = who.claim("team").and_then(|team| team.as_str());
        match (repository, team) {
            (None, _) => !who.is_anonymous(),
            (Some(_), _) if who.is_in("auditors") => action == Action::Pull,
            (Some(name), Some(team)) => name.as_str().starts_with(&format!("{team}/")),
            (Some(_), None) => false,
        }
    }

    fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn the_claims_and_groups_of_a_principal_reach_the_authorizer() {
    let tokens = Tokens::default()
        .with("web", Principal::user("alice").with_claim("team", "web"))
        .with("audit", Principal::user("bob").with_groups(["staff", "auditors"]))
        .with("none", Principal::user("carol"));
    let api = Api::with(RegistryOptions { authorizer: Some(Arc::new(Teams)), ..own(tokens) });
    let digest = Digest::sha256(b"x");
    for (token, push, read) in [("web", 201, 200), ("audit", 403, 200), ("none", 403, 403)] {
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str())];
        let path = format!("/v2/web/app/blobs/uploads/?digest={digest}");
        api.request("POST", &path, &headers, "x").await.expect(push);
        api.request("GET", &format!("/v2/web/app/blobs/{digest}"), &headers, "").await.expect(read);
        let other = format!("/v2/db/app/blobs/uploads/?digest={digest}");
        api.request("POST", &other, &headers, "x").await.expect(403);
    }
}

/// Trusts what a layer has found out of the client's certificate.
#[derive(Debug)]
struct Certificates;

#[derive(Clone)]
struct CommonName(String);

#[async_trait]
impl Authenticator for Certificates {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        let name = request.extensions().get::<CommonName>();
        let peer = request.connection().map(|connection| connection.peer.unwrap().ip());
        assert!(peer.is_some_and(|peer| peer.is_loopback()), "the connection is not known");
        name.map(|name| Principal::user(&name.0)).ok_or_else(|| Challenge::new("Mutual").into())
    }
}

/// A server in the background, and how to stop it.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<hyper_sdk::Result<()>>,
}

impl Running {
    async fn start(app: axum::Router, options: ServerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, app, options, shutdown));
        Self { address, stop, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(self.url(path)).await.unwrap()
    }

    /// Sends a text and returns everything that comes until the server closes the connection.
    async fn exchange(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.unwrap().unwrap().unwrap();
    }
}

async fn add_certificate(
    mut request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    if let Some(name) = request.headers().get("x-test-certificate") {
        let name = CommonName(name.to_str().unwrap().to_owned());
        request.extensions_mut().insert(name);
    }
    next.run(request).await
}

#[tokio::test]
async fn an_outer_layer_passes_a_certificate_to_the_authenticator() {
    let options =
        RegistryOptions { authenticator: Some(Arc::new(Certificates)), ..RegistryOptions::default() };
    let registry = Registry::new(memory(), options).unwrap();
    let app = router(registry).layer(axum::middleware::from_fn(add_certificate));
    let server = Running::start(app, ServerOptions::default()).await;
    let refused = server.get("/v2/").await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["www-authenticate"], "Mutual");
    let request = reqwest::Client::new().get(server.url("/v2/")).header("x-test-certificate", "robot");
    assert_eq!(request.send().await.unwrap().status(), 200);
    server.stop().await;
}

async fn peer(axum::Extension(connection): axum::Extension<ConnectionInfo>) -> String {
    format!("{} to {}", connection.peer.unwrap().ip(), connection.local.unwrap())
}

fn beside(registry: &Registry) -> axum::Router {
    router(registry.clone())
        .route("/hello", get(|| async { "hello" }))
        .route("/peer", get(peer))
        .route("/large", get(|| async { vec![7u8; 40_000_000] }))
        .route("/never", get(std::future::pending::<()>))
}

#[tokio::test]
async fn serve_runs_additional_routes() {
    let registry = Registry::new(memory(), RegistryOptions::default()).unwrap();
    let options = ServerOptions { connections: registry.connections().clone(), ..ServerOptions::default() };
    let server = Running::start(beside(&registry), options).await;
    assert_eq!(server.get("/hello").await.text().await.unwrap(), "hello");
    let shown = server.get("/peer").await.text().await.unwrap();
    assert_eq!(shown, format!("127.0.0.1 to {}", server.address));
    let content = noise(1, 300_000);
    let digest = Digest::sha256(&content);
    let push = server.url(&format!("/v2/a/blobs/uploads/?digest={digest}"));
    let pushed = reqwest::Client::new().post(push).body(content.clone()).send().await.unwrap();
    assert_eq!(pushed.status(), 201);
    let pulled = server.get(&format!("/v2/a/blobs/{digest}")).await;
    assert_eq!(pulled.bytes().await.unwrap(), content);
    // A request that HTTP/1.1 does not allow reaches neither.
    let answer = server.exchange("GET /hello HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("`Host`"), "{answer}");
    let metrics = server.get("/metrics").await.text().await.unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("hyperregistry_{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse::<u64>().unwrap()
    };
    assert!(value("connections_total") >= 2 && value("connections") >= 1, "{metrics}");
    assert_eq!(value("requests_refused_total"), 1);
    server.stop().await;
    assert_eq!(registry.connections().open(), 0);
}

#[tokio::test]
async fn the_limits_of_the_accept_loop_hold_for_other_routes() {
    let registry = Registry::new(memory(), RegistryOptions::default()).unwrap();
    let options = ServerOptions {
        max_connections: 3,
        header_timeout: Duration::from_millis(500),
        write_timeout: Duration::from_millis(500),
        drain_timeout: Duration::from_millis(500),
        ..ServerOptions::default()
    };
    let server = Running::start(beside(&registry), options).await;
    // The time for a head.
    let answer = server.exchange("GET /hello HTTP/1.1\r\nhost: x\r\nx-slow:").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    // The time for a response.
    let mut unread = TcpStream::connect(server.address).await.unwrap();
    unread.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut received = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), unread.read_to_end(&mut received)).await;
    assert!(ended.is_ok() && received.len() < 40_000_000, "{} bytes came", received.len());
    // The number of connections, and the time of requests in flight after the stop.
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        busy.push(stream);
    }
    let mut waiting = TcpStream::connect(server.address).await.unwrap();
    waiting.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.read_to_end(&mut answer)).await;
    assert!(early.is_err(), "a fourth connection was served");
    drop(busy.pop());
    tokio::time::timeout(Duration::from_secs(20), waiting.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with(b"hello"));
    server.stop().await;
    for mut stream in busy {
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.unwrap().ok();
        assert!(rest.is_empty());
    }
}

#[tokio::test]
async fn serve_runs_any_service_and_closes_the_connection_when_it_fails() {
    let service =
        tower::service_fn(async |request: http::Request<hyper::body::Incoming>| match request.uri().path() {
            "/" => Ok(http::Response::new(axum::body::Body::from("own"))),
            _ => Err(std::io::Error::other("the service broke")),
        });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(serve(listener, service, ServerOptions::default(), std::future::pending()));
    let text = reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap();
    assert_eq!(text, "own");
    assert!(reqwest::get(format!("http://{address}/x")).await.is_err());
    let text = reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap();
    assert_eq!(text, "own", "the other connections go on");
    task.abort();
}
