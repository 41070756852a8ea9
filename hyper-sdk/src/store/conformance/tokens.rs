//! The suite that every [`TokenStore`] must pass, one function a case.
//!
//! [`token_conformance!`](crate::token_conformance) makes a named test of every case.

use super::Opener;
use crate::store::meta::{TokenRecord, TokenStore};
use crate::{Digest, ErrorKind};
use std::sync::Arc;

/// The argument of a case: it opens a new store.
pub type TokenOpener = Opener<Arc<dyn TokenStore>>;

/// Emits one `#[tokio::test]` for each case of the suite of token stores.
///
/// The fixture is the path of an `async fn(PathBuf) -> Option<impl TokenStore>`, which opens a store on a path where nothing
/// is at first; `None` where this machine cannot run it: then every case says that it is skipped. The calling crate needs
/// `tokio` with `macros` and `rt-multi-thread`.
///
/// ```no_run
/// use hyper_sdk::store::meta::MemoryTokens;
///
/// async fn fixture(_: std::path::PathBuf) -> Option<MemoryTokens> {
///     Some(MemoryTokens::default())
/// }
/// hyper_sdk::token_conformance!(fixture);
/// ```
#[macro_export]
macro_rules! token_conformance {
    ($fixture:path) => {
        $crate::token_conformance!(@cases $fixture;
            a_token_is_found_by_its_id, an_id_is_given_once, a_removed_token_is_gone, tokens_are_paged_by_id,
            the_last_use_never_goes_back, a_use_brings_no_token_back, ids_are_compared_by_their_bytes,
            refresh_tokens_are_trimmed_by_user,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new(|folder| async move {
                    let given = $fixture(folder).await;
                    given.map(|store| {
                        let store: std::sync::Arc<dyn $crate::store::meta::TokenStore> = std::sync::Arc::new(store);
                        (store, ())
                    })
                });
                let given = $crate::testing::given::<$crate::store::conformance::Opener<_>>(stringify!($case), opener.ready().await);
                let Some(opener) = given else { return };
                $crate::store::conformance::tokens::$case(opener).await;
            }
        )*
    };
}

fn record(id: &str) -> TokenRecord {
    TokenRecord {
        id: id.to_owned(),
        hash: Digest::sha256(id),
        user: format!("user of {id}"),
        name: String::new(),
        scopes: Vec::new(),
        created: 1_700_000_000,
        expires: None,
        used: None,
        bound_to: None,
    }
}

pub async fn a_token_is_found_by_its_id(opener: TokenOpener) {
    let store = opener.open().await;
    assert_eq!(store.token("a").await.unwrap(), None);
    let full = TokenRecord {
        name: "ночь \"'\\ \n".to_owned(),
        scopes: vec!["team/**:pull,push".to_owned(), "a\"b".to_owned()],
        expires: Some(i64::MAX),
        used: Some(-1),
        bound_to: Some(Digest::sha256("password")),
        ..record("a")
    };
    store.add_token(&full).await.unwrap();
    store.add_token(&record("b")).await.unwrap();
    assert_eq!(store.token("a").await.unwrap(), Some(full));
    assert_eq!(store.token("b").await.unwrap(), Some(record("b")));
    for absent in ["", "c", "ab", "a%", "' OR 1 = 1 --"] {
        assert_eq!(store.token(absent).await.unwrap(), None, "{absent}");
    }
}

pub async fn an_id_is_given_once(opener: TokenOpener) {
    let store = opener.open().await;
    store.add_token(&record("a")).await.unwrap();
    let other = TokenRecord { user: "other".to_owned(), ..record("a") };
    let e = store.add_token(&other).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
    assert_eq!(store.token("a").await.unwrap(), Some(record("a")));
}

pub async fn a_removed_token_is_gone(opener: TokenOpener) {
    let store = opener.open().await;
    for id in ["a", "b"] {
        store.add_token(&record(id)).await.unwrap();
    }
    assert!(store.remove_token("a").await.unwrap());
    assert!(!store.remove_token("a").await.unwrap());
    assert_eq!(store.token("a").await.unwrap(), None);
    assert_eq!(store.tokens(None, 10).await.unwrap().items, [record("b")]);
}

pub async fn tokens_are_paged_by_id(opener: TokenOpener) {
    let store = opener.open().await;
    for id in ["c", "a", "b"] {
        store.add_token(&record(id)).await.unwrap();
    }
    for (after, limit, ids, more) in [
        (None, 10, vec!["a", "b", "c"], false),
        (None, 3, vec!["a", "b", "c"], false),
        (None, 2, vec!["a", "b"], true),
        (Some("b"), 2, vec!["c"], false),
        (Some("aa"), 1, vec!["b"], true),
        (Some("c"), 2, vec![], false),
        (None, 0, vec![], false),
    ] {
        let page = store.tokens(after, limit).await.unwrap();
        let found: Vec<&str> = page.items.iter().map(|token| token.id.as_str()).collect();
        assert_eq!((found, page.more), (ids, more), "{limit} after {after:?}");
    }
}

pub async fn the_last_use_never_goes_back(opener: TokenOpener) {
    let store = opener.open().await;
    for id in ["a", "b"] {
        store.add_token(&record(id)).await.unwrap();
    }
    for (used, expected) in [(3600, 3600), (7200, 7200), (3600, 7200)] {
        store.touch_token("a", used).await.unwrap();
        assert_eq!(store.token("a").await.unwrap().unwrap().used, Some(expected));
    }
    assert_eq!(store.token("b").await.unwrap(), Some(record("b")));
}

pub async fn a_use_brings_no_token_back(opener: TokenOpener) {
    let store = opener.open().await;
    store.add_token(&record("a")).await.unwrap();
    store.remove_token("a").await.unwrap();
    store.touch_token("a", 3600).await.unwrap();
    assert_eq!(store.token("a").await.unwrap(), None);
}

pub async fn ids_are_compared_by_their_bytes(opener: TokenOpener) {
    let store = opener.open().await;
    store.add_token(&record("a")).await.unwrap();
    for other in ["A", "a ", " a", "à"] {
        assert_eq!(store.token(other).await.unwrap(), None, "{other:?}");
        assert!(!store.remove_token(other).await.unwrap(), "{other:?}");
    }
}

pub async fn refresh_tokens_are_trimmed_by_user(opener: TokenOpener) {
    let store = opener.open().await;
    let bound_to = Some(Digest::sha256("password"));
    let refresh = |id: &str, created, used| TokenRecord {
        user: "alice".to_owned(),
        bound_to: bound_to.clone(),
        created,
        used,
        ..record(id)
    };
    for token in [
        refresh("a", 100, None),
        refresh("b", 200, Some(150)),
        refresh("c", 50, Some(300)),
        refresh("d", 200, None),
        TokenRecord { user: "bob".to_owned(), ..refresh("e", 1, None) },
        TokenRecord { bound_to: None, ..refresh("f", 1, None) },
    ] {
        store.add_token(&token).await.unwrap();
    }
    let ids = async || -> String {
        store.tokens(None, 10).await.unwrap().items.into_iter().map(|token| token.id).collect()
    };
    for (user, keep, unused_since, removed, left) in [
        ("alice", 10, 100, 0, "abcdef"),
        ("alice", 10, 101, 1, "bcdef"),
        ("nobody", 0, i64::MAX, 0, "bcdef"),
        ("alice", 2, 0, 1, "bcef"),
        ("alice", 0, 0, 2, "ef"),
        ("alice", 0, i64::MAX, 0, "ef"),
    ] {
        let found = store.trim_refresh_tokens(user, keep, unused_since).await.unwrap();
        assert_eq!((found, ids().await.as_str()), (removed, left), "{keep} of {user} since {unused_since}");
    }
}
