//! Resolves names: named contexts of the request first, then images.

use super::NamedContext;
use super::epoch;
use crate::frontend::{EpochOf, Resolved, Resolver};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::source::{SourceContent, SourceImage, Sources};
use crate::{ErrorKind, Result};
use async_trait::async_trait;

/// Resolves names with the sources of a build.
#[derive(Debug)]
pub(super) struct BuildResolver {
    pub(super) sources: Sources,
    /// The time of the main context.
    pub(super) main_time: Option<i64>,
}

fn resolved(image: SourceImage) -> Resolved {
    let SourceImage { reference, manifest, config, .. } = image;
    Resolved::Image { reference, manifest, config: Box::new(config) }
}

#[async_trait]
impl Resolver for BuildResolver {
    async fn context(&self, name: &str, platform: &Platform) -> Result<Option<Resolved>> {
        let contexts = self.sources.contexts();
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
        Ok(match self.sources.context(context, platform).await? {
            Some(SourceContent::Image(image)) => {
                let mut image = *image;
                if matches!(context, NamedContext::OciLayout { .. }) {
                    name.clone_into(&mut image.reference);
                }
                Some(resolved(image))
            }
            Some(SourceContent::Files) => Some(Resolved::Folder(key.clone())),
            None if *context == NamedContext::Scratch => Some(Resolved::Scratch),
            // The frontend resolves names of stages.
            None => None,
        })
    }

    async fn epoch(&self, of: EpochOf) -> Result<Option<i64>> {
        epoch::time_of(of, self.main_time, &self.sources).await
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        let reference = Reference::parse(name).map_err(|e| {
            let kind = if e.kind() == ErrorKind::Internal { e.kind() } else { ErrorKind::Invalid };
            e.with_kind(kind)
        })?;
        Ok(resolved(self.sources.image(&reference.to_string(), platform).await?))
    }
}
