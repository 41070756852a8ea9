//! Users of a directory: OpenLDAP, and servers that are none.

use super::access::{basic, users};
use super::program::{run, stderr};
use super::slapd::{ACCOUNT, GROUPS, PEOPLE, Slapd};
use super::support::{Api, Reply};
use hyper_sdk::ErrorKind;
use hyper_sdk::store::DiskStore;
use hyper_sdk::store::meta::{MemoryTokens, SqlMeta, TokenStore as _};
use hyper_server::auth::{
    AnonymousAccess, LdapOptions, PolicyFile, api_token, directory_token, htpasswd_entry,
};
use hyper_server::{ConnectionInfo, Registry, RegistryOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const POLICY: &str =
    "[[allow]]\nwho = [\"claim:groups=writers\"]\nrepositories = [\"**\"]\nactions = [\"pull\", \"push\"]\n";

fn with(ldap: LdapOptions, change: impl FnOnce(RegistryOptions) -> RegistryOptions) -> Api {
    Api::with(change(RegistryOptions { ldap: Some(ldap), ..RegistryOptions::default() }))
}

/// A registry where only the group of writers may do anything.
fn writers(ldap: LdapOptions) -> Api {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    std::fs::write(&path, POLICY).unwrap();
    with(ldap, |options| RegistryOptions {
        authorizer: Some(Arc::new(PolicyFile::open(&path).unwrap())),
        ..options
    })
}

async fn probe(api: &Api, user: &str, password: &str) -> Reply {
    api.request("GET", "/v2/", &[("authorization", &basic(user, password))], "").await
}

async fn push(api: &Api, authorization: &str) -> Reply {
    api.request("POST", "/v2/a/b/blobs/uploads/", &[("authorization", authorization)], "").await
}

async fn token(api: &Api, user: &str, password: &str) -> String {
    let query = "/v2/token?service=hyperregistry&scope=repository:a/b:pull,push";
    let reply = api.request("GET", query, &[("authorization", &basic(user, password))], "").await.expect(200);
    format!("Bearer {}", reply.json()["token"].as_str().unwrap())
}

#[tokio::test]
async fn a_user_of_a_directory_has_the_rights_of_the_groups() {
    let Some(slapd) = Slapd::start("groups of a directory") else { return };
    let search = LdapOptions {
        group_attribute: None,
        group_filter: Some("(&(objectClass=groupOfNames)(member={dn}))".to_owned()),
        ..slapd.options()
    };
    let own = LdapOptions {
        bind_dn: None,
        bind_password_file: None,
        base: None,
        user_dn: Some(format!("uid={{user}},{PEOPLE}")),
        ..slapd.options()
    };
    let both = LdapOptions { base: None, user_dn: own.user_dn.clone(), ..slapd.options() };
    let mail = LdapOptions { user_attribute: "mail".to_owned(), ..slapd.options() };
    for (options, suffix) in
        [(slapd.options(), ""), (search, ""), (own, ""), (both, ""), (mail, "@example.com")]
    {
        let (api, name) = (writers(options.clone()), |user: &str| format!("{user}{suffix}"));
        push(&api, &basic(&name("ada"), "pw-ada")).await.expect(202);
        let bearer = token(&api, &name("bob"), "pw-bob").await;
        push(&api, &bearer).await.expect(202);
        for (user, password) in
            [("ada", "pw-bob"), ("ada", ""), ("ada", "pw-ada "), ("nobody", "x"), ("", "x")]
        {
            probe(&api, &name(user), password).await.refused(401, "UNAUTHORIZED");
        }
        if suffix.is_empty() {
            // In a group of the same name elsewhere.
            push(&api, &basic("eve", "pw-eve")).await.refused(403, "DENIED");
        } else {
            // Two entries have this address.
            probe(&api, &name("eve"), "pw-eve").await.refused(401, "UNAUTHORIZED");
        }
        let metrics = api.get("/metrics").await.text().to_owned();
        assert!(metrics.contains("hyperregistry_ldap_requests_total{outcome=\"accepted\"} "), "{metrics}");
        assert!(metrics.contains("hyperregistry_ldap_requests_total{outcome=\"failed\"} 0"), "{metrics}");
    }
}

/// Each of these would be ada, or everybody, if a name were a part of a filter or of a distinguished name.
#[tokio::test]
async fn no_name_is_more_than_a_name() {
    let Some(slapd) = Slapd::start("injection into a directory") else { return };
    slapd.modify(
        &format!("dn: uid=o\\2c\\28x\\29\\2a,{PEOPLE}\nobjectClass: inetOrgPerson\nuid: o,(x)*\ncn: o\nsn: x\nuserPassword: pw-odd\n"),
        &["-a"],
    );
    let template =
        LdapOptions { base: None, user_dn: Some(format!("uid={{user}},{PEOPLE}")), ..slapd.options() };
    for options in [slapd.options(), template] {
        let api = with(options, |options| options);
        probe(&api, "ada", "pw-ada").await.expect(200);
        probe(&api, "o,(x)*", "pw-odd").await.expect(200);
        for name in [
            "*",
            "ad*",
            "ada*",
            "ada)(uid=*",
            "*)(uid=ada",
            "ada)(|(uid=*",
            "ada))(|(uid=*)",
            "ada)(&)",
            "\\61da",
            "\\2a",
            "ada\0",
            "ada\0)",
            "Ada",
            "ADA",
            " ada",
            "ada ",
            "ada,ou=people",
            "ada,ou=people,dc=example,dc=com",
            "ada+cn=ada",
            "ada\\",
            "#616461",
            "\"ada\"",
            "ada\n",
            "a\u{200b}da",
        ] {
            probe(&api, name, "pw-ada").await.refused(401, "UNAUTHORIZED");
            probe(&api, name, "").await.refused(401, "UNAUTHORIZED");
        }
        // An account that is no user.
        for name in ["registry", ACCOUNT] {
            probe(&api, name, "s3cret-of-the-account").await.refused(401, "UNAUTHORIZED");
        }
    }
}

#[tokio::test]
async fn the_certificate_of_a_directory_is_checked() {
    let Some(slapd) = Slapd::start("TLS with a directory") else { return };
    let (tls, start) =
        (format!("ldaps://localhost:{}", slapd.tls), format!("ldap://127.0.0.1:{}", slapd.plain));
    let options = |url: &str, ca: Option<&str>| LdapOptions {
        urls: vec![url.to_owned()],
        start_tls: None,
        authorities: ca.map(|name| slapd.file(name)),
        ..slapd.options()
    };
    for url in [&tls, &start] {
        let api = with(options(url, Some("ca.crt")), |options| options);
        probe(&api, "ada", "pw-ada").await.expect(200);
        probe(&api, "ada", "pw-bob").await.refused(401, "UNAUTHORIZED");
        for ca in [None, Some("other.crt")] {
            let api = with(options(url, ca), |options| options);
            probe(&api, "ada", "pw-ada").await.refused(503, "UNAVAILABLE");
        }
    }
    let elsewhere = options(&format!("ldaps://127.0.0.2:{}", slapd.tls), Some("ca.crt"));
    probe(&with(elsewhere, |options| options), "ada", "pw-ada").await.refused(503, "UNAVAILABLE");
    // TLS where there is none, and the other way round.
    for url in [format!("ldaps://localhost:{}", slapd.plain), format!("ldap://localhost:{}", slapd.tls)] {
        let api = with(options(&url, Some("ca.crt")), |options| options);
        probe(&api, "ada", "pw-ada").await.refused(503, "UNAVAILABLE");
    }
}

#[tokio::test]
async fn a_name_in_the_file_is_that_of_the_file() {
    let Some(slapd) = Slapd::start("a file and a directory") else { return };
    let file = users();
    let lines = [htpasswd_entry("ada", "of-the-file", 4).unwrap(), htpasswd_entry("alice", "a", 4).unwrap()];
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let api = with(slapd.options(), |options| RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        ..options
    });
    probe(&api, "ada", "of-the-file").await.expect(200);
    probe(&api, "ada", "pw-ada").await.refused(401, "UNAUTHORIZED");
    probe(&api, "alice", "a").await.expect(200);
    probe(&api, "bob", "pw-bob").await.expect(200);
    probe(&api, "bob", "a").await.refused(401, "UNAUTHORIZED");
    let bearer = token(&api, "bob", "pw-bob").await;
    push(&api, &bearer).await.expect(202);
    // A name that comes into the file is no longer one of the directory.
    let bob = htpasswd_entry("bob", "of-the-file", 4).unwrap();
    std::fs::write(file.path(), format!("{}\n{bob}", lines.join("\n"))).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    push(&api, &bearer).await.refused(401, "UNAUTHORIZED");
    probe(&api, "bob", "pw-bob").await.refused(401, "UNAUTHORIZED");
    probe(&api, "bob", "of-the-file").await.expect(200);
}

/// Who takes the line of a user out of the file to keep him away means his tokens, too, whoever else has the name.
#[tokio::test]
async fn an_api_token_follows_no_name() {
    let Some(slapd) = Slapd::start("API tokens of a file and a directory") else { return };
    let (file, tokens) = (users(), MemoryTokens::default());
    let of_file = htpasswd_entry("bob", "of-the-file", 4).unwrap();
    std::fs::write(file.path(), &of_file).unwrap();
    let api = with(slapd.options(), |options| RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        api_tokens: Some(Arc::new(tokens.clone())),
        ..options
    });
    let mut proofs = Vec::new();
    for is_of_directory in [false, true] {
        let (token, record) = api_token("bob", "ci", &["**:*"], 0, None).unwrap();
        let record = if is_of_directory { directory_token(record) } else { record };
        tokens.add_token(&record).await.unwrap();
        proofs.push(basic("bob", token.expose()));
    }
    for (text, statuses) in [(of_file.as_str(), [202, 401]), ("", [401, 202]), (&of_file, [202, 401])] {
        std::fs::write(file.path(), text).unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let pushed = [push(&api, &proofs[0]).await.status, push(&api, &proofs[1]).await.status];
        assert_eq!(pushed, statuses, "{text}");
    }
}

#[tokio::test]
async fn tokens_end_with_their_user() {
    let Some(slapd) = Slapd::start("tokens of users of a directory") else { return };
    let tokens = MemoryTokens::default();
    let options = LdapOptions {
        filter: Some("(&(uid={user})(!(pwdAccountLockedTime=*)))".to_owned()),
        ..slapd.options()
    };
    let api = with(options, |options| RegistryOptions {
        api_tokens: Some(Arc::new(tokens.clone())),
        anonymous: Some(AnonymousAccess::Pull),
        ..options
    });
    let login = |user: &'static str, password: &'static str| {
        let api = &api;
        async move {
            let query = "/v2/token?service=hyperregistry&offline_token=true&client_id=docker";
            let reply = api.request("GET", query, &[("authorization", &basic(user, password))], "").await;
            reply.expect(200).json()["refresh_token"].as_str().unwrap().to_owned()
        }
    };
    let exchange = |refresh: String| {
        let api = &api;
        async move {
            let form =
                format!("grant_type=refresh_token&scope=repository:a/b:pull,push&refresh_token={refresh}");
            let headers = [("content-type", "application/x-www-form-urlencoded")];
            api.request("POST", "/v2/token", &headers, form).await
        }
    };
    let mut machines = Vec::new();
    for user in ["ada", "bob", "eve"] {
        let (token, record) = api_token(user, "ci", &["**:*"], 0, None).unwrap();
        tokens.add_token(&directory_token(record)).await.unwrap();
        machines.push(basic(user, token.expose()));
        push(&api, machines.last().unwrap()).await.expect(202);
    }
    let [ada, bob, eve] =
        [login("ada", "pw-ada").await, login("bob", "pw-bob").await, login("eve", "pw-eve").await];
    let bearer =
        format!("Bearer {}", exchange(ada.clone()).await.expect(200).json()["token"].as_str().unwrap());
    push(&api, &bearer).await.expect(202);
    for refresh in [&bob, &eve] {
        exchange(refresh.clone()).await.expect(200);
    }

    // Another password ends logins without one, and no token of a machine.
    slapd.set_password("ada", "another");
    exchange(ada).await.refused(401, "UNAUTHORIZED");
    push(&api, &bearer).await.refused(401, "UNAUTHORIZED");
    push(&api, &machines[0]).await.expect(202);
    exchange(login("ada", "another").await).await.expect(200);
    // Who has gone, or is locked as the filter says, has no tokens.
    slapd.remove("bob");
    slapd.modify(
        &format!("dn: uid=eve,{PEOPLE}\nchangetype: modify\nadd: pwdAccountLockedTime\npwdAccountLockedTime: 000001010000Z\n"),
        &["-e", "relax"],
    );
    for (refresh, machine) in [(bob, &machines[1]), (eve, &machines[2])] {
        exchange(refresh).await.refused(401, "UNAUTHORIZED");
        push(&api, machine).await.refused(401, "UNAUTHORIZED");
    }
    probe(&api, "eve", "pw-eve").await.refused(401, "UNAUTHORIZED");
}

/// A password that is only remembered buys no token that outlives it.
#[tokio::test]
async fn a_former_password_gets_no_refresh_token() {
    let Some(slapd) = Slapd::start("a former password") else { return };
    let tokens = MemoryTokens::default();
    let options = LdapOptions { cache: Duration::from_secs(2), ..slapd.options() };
    let api =
        with(options, |options| RegistryOptions { api_tokens: Some(Arc::new(tokens.clone())), ..options });
    let login = async |password: &str| {
        let query = "/v2/token?service=hyperregistry&offline_token=true&client_id=docker";
        let reply = api.request("GET", query, &[("authorization", &basic("ada", password))], "").await;
        match reply.status.as_u16() {
            200 => reply.json()["refresh_token"].as_str().map(str::to_owned),
            status => panic!("{status}"),
        }
    };
    assert!(login("pw-ada").await.is_some());
    slapd.set_password("ada", "another");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // The right password is known for half a second more, and what the directory says is asked anew.
    probe(&api, "ada", "another").await.expect(200);
    probe(&api, "ada", "pw-ada").await.refused(401, "UNAUTHORIZED");
    assert!(login("another").await.is_some());
}

#[tokio::test]
async fn a_user_has_one_name() {
    let Some(slapd) = Slapd::start("an entry with two names") else { return };
    let api = with(slapd.options(), |options| options);
    probe(&api, "bob", "pw-bob").await.expect(200);
    slapd.modify(&format!("dn: uid=bob,{PEOPLE}\nchangetype: modify\nadd: uid\nuid: root\n"), &[]);
    for name in ["bob", "root"] {
        probe(&api, name, "pw-bob").await.refused(401, "UNAUTHORIZED");
    }
}

/// The sender of requests, as the accept loop would say it.
async fn from(api: &Api, address: &str, user: &str, password: &str) -> u16 {
    let mut request = http::Request::get("/v2/")
        .header("authorization", basic(user, password))
        .body(axum::body::Body::empty())
        .unwrap();
    let peer = format!("{address}:1").parse().unwrap();
    request.extensions_mut().insert(ConnectionInfo::new(peer, peer));
    api.registry.handle(request).await.status().as_u16()
}

#[tokio::test]
async fn right_passwords_alone_are_remembered_and_wrong_ones_are_limited() {
    let Some(mut slapd) = Slapd::start("what is known of a directory") else { return };
    let api = with(LdapOptions { cache: Duration::from_secs(60), ..slapd.options() }, |options| options);
    let answers = (0..40).map(|_| from(&api, "192.0.2.1", "ada", "pw-ada"));
    assert!(futures::future::join_all(answers).await.iter().all(|status| *status == 200));
    assert_eq!(from(&api, "192.0.2.1", "ada", "wrong").await, 401);
    let asked = |metrics: Reply, outcome: &str| {
        let name = format!("hyperregistry_ldap_requests_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.text().lines().find_map(|line| line.strip_prefix(&name).map(str::to_owned));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(asked(api.get("/metrics").await, "accepted"), 1, "equal logins at once are one");
    for n in 0..9 {
        assert_eq!(from(&api, "192.0.2.1", "ada", "wrong").await, 401, "{n}");
    }
    assert_eq!(asked(api.get("/metrics").await, "refused"), 10, "a wrong password is never known");
    assert_eq!(from(&api, "192.0.2.1", "ada", "wrong").await, 429);
    assert_eq!(from(&api, "192.0.2.1", "ada", "pw-ada").await, 200);
    assert_eq!(from(&api, "192.0.2.2", "bob", "pw-bob").await, 200);

    slapd.stop();
    assert_eq!(from(&api, "192.0.2.1", "ada", "pw-ada").await, 200);
    assert_eq!(from(&api, "192.0.2.2", "ada", "pw-ada").await, 503, "known at another network");
    assert_eq!(from(&api, "192.0.2.2", "eve", "pw-eve").await, 503);
    for _ in 0..20 {
        assert_eq!(from(&api, "192.0.2.3", "eve", "guess").await, 503, "what nobody checks is no guess");
    }
    assert!(asked(api.get("/metrics").await, "failed") > 0);
    slapd.start_again();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(from(&api, "192.0.2.3", "eve", "pw-eve").await, 200);
}

/// A server that answers each connection with these bytes, and then says no more.
async fn speaks(answer: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ldap://127.0.0.1:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            open.push(tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(&answer).await;
                std::future::pending::<()>().await;
            }));
        }
    });
    url
}

#[tokio::test]
async fn a_directory_that_does_not_answer_keeps_nobody_waiting_for_long() {
    let deep = vec![[0x30u8, 0x84, 0, 7, 0, 0]; 70_000].concat();
    for (answer, start_tls) in [
        (Vec::new(), false),
        (Vec::new(), true),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false),
        (vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff], false),
        (deep, true),
        (vec![0x30, 0], false),
        // Success for nobody's request, and for a search in place of a bind.
        (b"\x30\x0c\x02\x01\x07\x61\x07\x0a\x01\x00\x04\x00\x04\x00".to_vec(), false),
        (b"\x30\x0c\x02\x01\x01\x65\x07\x0a\x01\x00\x04\x00\x04\x00".to_vec(), false),
        // The end of the connection, and StartTLS that is refused.
        (b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x34\x04\x00\x04\x00".to_vec(), false),
        (b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00".to_vec(), true),
        // Text in the clear behind the consent to TLS.
        (b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\x00\x04\x00\x04\x00".to_vec(), true),
    ] {
        let options = LdapOptions {
            start_tls: Some(start_tls),
            user_dn: Some("uid={user},dc=x".to_owned()),
            time: Duration::from_secs(1),
            ..LdapOptions::new(speaks(answer.clone()).await)
        };
        let (api, begin) = (with(options, |options| options), Instant::now());
        let users: Vec<String> = (0..20).map(|n| format!("u{n}")).collect();
        let logins = users.iter().map(|user| probe(&api, user, "pw"));
        let replies = futures::future::join_all(logins).await;
        assert!(replies.iter().all(|reply| matches!(reply.status.as_u16(), 429 | 503)), "{answer:?}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?} {answer:?}", begin.elapsed());
        api.get("/livez").await.expect(200);
    }
}

#[tokio::test]
async fn another_server_answers_for_one_that_does_not() {
    let Some(slapd) = Slapd::start("two servers of a directory") else { return };
    let silent = speaks(Vec::new()).await;
    for first in ["ldap://127.0.0.1:1".to_owned(), silent] {
        let mut options =
            LdapOptions { start_tls: None, authorities: Some(slapd.file("ca.crt")), ..slapd.options() };
        options.urls.insert(0, first);
        probe(&with(options, |options| options), "ada", "pw-ada").await.expect(200);
    }
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), "s3cret\n").unwrap();
    let good = LdapOptions {
        bind_dn: Some("cn=a".to_owned()),
        bind_password_file: Some(password.path().to_owned()),
        base: Some(PEOPLE.to_owned()),
        ..LdapOptions::new("ldaps://a.example")
    };
    let some = |text: &str| Some(text.to_owned());
    let refused = |options: LdapOptions| {
        let options = RegistryOptions { ldap: Some(options), ..RegistryOptions::default() };
        match Registry::new(super::support::memory(), options) {
            Ok(_) => panic!("it was accepted"),
            Err(e) => e,
        }
    };
    for (options, part) in [
        (LdapOptions { urls: Vec::new(), ..good.clone() }, "`url`"),
        (LdapOptions { urls: vec!["http://a".to_owned()], ..good.clone() }, "ldaps://HOST"),
        (
            LdapOptions { urls: vec!["ldap://a".to_owned()], start_tls: Some(false), ..good.clone() },
            "allow-plain",
        ),
        (LdapOptions { user_dn: some("uid={user}"), ..good.clone() }, "either `user-dn`"),
        (LdapOptions { base: None, ..good.clone() }, "either `user-dn`"),
        (LdapOptions { base: some("nonsense"), ..good.clone() }, "`base` is no"),
        (LdapOptions { base: None, user_dn: some("uid=a"), ..good.clone() }, "`{user}` once"),
        (LdapOptions { bind_dn: None, ..good.clone() }, "belong together"),
        (LdapOptions { bind_dn: some(" "), ..good.clone() }, "must not be empty"),
        (LdapOptions { filter: some("(objectClass=person)"), ..good.clone() }, "name of the user"),
        (LdapOptions { filter: some("(uid=a"), ..good.clone() }, "`)` is missing"),
        (LdapOptions { filter: some("(&(uid={user})(a={dn}))"), ..good.clone() }, "must not have `{dn}`"),
        (LdapOptions { user_attribute: "a b".to_owned(), ..good.clone() }, "names of attributes"),
        (LdapOptions { group_filter: some("(member={dn})"), ..good.clone() }, "needs `group-base`"),
        (
            LdapOptions { group_filter: some("(a=b)"), group_base: some(GROUPS), ..good.clone() },
            "must have `{dn}`",
        ),
        (LdapOptions { group_base: some(GROUPS), ..good.clone() }, "needs `group-attribute`"),
        (LdapOptions { time: Duration::ZERO, ..good.clone() }, "`timeout`"),
        (LdapOptions { connections: 0, ..good.clone() }, "`connections`"),
        (LdapOptions { cache: Duration::from_secs(3601), ..good.clone() }, "`cache`"),
    ] {
        let e = refused(options);
        assert!(e.kind() == ErrorKind::Invalid && e.to_string().contains(part), "{part}: {e}");
    }
    std::fs::write(password.path(), "\n").unwrap();
    assert!(refused(good.clone()).to_string().contains("is empty"));
    let gone = LdapOptions { bind_password_file: some("/no/such").map(Into::into), ..good };
    assert_eq!(refused(gone).kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn the_commands_know_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("config.toml"), folder.path().join("data"));
    let check = |table: &str| {
        let text = format!("data = \"{}\"\n[auth.ldap]\n{table}", data.display());
        std::fs::write(&file, text).unwrap();
        run(&["config", "check", "--config", file.to_str().unwrap()], "")
    };
    let output = check("url = \"ldaps://a.example\"\nuser-dn = \"uid={user},dc=x\"");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("bind-dn") && stderr(&output).contains("there is no policy"));
    let output = check("url = \"ldaps://a.example\"\nbase = \"dc=x\"\nfilter = \"(uid=*)\"");
    assert!(!output.status.success() && stderr(&output).contains("`filter`"), "{}", stderr(&output));

    let Some(slapd) = Slapd::start("API tokens of users of a directory") else { return };
    let table = format!(
        "url = \"ldap://127.0.0.1:{}\"\nstart-tls = false\nbind-dn = \"{ACCOUNT}\"\nbind-password-file = \"{}\"\nbase = \"{PEOPLE}\"",
        slapd.plain,
        slapd.file("password").display()
    );
    assert!(check(&table).status.success());
    drop(DiskStore::open(&data).await.unwrap());
    let add = |user: &str| {
        run(&["token", "add", user, "--scope", "**:pull", "--config", file.to_str().unwrap()], "")
    };
    let output = add("ada");
    assert!(output.status.success(), "{}", stderr(&output));
    let output = add("nobody");
    assert!(!output.status.success() && stderr(&output).contains("directory"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("s3cret"));

    // A token is that of an entry: not of the next one that gets the name.
    let output = add("bob");
    let proof = basic("bob", String::from_utf8(output.stdout).unwrap().trim_end());
    let meta = SqlMeta::open(data.join("hyper.db")).await.unwrap();
    let api = with(slapd.options(), |options| RegistryOptions {
        api_tokens: Some(Arc::new(meta.clone())),
        ..options
    });
    let ask = async || api.request("GET", "/v2/", &[("authorization", &proof)], "").await;
    ask().await.expect(200);
    slapd.set_password("bob", "another");
    ask().await.expect(200);
    slapd.remove("bob");
    ask().await.refused(401, "UNAUTHORIZED");
    slapd.modify(
        &format!("dn: uid=bob,{PEOPLE}\nobjectClass: inetOrgPerson\nuid: bob\ncn: bob\nsn: x\nuserPassword: pw-bob\n"),
        &["-a"],
    );
    probe(&api, "bob", "pw-bob").await.expect(200);
    ask().await.refused(401, "UNAUTHORIZED");
    let output = run(&["token", "ls", "--format", "json", "--config", file.to_str().unwrap()], "");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of: Vec<&str> = shown.as_array().unwrap().iter().map(|one| one["of"].as_str().unwrap()).collect();
    assert_eq!(of, ["directory", "directory"]);
    assert_eq!(shown[0]["scopes"], serde_json::json!(["**:pull"]));
}
