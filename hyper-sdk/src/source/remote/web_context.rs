//! Build contexts from the web, unpacked while they are fetched.
//!
//! The file is fetched like any other, into the cache: it is downloaded again only when it has changed, and an
//! interrupted download is continued. The unpacker reads the growing file behind the writer, so a slow disk never makes
//! the server wait.

use super::growing_file::GrowingFile;
use super::{ContextInput, Fetched, RemoteSources, read_context, web};
use crate::graph::WebSource;
use crate::{Error, Result};
use futures::TryStreamExt as _;
use std::path::Path;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// The name of the file in the cache.
pub(in crate::source) const FILE: &str = "context";

/// The web source of a context.
pub(in crate::source) fn source(url: &str) -> WebSource {
    WebSource { url: url.to_owned(), file_name: FILE.to_owned(), checksum: None }
}

/// Fetches a context and unpacks it into a folder in `scratch`.
pub(super) async fn fetch(
    sources: &RemoteSources,
    url: &str,
    scratch: &Path,
) -> Result<(Fetched, ContextInput)> {
    let source = &source(url);
    let (begun, mut downloads) = mpsc::unbounded_channel();
    let fetch = async {
        // Only this future may hold the sender: when it is dropped, no further download starts.
        let begun = begun;
        sources.once(source, |inner| async move { web::fetch(&inner, source, Some(&begun)).await }).await
    };
    let unpack = async {
        let mut last: Option<(GrowingFile, Result<ContextInput>)> = None;
        while let Some(download) = downloads.recv().await {
            drop(last.take());
            let stream = StreamReader::new(download.clone().stream().map_err(std::io::Error::from));
            let context = match read_context(stream, scratch).await {
                // Whatever else comes makes no context of it.
                Err(e) if !download.is_broken() => return Err(e),
                context => context,
            };
            last = Some((download, context));
        }
        Ok(last)
    };
    let (fetched, unpacked) = futures::try_join!(fetch, unpack)?;
    let context = match unpacked {
        Some((download, context)) if download.is_whole() => context?,
        // The file was already in the cache.
        _ => {
            let path = fetched.path.join(FILE);
            let file = tokio::fs::File::open(&path).await;
            let file = file.map_err(|e| Error::io("cannot open the fetched file", &path, e))?;
            read_context(file, scratch).await?
        }
    };
    Ok((fetched, context))
}
