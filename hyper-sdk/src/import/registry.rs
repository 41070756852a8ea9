//! A running registry, through a client.

use super::source::{ImportRoot, ImportSource, SourceManifest, no_blob};
use crate::client::SharedClient;
use crate::oci::{Descriptor, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::store::{BlobReader, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::fmt;
use std::sync::Arc;

/// How many entries of a list are asked for at once.
const PAGE: usize = 1000;
/// The most pages of one list.
const MAX_PAGES: usize = 1_000_000;

/// A running registry: its repositories with their tags, what these need, and the referrers of all of that.
///
/// A manifest without a tag is imported when an index or a subject of another image leads to it: no request lists the others.
///
/// ```
/// use hyper_sdk::client::{Loopback, SharedClient};
/// use hyper_sdk::import::{ImportOptions, ImportTarget, RegistrySource, import};
/// use hyper_sdk::store::{MemoryStore, SharedStore};
/// use hyper_sdk::{ErrorKind, Result};
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let (old, new): (SharedStore, SharedStore) = (Arc::new(MemoryStore::default()), Arc::new(MemoryStore::default()));
/// let client: SharedClient = Arc::new(Loopback::new(old));
/// let source = Arc::new(RegistrySource::new(client, []));
/// let outcome = import(source, ImportTarget::Store(new), ImportOptions::default()).await;
/// assert_eq!(outcome.unwrap_err().kind(), ErrorKind::NotFound, "a registry without a repository");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RegistrySource {
    client: SharedClient,
    repositories: Vec<RepositoryName>,
}

impl RegistrySource {
    /// These repositories of a registry; with none, all that the registry lists.
    pub fn new(client: SharedClient, repositories: impl IntoIterator<Item = RepositoryName>) -> Self {
        Self { client, repositories: repositories.into_iter().collect() }
    }
}

/// The texts of a list, page by page. The first error ends it.
fn pages(
    list: impl Fn(Page) -> BoxFuture<'static, Result<Listing<String>>> + Send + Sync + 'static,
) -> BoxStream<'static, Result<String>> {
    struct At {
        after: Option<String>,
        pages: usize,
    }
    let list = Arc::new(list);
    futures::stream::unfold(Some(At { after: None, pages: 0 }), move |at| {
        let list = list.clone();
        async move {
            let At { after, pages } = at?;
            let page = match list(Page { limit: Some(PAGE), after: after.clone() }).await {
                Ok(page) => page,
                Err(e) => return Some((vec![Err(e)], None)),
            };
            let last = page.items.last().cloned();
            let mut items: Vec<Result<String>> = page.items.into_iter().map(Ok).collect();
            if !page.more {
                return Some((items, None));
            }
            let advances = last.is_some() && last != after && pages < MAX_PAGES;
            if !advances {
                items.push(Err(Error::invalid("the list of the registry does not advance")));
                return Some((items, None));
            }
            Some((items, Some(At { after: last, pages: pages + 1 })))
        }
    })
    .flat_map(futures::stream::iter)
    .boxed()
}

impl fmt::Display for RegistrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.fmt(f)
    }
}

#[async_trait]
impl ImportSource for RegistrySource {
    fn repositories(&self) -> BoxStream<'static, Result<String>> {
        if !self.repositories.is_empty() {
            let names: Vec<_> = self.repositories.iter().map(|name| Ok(name.to_string())).collect();
            return futures::stream::iter(names).boxed();
        }
        let client = self.client.clone();
        pages(move |page| {
            let client = client.clone();
            Box::pin(async move { client.list_repository_texts(page).await })
        })
    }

    fn roots(&self, repository: &RepositoryName) -> BoxStream<'static, Result<ImportRoot>> {
        let (client, repository) = (self.client.clone(), repository.clone());
        let tags = pages(move |page| {
            let (client, repository) = (client.clone(), repository.clone());
            Box::pin(async move { client.list_tag_texts(&repository, page).await })
        });
        tags.map(|tag| tag.map(|tag| ImportRoot::Tag(tag, None))).boxed()
    }

    async fn resolve(&self, repository: &RepositoryName, tag: &Tag) -> Result<Option<SourceManifest>> {
        match self.client.resolve(repository, &ManifestReference::Tag(tag.clone())).await {
            Ok(found) => {
                Ok(Some(SourceManifest { digest: found.digest, media_type: Some(found.media_type) }))
            }
            Err(e) if matches!(e.kind(), ErrorKind::ManifestUnknown | ErrorKind::NameUnknown) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn manifest(&self, repository: &RepositoryName, wanted: &SourceManifest) -> Result<Manifest> {
        let digest = &wanted.digest;
        let reference = ManifestReference::Digest(digest.clone());
        self.client.get_manifest(repository, &reference).await?.with_digest(digest)
    }

    async fn stat_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.client.stat_blob(repository, digest).await?.ok_or_else(|| no_blob(repository, digest))
    }

    async fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<BlobReader> {
        self.client.get_blob(repository, digest, None).await
    }

    async fn referrers(&self, repository: &RepositoryName, digest: &Digest) -> Result<Vec<Descriptor>> {
        self.client.list_referrers(repository, digest, None).await
    }
}
