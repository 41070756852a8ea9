//! Analyses a whole file: its errors, and the configs of its base images. It goes on after errors.

use super::lower::{Bases, LowerMode};
use super::lower_error::LowerError;
use super::{lower_file, trigger};
use crate::dockerfile::{Diagnostic, Dockerfile, Span};
use crate::frontend::{EpochOf, FrontendOptions, Resolved, Resolver};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use futures::future::BoxFuture;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// The result of an analysis.
#[derive(Debug, Default)]
pub(crate) struct Analysis {
    /// The errors of the text.
    pub errors: Vec<Diagnostic>,
    /// The configs of the base images, as far as they are known, by the number of the stage.
    pub bases: Bases,
    /// Why base images could not be looked up.
    pub unresolved: Vec<Error>,
    /// An error of the request rather than of the text.
    pub request_error: Option<Error>,
}

/// Lowers a file to find its errors: for the target, or for every stage when the options name none. Nothing is fetched, and
/// base images are looked up only with `look_up`. The analysis goes on when an image cannot be looked up.
pub(crate) fn analyze<'a>(
    file: &'a Dockerfile,
    options: &'a FrontendOptions,
    resolver: &'a dyn Resolver,
    look_up: bool,
) -> BoxFuture<'a, Analysis> {
    // Boxed: programs that call this do not compile it again.
    Box::pin(async move {
        let mut seen = Analysis::default();
        let offline = OfflineResolver { resolver, look_up, unresolved: Mutex::default() };
        let mode = if options.target.is_none() { LowerMode::AllStages } else { LowerMode::BestEffort };
        let (outcome, bases) = lower_file(file, options, &offline, mode).await;
        match outcome {
            Ok(_) => {}
            Err(LowerError::Text(errors)) => seen.errors = errors,
            Err(LowerError::Other(error)) => seen.request_error = Some(error),
        }
        seen.bases = bases;
        let known = seen.bases.len();
        seen.bases.retain(|_, config| !config.os.is_empty());
        seen.unresolved.extend(offline.unresolved.into_inner().unwrap_or_else(PoisonError::into_inner));
        if seen.bases.len() < known || !seen.unresolved.is_empty() {
            // The image may set the variable.
            let has_variable = |d: &Diagnostic| {
                trigger::text_of(d).unwrap_or_else(|| file.source.slice(d.span)).contains('$')
            };
            seen.errors.retain(|d| d.code != "instruction" || !has_variable(d));
        }
        // With defaults alone the image of a FROM may be empty. A rule of the linter reports it, so it is not an error.
        seen.errors.retain(|d| d.code != "empty-image");
        if file.damaged {
            // An instruction that could not be parsed may change the meaning of the others.
            seen.errors.clear();
        }
        seen
    })
}

/// Adds the errors of lowering, in the order of the file, except at places where the parser has found an error.
pub(crate) fn add_errors(diagnostics: &mut Vec<Diagnostic>, mut errors: Vec<Diagnostic>) {
    let known: HashSet<Span> = diagnostics.iter().filter(|d| d.is_error()).map(|d| d.span).collect();
    errors.retain(|d| !known.contains(&d.span));
    diagnostics.extend(errors);
    diagnostics.sort_by_key(|d| d.span.start);
}

/// A resolver that stands in for images that cannot be found.
struct OfflineResolver<'a> {
    resolver: &'a dyn Resolver,
    /// Whether images are looked up.
    look_up: bool,
    unresolved: Mutex<Vec<Error>>,
}

impl Resolved {
    /// A placeholder for an unknown image. Its config has no system, unlike that of a real image.
    pub(super) fn unknown(name: &str, platform: &Platform) -> Self {
        let mut config = ImageConfig::empty(platform);
        config.os = String::new();
        let manifest = Digest::sha256(format!("not resolved: {name}"));
        Self::Image { reference: name.to_owned(), manifest, config: Box::new(config) }
    }
}

impl OfflineResolver<'_> {
    /// Notes why an image is unknown, and returns a placeholder.
    fn unknown(&self, name: &str, platform: &Platform, error: Error) -> Resolved {
        let mut unresolved = self.unresolved.lock().unwrap_or_else(PoisonError::into_inner);
        unresolved.push(error.with_context("image", name));
        Resolved::unknown(name, platform)
    }
}

#[async_trait]
impl Resolver for OfflineResolver<'_> {
    async fn context(&self, name: &str, platform: &Platform) -> Result<Option<Resolved>> {
        match self.resolver.context(name, platform).await {
            Ok(found) => Ok(found),
            Err(error) => Ok(Some(self.unknown(name, platform, error))),
        }
    }

    async fn epoch(&self, _: EpochOf) -> Result<Option<i64>> {
        // Nothing is fetched for an analysis.
        Ok(None)
    }

    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
        let error = match self.look_up {
            true => match self.resolver.image(name, platform).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            },
            false => Error::new(ErrorKind::Unavailable, "images are not looked up"),
        };
        Ok(self.unknown(name, platform, error))
    }
}
