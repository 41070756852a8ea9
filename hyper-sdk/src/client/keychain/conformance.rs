//! The suite that every keychain must pass: one function for each case.
//!
//! [`keychain_conformance!`](crate::keychain_conformance) makes a named test of every case. The trait can
//! only read, so each case first names its credentials, and the fixture makes a keychain of them. A case ends at once when
//! the fixture cannot make a keychain of such credentials.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

use crate::client::keychain::{Credentials, SharedKeychain};
use crate::reference::{RegistryHost, RepositoryName};
use futures::future::join_all;

/// Credentials of a keychain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeychainEntry {
    /// The host that they are for.
    pub host: RegistryHost,
    /// The repository, or the parent of repositories, that they are for; without, all of the host.
    pub namespace: Option<RepositoryName>,
    /// The credentials.
    pub credentials: Credentials,
}

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn(Vec<KeychainEntry>) -> Option<(SharedKeychain, G)>`: a keychain with these
/// credentials and no others, and a value that is kept until the case ends; `None` when this kind of keychain cannot hold
/// one of them. The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
///
/// ```
/// # #[cfg(test)]
/// mod fixed {
///     use hyper_sdk::client::keychain::conformance::KeychainEntry;
///     use hyper_sdk::client::keychain::{SharedKeychain, StaticKeychain};
///
///     async fn fixture(entries: Vec<KeychainEntry>) -> Option<(SharedKeychain, ())> {
///         let mut keychain = StaticKeychain::anonymous();
///         for entry in entries {
///             if entry.namespace.is_some() {
///                 return None;
///             }
///             keychain = keychain.with(entry.host, entry.credentials);
///         }
///         Some((std::sync::Arc::new(keychain), ()))
///     }
///     hyper_sdk::keychain_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! keychain_conformance {
    ($fixture:path) => {
        $crate::keychain_conformance!(@cases $fixture;
            an_empty_keychain_is_anonymous, credentials_of_a_host_are_found, a_password_comes_back_whole,
            an_identity_token_comes_back, a_bearer_token_comes_back, credentials_are_for_their_host_alone,
            a_port_is_part_of_the_host, an_ipv6_host_is_found, each_host_has_its_own_credentials,
            credentials_of_a_host_are_for_all_its_repositories, credentials_of_a_namespace_come_first,
            the_longest_namespace_counts, a_namespace_ends_at_a_slash, a_namespace_is_of_its_host_alone,
            a_namespace_is_not_the_host, asking_changes_nothing, many_tasks_get_the_same_answers,
            secrets_do_not_print,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::client::keychain::conformance::$case(|entries| $fixture(entries)).await;
            }
        )*
    };
}

fn host(text: &str) -> RegistryHost {
    RegistryHost::parse(text).unwrap()
}

fn entry(of: &str, credentials: Credentials) -> KeychainEntry {
    let (at, namespace) = match of.split_once('/') {
        Some((at, namespace)) => (at, Some(RepositoryName::parse(namespace).unwrap())),
        None => (of, None),
    };
    KeychainEntry { host: host(at), namespace, credentials }
}

fn joe(password: &str) -> Credentials {
    Credentials::basic("joe", password)
}

/// The credentials of the keychain for `HOST` or `HOST/REPOSITORY`.
async fn ask(keychain: &SharedKeychain, of: &str) -> Credentials {
    let entry = entry(of, Credentials::Anonymous);
    keychain.get(&entry.host, entry.namespace.as_ref()).await.unwrap()
}

/// A keychain of the fixture; without one the case ends.
macro_rules! keychain {
    ($fixture:ident, $($entry:expr),* $(,)?) => {
        match $fixture(vec![$($entry),*]).await {
            Some(made) => made,
            None => return,
        }
    };
}

macro_rules! cases {
    ($($(#[$meta:meta])* $name:ident($fixture:ident) $body:block)*) => {$(
        $(#[$meta])*
        pub async fn $name<G>($fixture: impl AsyncFn(Vec<KeychainEntry>) -> Option<(SharedKeychain, G)>) $body
    )*};
}

cases! {
    an_empty_keychain_is_anonymous(fixture) {
        let (keychain, _guard) = keychain!(fixture,);
        for of in ["r.example", "r.example/a/b", "docker.io", "localhost:5000", "[::1]:5000"] {
            assert_eq!(ask(&keychain, of).await, Credentials::Anonymous, "{of}");
        }
    }

    credentials_of_a_host_are_found(fixture) {
        for at in ["r.example", "docker.io", "localhost:5000", "127.0.0.1"] {
            let (keychain, _guard) = keychain!(fixture, entry(at, joe("hunter2")));
            assert_eq!(ask(&keychain, at).await, joe("hunter2"), "{at}");
        }
    }

    a_password_comes_back_whole(fixture) {
        let long = "x".repeat(5000);
        for password in ["p:w", "with blank ", "é\"\\'$`", long.as_str()] {
            let (keychain, _guard) = keychain!(fixture, entry("r.example", joe(password)));
            // The failure does not print the secret.
            assert!(ask(&keychain, "r.example").await == joe(password), "{} bytes", password.len());
        }
    }

    an_identity_token_comes_back(fixture) {
        let token = Credentials::IdentityToken("refresh".into());
        let (keychain, _guard) = keychain!(fixture, entry("r.example", token.clone()));
        assert!(ask(&keychain, "r.example").await == token);
    }

    a_bearer_token_comes_back(fixture) {
        let token = Credentials::Bearer("bearer".into());
        let (keychain, _guard) = keychain!(fixture, entry("r.example", token.clone()));
        assert!(ask(&keychain, "r.example").await == token);
    }

    credentials_are_for_their_host_alone(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example", joe("x")));
        for other in ["example", "a.r.example", "evilr.example", "r.example.evil", "r-example", "docker.io"] {
            for of in [other.to_owned(), format!("{other}/r.example"), format!("{other}/a")] {
                assert_eq!(ask(&keychain, &of).await, Credentials::Anonymous, "{of}");
            }
        }
    }

    a_port_is_part_of_the_host(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example:5000", joe("x")));
        for other in ["r.example", "r.example:5001", "r.example:500"] {
            assert_eq!(ask(&keychain, other).await, Credentials::Anonymous, "{other}");
        }
        assert_eq!(ask(&keychain, "r.example:5000/a").await, joe("x"));
        let (keychain, _guard) = keychain!(fixture, entry("r.example", joe("x")));
        assert_eq!(ask(&keychain, "r.example:5000").await, Credentials::Anonymous);
    }

    an_ipv6_host_is_found(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("[::1]:5000", joe("x")));
        assert_eq!(ask(&keychain, "[::1]:5000").await, joe("x"));
        assert_eq!(ask(&keychain, "[::1]").await, Credentials::Anonymous);
    }

    each_host_has_its_own_credentials(fixture) {
        let entries = ["a.example", "b.example", "docker.io"].map(|at| entry(at, joe(at)));
        let (keychain, _guard) = match fixture(entries.to_vec()).await {
            Some(made) => made,
            None => return,
        };
        for KeychainEntry { host, credentials, .. } in entries {
            assert_eq!(keychain.get(&host, None).await.unwrap(), credentials, "{host}");
        }
        assert_eq!(ask(&keychain, "c.example").await, Credentials::Anonymous);
    }

    credentials_of_a_host_are_for_all_its_repositories(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example", joe("x")));
        for of in ["r.example/a", "r.example/a/b/c", "r.example/r.example"] {
            assert_eq!(ask(&keychain, of).await, joe("x"), "{of}");
        }
    }

    credentials_of_a_namespace_come_first(fixture) {
        let (host, team) = (entry("r.example", joe("host")), entry("r.example/team", joe("team")));
        let (keychain, _guard) = keychain!(fixture, host, team);
        for (of, password) in [
            ("r.example", "host"), ("r.example/other", "host"), ("r.example/other/team", "host"),
            ("r.example/team", "team"), ("r.example/team/a", "team"), ("r.example/team/a/b", "team"),
        ] {
            assert!(ask(&keychain, of).await == joe(password), "{of}");
        }
    }

    the_longest_namespace_counts(fixture) {
        let (team, app) = (entry("r.example/team", joe("team")), entry("r.example/team/app", joe("app")));
        let (keychain, _guard) = keychain!(fixture, team, app);
        for (of, password) in [
            ("r.example/team/app", "app"), ("r.example/team/app/x", "app"), ("r.example/team/x", "team"),
        ] {
            assert!(ask(&keychain, of).await == joe(password), "{of}");
        }
    }

    a_namespace_ends_at_a_slash(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example/team", joe("team")));
        for of in ["r.example/teamwork", "r.example/tea", "r.example/team-b/app", "r.example/x/team"] {
            assert_eq!(ask(&keychain, of).await, Credentials::Anonymous, "{of}");
        }
    }

    a_namespace_is_of_its_host_alone(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example/team", joe("team")));
        for of in ["s.example/team", "r.example:443/team", "docker.io/team"] {
            assert_eq!(ask(&keychain, of).await, Credentials::Anonymous, "{of}");
        }
    }

    a_namespace_is_not_the_host(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example/team", joe("team")));
        assert_eq!(ask(&keychain, "r.example").await, Credentials::Anonymous);
    }

    asking_changes_nothing(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example", joe("x")));
        for _ in 0..3 {
            assert_eq!(ask(&keychain, "r.example").await, joe("x"));
            assert_eq!(ask(&keychain, "s.example").await, Credentials::Anonymous);
        }
    }

    many_tasks_get_the_same_answers(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example", joe("r")), entry("s.example", joe("s")));
        let tasks = (0..16).map(|i| {
            let keychain = keychain.clone();
            tokio::spawn(async move {
                for (of, credentials) in [
                    ("r.example", joe("r")), ("s.example/a", joe("s")), ("t.example", Credentials::Anonymous),
                ] {
                    tokio::task::yield_now().await;
                    assert_eq!(ask(&keychain, of).await, credentials, "task {i}");
                }
            })
        });
        join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    }

    secrets_do_not_print(fixture) {
        let (keychain, _guard) = keychain!(fixture, entry("r.example", joe("hunter2")));
        for _ in 0..2 {
            let (plain, pretty) = (format!("{keychain:?}"), format!("{keychain:#?}"));
            assert!(!plain.contains("hunter2") && !pretty.contains("hunter2"), "the keychain prints a password");
            // Once more when it has looked the password up.
            ask(&keychain, "r.example").await;
        }
    }
}
