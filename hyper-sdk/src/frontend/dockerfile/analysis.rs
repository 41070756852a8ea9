//! Looks at a whole file: what is wrong with it, and what its base images are, also behind faults.

use super::lower::{Bases, LowerMode};
use super::lower_error::LowerError;
use super::{lower_file, trigger};
use crate::dockerfile::{Diagnostic, Dockerfile, Span};
use crate::frontend::{EpochOf, FrontendOptions, Resolved, Resolver};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Digest, Error, ErrorKind, Result};
use async_trait::async_trait;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// What the lowering of a file shows.
#[derive(Debug, Default)]
pub(crate) struct Analysis {
    /// What is wrong with the text.
    pub faults: Vec<Diagnostic>,
    /// The configs of the base images that are known, by the number of the stage that begins with one.
    pub bases: Bases,
    /// Why base images could not be looked up.
    pub unresolved: Vec<Error>,
    /// What is wrong with the request rather than with the text.
    pub error: Option<Error>,
}

/// Lowers a file for what is wrong with it, as far as it could be understood: for the target, or for all of them where
/// none is asked for. Nothing is fetched, and base images are looked up only with `look_up`. An image that cannot be
/// looked up does not end the analysis.
pub(crate) async fn analyze(
    file: &Dockerfile,
    options: &FrontendOptions,
    resolver: &dyn Resolver,
    look_up: bool,
) -> Analysis {
    let mut seen = Analysis::default();
    let offline = OfflineResolver { resolver, look_up, unresolved: Mutex::default() };
    let mode = if options.target.is_none() { LowerMode::AllStages } else { LowerMode::BestEffort };
    let (outcome, bases) = lower_file(file, options, &offline, mode).await;
    match outcome {
        Ok(_) => {}
        Err(LowerError::Text(faults)) => seen.faults = faults,
        Err(LowerError::Other(error)) => seen.error = Some(error),
    }
    seen.bases = bases;
    let known = seen.bases.len();
    seen.bases.retain(|_, config| !config.os.is_empty());
    seen.unresolved.extend(offline.unresolved.into_inner().unwrap_or_else(PoisonError::into_inner));
    if seen.bases.len() < known || !seen.unresolved.is_empty() {
        // What a variable would be that the image may set, nobody knows.
        let has_variable =
            |d: &Diagnostic| trigger::of(d).unwrap_or_else(|| file.source.slice(d.span)).contains('$');
        seen.faults.retain(|d| d.code != "instruction" || !has_variable(d));
    }
    // With defaults alone the image of a FROM may be empty: that is for a rule to tell, and no fault of the file.
    seen.faults.retain(|d| d.code != "empty-image");
    if file.damaged {
        // What could not be understood may change what the rest comes to.
        seen.faults.clear();
    }
    seen
}

/// Adds the faults that lowering shows, in the order of the file; what the parser has said of a place is not said again.
pub(crate) fn add_faults(diagnostics: &mut Vec<Diagnostic>, mut faults: Vec<Diagnostic>) {
    let known: HashSet<Span> = diagnostics.iter().filter(|d| d.is_error()).map(|d| d.span).collect();
    faults.retain(|fault| !known.contains(&fault.span));
    diagnostics.extend(faults);
    diagnostics.sort_by_key(|d| d.span.start);
}

/// Goes on where an image cannot be found.
struct OfflineResolver<'a> {
    resolver: &'a dyn Resolver,
    /// Whether images are looked up at all.
    look_up: bool,
    unresolved: Mutex<Vec<Error>>,
}

impl Resolved {
    /// An image of which nothing is known: its config has no system, which no real one has.
    pub(super) fn unknown(name: &str, platform: &Platform) -> Self {
        let mut config = ImageConfig::empty(platform);
        config.os = String::new();
        let manifest = Digest::sha256(format!("not resolved: {name}"));
        Self::Image { reference: name.to_owned(), manifest, config: Box::new(config) }
    }
}

impl OfflineResolver<'_> {
    /// Remembers why something is not known, and gives what nothing is known of.
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
