//! `hyperbuild serve`.

use crate::console::Console;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::terminal::print_line;
use clap::Args;
use hyper_sdk::session::Session;
use hyper_server::{ListenAddress, RegistryOptions, ServeSession as _, ServerOptions};

/// Serves the local store as a registry
///
/// Images have their full names, with `__` for the `:` of a port: `localhost:5000/app:1` of `hyperbuild images` is
/// `localhost__5000/app:1` there. Everyone who reaches the address may pull, and push unless --read-only is given: for
/// other machines use `hyperregistry`, which has users and permissions.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen at; `:5000` is every address, port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000", value_parser = address)]
    listen: ListenAddress,
    /// Refuses everything that writes
    #[arg(long)]
    read_only: bool,
    /// Accepts manifests that refer to missing blobs or manifests
    #[arg(long)]
    sparse: bool,
}

fn address(text: &str) -> Result<ListenAddress, String> {
    text.parse().map_err(|e: hyper_sdk::Error| e.message().to_owned())
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
        metrics: false,
        ..RegistryOptions::default()
    };
    let cannot_listen = |e| Failure::from(e).with_hint("choose another address with --listen");
    let listener = args.listen.bind().await.map_err(cannot_listen)?;
    let server = session.serve(listener, options, ServerOptions::default()).await?;
    if !server.address().ip().is_loopback() && !console.quiet {
        let address = server.address();
        console.warn(&format!("everyone who reaches {address} may use this registry"));
    }
    print_line(&server.url())?;
    interrupt.wait().await;
    server.stop().await?;
    Ok(())
}
