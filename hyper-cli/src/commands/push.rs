//! `hyperbuild push`.

use crate::args::{Format, TransportArgs};
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print_json, print_line};
use clap::Args;
use hyper_sdk::Reference;
use hyper_sdk::client::PushOptions;
use hyper_sdk::session::Session;

/// Pushes an image from the local store to its registry
///
/// The digest that is pushed is the one that the build printed. What the registry has is not sent again, also when it
/// has it in another repository and lets it be mounted from there.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Name of the image, with its registry: registry.example.com/team/app:1
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Name at the registry, when it differs from the local one
    #[arg(long, value_name = "IMAGE")]
    to: Option<Reference>,
    #[command(flatten)]
    pub(super) transport: TransportArgs,
}

pub(crate) async fn run(args: PushArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let target = args.to.as_ref().unwrap_or(&args.image);
    let pushed = console
        .with_progress(async |progress| {
            let options = PushOptions { progress, ..PushOptions::default() };
            session.push(&args.image, target, &options).await
        })
        .await?;
    match console.format {
        Format::Json => print_json(&serde_json::json!({"image": target.to_string(), "descriptor": pushed}))?,
        Format::Text | Format::Sarif => print_line(pushed.digest.as_str())?,
    }
    Ok(())
}
