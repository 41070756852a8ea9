//! A registry with tokens of its own.
//!
//! A line of the file of tokens is `TOKEN USER GROUP…`. Everybody with a token pulls, a group pushes to the repositories
//! whose names begin with its name, and the group `admins` may do everything.

use async_trait::async_trait;
use hyper_sdk::{Digest, Error, RepositoryName, Result, Tag};
use hyper_server::RegistryOptions;
use hyper_server::auth::{Action, AuthError, AuthRequest, Authenticator, Authorizer, Challenge, Principal};
use std::collections::HashMap;
use std::sync::Arc;

/// Who has which token. Only the digests of tokens are kept, so that no output shows one.
#[derive(Debug)]
pub struct Tokens(HashMap<Digest, Principal>);

impl Tokens {
    /// Reads the text of a file of tokens.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] with the number of the line that is not `TOKEN USER GROUP…`.
    pub fn parse(text: &str) -> Result<Self> {
        let line = |(at, line): (usize, &str)| {
            let mut words = line.split_whitespace();
            let (Some(token), Some(user)) = (words.next(), words.next()) else {
                return Err(Error::invalid(format!("line {} is not `TOKEN USER GROUP…`", at + 1)));
            };
            Ok((Digest::sha256(token), Principal::user(user).with_groups(words)))
        };
        text.lines().enumerate().map(line).collect::<Result<_>>().map(Self)
    }
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        let challenge = Challenge::new("Bearer").with("realm", "bearer-registry");
        let Some(token) = request.bearer() else { return Err(challenge.into()) };
        let found = self.0.get(&Digest::sha256(token)).cloned();
        let invalid = || challenge.with("error", "invalid_token").because("the token is unknown");
        found.ok_or_else(|| invalid().into())
    }
}

/// A group owns the repositories below its name.
#[derive(Clone, Copy, Debug)]
pub struct GroupFolders;

impl Authorizer for GroupFolders {
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool {
        let owns = |group| repository.is_some_and(|name| name.as_str().starts_with(&format!("{group}/")));
        matches!(action, Action::Probe | Action::Pull) || who.is_in("admins") || who.groups().any(owns)
    }

    fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
        None
    }
}

/// The options of a registry that knows these tokens.
pub fn options(tokens: Tokens) -> RegistryOptions {
    RegistryOptions {
        authenticator: Some(Arc::new(tokens)),
        authorizer: Some(Arc::new(GroupFolders)),
        ..RegistryOptions::default()
    }
}
