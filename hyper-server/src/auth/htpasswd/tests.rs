//! The users of an htpasswd file.

use super::*;
use crate::throttle::{Throttle, Throttling};

impl Htpasswd {
    async fn is_right(&self, user: &str, password: &str, client: Option<IpAddr>) -> Result<bool> {
        Ok(self.verify(user, password, client).await?.is_some())
    }
}

fn open(path: &Path) -> Htpasswd {
    let throttle = Throttle::new(&Throttling::default());
    Htpasswd::open(path, throttle.guesses().clone()).unwrap()
}

#[test]
fn an_htpasswd_file_has_one_user_a_line() {
    let good = entry("a", "secret", 4).unwrap();
    assert_eq!(parse(&format!("# x\n\n{good}\n")).unwrap().entries.len(), 1);
    assert!(parse(&format!("\u{feff}{good}\r\n")).unwrap().find("a").is_some());
    for (text, why) in [
        ("a:{SHA}x", "line 1: the hash is SHA-1"),
        ("\nnocolon", "line 2: expected USER:HASH"),
        (":x", "empty"),
        (&format!("{good}\n{good}"), "twice"),
    ] {
        let e = parse(text).unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    }
    assert!(entry("a:b", "x", 4).is_err());
    assert!(entry("a", &"x".repeat(73), 4).is_err());
}

#[test]
fn the_hash_for_unknown_users_is_valid() {
    assert!(!Users::default().decoy("a").verify(""));
}

/// An unknown user of a file with one scheme must not be told from a known one by the time of another scheme.
#[test]
fn an_unknown_user_is_checked_against_an_entry_of_the_file() {
    let argon2 = format!("b:{}", super::super::password_hash::tests::ARGON2ID);
    let bcrypt = entry("a", "secret", 4).unwrap();
    assert!(parse(&argon2).unwrap().decoy("x").text().starts_with("$argon2id$"));
    assert!(parse(&bcrypt).unwrap().decoy("x").text().starts_with("$2y$04$"));
    let both = parse(&format!("{argon2}\n{bcrypt}")).unwrap();
    let decoy = |name: &str| both.decoy(name).text().to_owned();
    assert_eq!(decoy("x"), decoy("x"));
    let seen: std::collections::BTreeSet<_> = (0..64).map(|n| decoy(&n.to_string())).collect();
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn users_of_both_schemes_log_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("htpasswd");
    let argon2 = format!("b:{}", super::super::password_hash::tests::ARGON2ID);
    std::fs::write(&path, format!("{argon2}\n{}\n", entry("a", "one", 4).unwrap())).unwrap();
    let users = open(&path);
    assert!(
        users.is_right("a", "one", None).await.unwrap() && users.is_right("b", "secret", None).await.unwrap()
    );
    for (user, password) in [("a", "secret"), ("b", "one"), ("c", "secret"), ("c", "one"), ("", "")] {
        assert!(!users.is_right(user, password, None).await.unwrap(), "{user}");
    }
}

/// A client that disconnects leaves a check behind that costs as much as any other.
#[tokio::test]
async fn checks_of_clients_that_disconnected_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("htpasswd");
    std::fs::write(&path, entry("a", "one", 12).unwrap()).unwrap();
    let users = open(&path);
    let free = users.cores.available_permits();
    let check = users.is_right("a", "two", None);
    assert!(tokio::time::timeout(Duration::from_millis(20), check).await.is_err());
    assert_eq!(users.cores.available_permits(), free - 1);
    while users.cores.available_permits() != free {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(users.memory.available_permits(), MEMORY as usize);
}

/// Machines that begin at once with one password, right or wrong, must not use up what others may guess.
#[tokio::test]
async fn equal_passwords_at_once_are_one_check() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("htpasswd");
    std::fs::write(&path, entry("a", "one", 4).unwrap()).unwrap();
    let (users, client) = (open(&path), Some([192, 0, 2, 1].into()));
    for (password, is_right) in [("one", true), ("two", false)] {
        let at_once = (0..500).map(|_| users.is_right("a", password, client));
        for outcome in futures::future::join_all(at_once).await {
            assert_eq!(outcome.unwrap(), is_right);
        }
    }
    // One of ten wrong ones is used.
    for n in 0..9 {
        assert!(!users.is_right("a", &n.to_string(), client).await.unwrap());
    }
    let e = users.is_right("a", "last", client).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooManyRequests);
    assert!(users.is_right("a", "one", client).await.unwrap(), "a password that is known to be right");
    assert!(!users.is_right("a", "two", client).await.unwrap(), "a password that is known to be wrong");

    // Elsewhere nobody learns from a refusal which password is right.
    let elsewhere = Some([192, 0, 2, 2].into());
    for n in 0..10 {
        assert!(!users.is_right("a", &n.to_string(), elsewhere).await.unwrap());
    }
    for password in ["one", "two", "three"] {
        users.is_right("a", password, elsewhere).await.unwrap_err();
    }
}

/// A client that hangs up leaves its outcome for the next one.
#[tokio::test]
async fn the_outcome_of_a_client_that_disconnected_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("htpasswd");
    std::fs::write(&path, entry("a", "one", 12).unwrap()).unwrap();
    let users = open(&path);
    for _ in 0..20 {
        let check = users.is_right("a", "two", Some([192, 0, 2, 1].into()));
        match tokio::time::timeout(Duration::from_millis(20), check).await {
            Ok(outcome) => return assert!(!outcome.unwrap()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    panic!("each client began anew");
}

#[tokio::test]
async fn a_password_has_one_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("htpasswd");
    let long = "x".repeat(72);
    std::fs::write(&path, format!("{}\n{}", entry("a", "one", 4).unwrap(), entry("b", &long, 4).unwrap()))
        .unwrap();
    let users = open(&path);
    assert!(!users.is_right("a", "one\0one", None).await.unwrap());
    for n in 0..3 {
        assert!(users.is_right("b", &format!("{long}{n}"), None).await.unwrap());
    }
    let known = (0..9).filter(|n| {
        let hash = users.users(Instant::now()).find("b").unwrap().clone();
        let long = format!("{long}{n}");
        let key = users.key(&[b"b", hash.significant(&long).unwrap(), hash.text().as_bytes()], None);
        users.right.has(&key, Instant::now())
    });
    assert_eq!(known.count(), 9, "bcrypt takes 72 bytes");
}

#[tokio::test]
async fn a_changed_file_is_read_again_and_a_malformed_one_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("htpasswd");
    std::fs::write(&path, entry("a", "one", 4).unwrap()).unwrap();
    let users = open(&path);
    assert!(users.is_right("a", "one", None).await.unwrap());
    assert!(users.is_right("a", "one", None).await.unwrap());
    assert!(!users.is_right("a", "two", None).await.unwrap());
    assert!(!users.is_right("b", "one", None).await.unwrap());

    let look_now = || users.state.lock().unwrap().looked -= CHECK_INTERVAL;
    std::fs::write(&path, format!("{}\n", entry("a", "two", 4).unwrap())).unwrap();
    look_now();
    assert!(users.is_right("a", "two", None).await.unwrap());
    assert!(!users.is_right("a", "one", None).await.unwrap());

    let line = std::fs::read_to_string(&path).unwrap();
    assert!(!users.is_right("b", "two", None).await.unwrap());
    std::fs::write(&path, format!("{line}{}", line.replace("a:", "b:"))).unwrap();
    look_now();
    assert!(users.is_right("b", "two", None).await.unwrap(), "the hash of another user");

    std::fs::write(&path, "nonsense").unwrap();
    look_now();
    assert!(users.is_right("a", "two", None).await.unwrap());
    std::fs::remove_file(&path).unwrap();
    look_now();
    assert!(users.is_right("a", "two", None).await.unwrap());
}

#[test]
fn the_fields_of_a_key_do_not_run_into_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("htpasswd");
    std::fs::write(&path, entry("a", "one", 4).unwrap()).unwrap();
    let (users, other) = (open(&path), open(&path));
    let client = |text: &str| Some(text.parse().unwrap());
    let keys = [
        users.key(&[b"ab", b"c"], None),
        users.key(&[b"a", b"bc"], None),
        users.key(&[b"ab", b"c", b""], None),
        users.key(&[b"abc"], None),
        users.key(&[b"ab", b"c"], client("192.0.2.1")),
        users.key(&[b"ab", b"c"], client("192.0.2.2")),
        users.key(&[b"ab", b"c"], client("2001:db8::1")),
        other.key(&[b"ab", b"c"], None),
    ];
    for (n, key) in keys.iter().enumerate() {
        assert!(!keys[..n].contains(key), "{n}");
    }
    assert_eq!(keys[0], users.key(&[b"ab", b"c"], None));
    let same = [client("2001:db8::1"), client("2001:db8::2")].map(|client| users.key(&[b"a"], client));
    assert_eq!(same[0], same[1], "one network");
}
