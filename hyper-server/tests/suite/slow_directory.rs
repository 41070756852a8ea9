//! A directory that finds everybody and takes its time with passwords, as one that is flooded or delays wrong ones.

use super::access::basic;
use super::support::Api;
use hyper_sdk::store::meta::{MemoryTokens, TokenStore as _};
use hyper_server::RegistryOptions;
use hyper_server::auth::{LdapOptions, api_token, directory_token};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ACCOUNT: &str = "cn=registry";

/// One element of BER of less than 128 bytes.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

/// A message with one operation.
fn message(id: u8, tag: u8, operation: &[u8]) -> Vec<u8> {
    element(0x30, &[element(2, &[id]), element(tag, operation)].concat())
}

/// The entry of a user.
fn entry(id: u8, user: &str) -> Vec<u8> {
    let values = element(0x31, &element(4, user.as_bytes()));
    let attribute = element(0x30, &[element(4, b"uid"), values].concat());
    let dn = element(4, format!("uid={user}").as_bytes());
    message(id, 0x64, &[dn, element(0x30, &attribute)].concat())
}

/// Answers binds of the account of the registry, and searches for `(uid=…)`. It is silent when a user binds.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    const SUCCESS: &[u8] = b"\x0a\x01\x00\x04\x00\x04\x00";
    let mut bytes = [0; 4096];
    loop {
        let length = stream.read(&mut bytes).await?;
        let request = &bytes[..length];
        let find = |part: &[u8]| request.windows(part.len()).position(|window| window == part);
        // The message and its number come first, with lengths of any form.
        let Some(at) = find(b"\x02\x01") else { return Ok(()) };
        let (id, operation) = (request[at + 2], request[at + 3]);
        let reply = match operation {
            0x60 if find(ACCOUNT.as_bytes()).is_some() => message(id, 0x61, SUCCESS),
            0x63 => {
                let name = find(b"uid\x04").unwrap() + 4;
                let user = &request[name + 1..][..usize::from(request[name])];
                let user = std::str::from_utf8(user).unwrap();
                [entry(id, user), message(id, 0x65, SUCCESS)].concat()
            }
            _ => std::future::pending().await,
        };
        stream.write_all(&reply).await?;
    }
}

#[tokio::test]
async fn a_flood_of_logins_leaves_users_with_tokens_alone() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ldap://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "secret\n").unwrap();
    let ldap = LdapOptions {
        start_tls: Some(false),
        bind_dn: Some(ACCOUNT.to_owned()),
        bind_password_file: Some(password.path().to_owned()),
        base: Some("dc=x".to_owned()),
        connections: 1,
        cache: Duration::ZERO,
        time: Duration::from_secs(2),
        ..LdapOptions::new(url)
    };
    let tokens = MemoryTokens::default();
    let api = Arc::new(Api::with(RegistryOptions {
        ldap: Some(ldap),
        api_tokens: Some(Arc::new(tokens.clone())),
        ..RegistryOptions::default()
    }));
    let (token, record) = api_token("ada", "ci", &["**:*"], 0, None).unwrap();
    tokens.add_token(&directory_token(record)).await.unwrap();
    let proof = basic("ada", token.expose());
    let probe = async || api.request("GET", "/v2/", &[("authorization", &proof)], "").await.status.as_u16();
    assert_eq!(probe().await, 200);

    let flood: Vec<_> = (0..80)
        .map(|n| {
            let api = api.clone();
            tokio::spawn(async move {
                let proof = basic(&format!("u{n}"), "guess");
                api.request("GET", "/v2/", &[("authorization", &proof)], "").await.status.as_u16()
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begin = Instant::now();
    for _ in 0..3 {
        assert_eq!(probe().await, 200);
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    for login in flood {
        assert!(matches!(login.await.unwrap(), 429 | 503));
    }
}
