//! Tokens of other issuers: jobs log in with the token that they have. The issuer of these tests answers on the loopback interface.

use super::access::{basic, options, users};
use super::program::{Process, run, stderr};
use super::support::{Api, Reply};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_sdk::testing::FrozenClock;
use hyper_server::auth::{AnonymousAccess, IssuerKeys, IssuerOptions, PolicyFile};
use hyper_server::{AuditLog, ConnectionInfo, RegistryOptions, Throttling, WrongPasswords};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NOW: i64 = 1_700_000_000;
const PUSH: &str = "repository:acme/app:pull,push";

/// A key of an issuer.
pub(super) enum Key {
    Es256(&'static str, EcdsaKeyPair),
    Rs256(&'static str, RsaKeyPair),
}

impl Key {
    pub(super) fn new(id: &'static str) -> Self {
        Self::Es256(id, EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn rsa(id: &'static str) -> Self {
        Self::Rs256(id, RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap())
    }

    pub(super) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Es256(id, pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Self::Rs256(id, pair) => {
                // A sequence of two numbers, the modulus behind its head of nine bytes.
                let der = pair.public_key().as_ref();
                json!({"kty": "RSA", "kid": id, "alg": "RS256", "n": text(&der[9..265]), "e": text(&der[267..])})
            }
        }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        match self {
            Self::Es256(id, _) => self.sign_as(json!({"alg": "ES256", "kid": id}), claims),
            Self::Rs256(id, _) => self.sign_as(json!({"alg": "RS256", "kid": id}), claims),
        }
    }

    pub(super) fn sign_as(&self, header: Value, claims: &Value) -> String {
        let [header, claims] =
            [header.to_string(), claims.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{header}.{claims}");
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es256(_, pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Rs256(_, pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What an issuer answers.
#[derive(Clone)]
enum Answer {
    Text(u16, String),
    Never,
    Endless,
}

/// An issuer, and how often its keys were asked for.
struct Issuer {
    url: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let asked: Arc<AtomicUsize> = Arc::default();
        let (state, count) = (answers.clone(), asked.clone());
        let app = axum::Router::new().fallback(move |uri: http::Uri| {
            let answer = state.lock().unwrap().get(uri.path()).cloned();
            if uri.path() == "/keys" {
                count.fetch_add(1, Ordering::SeqCst);
            }
            async move {
                match answer {
                    None => Response::builder().status(404).body(Body::empty()).unwrap(),
                    Some(Answer::Text(status, text)) => {
                        let response = Response::builder().status(status).header("location", "/other");
                        response.body(Body::from(text)).unwrap()
                    }
                    Some(Answer::Never) => std::future::pending().await,
                    Some(Answer::Endless) => {
                        let piece = || Ok::<_, std::io::Error>(vec![b' '; 1 << 16]);
                        Response::new(Body::from_stream(futures::stream::repeat_with(piece)))
                    }
                }
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        let issuer = Self { url, answers, asked };
        let document = json!({"issuer": issuer.url, "jwks_uri": format!("{}/keys", issuer.url)});
        issuer.answer("/.well-known/openid-configuration", Answer::Text(200, document.to_string()));
        issuer
    }

    fn answer(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn keys(&self, keys: &[&Key]) {
        let set = json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()});
        self.answer("/keys", Answer::Text(200, set.to_string()));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn options(&self) -> IssuerOptions {
        IssuerOptions {
            user: "{repository}".to_owned(),
            groups: Some("teams".to_owned()),
            claims: vec!["ref".to_owned()],
            require: [("repository".to_owned(), vec!["acme/*".to_owned()])].into(),
            ..IssuerOptions::new("ci", &self.url, "registry")
        }
    }

    /// The claims of a job.
    fn claims(&self) -> Value {
        json!({
            "iss": self.url, "sub": "repo:acme/app:ref:refs/heads/main", "aud": "registry", "exp": NOW + 3600, "iat": NOW,
            "nbf": NOW, "repository": "acme/app", "ref": "refs/heads/main", "teams": ["web"],
        })
    }
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn registry(issuers: Vec<IssuerOptions>, change: impl FnOnce(RegistryOptions) -> RegistryOptions) -> Api {
    let clock = Arc::new(FrozenClock::new(NOW));
    Api::with(change(RegistryOptions { issuers, clock, ..options(None, None) }))
}

async fn exchange(api: &Api, authorization: &str) -> Reply {
    let path = format!("/v2/token?service=hyperregistry&offline_token=true&scope={PUSH}");
    api.request("GET", &path, &[("authorization", authorization)], "").await
}

async fn push(api: &Api, authorization: &str, repository: &str) -> Reply {
    let path = format!("/v2/{repository}/blobs/uploads/");
    api.request("POST", &path, &[("authorization", authorization)], "").await
}

#[tokio::test]
async fn a_job_logs_in_with_the_token_that_it_has() {
    let (issuer, keys) = (Issuer::start().await, [Key::new("a"), Key::rsa("b")]);
    issuer.keys(&[&keys[0], &keys[1]]);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let audit = Some(AuditLog::open(&log).unwrap());
    let api = registry(vec![issuer.options()], |options| RegistryOptions { audit, ..options });
    api.get("/v2/").await.refused(401, "UNAUTHORIZED");
    for key in &keys {
        let token = key.sign(&issuer.claims());
        for authorization in [basic("oidc", &token), basic("ci", &token), format!("Bearer {token}")] {
            api.request("GET", "/v2/", &[("authorization", &authorization)], "").await.expect(200);
            push(&api, &authorization, "acme/app").await.expect(202);
            let reply = exchange(&api, &authorization).await.expect(200).json();
            assert_eq!((&reply["scope"], reply.get("refresh_token")), (&PUSH.into(), None));
            let ours = format!("Bearer {}", reply["token"].as_str().unwrap());
            push(&api, &ours, "acme/app").await.expect(202);
            push(&api, &ours, "other").await.refused(401, "UNAUTHORIZED");
        }
        for user in ["", "alice", "ci:acme/app", "oidc2"] {
            push(&api, &basic(user, &token), "acme/app").await.refused(401, "UNAUTHORIZED");
        }
    }
    assert_eq!(issuer.asked(), 1, "keys are asked for once");
    let bearer = format!(
        "Bearer {}",
        exchange(&api, &basic("oidc", &keys[0].sign(&issuer.claims()))).await.json()["token"]
            .as_str()
            .unwrap()
    );
    let digest = hyper_sdk::Digest::sha256("x");
    let path = format!("/v2/acme/app/blobs/uploads/?digest={digest}");
    api.request("POST", &path, &[("authorization", &bearer)], "x").await.expect(201);
    let lines = std::fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((&last["user"], &last["issuer"]), (&"ci:acme/app".into(), &issuer.url.as_str().into()));
    assert_eq!(last["subject"], "repo:acme/app:ref:refs/heads/main");
    assert!(!lines.contains("eyJ"), "a token is in the log");
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let (issuer, other) = (Issuer::start().await, Issuer::start().await);
    let (key, rsa, others, stranger) = (Key::new("a"), Key::rsa("r"), Key::new("a"), Key::new("a"));
    issuer.keys(&[&key, &rsa]);
    other.keys(&[&others]);
    let file = users();
    let second = IssuerOptions { name: "other".to_owned(), ..other.options() };
    let lax = IssuerOptions { name: "lax".to_owned(), require: [].into(), ..issuer.options() };
    let strict = IssuerOptions { name: "strict".to_owned(), ..issuer.options() };
    let named = registry(vec![lax, strict], |options| options);
    let evil = key.sign(&with(issuer.claims(), "repository", "evil/app".into()));
    push(&named, &basic("lax", &evil), "a").await.expect(202);
    push(&named, &basic("strict", &evil), "a").await.refused(401, "UNAUTHORIZED");
    let first = IssuerOptions { algorithms: vec!["ES256".to_owned()], ..issuer.options() };
    let api = registry(vec![first, second], |more| RegistryOptions {
        anonymous: Some(AnonymousAccess::Pull),
        throttling: Throttling {
            wrong_passwords: WrongPasswords { address: None, ..WrongPasswords::default() },
            ..Throttling::default()
        },
        ..RegistryOptions { htpasswd: options(Some(&file), None).htpasswd, ..more }
    });
    let claims = issuer.claims();
    let good = key.sign(&claims);
    let parts: Vec<&str> = good.split('.').collect();
    let forged =
        |header: Value| format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), parts[1], parts[2]);
    let public = key.jwk().to_string();
    let confused = {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"a"}"#), parts[1]);
        let mac = Hmac::<sha2::Sha256>::new_from_slice(public.as_bytes()).unwrap().chain_update(&signed);
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    };
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), parts[1]);
    for (wrong, why) in [
        (stranger.sign(&claims), "a key of a stranger"),
        (others.sign(&claims), "a key of another issuer"),
        (key.sign(&with(claims.clone(), "iss", other.url.clone().into())), "an issuer that it is not of"),
        (key.sign(&with(claims.clone(), "iss", "https://unknown.example".into())), "an unknown issuer"),
        (key.sign(&with(claims.clone(), "aud", "another".into())), "another audience"),
        (key.sign(&with(claims.clone(), "exp", (NOW - 60).into())), "expired"),
        (key.sign(&with(claims.clone(), "exp", Value::Null)), "no end"),
        (key.sign(&with(claims.clone(), "nbf", (NOW + 61).into())), "not valid yet"),
        (key.sign(&with(claims.clone(), "repository", "evil/app".into())), "another repository"),
        (key.sign(&with(claims.clone(), "repository", Value::Null)), "no repository"),
        (rsa.sign(&claims), "an algorithm that is not allowed"),
        (key.sign_as(json!({"alg": "RS256", "kid": "r"}), &claims), "the name of another algorithm"),
        (key.sign_as(json!({"alg": "ES256", "kid": "r"}), &claims), "the id of a key of another kind"),
        (key.sign_as(json!({"alg": "ES256", "kid": "a", "crit": ["x"], "x": 1}), &claims), "an extension"),
        (forged(json!({"alg": "none"})), "no algorithm, and a signature"),
        (forged(json!({"alg": "ES256", "kid": "a", "typ": "x"})), "another header"),
        (unsigned, "no signature"),
        (confused, "a public key as a secret"),
        (key.sign(&with(claims.clone(), "x", "y".repeat(20_000).into())), "too long"),
    ] {
        for authorization in [basic("oidc", &wrong), format!("Bearer {wrong}")] {
            let reply = push(&api, &authorization, "acme/app").await.refused(401, "UNAUTHORIZED");
            assert!(!reply.text().contains("eyJ"), "{why}");
            assert_eq!(exchange(&api, &authorization).await.status, 401, "{why}");
        }
    }
    // Without the id of a key all that fit are tried.
    let without = key.sign_as(json!({"alg": "ES256"}), &claims);
    for token in [
        good,
        without,
        others.sign(&other.claims()),
        key.sign(&with(claims.clone(), "exp", (NOW - 59).into())),
    ] {
        push(&api, &basic("oidc", &token), "acme/app").await.expect(202);
    }
    push(&api, &basic("alice", "pass:word"), "acme/app").await.expect(202);
}

#[tokio::test]
async fn keys_are_replaced_and_unknown_ids_ask_the_issuer_once_a_minute() {
    let (issuer, old, new) = (Issuer::start().await, Key::new("old"), Key::new("new"));
    issuer.keys(&[&old]);
    let api = registry(vec![issuer.options()], |options| options);
    push(&api, &basic("oidc", &old.sign(&issuer.claims())), "acme/app").await.expect(202);
    issuer.keys(&[&new]);
    // Many jobs that begin at once are one question.
    let token = basic("oidc", &new.sign(&issuer.claims()));
    let all = futures::future::join_all((0..20).map(|_| push(&api, &token, "acme/app"))).await;
    assert!(all.iter().all(|reply| reply.status == 202));
    assert_eq!(issuer.asked(), 2);
    push(&api, &basic("oidc", &old.sign(&issuer.claims())), "acme/app").await.refused(401, "UNAUTHORIZED");
    for n in 0..20 {
        let token = new.sign_as(json!({"alg": "ES256", "kid": format!("{n}")}), &issuer.claims());
        push(&api, &basic("oidc", &token), "acme/app").await.refused(401, "UNAUTHORIZED");
    }
    assert_eq!(issuer.asked(), 2, "the issuer was asked for ids that it does not have");
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_keeps_nobody_waiting_for_long() {
    let (issuer, key) = (Issuer::start().await, Key::new("a"));
    let api = registry(vec![issuer.options()], |options| options);
    let token = basic("oidc", &key.sign(&issuer.claims()));
    issuer.answer("/keys", Answer::Never);
    let begin = Instant::now();
    let all = futures::future::join_all((0..10).map(|_| push(&api, &token, "acme/app"))).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert!(all.iter().all(|reply| reply.status == 503 && !reply.text().contains("eyJ")));
    let again = Instant::now();
    push(&api, &token, "acme/app").await.refused(503, "UNAVAILABLE");
    assert!(again.elapsed() < Duration::from_secs(1), "the issuer was asked again at once");
    assert_eq!(issuer.asked(), 1);
    api.get("/readyz").await.expect(200);
    let metrics = api.get("/metrics").await.expect(200);
    assert!(
        metrics.text().contains("hyperregistry_issuer_key_failures_total{issuer=\"ci\"} 1"),
        "{}",
        metrics.text()
    );
    assert!(!metrics.text().contains("hyperregistry_issuer_key_age_seconds{"));
    issuer.keys(&[&key]);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    push(&api, &token, "acme/app").await.expect(202);
    // What is known is used when the issuer is away; an unknown key cannot be judged then.
    issuer.answer("/keys", Answer::Text(500, String::new()));
    push(&api, &basic("oidc", &Key::new("b").sign(&issuer.claims())), "acme/app")
        .await
        .refused(503, "UNAVAILABLE");
    push(&api, &token, "acme/app").await.expect(202);
    let metrics = api.get("/metrics").await.expect(200);
    assert!(
        metrics.text().contains("hyperregistry_issuer_key_age_seconds{issuer=\"ci\"} "),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn an_answer_that_is_no_set_of_keys_is_refused() {
    let key = Key::new("a");
    let many = json!({"keys": vec![key.jwk(); 101]}).to_string();
    for (path, answer) in [
        ("/keys", Answer::Text(200, "nonsense".to_owned())),
        ("/keys", Answer::Text(200, json!({"keys": {"a": 1}}).to_string())),
        ("/keys", Answer::Text(200, many)),
        ("/keys", Answer::Text(302, String::new())),
        ("/keys", Answer::Endless),
        ("/.well-known/openid-configuration", Answer::Text(200, "{}".to_owned())),
        (
            "/.well-known/openid-configuration",
            Answer::Text(
                200,
                r#"{"issuer":"https://other.example","jwks_uri":"http://127.0.0.1:1/"}"#.to_owned(),
            ),
        ),
        ("/.well-known/openid-configuration", Answer::Endless),
    ] {
        let issuer = Issuer::start().await;
        issuer.keys(&[&key]);
        issuer.answer("/other", Answer::Text(200, json!({"keys": [key.jwk()]}).to_string()));
        issuer.answer(path, answer);
        let api = registry(vec![issuer.options()], |options| options);
        let token = basic("oidc", &key.sign(&issuer.claims()));
        push(&api, &token, "acme/app").await.refused(503, "UNAVAILABLE");
    }
    // The keys may lie nowhere else than on TLS or this machine.
    let issuer = Issuer::start().await;
    issuer.keys(&[&key]);
    let document = json!({"issuer": issuer.url, "jwks_uri": "http://192.0.2.1/keys"});
    issuer.answer("/.well-known/openid-configuration", Answer::Text(200, document.to_string()));
    let api = registry(vec![issuer.options()], |options| options);
    push(&api, &basic("oidc", &key.sign(&issuer.claims())), "acme/app").await.refused(503, "UNAVAILABLE");
    let direct = IssuerOptions { keys: IssuerKeys::Url(format!("{}/keys", issuer.url)), ..issuer.options() };
    let api = registry(vec![direct], |options| options);
    push(&api, &basic("oidc", &key.sign(&issuer.claims())), "acme/app").await.expect(202);
}

#[tokio::test]
async fn a_policy_sees_the_user_the_groups_and_the_claims() {
    let (issuer, key) = (Issuer::start().await, Key::new("a"));
    issuer.keys(&[&key]);
    let policy = tempfile::NamedTempFile::new().unwrap();
    let text = r#"
        [[allow]]
        who = ["user:ci:acme/*"]
        repositories = ["by-user"]
        actions = ["pull", "push"]
        [[allow]]
        who = ["claim:ci:groups=web"]
        repositories = ["by-group"]
        actions = ["pull", "push"]
        [[allow]]
        who = ["claim:ref=refs/heads/*"]
        repositories = ["by-claim"]
        actions = ["pull", "push"]
        [[allow]]
        who = ["claim:secret=*", "claim:groups=web", "claim:cj:groups=web", "user:acme/app", "user:alice", "user:*", "user:c*", "user:*/app", "user:ci*app"]
        repositories = ["never"]
        actions = ["pull", "push"]
    "#;
    std::fs::write(policy.path(), text).unwrap();
    let authorizer = Some(Arc::new(PolicyFile::open(policy.path()).unwrap()) as _);
    let api = registry(vec![issuer.options()], |options| RegistryOptions { authorizer, ..options });
    let claims = with(issuer.claims(), "secret", "x".into());
    let token = basic("oidc", &key.sign(&claims));
    for (repository, expected) in [("by-user", 202), ("by-group", 202), ("by-claim", 202), ("never", 403)] {
        assert_eq!(push(&api, &token, repository).await.status, expected, "{repository}");
        let path = format!("/v2/token?scope=repository:{repository}:pull,push");
        let reply = api.request("GET", &path, &[("authorization", &token)], "").await.expect(200).json();
        let ours = format!("Bearer {}", reply["token"].as_str().unwrap());
        let pushed = push(&api, &ours, repository).await.status;
        assert_eq!(pushed == 202, expected == 202, "{repository}: {reply}");
    }
}

/// A token that this registry issues ends soon after the one that it was issued for, and with its issuer.
#[tokio::test]
async fn what_was_issued_for_a_token_ends_with_it_and_with_its_issuer() {
    let (issuer, key) = (Issuer::start().await, Key::new("a"));
    issuer.keys(&[&key]);
    let folder = tempfile::tempdir().unwrap();
    let site = |name: &str| {
        let options = IssuerOptions { name: name.to_owned(), ..issuer.options() };
        let token_key = Some(folder.path().join("token.key"));
        registry(vec![options], |options| RegistryOptions { token_key, ..options })
    };
    let api = site("ci");
    let token = basic("oidc", &key.sign(&with(issuer.claims(), "exp", (NOW + 100).into())));
    let reply = exchange(&api, &token).await.expect(200).json();
    assert_eq!(reply["expires_in"], 100);
    let ours = format!("Bearer {}", reply["token"].as_str().unwrap());
    push(&api, &ours, "acme/app").await.expect(202);
    push(&site("renamed"), &ours, "acme/app").await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn wrong_tokens_are_limited_as_wrong_passwords_are() {
    let (issuer, key) = (Issuer::start().await, Key::new("a"));
    issuer.keys(&[&key]);
    let wrong_passwords =
        WrongPasswords { address: Some("3/m".parse().unwrap()), ..WrongPasswords::default() };
    let api = registry(vec![issuer.options()], |options| RegistryOptions {
        throttling: Throttling { wrong_passwords, ..Throttling::default() },
        trusted_proxies: Some(vec!["127.0.0.1".parse().unwrap()]),
        ..options
    });
    let peer: std::net::SocketAddr = "127.0.0.1:1".parse().unwrap();
    let ask = async |client: &str, authorization: String| {
        let mut request =
            http::Request::get("/v2/").header("authorization", authorization).body(Body::empty()).unwrap();
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
        request.extensions_mut().insert(ConnectionInfo::new(peer, peer));
        api.registry.handle(request).await.status().as_u16()
    };
    let (good, wrong) = (key.sign(&issuer.claims()), Key::new("a").sign(&issuer.claims()));
    for n in 0..3 {
        let authorization = if n == 0 { format!("Bearer {wrong}") } else { basic("oidc", &wrong) };
        assert_eq!(ask("192.0.2.1", authorization).await, 401);
    }
    assert_eq!(ask("192.0.2.1", basic("oidc", &good)).await, 429);
    for _ in 0..5 {
        assert_eq!(ask("192.0.2.2", basic("oidc", &good)).await, 200);
        assert_eq!(ask("192.0.2.2", basic("oidc", &wrong)).await, 401);
    }
}

/// The time of this machine, for programs that have no other.
pub(super) fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

#[tokio::test]
async fn the_program_accepts_the_tokens_of_a_file_of_keys() {
    let (issuer, key) = (Issuer::start().await, Key::new("a"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("keys.json"), json!({"keys": [key.jwk()]}).to_string()).unwrap();
    let good = format!(
        "name = \"ci\"\nurl = {:?}\naudience = \"registry\"\njwks-file = {:?}\n",
        issuer.url,
        path("keys.json")
    );
    let write =
        |table: &str| std::fs::write(path("config.toml"), format!("[[auth.issuer]]\n{table}")).unwrap();
    let check = || run(&["config", "check", "--config", &path("config.toml")], "");
    for (wrong, part) in [
        (good.replace("\"ci\"", "\"a:b\""), "lower case"),
        (good.replace("\"registry\"", "[]"), "audience"),
        (good.replace("keys.json", "none.json"), "none.json"),
        (good.replace("jwks-file", "jwks-url"), "jwks-url"),
        (good.clone() + "user = \"x\"\n", "`user`"),
        (good.clone() + "algorithms = [\"HS256\"]\n", "HS256"),
        (good.clone() + "algorithms = [\"none\"]\n", "none"),
        (good.clone() + "require = { a = [] }\n", "require"),
        (good.clone() + "ca = \"/ca\"\n", "no effect"),
        ("name = \"ci\"\nurl = \"http://ci.example\"\naudience = \"a\"\n".to_owned(), "https"),
        (format!("{good}[[auth.issuer]]\n{good}"), "same name"),
    ] {
        write(&wrong);
        let output = check();
        assert!(!output.status.success() && stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
    write(&good);
    assert!(check().status.success(), "{}", stderr(&check()));
    let server = Process::start(std::path::Path::new(&path("data")), &["--config", &path("config.toml")]);
    let claims = with(with(issuer.claims(), "exp", (now() + 600).into()), "nbf", Value::Null);
    let token = key.sign(&claims);
    let http = reqwest::Client::new();
    let get = async |user: &str, password: &str| {
        http.get(format!("{}/v2/", server.url))
            .basic_auth(user, Some(password))
            .send()
            .await
            .unwrap()
            .status()
    };
    assert_eq!((get("oidc", &token).await.as_u16(), get("alice", "x").await.as_u16()), (200, 401));
    assert_eq!(issuer.asked(), 0);
    skopeo_copies(&server.url, &token).await;
}

/// skopeo logs in with the token, pushes and pulls.
async fn skopeo_copies(url: &str, token: &str) {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    let api = Api::new();
    let (manifest, digest) = api
        .image(
            "a",
            "t",
            b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}",
        )
        .await;
    let config =
        b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    std::fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": hyper_sdk::media_type::OCI_MANIFEST, "digest": digest.to_string(), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "t"},
    }]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("blobs/sha256").join(digest.hex()), &manifest).unwrap();
    std::fs::write(layout.join("blobs/sha256").join(hyper_sdk::Digest::sha256(config).hex()), config)
        .unwrap();
    let image = format!("docker://{}/acme/app:t", url.strip_prefix("http://").unwrap());
    let credentials = format!("oidc:{token}");
    let run = |arguments: &[&str]| {
        std::process::Command::new("skopeo").args(arguments).env("HOME", folder.path()).output()
    };
    let source = format!("oci:{}:t", layout.display());
    let push = [
        "--insecure-policy",
        "copy",
        "--dest-tls-verify=false",
        "--dest-creds",
        &credentials,
        &source,
        &image,
    ];
    match run(&push) {
        Err(e) => return println!("SKIPPED: skopeo cannot be started: {e}"),
        Ok(output) => assert!(output.status.success(), "{}", stderr(&output)),
    }
    let output = run(&["inspect", "--raw", "--tls-verify=false", "--creds", &credentials, &image]).unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(output.stdout, manifest);
}
