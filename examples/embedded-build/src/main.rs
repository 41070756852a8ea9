//! Builds a folder with a Dockerfile and keeps the image: `embedded-build FOLDER NAME`.

use hyper_sdk::build::BuildRequest;
use hyper_sdk::progress::{Event, Progress};
use hyper_sdk::session::Session;
use std::io::Write as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The sandbox starts this program again as its helper.
    hyper_sdk::exec::init();
    hyper_sdk::runtime::start()?.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("name the folder to build")?;
    let name = arguments.next().ok_or("name the image")?;
    let session = Session::from_variables(|name| std::env::var_os(name))?;
    let mut request = BuildRequest::from_folder(folder, None)?;
    request.tags.push(name.parse()?);
    let progress = Progress::new(|event| {
        if let Event::Started { name, .. } = event {
            let _ = writeln!(std::io::stderr(), "{name}");
        }
    });
    let output = session.build(request, &progress).await?;
    if let Some(image) = output.image {
        writeln!(std::io::stdout(), "{} {name}", image.digest)?;
    }
    Ok(())
}
