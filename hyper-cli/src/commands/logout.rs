//! `hyperbuild logout`.

use crate::backends::Session;
use crate::failure::Failure;
use crate::terminal::tell;
use clap::Args;
use hyper_sdk::reference::RegistryHost;

/// Forgets the credentials of a registry
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Host of the registry; the URL of its root will do
    #[arg(value_name = "HOST", default_value = "docker.io", value_parser = RegistryHost::from_address)]
    host: RegistryHost,
}

pub(crate) async fn run(args: LogoutArgs, session: &Session) -> Result<(), Failure> {
    let found = session.credentials()?.erase(&args.host, None).await?;
    if !session.quiet {
        let what = if found { "logged out of" } else { "there were no credentials for" };
        tell(&format!("{what} {}", args.host));
    }
    Ok(())
}
