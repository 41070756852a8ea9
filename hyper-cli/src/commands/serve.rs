//! `hyperbuild serve`.

use crate::console::Console;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::terminal::print_line;
use clap::Args;
use hyper_sdk::RepositoryName;
use hyper_sdk::session::Session;
use hyper_server::auth::{Action, Authorizer, Principal};
use hyper_server::{Listen, RegistryOptions, Server, ServerOptions};
use std::sync::Arc;

/// Serves the local store as a registry
///
/// Images are found under their full names, with `__` for the `:` of a port: what `hyperbuild images` calls
/// `localhost:5000/app:1` is `localhost__5000/app:1` there. Anyone who reaches the address may pull, and push unless
/// --read-only: for anything but this machine use `hyperregistry`, which knows users and rules.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen at; `:5000` is every address, port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000", value_parser = address)]
    listen: Listen,
    /// Refuses everything that writes
    #[arg(long)]
    read_only: bool,
    /// Accepts manifests whose blobs or manifests are not there
    #[arg(long)]
    sparse: bool,
}

fn address(text: &str) -> Result<Listen, String> {
    text.parse().map_err(|e: hyper_sdk::Error| e.message().to_owned())
}

/// What the builder keeps for itself, such as the layers of cached steps, is nobody's image.
const INTERNAL: &str = "hyper.local/";

#[derive(Debug)]
struct ImagesOnly;

impl Authorizer for ImagesOnly {
    fn allows(&self, _: &Principal, repository: Option<&RepositoryName>, _: Action) -> bool {
        repository.is_none_or(|name| !name.as_str().starts_with(INTERNAL))
    }
}

pub(crate) async fn run(
    args: ServeArgs,
    session: &Session,
    console: &Console,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let options = RegistryOptions {
        read_only: args.read_only,
        sparse: args.sparse,
        authorizer: Some(Arc::new(ImagesOnly)),
        metrics: false,
        ..RegistryOptions::default()
    };
    let elsewhere = |e| Failure::from(e).with_hint("another address is chosen with --listen");
    let listener = args.listen.bind().await.map_err(elsewhere)?;
    let server = Server::start_on(listener, session.store().await?, options, ServerOptions::default())?;
    if !server.address().ip().is_loopback() && !console.quiet {
        let address = server.address();
        console.warn(&format!("everyone who reaches {address} may use this registry"));
    }
    print_line(&server.url())?;
    interrupt.wait().await;
    server.stop().await?;
    Ok(())
}
