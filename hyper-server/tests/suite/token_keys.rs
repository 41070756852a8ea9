//! Tokens that others can verify: keys, their public part, and their rotation.

use super::access::{basic, options, users};
use super::program::{Process, run, stderr};
use super::support::{Api, Reply};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_server::RegistryOptions;
use hyper_server::auth::{AnonymousAccess, TokenAlgorithm, TokenKeys, new_token_key};
use serde_json::Value;
use std::fs::Permissions;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn key(folder: &Path, name: &str, algorithm: TokenAlgorithm) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, new_token_key(algorithm).unwrap().0.expose()).unwrap();
    path
}

async fn token(api: &Api) -> String {
    let alice = basic("alice", "pass:word");
    let path = "/v2/token?scope=repository:a/b:pull,push";
    let reply = api.request("GET", path, &[("authorization", &alice)], "").await.expect(200);
    reply.json()["token"].as_str().unwrap().to_owned()
}

async fn push(api: &Api, token: &str) -> Reply {
    let bearer = format!("Bearer {token}");
    api.request("POST", "/v2/a/b/blobs/uploads/", &[("authorization", &bearer)], "").await
}

fn part(token: &str, n: usize) -> Value {
    let part = token.split('.').nth(n).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Each server accepts the new key before any signs with it, so no token is refused on the way.
#[tokio::test]
async fn a_key_is_replaced_while_servers_answer() {
    let folder = tempfile::tempdir().unwrap();
    let old = key(folder.path(), "old", TokenAlgorithm::Es256);
    let new = key(folder.path(), "new", TokenAlgorithm::EdDsa);
    let file = users();
    let server = || {
        let keys = TokenKeys::open(&[&old]).unwrap();
        let options = options(Some(&file), Some(AnonymousAccess::Pull));
        (Api::with(RegistryOptions { token_keys: Some(keys.clone()), ..options }), keys)
    };
    let servers = [server(), server()];
    let mut issued = Vec::new();
    for step in [vec![&old, &new], vec![&new, &old]] {
        for (api, keys) in &servers {
            keys.replace(&step).unwrap();
            issued.push(token(api).await);
            for (api, _) in &servers {
                for token in &issued {
                    push(api, token).await.expect(202);
                }
            }
        }
    }
    assert_eq!(
        (&part(&issued[0], 0)["alg"], &part(&issued[3], 0)["alg"]),
        (&"ES256".into(), &"EdDSA".into())
    );
    servers[0].1.replace(&[&new]).unwrap();
    push(&servers[0].0, &issued[0]).await.refused(401, "UNAUTHORIZED");
    push(&servers[0].0, &issued[3]).await.expect(202);
}

#[tokio::test]
async fn the_public_keys_verify_the_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let file = users();
    let keys = TokenKeys::open(&[key(folder.path(), "a", TokenAlgorithm::Es256)]).unwrap();
    let options = |token_keys| RegistryOptions { token_keys, ..options(Some(&file), None) };
    let api = Api::with(options(Some(keys)));
    // Nobody needs a password for what is public, and nobody else's repository is in the way.
    let reply = api.get("/v2/token/keys").await.expect(200);
    assert_eq!(reply.header("content-type"), "application/jwk-set+json");
    let set = reply.json();
    let token = token(&api).await;
    let (head, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!(
        (&head["alg"], &head["typ"], &head["kid"]),
        (&"ES256".into(), &"JWT".into(), &set["keys"][0]["kid"])
    );
    for claim in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "access"] {
        assert!(!claims[claim].is_null(), "{claim}: {claims}");
    }
    assert_eq!(claims["access"][0]["name"], "a/b");
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(set["keys"][0][name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let public =
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED, point);
    public.verify(signed.as_bytes(), &signature).unwrap();
    assert!(!set.to_string().contains("\"d\""));
    Api::with(options(None)).get("/v2/token/keys").await.refused(404, "NOT_FOUND");
    Api::new().get("/v2/token/keys").await.refused(404, "NOT_FOUND");
}

fn made(file: &Path, algorithm: &str) -> String {
    let made = run(&["key", "new", file.to_str().unwrap(), "--algorithm", algorithm], "");
    assert!(made.status.success(), "{}", stderr(&made));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_program_makes_keys_and_reads_them_again_at_a_signal() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let ids = [made(&path("old.pem"), "es256"), made(&path("new.pem"), "eddsa")];
    assert_eq!(std::fs::metadata(path("old.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(&["key", "new", path("old.pem").to_str().unwrap()], "");
    assert!(!again.status.success() && stderr(&again).contains("old.pem"), "{}", stderr(&again));
    let public = run(&["key", "public", path("new.pem").to_str().unwrap()], "");
    let public: Value = serde_json::from_slice(&public.stdout).unwrap();
    assert_eq!(
        (&public["keys"][0]["kid"], &public["keys"][0]["alg"]),
        (&ids[1].as_str().into(), &"EdDSA".into())
    );

    let file = users();
    let write = |names: &[&str]| {
        let list: Vec<String> = names.iter().map(|name| format!("{:?}", path(name))).collect();
        let text =
            format!("[auth]\nhtpasswd = {:?}\n[auth.token]\nkeys = [{}]\n", file.path(), list.join(", "));
        std::fs::write(path("config.toml"), text).unwrap();
    };
    write(&["old.pem"]);
    let config = path("config.toml");
    let config = config.to_str().unwrap();
    assert!(run(&["config", "check", "--config", config], "").status.success());
    let server = Process::start(&path("data"), &["--config", config]);
    let keys = async || -> Vec<String> {
        let text = reqwest::get(format!("{}/v2/token/keys", server.url)).await.unwrap().text().await.unwrap();
        let set: Value = serde_json::from_str(&text).unwrap();
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys().await, [ids[0].clone()]);
    for names in [&["old.pem", "new.pem"][..], &["new.pem", "old.pem"], &["new.pem"]] {
        write(names);
        let expected: Vec<&String> = names.iter().map(|name| &ids[usize::from(*name == "new.pem")]).collect();
        server.signal("-HUP");
        for _ in 0..100 {
            if keys().await.iter().collect::<Vec<_>>() == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(keys().await.iter().collect::<Vec<_>>(), expected);
    }
    std::fs::set_permissions(path("new.pem"), Permissions::from_mode(0o644)).unwrap();
    let check = run(&["config", "check", "--config", config], "");
    assert!(
        check.status.success() && stderr(&check).contains("every user of this machine can read"),
        "{}",
        stderr(&check)
    );
    // A file that is no key leaves the keys, and the check names it.
    std::fs::write(path("new.pem"), "nonsense").unwrap();
    server.signal("-HUP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(keys().await, [ids[1].clone()]);
    let check = run(&["config", "check", "--config", config], "");
    let said = stderr(&check);
    assert!(
        !check.status.success() && said.contains("new.pem") && said.contains("auth.token.keys"),
        "{said}"
    );
    assert!(!said.contains("nonsense"));
}
