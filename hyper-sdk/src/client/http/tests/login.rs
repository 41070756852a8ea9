//! Credentials that are right, wrong or not asked for.

use super::*;
use crate::client::CredentialCheck;
use base64::Engine as _;

async fn check(server: &Server, password: &str) -> crate::Result<CredentialCheck> {
    client_as(server, Credentials::basic("joe", password)).check_credentials().await
}

/// The password of the request's `Authorization: Basic`.
fn password(seen: &Seen) -> Option<String> {
    let pair = seen.header("authorization")?.strip_prefix("Basic ")?;
    let pair = base64::engine::general_purpose::STANDARD.decode(pair).unwrap();
    Some(String::from_utf8(pair).unwrap().split_once(':').unwrap().1.to_owned())
}

fn challenge(seen: &Seen, bearer: bool) -> String {
    match bearer {
        true => format!("Bearer realm=\"http://{}/token\",service=\"s\"", seen.header("host").unwrap()),
        false => "Basic realm=\"r\"".to_owned(),
    }
}

/// What a registry does that everybody may pull from.
#[derive(Clone, Copy, Debug)]
struct Manners {
    /// Says at `/v2/` how to authenticate, with 200.
    hints: bool,
    /// Refuses wrong credentials at `/v2/` too.
    strict: bool,
    /// Wants tokens.
    bearer: bool,
    /// Lets joe push to any repository.
    joe_may_push: bool,
}

fn registry(manners: Manners) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    move |seen| {
        let given = password(seen);
        if seen.target.starts_with("/token") {
            // Anonymous tokens are given too.
            return match given.as_deref() {
                None | Some("right") => Reply::new(200).body(r#"{"token":"t"}"#),
                Some(_) => Reply::new(401),
            };
        }
        let token = seen.header("authorization") == Some("Bearer t");
        let known = (token && manners.bearer) || (given.as_deref() == Some("right") && !manners.bearer);
        match seen.method.as_str() {
            "GET" if manners.strict && given.is_some() && !known => Reply::new(401),
            "GET" if manners.hints => {
                Reply::new(200).header("WWW-Authenticate", challenge(seen, manners.bearer))
            }
            "GET" => Reply::new(200),
            "POST" if !known => Reply::new(401).header("WWW-Authenticate", challenge(seen, manners.bearer)),
            "POST" if manners.joe_may_push => Reply::new(202).header("Location", "/v2/x/blobs/uploads/1"),
            "POST" => Reply::new(403),
            "DELETE" if known => Reply::new(204),
            _ => Reply::new(400),
        }
    }
}

#[tokio::test]
async fn wrong_passwords_are_found_where_everybody_may_pull() {
    for bits in 0..16u8 {
        let bit = |n: u8| bits & (1 << n) != 0;
        let manners = Manners { hints: bit(0), strict: bit(1), bearer: bit(2), joe_may_push: bit(3) };
        let server = Server::start(registry(manners)).await;
        assert_eq!(check(&server, "right").await.unwrap(), CredentialCheck::Accepted, "{manners:?}");
        let opened = server.seen().iter().filter(|s| s.method == "POST" && password(s).is_some()).count();
        let returned = server.count("DELETE /v2/x/blobs/uploads/1");
        assert_eq!(returned, if manners.joe_may_push { opened } else { 0 }, "{manners:?}");
        let e = check(&server, "wrong").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthorized, "{manners:?}: {e}");
        assert!(!format!("{e:?}").contains("wrong"), "{e:?}");
    }
}

#[tokio::test]
async fn a_challenge_at_the_root_is_answered() {
    for bearer in [false, true] {
        let server = Server::start(move |seen| {
            let right = password(seen).as_deref() == Some("right");
            if seen.target.starts_with("/token") {
                return if right { Reply::new(200).body(r#"{"token":"t"}"#) } else { Reply::new(401) };
            }
            let token = seen.header("authorization") == Some("Bearer t");
            match if bearer { token } else { right } {
                true => Reply::new(200),
                false => Reply::new(401).header("WWW-Authenticate", challenge(seen, bearer)),
            }
        })
        .await;
        assert_eq!(check(&server, "right").await.unwrap(), CredentialCheck::Accepted);
        assert_eq!(check(&server, "wrong").await.unwrap_err().kind(), ErrorKind::Unauthorized);
        assert_eq!(server.count("POST"), 0);
    }
}

#[tokio::test]
async fn a_registry_that_never_asks_leaves_credentials_unchecked() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "POST" => Reply::new(202).header("Location", "/v2/x/blobs/uploads/1"),
        _ => Reply::new(200),
    })
    .await;
    assert_eq!(check(&server, "any").await.unwrap(), CredentialCheck::NotAsked);
    assert_eq!(server.count("DELETE /v2/x/blobs/uploads/1"), 1);
    assert!(server.seen().iter().all(|s| s.header("authorization").is_none()), "nobody asked for them");
    // A mirror that only gives.
    let server = Server::start(|seen| Reply::new(if seen.method == "POST" { 405 } else { 200 })).await;
    assert_eq!(check(&server, "any").await.unwrap(), CredentialCheck::NotAsked);
    // No registry at all.
    let server = Server::start(|_| Reply::new(404)).await;
    assert_eq!(check(&server, "any").await.unwrap_err().kind(), ErrorKind::Unavailable);
}
