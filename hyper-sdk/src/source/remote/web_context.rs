//! Build contexts of the web: unpacked while they are fetched.
//!
//! The file is fetched as any other one is, into the place where it is kept: it is asked for again only when it changed,
//! and a download that broke off goes on. Whoever unpacks reads that file behind the one who writes it, so that a slow
//! disk never makes the server wait.

use super::growing::Growing;
use super::{Fetched, RemoteSources, StreamContext, read_context, web};
use crate::graph::WebSource;
use crate::{Error, Result};
use futures::TryStreamExt as _;
use std::path::Path;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// The name of the file where it is kept.
pub(in crate::source) const FILE: &str = "context";

/// What is fetched for a context.
pub(in crate::source) fn source(url: &str) -> WebSource {
    WebSource { url: url.to_owned(), file_name: FILE.to_owned(), checksum: None }
}

/// Fetches a context and unpacks it into a folder in `scratch`.
pub(super) async fn fetch(
    sources: &RemoteSources,
    url: &str,
    scratch: &Path,
) -> Result<(Fetched, StreamContext)> {
    let source = &source(url);
    let (begun, mut downloads) = mpsc::unbounded_channel();
    let fetch = async {
        // Only this future may hold the sender: the end of it is the end of the downloads.
        let begun = begun;
        sources.once(source, |inner| async move { web::fetch(&inner, source, Some(&begun)).await }).await
    };
    let unpack = async {
        let mut last: Option<(Growing, Result<StreamContext>)> = None;
        while let Some(download) = downloads.recv().await {
            drop(last.take());
            let stream = StreamReader::new(download.clone().stream().map_err(std::io::Error::from));
            last = Some((download, read_context(stream, scratch).await));
        }
        last
    };
    let (fetched, unpacked) = futures::join!(fetch, unpack);
    let fetched = fetched?;
    let context = match unpacked {
        Some((download, context)) if download.is_whole() => context?,
        // It was fetched before.
        _ => {
            let path = fetched.path.join(FILE);
            let file = tokio::fs::File::open(&path).await;
            let file = file.map_err(|e| Error::io("cannot open what was fetched", &path, e))?;
            read_context(file, scratch).await?
        }
    };
    Ok((fetched, context))
}
