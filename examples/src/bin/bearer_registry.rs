//! A registry with tokens of its own: `cargo run -p hyper-examples --bin bearer_registry -- TOKENS`.
//!
//! A line of the file TOKENS is `TOKEN USER GROUP…`. Everybody with a token pulls; a group pushes to the repositories
//! whose names begin with its name. Images are kept in memory. The registry prints its URL and ends with Ctrl-C.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use async_trait::async_trait;
use hyper_sdk::store::MemoryStore;
use hyper_sdk::{Digest, RepositoryName};
use hyper_server::auth::{Action, AuthError, AuthRequest, Authenticator, Authorizer, Challenge, Principal};
use hyper_server::{Registry, RegistryOptions, ServerOptions, serve};
use std::collections::HashMap;
use std::sync::Arc;

/// Who has which token. Only the digests of tokens are kept, so that no output shows one.
#[derive(Debug)]
struct Tokens(HashMap<Digest, Principal>);

impl Tokens {
    fn parse(text: &str) -> Option<Self> {
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            let token = Digest::sha256(words.next()?);
            Some((token, Principal::user(words.next()?).with_groups(words)))
        };
        text.lines().map(line).collect::<Option<_>>().map(Self)
    }
}

#[async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        let challenge = Challenge::new("Bearer").with("realm", "bearer_registry");
        let Some(token) = request.bearer() else { return Err(challenge.into()) };
        let found = self.0.get(&Digest::sha256(token)).cloned();
        let invalid = || challenge.with("error", "invalid_token").because("the token is unknown");
        found.ok_or_else(|| invalid().into())
    }
}

/// A group owns the repositories below its name.
#[derive(Debug)]
struct GroupFolders;

impl Authorizer for GroupFolders {
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool {
        let owns = |group| repository.is_some_and(|name| name.as_str().starts_with(&format!("{group}/")));
        matches!(action, Action::Probe | Action::Pull) || who.groups().any(owns)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("name the file of tokens")?;
    let tokens = Tokens::parse(&std::fs::read_to_string(file)?).ok_or("a line is not `TOKEN USER GROUP…`")?;
    let options = RegistryOptions {
        authenticator: Some(Arc::new(tokens)),
        authorizer: Some(Arc::new(GroupFolders)),
        ..RegistryOptions::default()
    };
    let registry = Registry::new(Arc::new(MemoryStore::default()), options)?;
    let limits = ServerOptions { connections: registry.connections().clone(), ..ServerOptions::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    let end = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(serve(listener, registry, limits, end).await?)
}
