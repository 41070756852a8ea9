//! `hyperbuild tag`.

use crate::failure::Failure;
use clap::Args;
use hyper_sdk::Reference;
use hyper_sdk::session::Session;

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
    if args.name.digest().is_some() {
        return Err(Failure::usage("the new name needs a tag and no digest"));
    }
    Ok(session.tag(&args.image, &args.name).await?)
}
