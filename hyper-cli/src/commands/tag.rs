//! `hyperbuild tag`.

use crate::backends::Session;
use crate::failure::Failure;
use clap::Args;
use hyper_sdk::Reference;
use hyper_sdk::client::{LocalImage, PushOptions, RemoteImage, copy};
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::{PutManifest, find_local, local_repository};

/// Gives an image of the local store one more name
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Name or digest that the image has
    #[arg(value_name = "IMAGE")]
    image: Reference,
    /// Name that it gets
    #[arg(value_name = "NAME")]
    name: Reference,
}

pub(crate) async fn run(args: TagArgs, session: &Session) -> Result<(), Failure> {
    let tag = match (args.name.tag(), args.name.digest()) {
        (Some(tag), None) => tag.clone(),
        _ => return Err(Failure::usage("the new name needs a tag and no digest")),
    };
    let store = session.store().await?;
    let (from, to) = (find_local(&*store, &args.image).await?, local_repository(&args.name)?);
    if from == to {
        let manifest = store.get_manifest(&from, &args.image.manifest()).await?;
        store.put_manifest(&to, PutManifest::new(manifest, [tag])).await?;
    } else {
        // The same client on both sides: blobs are linked, not copied.
        let from = LocalImage::new(&store, &from, &args.image.manifest()).over_loopback();
        let to = RemoteImage::new(&from.client, &to, &ManifestReference::Tag(tag));
        copy(&from, &to, &PushOptions::default()).await?;
    }
    Ok(())
}
