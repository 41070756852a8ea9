//! `acmebuild`: the command line of `hyperbuild` with images in a store of one's own, and with one more command.
//!
//! ```text
//! acmebuild build -t app:1 .      the image is in ROOT/acme/blobs.log
//! acmebuild biggest               the name and the size of the largest image
//! ```

use hyper_cli::{Cli, Console, Failure, Session};
use hyper_sdk::store::meta::SqlMeta;
use hyper_sdk::store::{Composed, SharedStore};
use std::path::PathBuf;
use std::sync::Arc;

/// Says which image of the store is the largest
#[derive(Debug, clap::Args)]
struct Biggest {
    /// Shows the size, too
    #[arg(long)]
    size: bool,
}

async fn biggest(args: Biggest, session: Session, console: Console) -> Result<(), Failure> {
    let images = session.images(None).await?;
    let image = images.iter().max_by_key(|image| image.size).ok_or_else(|| Failure::usage("no images"))?;
    console.print_line(&if args.size {
        format!("{} {}", image.name, image.size)
    } else {
        image.name.clone()
    })?;
    Ok(())
}

async fn store(root: PathBuf) -> hyper_sdk::Result<SharedStore> {
    let folder = root.join("acme");
    std::fs::create_dir_all(&folder)?;
    let blobs = store_backend::LogBlobs::open(folder.join("blobs.log")).await?;
    Ok(Arc::new(Composed::new(blobs, SqlMeta::open(folder.join("meta.db")).await?)))
}

fn main() -> std::process::ExitCode {
    Cli::new("acmebuild").session(|options| options.open_store(store)).command("biggest", biggest).run()
}
