//! `hyperbuild serve`.

use crate::backends::Session;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::terminal::{print_line, warn};
use clap::Args;
use hyper_server::{RegistryOptions, Server, ServerOptions};
use std::net::SocketAddr;

/// Serves the local store as a registry
///
/// Images are found under their full names, with `__` for the `:` of a port: what `hyperbuild images` calls
/// `localhost:5000/app:1` is `localhost__5000/app:1` there. Anyone who reaches the address may pull, and push unless
/// --read-only: for anything but this machine use `hyperregistry`, which knows users and rules.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen at; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000", value_parser = address)]
    listen: SocketAddr,
    /// Refuses everything that writes
    #[arg(long)]
    read_only: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected IP:PORT, such as 127.0.0.1:5000 or [::1]:5000".to_owned())
}

pub(crate) async fn run(args: ServeArgs, session: &Session, interrupt: &Interrupt) -> Result<(), Failure> {
    let options = RegistryOptions { read_only: args.read_only, metrics: false, ..RegistryOptions::default() };
    let server = Server::start(session.store().await?, args.listen, options, ServerOptions::default())
        .await
        .map_err(|e| Failure::from(e).with_hint("another address is chosen with --listen"))?;
    if !args.listen.ip().is_loopback() && !session.quiet {
        let address = server.address();
        warn(session.color, &format!("everyone who reaches {address} may use this registry"));
    }
    print_line(&server.url())?;
    interrupt.wait().await;
    server.stop().await?;
    Ok(())
}
