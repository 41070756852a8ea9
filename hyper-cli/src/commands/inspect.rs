//! `hyperbuild inspect`.

use crate::args::{Format, TransportArgs};
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json, size};
use clap::Args;
use hyper_sdk::oci::{ImageConfig, Manifest};
use hyper_sdk::platform::Platform;
use hyper_sdk::session::{ImageDetails, Location, Session};
use hyper_sdk::{Error, Reference};
use serde_json::json;
use std::fmt::Write as _;

/// Shows the manifest, the config and the layers of an image
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Asks the registry, not the local store
    #[arg(long)]
    remote: bool,
    /// Prints the bytes of the manifest exactly as they are stored
    #[arg(long, conflicts_with = "config_only")]
    raw: bool,
    /// Prints the config alone, as JSON
    #[arg(long = "show-config")]
    config_only: bool,
    /// Platform of the image to show; without it, an index is shown as it is
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    pub(super) transport: TransportArgs,
}

pub(crate) async fn run(args: InspectArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let location = if args.remote { Location::Remote } else { Location::Local };
    if args.raw {
        let manifest = session.manifest(&args.image, args.platform.as_ref(), location).await?;
        print(&String::from_utf8_lossy(manifest.bytes()))?;
        return Ok(());
    }
    let found = session.inspect(&args.image, args.platform.as_ref(), location).await?;
    let ImageDetails { manifest, config, .. } = &found;
    if args.config_only {
        let config = config
            .as_ref()
            .ok_or_else(|| Error::invalid("an index has no config: choose an image with --platform"))?;
        print_json(config)?;
        return Ok(());
    }
    match console.format {
        Format::Json => print_json(&json!({
            "image": args.image.to_string(),
            "digest": manifest.digest(),
            "mediaType": manifest.media_type(),
            "size": manifest.bytes().len(),
            "manifest": found.manifest_json()?,
            "config": config,
        }))?,
        Format::Text | Format::Sarif => print(&text(&args.image, manifest, config.as_ref()))?,
    }
    Ok(())
}

/// The image for people.
fn text(name: &Reference, manifest: &Manifest, config: Option<&serde_json::Value>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{label:<12} {value}");
        }
    };
    line("Name:", &name.familiar());
    line("Digest:", manifest.digest().as_str());
    line("Media type:", manifest.media_type());
    if let Some(artifact) =
        manifest.artifact_type().filter(|_| config.is_none() && manifest.image().is_some())
    {
        line("Artifact:", artifact);
    }
    let parsed: Option<ImageConfig> = config.and_then(|c| serde_json::from_value(c.clone()).ok());
    if let Some(config) = &parsed {
        line("Platform:", &config.platform().to_string());
        line("Created:", config.created.as_deref().unwrap_or_default());
        line("User:", &config.config.user);
        line("Workdir:", &config.config.working_dir);
        let command = |c: &Option<Vec<String>>| c.as_ref().map(|c| format!("{c:?}")).unwrap_or_default();
        line("Entrypoint:", &command(&config.config.entrypoint));
        line("Command:", &command(&config.config.cmd));
        for variable in &config.config.env {
            line("Env:", variable);
        }
        for (key, value) in &config.config.labels {
            line("Label:", &format!("{key}={value}"));
        }
    }
    for (key, value) in manifest.annotations() {
        line("Annotation:", &format!("{key}={value}"));
    }
    if let Some(image) = manifest.image() {
        line("Size:", &size(image.config.size + image.layers.iter().map(|l| l.size).sum::<u64>()));
        line("Config:", image.config.digest.as_str());
        for layer in &image.layers {
            line("Layer:", &format!("{} {} {}", layer.digest, size(layer.size), layer.media_type));
        }
    }
    for entry in manifest.index().map(|i| i.manifests.as_slice()).unwrap_or_default() {
        let platform = entry.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        line("Manifest:", &format!("{} {} {platform}", entry.digest, size(entry.size)));
    }
    out
}
