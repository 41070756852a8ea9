//! Challenges and tokens.

use super::*;
use base64::Engine;

fn bearer_challenge(seen: &Seen) -> Reply {
    let host = seen.header("host").unwrap();
    let challenge = format!(r#"Bearer realm="http://{host}/token",service="reg",scope="x""#);
    Reply::new(401).header("WWW-Authenticate", challenge)
}

fn token(value: &str, life: u64) -> Reply {
    Reply::new(200).body(format!(r#"{{"token":"{value}","expires_in":{life}}}"#))
}

fn is_token(seen: &Seen) -> bool {
    seen.target.starts_with("/token")
}

#[tokio::test]
async fn a_token_is_fetched_once_for_its_scope() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(basic) if is_token(seen) => {
            let expected = base64::engine::general_purpose::STANDARD.encode("joe:pass");
            assert_eq!(basic, format!("Basic {expected}"));
            token("t1", 300)
        }
        Some("Bearer t1") => manifest_reply(&manifest("x")),
        _ => bearer_challenge(seen),
    })
    .await;
    let client = client_as(&server, Credentials::basic("joe", "pass"));
    for _ in 0..3 {
        client.get_manifest(&repository(), &latest()).await.unwrap();
    }
    let tokens: Vec<String> = server.lines().into_iter().filter(|l| l.contains("/token")).collect();
    assert_eq!(tokens, ["GET /token?service=reg&scope=repository%3Aa%2Fb%3Apull&account=joe"]);
    assert_eq!(server.seen().len(), 5);
    client.put_manifest(&repository(), &latest(), &manifest("x")).await.unwrap();
    assert_eq!(server.count("GET /token?service=reg&scope=repository%3Aa%2Fb%3Apull%2Cpush"), 1);
}

#[tokio::test]
async fn many_requests_at_once_share_a_token() {
    let server = Server::start(|seen| match seen.header("authorization") {
        _ if is_token(seen) => token("t", 300).delay(Duration::from_millis(50)),
        Some("Bearer t") => manifest_reply(&manifest("x")),
        _ => bearer_challenge(seen),
    })
    .await;
    let (client, latest, repository) = (client(&server), latest(), repository());
    futures::future::join_all((0..8).map(|_| client.get_manifest(&repository, &latest)))
        .await
        .into_iter()
        .for_each(|m| assert_eq!(m.unwrap(), manifest("x")));
    assert_eq!(server.count("GET /token"), 1);
}

#[tokio::test]
async fn a_token_is_not_used_after_its_time() {
    let server = Server::start(|seen| match seen.header("authorization") {
        _ if is_token(seen) => token("t", 0),
        Some("Bearer t") => manifest_reply(&manifest("x")),
        _ => bearer_challenge(seen),
    })
    .await;
    let client = client(&server);
    client.get_manifest(&repository(), &latest()).await.unwrap();
    client.get_manifest(&repository(), &latest()).await.unwrap();
    assert_eq!(server.count("GET /token"), 2);
}

#[tokio::test]
async fn a_revoked_token_is_renewed_once() {
    let fetched = Counter::default();
    let current = fetched.clone();
    let server = Server::start(move |seen| {
        if is_token(seen) {
            return token(&format!("t{}", fetched.next() + 1), 300);
        }
        // Every token is good for one request.
        let good = format!("Bearer t{}", current.0.load(Ordering::SeqCst));
        match seen.header("authorization") {
            Some(value) if value == good && seen.target.ends_with("latest") => {
                current.next();
                manifest_reply(&manifest("x"))
            }
            _ => bearer_challenge(seen),
        }
    })
    .await;
    let client = client(&server);
    client.get_manifest(&repository(), &latest()).await.unwrap();
    // The counter has moved past the token that the client holds: the next token is the one after.
    let before = server.seen().len();
    let e = client.get_manifest(&repository(), &Tag::parse("never").unwrap().into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unauthorized);
    assert_eq!(server.seen().len() - before, 3, "refused, new token, refused: no more");
}

#[tokio::test]
async fn a_refresh_token_is_posted() {
    let server = Server::start(|seen| match seen.header("authorization") {
        None if is_token(seen) && seen.method == "POST" => Reply::new(200).body(r#"{"access_token":"t"}"#),
        Some("Bearer t") => manifest_reply(&manifest("x")),
        _ => bearer_challenge(seen),
    })
    .await;
    let client = client_as(&server, Credentials::IdentityToken("refresh me".into()));
    client.get_manifest(&repository(), &latest()).await.unwrap();
    let post = server.seen().into_iter().find(is_token).unwrap();
    let form = String::from_utf8(post.body).unwrap();
    assert_eq!(
        form,
        "grant_type=refresh_token&service=reg&client_id=hyper&scope=repository%3Aa%2Fb%3Apull&refresh_token=refresh+me"
    );
}

#[tokio::test]
async fn a_rejection_by_the_token_server_is_unauthorized() {
    let server =
        Server::start(|seen| if is_token(seen) { Reply::new(403) } else { bearer_challenge(seen) }).await;
    let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unauthorized);
    assert_eq!(server.count("GET /token"), 1);
}

#[tokio::test]
async fn basic_is_answered_when_there_is_a_password() {
    let script = |seen: &Seen| match seen.header("authorization") {
        Some(basic) if basic.starts_with("Basic ") => manifest_reply(&manifest("x")),
        _ => Reply::new(401).header("WWW-Authenticate", r#"Basic realm="r""#),
    };
    let server = Server::start(script).await;
    client_as(&server, Credentials::basic("joe", "pass"))
        .get_manifest(&repository(), &latest())
        .await
        .unwrap();
    assert_eq!(server.seen().len(), 2);
    assert_eq!(server.seen()[0].header("authorization"), None, "nothing is sent before it is asked for");
    let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!((e.kind(), server.seen().len()), (ErrorKind::Unauthorized, 3));
}

#[tokio::test]
async fn a_mount_asks_for_both_repositories() {
    let server = Server::start(|seen| match seen.header("authorization") {
        _ if is_token(seen) => token("t", 300),
        Some("Bearer t") => Reply::new(201),
        _ => bearer_challenge(seen),
    })
    .await;
    let from = RepositoryName::parse("other").unwrap();
    client(&server).mount_blob(&repository(), &Digest::sha256("x"), &from).await.unwrap();
    let asked = server.lines().into_iter().find(|l| l.contains("/token")).unwrap();
    assert!(
        asked.contains("scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Aother%3Apull"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_credentials() {
    let other = Server::start(|seen| {
        assert_eq!(seen.header("authorization"), None);
        Reply::new(200).body("hello")
    })
    .await;
    let to = format!("http://{}/elsewhere", other.address);
    let server = Server::start(move |seen| match seen.header("authorization") {
        Some(_) => Reply::new(307).header("Location", &to),
        None => Reply::new(401).header("WWW-Authenticate", "Basic realm=r"),
    })
    .await;
    let client = client_as(&server, Credentials::basic("joe", "pass"));
    let reader = client.get_blob(&repository(), &Digest::sha256("hello"), None).await.unwrap();
    let bytes: Vec<bytes::Bytes> = futures::TryStreamExt::try_collect(reader.stream).await.unwrap();
    assert_eq!(bytes.concat(), b"hello");
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn a_challenge_of_another_host_is_not_answered() {
    let other = Server::start(|_| Reply::new(401).header("WWW-Authenticate", "Basic realm=r")).await;
    let to = format!("http://{}/elsewhere", other.address);
    let server = Server::start(move |_| Reply::new(307).header("Location", &to)).await;
    let client = client_as(&server, Credentials::basic("joe", "pass"));
    let e = client.get_blob(&repository(), &Digest::sha256("hello"), None).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unauthorized);
    assert_eq!(other.seen().len(), 1);
    assert_eq!(other.seen()[0].header("authorization"), None);
}

#[tokio::test]
async fn endless_redirects_are_an_error() {
    let server = Server::start(|_| Reply::new(302).header("Location", "/v2/round")).await;
    assert_eq!(client(&server).ping().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(server.seen().len(), 6);
}

#[test]
fn redirects_from_tls_to_plain_http_are_errors() {
    let url = |text: &str| url::Url::parse(text).unwrap();
    let check = |from: &str, to: &str| super::super::transport::check_downgrade(&url(from), &url(to));
    assert_eq!(check("https://a/", "http://a/").unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(check("https://a/", "ftp://a/").unwrap_err().kind(), ErrorKind::Denied);
    assert!(check("http://a/", "http://b/").is_ok());
    assert!(check("http://a/", "https://b/").is_ok());
}

#[tokio::test]
async fn a_token_server_without_tls_gets_no_credentials_unless_plain_http_is_asked_for() {
    let server = Server::start(|_| {
        Reply::new(401).header("WWW-Authenticate", r#"Bearer realm="http://auth.example/token",service="s""#)
    })
    .await;
    // Whoever would send it has to go through here.
    let proxy = Server::start(|_| token("t", 300)).await;
    let host = RegistryHost::parse(&server.address).unwrap();
    let keychain = Arc::new(StaticKeychain::default().with(host.clone(), Credentials::basic("joe", "pass")));
    let proxies = |name: &str| match name {
        "http_proxy" => Some(format!("http://{}", proxy.address)),
        "no_proxy" => Some("127.0.0.1".to_owned()),
        _ => None,
    };
    let proxies = crate::client::Proxies::from_variables(proxies);
    let builder = || HttpClient::builder(host.clone()).retry(QUICK).keychain(keychain.clone());
    let client = builder().proxies(proxies.clone()).build().unwrap();
    let e = client.get_manifest(&repository(), &latest()).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unauthorized && e.to_string().contains("without TLS"), "{e}");
    assert_eq!(e.context_value("token server"), Some("auth.example"));
    assert_eq!(proxy.seen().len(), 0);
    let client = builder().proxies(proxies).plain_http(true).build().unwrap();
    client.get_manifest(&repository(), &latest()).await.unwrap_err();
    assert_eq!(proxy.count("GET http://auth.example/token"), 1);
}

#[tokio::test]
async fn malformed_challenges_and_tokens_are_errors() {
    let big = "a".repeat(1 << 20);
    let many = "Bearer ,".repeat(5000);
    for (challenge, answer) in [
        ("Bearer", "{}"),
        ("Bearer realm=", "{}"),
        (r#"Bearer realm="file:///etc/passwd""#, "{}"),
        (r#"Bearer realm="http://[::1""#, "{}"),
        (r#"Bearer realm="javascript:alert(1)""#, "{}"),
        (many.as_str(), "{}"),
        (r#"Bearer realm="/token",service="\\\"ä	""#, r#"{"token":"a\nb"}"#),
        (r#"Bearer realm="/token""#, r#"{"token":"","access_token":null}"#),
        (r#"Bearer realm="/token""#, r#"{"token":7}"#),
        (r#"Bearer realm="/token""#, big.as_str()),
    ] {
        let (challenge, answer) = (challenge.to_owned(), answer.to_owned());
        let server = Server::start(move |seen| match is_token(seen) {
            true => Reply::new(200).body(answer.clone()),
            false => Reply::new(401).header("WWW-Authenticate", &challenge),
        })
        .await;
        let e = client(&server).get_manifest(&repository(), &latest()).await.unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Unauthorized | ErrorKind::TooLarge), "{e}");
        assert!(e.to_string().contains(&server.address), "{e}");
    }
}
