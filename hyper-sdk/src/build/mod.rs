//! Builders: the trait and the local builder.
//!
//! ```text
//!   BuildRequest ─▶ frontend (Dockerfile → graph + image config) ─▶ solve (graph → layers) ─▶ export ─▶ BuildOutput
//! ```
//!
//! A [`Builder`] turns a request into an image or files. [`LocalBuilder`] does it in this process and its sandbox
//! helpers, without a daemon. [`DryRun`] reports what a build would do.

mod annotations;
mod attempt;
mod cache_export;
mod cache_fields;
mod cache_options;
mod check;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod contexts;
mod destinations;
mod emptied_folders;
mod epoch;
mod exec_step;
mod export;
mod exporters;
mod fix;
mod foreign;
mod frontend_options;
mod limits_text;
mod local;
mod options;
mod output;
mod output_check;
mod output_text;
mod plan;
mod platforms;
mod questions;
mod request;
mod resolver;
mod s3_options;
mod space;
#[cfg(test)]
mod tests;
pub mod text;

pub use crate::cache::{CacheFrom, CachePlace};
pub use crate::solve::OnError;
pub use crate::source::{BuildContext, NamedContext};
pub use annotations::{AnnotatedPart, AnnotationPlace, PlacedAnnotations};
pub use cache_options::{CacheMode, CacheTarget, CacheTo};
pub use check::{Checked, DockerfileFrontend, check_dockerfile, lower_dockerfile};
pub use destinations::Destinations;
pub use fix::Fixed;
pub use local::LocalBuilder;
pub use options::LocalBuilderOptions;
pub use output::{Destination, FileOptions, ImageOptions, Output, OutputKind, StoreOptions};
pub use plan::{BuildPlan, DryRun};
pub use request::{BuildOutput, BuildRequest, EpochPolicy, HOST_GATEWAY};

use crate::Result;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::capabilities::switches;
use async_trait::async_trait;
use std::fmt::{Debug, Display};
use std::sync::Arc;

/// What a builder can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuilderCapabilities {
    /// Whether it makes results: steps run, outputs are written, and the next build finds the results. A builder without
    /// reports what a build would do.
    pub results: bool,
    /// Whether it can run RUN steps.
    pub run: bool,
    /// Whether files keep every owner that a step gives them; otherwise every file of a RUN step belongs to root.
    pub all_owners: bool,
    /// The platforms whose RUN steps can be executed.
    pub platforms: Vec<Platform>,
}

impl BuilderCapabilities {
    /// The capabilities of a builder that makes results and has no RUN steps.
    pub const fn new() -> Self {
        Self { results: true, run: false, all_owners: false, platforms: Vec::new() }
    }

    /// Adds RUN steps for these platforms.
    #[must_use]
    pub fn with_run(mut self, platforms: Vec<Platform>) -> Self {
        (self.run, self.platforms) = (true, platforms);
        self
    }

    switches! {
        results: with_results, without_results;
        all_owners: with_all_owners, without_all_owners;
    }
}

impl Default for BuilderCapabilities {
    fn default() -> Self {
        Self::new()
    }
}

/// Builds images.
///
/// The suite in `build::conformance` tests a builder.
///
/// # Example
/// A builder that rejects Dockerfiles with RUN:
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::build::{BuildOutput, BuildRequest, Builder, BuilderCapabilities, SharedBuilder};
/// use hyper_sdk::progress::Progress;
/// use hyper_sdk::{Error, Result};
/// use std::fmt;
///
/// #[derive(Debug)]
/// struct FilesOnly(SharedBuilder);
///
/// impl fmt::Display for FilesOnly {
///     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
///         write!(f, "{}, without commands", self.0)
///     }
/// }
///
/// #[async_trait]
/// impl Builder for FilesOnly {
///     async fn capabilities(&self) -> Result<BuilderCapabilities> {
///         Ok(BuilderCapabilities::new())
///     }
///
///     async fn build(&self, request: BuildRequest, progress: &Progress) -> Result<BuildOutput> {
///         let text = request.dockerfile.as_deref().unwrap_or_default();
///         if text.lines().any(|line| line.trim_start().to_uppercase().starts_with("RUN")) {
///             return Err(Error::unsupported("RUN is not supported by this builder"));
///         }
///         self.0.build(request, progress).await
///     }
/// }
/// ```
///
/// # Guarantees
/// Object-safe; several builds may run at once, also over one store and one cache folder. Dropping the future of
/// [`Builder::build`] cancels: running steps are killed with all their processes, and no half-published image or output
/// file is left behind.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a Dockerfile or request that is wrong, with the excerpt in the message and every problem
/// in the detail;
/// [`crate::ErrorKind::CommandFailed`] when a RUN step fails; [`crate::ErrorKind::Unsupported`] for what
/// [`Builder::capabilities`] denies and for what is not implemented, by name.
#[async_trait]
pub trait Builder: Display + Debug + Send + Sync + 'static {
    /// What this builder can do on this machine.
    async fn capabilities(&self) -> Result<BuilderCapabilities>;

    /// Builds, writes every output of the request, and returns the result.
    async fn build(&self, request: BuildRequest, progress: &Progress) -> Result<BuildOutput>;
}

/// A shared builder of any kind.
pub type SharedBuilder = Arc<dyn Builder>;
