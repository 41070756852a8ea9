//! Logins in a browser. The issuer of these tests answers on the loopback interface; the tests are the browser.

use super::access::basic;
use super::issuers::Key;
use super::login_issuer::{Form, NOW, Provider, SECRET, form};
use super::support::{Api, Reply};
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_sdk::Secret;
use hyper_sdk::clock::Clock as _;
use hyper_sdk::store::meta::{MemoryTokens, TokenStore as _};
use hyper_sdk::testing::FrozenClock;
use hyper_server::auth::{LoginOptions, PolicyFile, TokenAlgorithm, TokenKeys, new_token_key};
use hyper_server::{AuditLog, ConnectionInfo, Registry, RegistryOptions};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const ROOT: &str = "https://registry.example.com";
const COOKIE: &str = "__Host-hyperregistry-login";

struct Site {
    api: Api,
    provider: Provider,
    tokens: MemoryTokens,
    clock: Arc<FrozenClock>,
    secret: tempfile::NamedTempFile,
}

/// A login that has begun.
struct Begun {
    asked: Form,
    /// What the browser sends.
    cookie: String,
}

impl Site {
    async fn with(change: impl FnOnce(RegistryOptions) -> RegistryOptions) -> Self {
        let provider = Provider::start().await;
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), format!("{SECRET}\n")).unwrap();
        let (tokens, clock) = (MemoryTokens::default(), Arc::new(FrozenClock::new(NOW)));
        let mut site = Self { api: Api::new(), provider, tokens, clock, secret };
        site.api = Api::with(change(site.options()));
        site
    }

    async fn new() -> Self {
        Self::with(|options| options).await
    }

    fn options(&self) -> RegistryOptions {
        RegistryOptions {
            login: Some(self.provider.options(self.secret.path())),
            api_tokens: Some(Arc::new(self.tokens.clone())),
            public_url: Some(ROOT.to_owned()),
            token_secret: Some(Secret::from("a secret of all servers")),
            clock: self.clock.clone(),
            ..RegistryOptions::default()
        }
    }

    async fn begin(&self) -> Begun {
        begin(&self.api, "/login").await
    }

    async fn come_back(&self, query: &str, cookie: &str) -> Reply {
        self.api.request("GET", &format!("/login/callback?{query}"), &[("cookie", cookie)], "").await
    }

    /// The whole way, with other claims in the ID token.
    async fn log_in(&self, change: impl FnOnce(&mut Value)) -> Reply {
        let begun = self.begin().await;
        let mut claims = self.provider.claims(&begun.asked);
        change(&mut claims);
        let code = self.provider.code(&begun.asked, self.provider.key.sign(&claims));
        self.come_back(&back(&code, &begun.asked), &begun.cookie).await
    }

    /// Sets the clock, in seconds since 1970.
    fn at(&self, time: i64) {
        self.clock.advance(time - self.clock.now());
    }

    async fn kept(&self) -> usize {
        self.tokens.tokens(None, 1000).await.unwrap().items.len()
    }
}

async fn begin(api: &Api, path: &str) -> Begun {
    let reply = api.get(path).await.expect(303);
    let asked = form(reply.header("location").split_once('?').unwrap().1);
    let cookie = reply.header("set-cookie").split(';').next().unwrap().to_owned();
    Begun { asked, cookie }
}

fn back(code: &str, asked: &Form) -> String {
    let code = code.replace(' ', "%20").replace('&', "%26");
    format!("code={code}&state={}", asked["state"])
}

/// The token of a page.
fn token(page: &Reply) -> String {
    let start = page.text().find("hyr_").unwrap_or_else(|| panic!("no token: {}", page.text()));
    page.text()[start..start + 68].to_owned()
}

#[track_caller]
fn is_refused(reply: &Reply, part: &str) {
    assert_eq!(reply.status, 403, "{}", reply.text());
    assert!(reply.text().contains(part) && !reply.text().contains("hyr_"), "{part}: {}", reply.text());
    assert!(reply.header("set-cookie").contains("Max-Age=0"), "the cookie stays");
    is_closed(reply);
}

/// No browser and no cache keeps or runs anything of the page.
#[track_caller]
fn is_closed(reply: &Reply) {
    assert_eq!(reply.header("cache-control"), "no-store");
    assert!(reply.header("content-security-policy").starts_with("default-src 'none';"));
    assert!(reply.header("content-security-policy").contains("frame-ancestors 'none'"));
    for (name, value) in [
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(reply.header(name), value);
    }
}

#[tokio::test]
async fn a_person_logs_in_and_gets_a_token() {
    let policy = tempfile::NamedTempFile::new().unwrap();
    let rule = "[[allow]]\nwho = [\"claim:company:groups=writers\"]\nrepositories = [\"team/**\"]\nactions = [\"pull\", \"push\"]\n";
    std::fs::write(policy.path(), rule).unwrap();
    let site = Site::with(|options| RegistryOptions {
        authorizer: Some(Arc::new(PolicyFile::open(policy.path()).unwrap())),
        ..options
    })
    .await;
    let reply = site.api.get("/login").await.expect(303);
    is_closed(&reply);
    let set = reply.header("set-cookie");
    for part in ["; Path=/;", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Max-Age=600"] {
        assert!(set.starts_with(COOKIE) && set.contains(part) && !set.contains("Domain"), "{set}");
    }
    let location = reply.header("location");
    assert!(location.starts_with(&format!("{}/authorize?tenant=1&", site.provider.url)), "{location}");
    let asked = form(location.split_once('?').unwrap().1);
    assert_eq!((asked["response_type"].as_str(), asked["scope"].as_str()), ("code", "openid groups"));
    assert_eq!(asked["redirect_uri"], format!("{ROOT}/login/callback"));
    assert!(!asked.contains_key("code_verifier") && asked["state"].len() == 43 && asked["nonce"].len() == 43);
    assert!(!set.contains(&asked["state"]) && !set.contains(&asked["nonce"]));

    let page = site.log_in(|_| {}).await.expect(200);
    is_closed(&page);
    assert!(page.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let token = token(&page);
    assert!(page.text().contains("company:ada"), "{}", page.text());
    let line = format!(
        "printf %s &#39;{token}&#39; | docker login registry.example.com --username company --password-stdin"
    );
    assert!(
        page.text().contains(&line.replace("&#39;", "'")) && !page.text().contains("<script"),
        "{}",
        page.text()
    );
    assert!(!page.text().contains(SECRET));

    let push = async |authorization: &str, name: &str| {
        let path = format!("/v2/{name}/blobs/uploads/");
        site.api.request("POST", &path, &[("authorization", authorization)], "").await
    };
    for proof in [format!("Bearer {token}"), basic("company", &token), basic("oidc", &token)] {
        push(&proof, "team/app").await.expect(202);
        push(&proof, "other/app").await.refused(403, "DENIED");
    }
    for user in ["ada", "", "other"] {
        push(&basic(user, &token), "team/app").await.refused(401, "UNAUTHORIZED");
    }
    let query = "/v2/token?service=hyperregistry&offline_token=true&scope=repository:team/app:pull,push";
    let reply =
        site.api.request("GET", query, &[("authorization", &basic("company", &token))], "").await.expect(200);
    assert!(reply.json()["refresh_token"].is_null());
    let bearer = format!("Bearer {}", reply.json()["token"].as_str().unwrap());
    push(&bearer, "team/app").await.expect(202);

    let kept = site.tokens.tokens(None, 10).await.unwrap().items;
    assert_eq!(
        (kept.len(), kept[0].user.as_str(), kept[0].expires),
        (1, "company:ada", Some(NOW + 12 * 3600))
    );
    assert!(!format!("{kept:?}").contains(&token));
    // It ends with the time, and when it is taken back, with what was issued for it.
    site.at(NOW + 12 * 3600);
    push(&format!("Bearer {token}"), "team/app").await.refused(401, "UNAUTHORIZED");
    site.at(NOW + 200);
    push(&bearer, "team/app").await.expect(202);
    assert!(site.tokens.remove_token(&kept[0].id).await.unwrap());
    tokio::time::sleep(Duration::from_millis(2100)).await;
    push(&format!("Bearer {token}"), "team/app").await.refused(401, "UNAUTHORIZED");
    push(&bearer, "team/app").await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn the_audit_log_has_the_token_of_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let audit = AuditLog::open(&path).unwrap();
    let site = Site::with(|options| RegistryOptions { audit: Some(audit), ..options }).await;
    let token = token(&site.log_in(|_| {}).await.expect(200));
    site.log_in(|claims| claims["nonce"] = json!("other")).await.expect(403);
    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(&text).unwrap();
    let kept = site.tokens.tokens(None, 10).await.unwrap().items;
    let expected = [
        ("user", "company:ada"),
        ("subject", "ada"),
        ("issuer", &site.provider.url),
        ("action", "create-token"),
        ("token", &kept[0].id),
        ("outcome", "done"),
    ];
    for (field, value) in expected {
        assert_eq!(line[field], value, "{text}");
    }
    assert!(!text.contains(&token[20..]));
}

#[tokio::test]
async fn what_did_not_begin_in_this_browser_is_refused() {
    let site = Site::new().await;
    let (mine, other) = (site.begin().await, site.begin().await);
    let code = |of: &Begun| {
        let claims = site.provider.claims(&of.asked);
        site.provider.code(&of.asked, site.provider.key.sign(&claims))
    };
    let good = back(&code(&mine), &mine.asked);
    let value = mine.cookie.split_once('=').unwrap().1;
    let mut changed = value.to_owned();
    changed.replace_range(30..31, if &value[30..31] == "A" { "B" } else { "A" });
    for (query, cookie, part) in [
        (good.clone(), String::new(), "not begun in this browser"),
        (good.clone(), other.cookie.clone(), "another login"),
        (good.clone(), format!("{COOKIE}={changed}"), "not begun in this browser"),
        (good.clone(), format!("{COOKIE}="), "not begun in this browser"),
        // A page without TLS, or another host, can set this one.
        (good.clone(), format!("hyperregistry-login={value}"), "not begun in this browser"),
        (back(&code(&other), &other.asked), mine.cookie.clone(), "another login"),
        (good.replace(&mine.asked["state"], &other.asked["state"]), mine.cookie.clone(), "another login"),
        (good.replace("&state=", "&stat="), mine.cookie.clone(), "another login"),
        (format!("state={}", mine.asked["state"]), mine.cookie.clone(), "no code"),
        (format!("code=&state={}", mine.asked["state"]), mine.cookie.clone(), "no code"),
        (format!("code={}&state={}", "x".repeat(5000), mine.asked["state"]), mine.cookie.clone(), "no code"),
        (format!("{good}&code=x"), mine.cookie.clone(), "twice"),
        (format!("{good}&iss=https%3A%2F%2Fevil.example"), mine.cookie.clone(), "another issuer"),
        (format!("{good}&iss="), mine.cookie.clone(), "another issuer"),
    ] {
        is_refused(&site.come_back(&query, &cookie).await, part);
    }
    assert_eq!(site.provider.book.lock().unwrap().exchanges, 0, "a code went to the issuer");
    // The code of another login: its verifier does not fit.
    let mixed = good.replace(
        &good[5..good.find('&').unwrap()],
        back(&code(&other), &other.asked)[5..].split('&').next().unwrap(),
    );
    is_refused(&site.come_back(&mixed, &mine.cookie).await, "invalid_grant");
    site.at(NOW + 600);
    is_refused(&site.come_back(&good, &mine.cookie).await, "ten minutes");
    site.at(NOW);
    assert_eq!(site.kept().await, 0);
    let both = format!("a=b; {}; c=d", mine.cookie);
    site.come_back(&format!("{good}&iss={}", site.provider.url.replace(':', "%3A")), &both).await.expect(200);
}

#[tokio::test]
async fn a_login_gives_one_token() {
    let site = Site::new().await;
    for is_lax in [false, true] {
        site.provider.book.lock().unwrap().is_lax = is_lax;
        let begun = site.begin().await;
        let claims = site.provider.claims(&begun.asked);
        let code = site.provider.code(&begun.asked, site.provider.key.sign(&claims));
        let query = back(&code, &begun.asked);
        let at_once = (0..8).map(|_| site.come_back(&query, &begun.cookie));
        let replies = futures::future::join_all(at_once).await;
        assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 1, "{is_lax}");
        let part = if is_lax { "its token already" } else { "invalid_grant" };
        is_refused(&site.come_back(&query, &begun.cookie).await, part);
    }
    assert_eq!(site.kept().await, 2);
    // Old ones make room.
    for n in 0..25 {
        site.at(NOW + n);
        site.log_in(|_| {}).await.expect(200);
    }
    assert_eq!(site.kept().await, 20);
}

#[tokio::test]
async fn the_token_of_the_issuer_is_checked() {
    let site = Site::new().await;
    let changes: [(&str, Value, &str); 14] = [
        ("nonce", json!("other"), "another login"),
        ("nonce", Value::Null, "another login"),
        ("nonce", json!(["a"]), "damaged"),
        ("aud", json!("other"), "nothing that is accepted"),
        ("aud", json!(["registry", "other"]), "another client"),
        ("azp", json!("other"), "another client"),
        ("iss", json!("https://evil.example"), "nothing that is accepted"),
        ("exp", json!(NOW - 61), "nothing that is accepted"),
        ("exp", Value::Null, "nothing that is accepted"),
        ("iat", json!(NOW + 120), "nothing that is accepted"),
        ("sub", json!(""), "nothing that is accepted"),
        ("sub", json!("a\nb"), "nothing that is accepted"),
        ("hd", json!("evil.example"), "nothing that is accepted"),
        ("groups", json!([1]), "nothing that is accepted"),
    ];
    for (claim, value, part) in changes {
        is_refused(&site.log_in(|claims| claims[claim] = value).await, part);
    }
    let begun = site.begin().await;
    let claims = site.provider.claims(&begun.asked);
    let good = site.provider.key.sign(&claims);
    let parts: Vec<&str> = good.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    for token in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        Key::new("a").sign(&claims),
        site.provider.key.sign_as(json!({"alg": "HS256", "kid": "a"}), &claims),
        "nonsense".to_owned(),
        String::new(),
        "x".repeat(100_000),
    ] {
        let code = site.provider.code(&begun.asked, token);
        let reply = site.come_back(&back(&code, &begun.asked), &begun.cookie).await;
        is_refused(&reply, "nothing that is accepted");
    }
    assert_eq!(site.kept().await, 0);
    site.log_in(|claims| {
        claims["aud"] = json!(["other", "registry"]);
        claims["azp"] = json!("registry");
    })
    .await
    .expect(200);
}

#[tokio::test]
async fn what_others_say_is_text() {
    let site = Site::new().await;
    let evil = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27";
    let begun = site.begin().await;
    let query =
        format!("error={evil}&error_description={evil}{}&state={}", "x".repeat(5000), begun.asked["state"]);
    let reply = site.come_back(&query, &begun.cookie).await;
    is_refused(&reply, "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;");
    assert!(!reply.text().contains("<script") && reply.text().len() < 2000, "{}", reply.text());
    // Without the cookie nothing of the query is shown.
    assert!(!site.come_back(&query, "").await.text().contains("script"));

    let page = site.log_in(|claims| claims["sub"] = json!("<b>&\"'</b>")).await.expect(200);
    assert!(page.text().contains("company:&lt;b&gt;&amp;&quot;&#39;&lt;/b&gt;"), "{}", page.text());
    assert!(!page.text().contains("<b>"));

    let answers = [
        (400, json!({"error": "<i>x", "error_description": "y\u{202e}<u>"}).to_string(), 403, "&lt;i&gt;x"),
        (500, json!({"error": "<i>x"}).to_string(), 503, "cannot check logins now"),
        (200, "{}".to_owned(), 503, "cannot check logins now"),
        (200, "<html>".to_owned(), 503, "cannot check logins now"),
        (302, String::new(), 503, "cannot check logins now"),
        (200, " ".repeat(600 << 10), 500, "cannot check logins now"),
    ];
    for (status, text, expected, part) in answers {
        site.provider.book.lock().unwrap().answer = Some((status, text));
        let reply = site.log_in(|_| {}).await;
        assert_eq!(reply.status, expected, "{status} {}", reply.text());
        assert!(reply.text().contains(part) && !reply.text().contains("<i>"), "{}", reply.text());
        is_closed(&reply);
    }
}

#[tokio::test]
async fn any_server_of_the_registry_answers() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, new_token_key(TokenAlgorithm::Es256).unwrap().0.expose()).unwrap();
        path
    };
    let (old, new) = (file("old"), file("new"));
    for with_keys in [false, true] {
        let keys = |files: &[&std::path::PathBuf]| with_keys.then(|| TokenKeys::open(files).unwrap());
        let site = Site::with(|options| RegistryOptions { token_keys: keys(&[&old, &new]), ..options }).await;
        // A server where the keys have been changed since.
        let twin = Api::with(RegistryOptions { token_keys: keys(&[&new, &old]), ..site.options() });
        let stranger = Api::with(RegistryOptions {
            token_keys: keys(&[&file("other")]),
            token_secret: Some(Secret::from("another secret")),
            ..site.options()
        });
        let begun = site.begin().await;
        let claims = site.provider.claims(&begun.asked);
        let code = site.provider.code(&begun.asked, site.provider.key.sign(&claims));
        let path = format!("/login/callback?{}", back(&code, &begun.asked));
        let headers = [("cookie", begun.cookie.as_str())];
        is_refused(&stranger.request("GET", &path, &headers, "").await, "not begun in this browser");
        let token = token(&twin.request("GET", &path, &headers, "").await.expect(200));
        let bearer = format!("Bearer {token}");
        for api in [&site.api, &twin] {
            api.request("GET", "/v2/", &[("authorization", &bearer)], "").await.expect(200);
        }
        // Another issuer or client, and none at all, end the login.
        let mut login = site.provider.options(site.secret.path());
        login.client_id = "other".to_owned();
        for options in [
            RegistryOptions { login: Some(login), ..site.options() },
            RegistryOptions { realm: "other".to_owned(), ..site.options() },
        ] {
            let other = Api::with(options);
            other
                .request("GET", "/v2/", &[("authorization", &bearer)], "")
                .await
                .refused(401, "UNAUTHORIZED");
        }
    }
}

#[tokio::test]
async fn the_secret_goes_where_the_issuer_wants_it() {
    let site = Site::new().await;
    site.provider.book.lock().unwrap().discovery["token_endpoint_auth_methods_supported"] =
        json!(["client_secret_post"]);
    site.provider.book.lock().unwrap().discovery["authorization_response_iss_parameter_supported"] =
        json!(true);
    is_refused(&site.log_in(|_| {}).await, "does not say which issuer");
    let begun = site.begin().await;
    let claims = site.provider.claims(&begun.asked);
    let code = site.provider.code(&begun.asked, site.provider.key.sign(&claims));
    let query = format!("{}&iss={}", back(&code, &begun.asked), site.provider.url);
    site.come_back(&query, &begun.cookie).await.expect(200);
    std::fs::write(site.secret.path(), "another").unwrap();
    let begun = site.begin().await;
    let code = site.provider.code(&begun.asked, site.provider.key.sign(&site.provider.claims(&begun.asked)));
    let query = format!("{}&iss={}", back(&code, &begun.asked), site.provider.url);
    is_refused(&site.come_back(&query, &begun.cookie).await, "invalid_client");
}

#[tokio::test]
async fn a_registry_may_be_below_a_path_or_on_this_machine() {
    let site = Site::with(|options| RegistryOptions {
        path_prefix: Some("/registry".parse().unwrap()),
        public_url: Some("http://127.0.0.1:5000/".to_owned()),
        ..options
    })
    .await;
    // What is not there asks strangers to log in, as everywhere.
    site.api.get("/login").await.refused(401, "UNAUTHORIZED");
    let begun = begin(&site.api, "/registry/login").await;
    assert_eq!(begun.asked["redirect_uri"], "http://127.0.0.1:5000/registry/login/callback");
    assert!(begun.cookie.starts_with("hyperregistry-login="), "{}", begun.cookie);
    let code = site.provider.code(&begun.asked, site.provider.key.sign(&site.provider.claims(&begun.asked)));
    let path = format!("/registry/login/callback?{}", back(&code, &begun.asked));
    let page = site.api.request("GET", &path, &[("cookie", &begun.cookie)], "").await.expect(200);
    assert!(page.text().contains("docker login 127.0.0.1:5000 --username company"), "{}", page.text());
    site.api.request("POST", "/registry/login", &[], "").await.refused(401, "UNAUTHORIZED");
    // Nothing that a request says becomes a place to go to.
    for path in [
        "/registry/login?redirect_uri=https://evil.example&next=//evil.example",
        "/registry/login?state=x&client_id=y",
    ] {
        let headers = [
            ("host", "evil.example"),
            ("x-forwarded-host", "evil.example"),
            ("referer", "https://evil.example/"),
        ];
        let reply = site.api.request("GET", path, &headers, "").await.expect(303);
        assert!(
            reply.header("location").starts_with(&site.provider.url)
                && !reply.header("location").contains("evil")
        );
    }
    let none = Api::new();
    none.get("/login").await.refused(404, "NOT_FOUND");
    none.get("/login/callback?code=x").await.refused(404, "NOT_FOUND");
    let reads = Site::with(|options| RegistryOptions { read_only: true, ..options }).await;
    reads.api.get("/login").await.refused(405, "UNSUPPORTED");
}

#[tokio::test]
async fn guesses_are_limited_and_a_silent_issuer_keeps_nobody_waiting() {
    let site = Site::new().await;
    let from = async |address: &str, cookie: &str| {
        let request = http::Request::get("/login/callback?code=x&state=y").header("cookie", cookie);
        let mut request = request.body(Body::empty()).unwrap();
        let peer = format!("{address}:1").parse().unwrap();
        request.extensions_mut().insert(ConnectionInfo::new(peer, peer));
        site.api.registry.handle(request).await.status().as_u16()
    };
    // A page that somebody reads can make the browser send these: they keep nobody out of the office.
    for n in 0..150 {
        let cookie = if n % 2 == 0 { String::new() } else { site.begin().await.cookie };
        assert_eq!(from("192.0.2.1", &cookie).await, 403, "{n}");
    }
    assert_eq!(site.provider.book.lock().unwrap().exchanges, 0);

    // Codes that the issuer refuses are guesses.
    let site = Site::new().await;
    let begun = site.begin().await;
    let mut statuses = Vec::new();
    for n in 0..105 {
        let uri = format!("/login/callback?{}", back(&format!("x{n}"), &begun.asked));
        let request = http::Request::get(uri).header("cookie", &begun.cookie);
        let mut request = request.body(Body::empty()).unwrap();
        let peer = "192.0.2.1:1".parse().unwrap();
        request.extensions_mut().insert(ConnectionInfo::new(peer, peer));
        statuses.push(site.api.registry.handle(request).await.status().as_u16());
    }
    assert_eq!((statuses[99], statuses[104]), (403, 429));
    assert!(site.provider.book.lock().unwrap().exchanges <= 101);

    let site = Site::new().await;
    site.provider.book.lock().unwrap().is_silent = true;
    let begin = std::time::Instant::now();
    let replies = futures::future::join_all((0..10).map(|_| site.api.get("/login"))).await;
    assert!(replies.iter().all(|reply| reply.status == 503) && begin.elapsed() < Duration::from_secs(8));
    is_closed(&replies[0]);
    assert!(!replies[0].text().contains("127.0.0.1:"), "{}", replies[0].text());
    let has = async |line: &str| {
        let metrics = site.api.get("/metrics").await.expect(200);
        assert!(metrics.text().lines().any(|found| found == line), "{line}: {}", metrics.text());
    };
    has("hyperregistry_breaker_state{dependency=\"issuer\"} 2").await;
    has("hyperregistry_issuer_key_failures_total{issuer=\"company\"} 0").await;
    site.provider.book.lock().unwrap().is_silent = false;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    site.log_in(|_| {}).await.expect(200);
    has("hyperregistry_breaker_state{dependency=\"issuer\"} 0").await;
    has("hyperregistry_issuer_key_age_seconds{issuer=\"company\"} 0").await;
}

#[tokio::test]
async fn settings_that_do_not_fit_are_named() {
    let site = Site::new().await;
    let refused = |change: &dyn Fn(&mut RegistryOptions, &mut LoginOptions)| {
        let mut options = site.options();
        let mut login = site.provider.options(site.secret.path());
        change(&mut options, &mut login);
        options.login = Some(login);
        match Registry::new(super::support::memory(), options) {
            Ok(_) => panic!("it was accepted"),
            Err(e) => e.to_string(),
        }
    };
    assert!(refused(&|options, _| options.public_url = None).contains("public-url"));
    assert!(
        refused(&|options, _| options.public_url = Some("http://a.example".to_owned()))
            .contains("public-url")
    );
    assert!(refused(&|options, _| options.api_tokens = None).contains("api_tokens"));
    assert!(refused(&|_, login| login.client_id.clear()).contains("client-id"));
    assert!(refused(&|_, login| login.lifetime = Duration::ZERO).contains("lifetime"));
    assert!(refused(&|_, login| login.scopes = vec!["a b".to_owned()]).contains("scopes"));
    assert!(refused(&|_, login| login.issuer.url = "http://a.example".to_owned()).contains("https"));
    assert!(refused(&|_, login| login.issuer.user = "ada".to_owned()).contains("user"));
    assert!(refused(&|_, login| login.client_secret_file = Some("/no/such".into())).contains("secret"));
    // An issuer of the same name that is another one would share its users.
    let other = hyper_server::auth::IssuerOptions::new("company", "https://a.example", "b");
    assert!(refused(&|options, _| options.issuers = vec![other.clone()]).contains("same name"));
}
