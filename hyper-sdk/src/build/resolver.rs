//! Finds what names stand for: named contexts of the request first, then images.

use super::contexts::{Contexts, named_source};
use super::{BuildRequest, NamedContext};
use crate::frontend::{Resolved, Resolver};
use crate::graph::Source;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::solve::{Layer, blocking};
use crate::source::{ImageSource, SourceImage, newest_in_archive};
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

/// Resolves names by the request's named contexts and the image source, and remembers the layers.
pub(super) struct BuildResolver {
    pub(super) request: Arc<BuildRequest>,
    pub(super) images: ImageSource,
    pub(super) contexts: Contexts,
    pub(super) found: Mutex<HashMap<Digest, Vec<Layer>>>,
}

impl BuildResolver {
    fn remember(&self, reference: String, image: SourceImage) -> Result<Resolved> {
        let manifest =
            image.manifest.image().ok_or_else(|| Error::internal("an index where an image was expected"))?;
        let layers = manifest.layers.iter().zip(&image.config.rootfs.diff_ids).map(|(blob, diff_id)| Layer {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            repository: image.repository.clone(),
            times: None,
        });
        let digest = image.manifest.digest().clone();
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), layers.collect());
        Ok(Resolved::Image { reference, manifest: digest, config: Box::new(image.config) })
    }
}

#[async_trait]
impl Resolver for BuildResolver {
    async fn context(&self, name: &str, platform: &Platform) -> Result<Option<Resolved>> {
        let contexts = &self.request.named_contexts;
        // `name::platform` is for one platform; docker.io/library/NAME:latest and NAME are the same.
        let full = Reference::parse(name).ok();
        let same = |key: &str| {
            key == name || full.as_ref().is_some_and(|f| Reference::parse(key).is_ok_and(|k| k == *f))
        };
        let found = contexts
            .iter()
            .find(|(key, _)| {
                key.split_once("::").is_some_and(|(k, p)| {
                    same(k) && p.parse::<Platform>().is_ok_and(|p| platform.matches(&p))
                })
            })
            .or_else(|| contexts.iter().find(|(key, _)| same(key)));
        let Some((key, context)) = found else { return Ok(None) };
        Ok(Some(match context {
            // A name of a stage, which the frontend knows.
            NamedContext::Stage(_) => return Ok(None),
            NamedContext::Folder(_) | NamedContext::Git(_) | NamedContext::Web(_) => {
                Resolved::Folder(key.clone())
            }
            NamedContext::Scratch => Resolved::Scratch,
            NamedContext::OciLayout { path, tag, digest } => {
                let image = self.images.layout(path, tag.as_deref(), digest.as_ref(), platform).await?;
                self.remember(name.to_owned(), image)?
            }
            NamedContext::Image(reference) => {
                let image = self.images.image(reference, platform).await?;
                self.remember(reference.to_string(), image)?
            }
        }))
    }

    async fn time(&self, source: &Source) -> Result<Option<i64>> {
        let source = match source {
            Source::Folder { name } => match self.request.named_contexts.get(name).map(named_source) {
                Some(source) => source?,
                None => None,
            },
            other => Some(other.clone()),
        };
        match source {
            Some(source) => {
                let Some(fetched) = self.contexts.remotes.fetch(&source).await? else { return Ok(None) };
                match (fetched.time, &source) {
                    (None, Source::Web(web)) => {
                        // The server does not say when it changed, but the files of an archive do.
                        let path = fetched.path.join(&web.file_name);
                        blocking(move || Ok(File::open(path).ok().and_then(newest_in_archive))).await
                    }
                    (time, _) => Ok(time),
                }
            }
            None => Ok(None),
        }
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        let reference = Reference::parse(name).map_err(|e| {
            let kind = if e.kind() == ErrorKind::Internal { e.kind() } else { ErrorKind::Invalid };
            e.with_kind(kind)
        })?;
        let image = self.images.image(&reference, platform).await?;
        self.remember(reference.to_string(), image)
    }
}
