//! `hyperbuild inspect`.

use crate::app::Format;
use crate::backends::{Located, Session, TransportArgs};
use crate::failure::Failure;
use crate::terminal::{print, print_json, size};
use clap::Args;
use hyper_sdk::client::RegistryClientExt as _;
use hyper_sdk::oci::{ImageConfig, Manifest};
use hyper_sdk::platform::Platform;
use hyper_sdk::store::damage::blame_store;
use hyper_sdk::{Error, ErrorKind, Reference, Result, media_type};
use serde_json::json;
use std::fmt::Write as _;

/// The largest config that is read.
const MAX_CONFIG: u64 = 8 << 20;

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
    /// Platform to show of an image for several; without it the index itself is shown
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    #[command(flatten)]
    transport: TransportArgs,
}

pub(crate) async fn run(args: InspectArgs, session: &Session) -> Result<(), Failure> {
    let at = if args.remote {
        let client = session.client(args.image.host(), &args.transport)?;
        Located { client, repository: args.image.repository().clone(), store: None }
    } else {
        Located::local(session.store().await?, &args.image).await?
    };
    let mut manifest = at.client.get_manifest(&at.repository, &args.image.manifest()).await?;
    if let Some(platform) = &args.platform {
        for _ in 0..4 {
            let Some(index) = manifest.index() else { break };
            let offered = index.manifests.iter().filter_map(|d| Some((d, d.platform.as_ref()?)));
            let entry = platform.choose(offered).ok_or_else(|| {
                Error::new(ErrorKind::ManifestUnknown, "the index has no image for this platform")
                    .with_context("platform", platform)
            })?;
            manifest = at.client.get_manifest(&at.repository, &entry.digest.clone().into()).await?;
        }
    }
    if args.raw {
        print(&String::from_utf8_lossy(manifest.bytes()))?;
        return Ok(());
    }
    let config = match (config(&at, &manifest).await, &at.store) {
        (Err(e), Some(store)) => return Err(blame_store(store, e).await.into()),
        (other, _) => other?,
    };
    if args.config_only {
        let config = config
            .ok_or_else(|| Error::invalid("an index has no config: choose an image with --platform"))?;
        print_json(&config)?;
        return Ok(());
    }
    match session.format {
        Format::Json => print_json(&json!({
            "image": args.image.to_string(),
            "digest": manifest.digest(),
            "mediaType": manifest.media_type(),
            "size": manifest.bytes().len(),
            "manifest": serde_json::from_slice::<serde_json::Value>(manifest.bytes())
                .map_err(|e| Error::internal("a manifest is not JSON").with_source(e))?,
            "config": config,
        }))?,
        Format::Text | Format::Sarif => print(&text(&args.image, &manifest, config.as_ref()))?,
    }
    Ok(())
}

/// The config as it is, when the manifest is of an image.
async fn config(at: &Located, manifest: &Manifest) -> Result<Option<serde_json::Value>> {
    let Some(image) = manifest.image() else { return Ok(None) };
    let known = [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG];
    if !known.contains(&image.config.media_type.as_str()) || image.config.size > MAX_CONFIG {
        return Ok(None);
    }
    let bytes = at.client.read_blob(&at.repository, &image.config.digest, MAX_CONFIG).await?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid("the config of the image is not JSON").with_source(e))?;
    Ok(Some(value))
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
