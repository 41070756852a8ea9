//! `hyperbuild rm`.

use crate::failure::Failure;
use crate::terminal::print_line;
use clap::Args;
use hyper_sdk::Reference;
use hyper_sdk::session::Session;

/// Removes names from the local store
///
/// `NAME:TAG` removes the tag alone; `NAME@DIGEST` removes the image and all of its tags in that repository. What no other
/// name, no build cache and no running build uses is removed from the disk; `prune` removes the cache.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Names of images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<Reference>,
}

pub(crate) async fn run(args: RmArgs, session: &Session) -> Result<(), Failure> {
    for image in &args.images {
        session.remove(image).await?;
        print_line(&image.familiar())?;
    }
    Ok(())
}
