//! `hyperbuild pull`.

use crate::args::{Format, TransportArgs};
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print_json, print_line};
use clap::Args;
use hyper_sdk::Reference;
use hyper_sdk::client::{Platforms, PullOptions};
use hyper_sdk::platform::Platform;
use hyper_sdk::session::Session;

/// Pulls an image from its registry into the local store
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Platform of the image, as OS/ARCH[/VARIANT]; that of this machine without it
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Option<Platform>,
    /// Pulls the images of every platform, and the index
    #[arg(long)]
    all_platforms: bool,
    #[command(flatten)]
    pub(super) transport: TransportArgs,
}

pub(crate) async fn run(args: PullArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let platforms = Platforms::wanted(args.platform, args.all_platforms)?;
    let image = &args.image;
    let pulled = console
        .with_progress(async |progress| {
            let options = PullOptions { platforms, progress, ..PullOptions::default() };
            session.pull(image, image, &options).await
        })
        .await?;
    match console.format {
        Format::Json => print_json(&serde_json::json!({"image": image.to_string(), "descriptor": pulled}))?,
        Format::Text | Format::Sarif => print_line(pulled.digest.as_str())?,
    }
    Ok(())
}
