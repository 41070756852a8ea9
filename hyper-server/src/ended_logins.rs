//! The tokens of logins that have ended: the registry removes them, and the audit log has them.

use crate::audit::{AuditLog, Deed, Entry, Outcome};
use crate::auth::Passwords;
use hyper_sdk::store::meta::TokenRecord;
use hyper_sdk::{Digest, Result};
use std::collections::HashSet;

/// Removes the tokens of logins that have ended, each with a line of the audit log. Returns how many.
///
/// # Errors
/// Those of the store. What is ended is removed also while the audit log cannot be written, which keeps the line for later or counts
/// it as lost: a right that was taken away must not wait.
pub(crate) async fn forget(
    passwords: &Passwords,
    audit: Option<&AuditLog>,
    gone: &HashSet<Digest>,
) -> Result<u64> {
    let note = |record: &TokenRecord| {
        let Some(log) = audit else { return };
        let deed = Deed::remove_token(&record.id, &record.user);
        log.note(&Entry { author: None, deed, outcome: Outcome::Done });
    };
    passwords.forget_logins(gone, note).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::RegistryOptions;
    use crate::state::State;
    use hyper_sdk::clock::{Clock as _, SystemClock};
    use hyper_sdk::store::MemoryStore;
    use hyper_sdk::store::meta::{MemoryTokens, TokenStore as _};
    use std::sync::Arc;

    #[tokio::test]
    async fn what_a_login_has_left_has_a_line_when_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (users, log) = (folder.path().join("users"), folder.path().join("audit.log"));
        std::fs::write(&users, "").unwrap();
        let (tokens, audit) = (MemoryTokens::default(), AuditLog::open(&log).unwrap());
        let options = RegistryOptions {
            htpasswd: Some(users),
            api_tokens: Some(Arc::new(tokens.clone())),
            ..RegistryOptions::default()
        };
        let state = State::new(Arc::new(MemoryStore::default()), options).unwrap();
        let record = TokenRecord {
            id: "abc".to_owned(),
            hash: Digest::sha256("x"),
            user: "bob".to_owned(),
            name: "docker".to_owned(),
            scopes: Vec::new(),
            created: SystemClock.now(),
            expires: None,
            used: None,
            bound_to: Some(Digest::sha256("line")),
        };
        tokens.add_token(&record).await.unwrap();
        let passwords = state.tokens.clone().unwrap();
        for (gone, removed) in [("other", 0), ("line", 1)] {
            let gone = HashSet::from([Digest::sha256(gone)]);
            assert_eq!(forget(&passwords, Some(&audit), &gone).await.unwrap(), removed);
        }
        audit.close();
        let text = std::fs::read_to_string(&log).unwrap();
        for part in ["\"user\":null", "\"action\":\"remove-token\"", "\"token\":\"abc\"", "\"of\":\"bob\""] {
            assert!(text.contains(part) && text.lines().count() == 1, "{part}: {text}");
        }
    }
}
