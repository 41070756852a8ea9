//! `hyperbuild images`.

use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json, size, table};
use clap::Args;
use hyper_sdk::session::Session;

/// Lists the images of the local store
#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Shows whole digests
    #[arg(long)]
    digests: bool,
    /// Shows only names that contain this text
    #[arg(value_name = "TEXT")]
    filter: Option<String>,
}

pub(crate) async fn run(args: ImagesArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let images = session.images(args.filter.as_deref()).await?;
    if console.format == Format::Json {
        print_json(&images)?;
        return Ok(());
    }
    if console.quiet {
        print(&images.iter().map(|i| format!("{}\n", i.digest)).collect::<String>())?;
        return Ok(());
    }
    let mut rows = vec![["NAME", "DIGEST", "PLATFORM", "CREATED", "SIZE"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let digest = if args.digests { image.digest.to_string() } else { image.digest.short().to_owned() };
        let platforms = image.platforms.join(",");
        let created = image.created.clone().unwrap_or_else(|| "-".into());
        vec![image.name.clone(), digest, platforms, created, size(image.size)]
    }));
    print(&table(&rows))?;
    Ok(())
}
