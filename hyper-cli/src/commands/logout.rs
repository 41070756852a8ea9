//! `hyperbuild logout`.

use crate::console::Console;
use crate::failure::Failure;
use clap::Args;
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::session::Session;

/// Forgets the credentials of a registry
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Host of the registry; the URL of its root will do
    #[arg(value_name = "HOST", default_value = "docker.io", value_parser = RegistryHost::from_address)]
    host: RegistryHost,
}

pub(crate) async fn run(args: LogoutArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let found = session.logout(&args.host).await?;
    let what = if found { "logged out of" } else { "there were no credentials for" };
    console.message(&format!("{what} {}", args.host));
    Ok(())
}
