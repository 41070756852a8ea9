//! Names, tags, manifests and blobs, in the local store or in a registry.

use crate::hyper::{Session, transferred};
use crate::operation::{Operation, Outcome};
use futures::TryStreamExt as _;
use hyper_sdk::client::{LocalImage, Loopback, PushOptions, RemoteImage, SharedClient, copy};
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::{Page, PutManifest, find_local, local_repository};
use hyper_sdk::{Digest, Error, ErrorKind, Reference, RepositoryName, Result};
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

impl Session {
    /// Who has an image, and in which repository.
    async fn find(&self, reference: &Reference, remote: bool) -> Result<(SharedClient, RepositoryName)> {
        if remote {
            return Ok((self.clients.client(reference.host())?, reference.repository().clone()));
        }
        let store = self.store().await?.clone();
        let repository = find_local(&*store, reference).await?;
        Ok((Arc::new(Loopback::new(store)), repository))
    }

    pub(crate) fn tag(self: &Arc<Self>, reference: String, name: String) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let (reference, name) = (Reference::parse(&reference)?, Reference::parse(&name)?);
            let (Some(tag), None) = (name.tag().cloned(), name.digest()) else {
                return Err(
                    Error::invalid("the new name needs a tag and no digest").with_context("name", name)
                );
            };
            let store = session.store().await?.clone();
            let (from, to) = (find_local(&*store, &reference).await?, local_repository(&name)?);
            if from == to {
                let manifest = store.get_manifest(&from, &reference.manifest()).await?;
                store.put_manifest(&to, PutManifest::new(manifest, [tag])).await?;
            } else {
                // The same client on both sides: blobs are linked, not copied.
                let from = LocalImage::new(&store, &from, &reference.manifest()).over_loopback();
                let to = RemoteImage::new(&from.client, &to, &ManifestReference::Tag(tag));
                copy(&from, &to, &PushOptions::default()).await?;
            }
            Ok(Outcome::Nothing)
        })
    }

    pub(crate) fn remove(self: &Arc<Self>, reference: String) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let store = session.store().await?;
            store.delete_manifest(&find_local(&**store, &reference).await?, &reference.manifest()).await?;
            Ok(Outcome::Nothing)
        })
    }

    pub(crate) fn exists(self: &Arc<Self>, reference: String, remote: bool) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let (client, repository) = session.find(&reference, remote).await?;
            let found = match client.resolve(&repository, &reference.manifest()).await {
                Ok(_) => true,
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::ManifestUnknown | ErrorKind::NameUnknown | ErrorKind::NotFound
                    ) =>
                {
                    false
                }
                Err(e) => return Err(e),
            };
            Ok(Outcome::Plain(Value::Bool(found)))
        })
    }

    pub(crate) fn copy(
        self: &Arc<Self>,
        source: String,
        target: String,
        referrers: bool,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let session = Arc::clone(self);
        Operation::with_progress(progress, move |progress| async move {
            let (source, target) = (Reference::parse(&source)?, Reference::parse(&target)?);
            let from = session.clients.client(source.host())?;
            // One client for one registry: blobs are mounted there, not sent.
            let to = match source.host() == target.host() {
                true => from.clone(),
                false => session.clients.client(target.host())?,
            };
            let options = PushOptions { referrers, progress, ..PushOptions::default() };
            let (from, to) = (RemoteImage::named(&from, &source), RemoteImage::named(&to, &target));
            let copied = copy(&from, &to, &options).await?;
            Ok(transferred(&target, &copied))
        })
    }

    pub(crate) fn list_tags(self: &Arc<Self>, repository: String, remote: bool) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let (client, repository) = session.find(&Reference::parse(&repository)?, remote).await?;
            let (mut tags, mut after) = (Vec::new(), None);
            loop {
                let page = client.list_tags(&repository, Page { limit: None, after }).await?;
                after = page.items.last().map(ToString::to_string);
                tags.extend(page.items.iter().map(ToString::to_string));
                if !page.more || after.is_none() {
                    return Ok(Outcome::Plain(json!(tags)));
                }
            }
        })
    }

    pub(crate) fn referrers(
        self: &Arc<Self>,
        reference: String,
        artifact_type: Option<String>,
        remote: bool,
    ) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let (client, repository) = session.find(&reference, remote).await?;
            let subject = client.resolve(&repository, &reference.manifest()).await?.digest;
            let found = client.list_referrers(&repository, &subject, artifact_type.as_deref()).await?;
            serde_json::to_value(found)
                .map(Outcome::Plain)
                .map_err(|e| Error::internal("descriptors are not plain data").with_source(e))
        })
    }

    pub(crate) fn get_manifest(self: &Arc<Self>, reference: String, remote: bool) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let (client, repository) = session.find(&reference, remote).await?;
            let manifest = client.get_manifest(&repository, &reference.manifest()).await?;
            Ok(Outcome::Bytes(manifest.bytes().to_vec()))
        })
    }

    pub(crate) fn get_blob(
        self: &Arc<Self>,
        repository: String,
        digest: String,
        max_size: u64,
        remote: bool,
    ) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let (repository, digest) = (Reference::parse(&repository)?, Digest::parse(&digest)?);
            let (client, repository) = session.find(&repository, remote).await?;
            let mut blob = client.get_blob(&repository, &digest, None).await?;
            let too_large = || {
                Error::new(ErrorKind::TooLarge, "the blob is larger than `max_size`")
                    .with_context("digest", &digest)
                    .with_context("limit", max_size)
            };
            if blob.length > max_size {
                return Err(too_large());
            }
            let mut bytes = Vec::new();
            while let Some(chunk) = blob.stream.try_next().await? {
                if (bytes.len() + chunk.len()) as u64 > max_size {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(Outcome::Bytes(bytes))
        })
    }
}
