//! Logins of users who come and go.

use super::*;
use crate::options::RegistryOptions;
use crate::state::State;
use hyper_sdk::store::MemoryStore;
use hyper_sdk::store::meta::{MemoryTokens, TokenRecord};
use hyper_sdk::testing::FrozenClock;

async fn add_refresh(passwords: &Passwords, user: &str, bound_to: Digest) -> Secret {
    let new = passwords.api_tokens.as_ref().unwrap().new_refresh(user, "docker", bound_to).unwrap().unwrap();
    passwords.keep_refresh(&new).await.unwrap();
    new.text().clone()
}

/// An administrator takes a line out because a laptop was stolen, and puts it back later.
#[tokio::test]
async fn the_logins_of_a_user_who_was_removed_do_not_come_back() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |user: &str| format!("{}\n", crate::auth::htpasswd_entry(user, "secret", 4).unwrap());
    let both = line("alice") + &line("bob");
    let bob = both.lines().nth(1).unwrap().to_owned();
    let write = async |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        // The file is looked at once a second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    };
    std::fs::write(file.path(), &both).unwrap();
    let (tokens, clock) = (MemoryTokens::default(), Arc::new(FrozenClock::new(1_800_000_000)));
    let options = RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        api_tokens: Some(Arc::new(tokens.clone())),
        clock: clock.clone(),
        ..RegistryOptions::default()
    };
    let state = State::new(Arc::new(MemoryStore::default()), options).unwrap();
    let passwords = state.tokens.clone().unwrap();
    let login = async |user: &str| {
        let bound_to = passwords.binding(user).await.unwrap().unwrap();
        add_refresh(&passwords, user, bound_to).await
    };
    let [lost, kept] = [login("alice").await, login("bob").await];
    let works = async |token: &Secret| passwords.refresh(token.expose(), None).await.unwrap().is_some();
    let forget = async |gone: &HashSet<Digest>| {
        let mut users = Vec::new();
        let removed = passwords.forget_logins(gone, |record| users.push(record.user.clone())).await.unwrap();
        assert_eq!(removed, users.len() as u64);
        users.sort();
        users
    };
    let before = passwords.bindings().unwrap();
    assert!(forget(&HashSet::new()).await.is_empty());
    write(&bob).await;
    let gone: HashSet<Digest> = before.difference(&passwords.bindings().unwrap()).cloned().collect();
    assert_eq!(forget(&gone).await, ["alice"]);
    write(&both).await;
    // A token is remembered for two seconds.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert!(!works(&lost).await && works(&kept).await);
    // One that another server has made, whose file is newer, stays.
    add_refresh(&passwords, "carol", Digest::sha256("a newer line")).await;
    assert!(forget(&gone).await.is_empty());
    write("no line of users").await;
    assert_eq!(passwords.bindings(), None, "a file that cannot be read says nothing");
    // What is not used for too long is forgotten, too.
    clock.advance(31 * 24 * 60 * 60);
    assert_eq!(forget(&HashSet::new()).await, ["bob", "carol"]);
    assert!(tokens.tokens(None, 10).await.unwrap().items.is_empty());
}

/// A check of a password takes a while. The line may be replaced meanwhile, or be gone.
#[tokio::test]
async fn a_password_that_was_right_before_gives_no_refresh_token() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let line = |password: &str| format!("{}\n", crate::auth::htpasswd_entry("alice", password, 4).unwrap());
    std::fs::write(file.path(), line("former")).unwrap();
    let options = RegistryOptions {
        htpasswd: Some(file.path().to_owned()),
        api_tokens: Some(Arc::new(MemoryTokens::default())),
        ..RegistryOptions::default()
    };
    let state = State::new(Arc::new(MemoryStore::default()), options).unwrap();
    let passwords = state.tokens.clone().unwrap();
    let login = passwords.verify("alice", "former", None).await.unwrap().unwrap();
    assert_eq!(
        passwords.login_binding("alice", &login).await.unwrap(),
        passwords.binding("alice").await.unwrap()
    );
    std::fs::write(file.path(), line("new")).unwrap();
    // The file is looked at once a second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(passwords.binding("alice").await.unwrap().is_some());
    assert_eq!(passwords.login_binding("alice", &login).await.unwrap(), None);
}

/// A login in a browser has a time of its own, whatever the one of refresh tokens is.
#[tokio::test]
async fn a_token_of_a_login_stays_until_it_expires() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), crate::auth::htpasswd_entry("bob", "secret", 4).unwrap()).unwrap();
    let (tokens, clock) = (MemoryTokens::default(), Arc::new(FrozenClock::new(1_800_000_000)));
    let options = RegistryOptions {
        api_tokens: Some(Arc::new(tokens.clone())),
        clock: clock.clone(),
        htpasswd: Some(file.path().to_owned()),
        refresh_tokens: Some(Duration::from_secs(3600)),
        ..RegistryOptions::default()
    };
    let now = 1_800_000_000;
    let record = |id: &str, scopes: &[&str], expires| TokenRecord {
        id: id.to_owned(),
        hash: Digest::sha256(id),
        user: "alice".to_owned(),
        name: String::new(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        created: now - 7200,
        expires,
        used: None,
        bound_to: Some(Digest::sha256("line")),
    };
    for record in [
        record("login", &["login={}"], Some(now + 3600)),
        record("over", &["login={}"], Some(now)),
        record("refresh", &[], None),
    ] {
        tokens.add_token(&record).await.unwrap();
    }
    let state = State::new(Arc::new(MemoryStore::default()), options).unwrap();
    assert_eq!(state.tokens.clone().unwrap().forget_logins(&HashSet::new(), |_| {}).await.unwrap(), 2);
    let left = tokens.tokens(None, 10).await.unwrap().items;
    assert_eq!(left.iter().map(|record| record.id.as_str()).collect::<Vec<_>>(), ["login"]);
}
