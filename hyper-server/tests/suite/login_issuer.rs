//! An issuer of OpenID Connect for the tests of logins in a browser, on the loopback interface.

use super::issuers::Key;
use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper_server::auth::LoginOptions;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub(super) const NOW: i64 = 1_700_000_000;
pub(super) const SECRET: &str = "s3cret of: the client";

pub(super) type Form = HashMap<String, String>;

pub(super) fn form(text: &str) -> Form {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned();
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (decode(k), decode(v))).collect()
}

/// What an issuer has agreed to.
#[derive(Clone)]
pub(super) struct Agreed {
    asked: Form,
    /// The ID token.
    token: String,
}

#[derive(Default)]
pub(super) struct Book {
    pub(super) agreed: HashMap<String, Agreed>,
    pub(super) discovery: Value,
    /// Whether a code may be used again, which no issuer should allow.
    pub(super) is_lax: bool,
    /// What the token endpoint answers in place of a token.
    pub(super) answer: Option<(u16, String)>,
    pub(super) is_silent: bool,
    pub(super) exchanges: usize,
}

pub(super) struct Provider {
    pub(super) url: String,
    pub(super) key: Arc<Key>,
    pub(super) book: Arc<Mutex<Book>>,
}

impl Provider {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (key, book) = (Arc::new(Key::new("a")), Arc::new(Mutex::new(Book::default())));
        book.lock().unwrap().discovery = json!({
            "issuer": url, "jwks_uri": format!("{url}/keys"),
            "authorization_endpoint": format!("{url}/authorize?tenant=1"), "token_endpoint": format!("{url}/token"),
        });
        let (keys, state) = (json!({"keys": [key.jwk()]}).to_string(), book.clone());
        let app = axum::Router::new().fallback(move |request: http::Request<Body>| {
            let (keys, state) = (keys.clone(), state.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                if state.lock().unwrap().is_silent {
                    std::future::pending::<()>().await;
                }
                let (status, text) = match head.uri.path() {
                    "/keys" => (200, keys),
                    "/.well-known/openid-configuration" => (200, state.lock().unwrap().discovery.to_string()),
                    "/token" => {
                        exchange(&mut state.lock().unwrap(), &head, std::str::from_utf8(&body).unwrap())
                    }
                    _ => (404, String::new()),
                };
                Response::builder().status(status).body(Body::from(text)).unwrap()
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, key, book }
    }

    pub(super) fn options(&self, secret: &std::path::Path) -> LoginOptions {
        let mut login = LoginOptions::new("company", &self.url, "registry");
        login.client_secret_file = Some(secret.to_owned());
        login.issuer.groups = Some("groups".to_owned());
        login.scopes = vec!["groups".to_owned()];
        login.issuer.require = [("hd".to_owned(), vec!["example.com".to_owned()])].into();
        login
    }

    pub(super) fn claims(&self, asked: &Form) -> Value {
        json!({
            "iss": self.url, "sub": "ada", "aud": "registry", "exp": NOW + 60, "iat": NOW, "hd": "example.com",
            "nonce": asked["nonce"], "groups": ["writers"],
        })
    }

    /// The person agrees: a code for this ID token.
    pub(super) fn code(&self, asked: &Form, token: String) -> String {
        let mut book = self.book.lock().unwrap();
        let code = format!("code {}&", book.agreed.len());
        book.agreed.insert(code.clone(), Agreed { asked: asked.clone(), token });
        code
    }
}

/// The token endpoint (RFC 6749, section 4.1.3; RFC 7636, section 4.6).
fn exchange(book: &mut Book, head: &http::request::Parts, body: &str) -> (u16, String) {
    book.exchanges += 1;
    if let Some(answer) = &book.answer {
        return answer.clone();
    }
    let sent = form(body);
    let refused = |why: &str| (400, json!({"error": why}).to_string());
    let by_form = book.discovery["token_endpoint_auth_methods_supported"] == json!(["client_secret_post"]);
    let proof = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let is_client = match by_form {
        true => proof.is_none() && sent["client_id"] == "registry" && sent["client_secret"] == SECRET,
        false => {
            let pair = "registry:s3cret%20of%3A%20the%20client";
            proof == Some(format!("Basic {}", STANDARD.encode(pair))) && !sent.contains_key("client_secret")
        }
    };
    if !is_client {
        return refused("invalid_client");
    }
    let Some(agreed) = book.agreed.get(&sent["code"]).cloned() else { return refused("invalid_grant") };
    if !book.is_lax {
        book.agreed.remove(&sent["code"]);
    }
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&sent["code_verifier"]));
    let is_so = sent["grant_type"] == "authorization_code"
        && sent["redirect_uri"] == agreed.asked["redirect_uri"]
        && agreed.asked["code_challenge"] == challenge
        && agreed.asked["code_challenge_method"] == "S256";
    match is_so {
        true => {
            (200, json!({"access_token": "x", "token_type": "Bearer", "id_token": agreed.token}).to_string())
        }
        false => refused("invalid_grant"),
    }
}
