//! Builds a folder with a Dockerfile into an OCI archive: `cargo run --example build -- FOLDER ARCHIVE [NAME=LAYOUT]…`.
//!
//! Each `NAME=LAYOUT` makes an OCI image layout the image of that name, so that the build needs no network.

use hyper_sdk::build::{
    BuildContext, BuildRequest, Builder, Destination, LocalBuilder, LocalBuilderOptions, NamedContext,
    OutputKind,
};
use hyper_sdk::client::HttpClient;
use hyper_sdk::progress::{Event, Progress};
use hyper_sdk::source::ClientFactory;
use hyper_sdk::store::DiskStore;
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The sandbox starts this program again as its helper.
    hyper_sdk::exec::init();
    tokio::runtime::Runtime::new()?.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("name the folder to build")?);
    let archive = PathBuf::from(arguments.next().ok_or("name the archive to write")?);
    let root = std::env::temp_dir().join("hyper-example");
    let store = Arc::new(DiskStore::open(root.join("store")).await?);
    let clients = ClientFactory::new(|host| Ok(Arc::new(HttpClient::builder(host.clone()).build()?)));
    let builder = LocalBuilder::open(LocalBuilderOptions::new(root.join("builder"), store, clients))?;
    let mut request = BuildRequest::from_folder(&folder, None)?;
    request.context = BuildContext::Folder(folder);
    request.outputs = vec![OutputKind::Oci(Destination::File(archive)).into()];
    for argument in arguments {
        let (name, layout) = argument.split_once('=').ok_or("expected NAME=LAYOUT")?;
        request
            .named_contexts
            .insert(name.to_owned(), NamedContext::parse(&format!("oci-layout://{layout}:latest"))?);
    }
    let progress = Progress::new(|event| {
        if let Event::Started { name, .. } = event {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{name}\n").as_bytes());
        }
    });
    let output = builder.build(request, &progress).await?;
    for step in output.steps {
        let how = if step.cached { "cached" } else { "done" };
        let line = format!("{how} {} ms {}\n", step.milliseconds, step.name);
        std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes())?;
    }
    Ok(())
}
