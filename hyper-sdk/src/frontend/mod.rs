//! Frontends: they turn a text into a graph and the config of an image. No step runs; base images are only resolved.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod dockerfile;
mod graph_json;

pub use graph_json::JsonFrontend;

use crate::graph::{Graph, SourceOp, VertexId};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Digest, Result};
use async_trait::async_trait;
use std::collections::BTreeMap;

/// What a name of an image or named context stands for.
#[derive(Clone, Debug)]
pub enum Resolved {
    /// An image, resolved to one manifest.
    Image {
        /// The full reference, for messages and provenance.
        reference: String,
        /// The image manifest.
        manifest: Digest,
        /// The config of the image.
        config: Box<ImageConfig>,
    },
    /// The files of the build context of this name.
    Folder(String),
    /// An empty base.
    Scratch,
}

/// What SOURCE_DATE_EPOCH names when it is not a number.
#[derive(Clone, Debug)]
pub enum EpochOf {
    /// The main build context.
    Context,
    /// A named context.
    Named(Resolved),
    /// A stage of the text.
    Stage {
        /// The sources that the stage fetches.
        fetches: Vec<SourceOp>,
        /// The creation time of its newest base image, in seconds since 1970.
        newest_base: Option<i64>,
    },
}

/// Resolves the names in a text: named contexts first, then images.
///
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::build::lower_dockerfile;
/// use hyper_sdk::frontend::{EpochOf, FrontendOptions, Resolved, Resolver};
/// use hyper_sdk::oci::ImageConfig;
/// use hyper_sdk::platform::Platform;
/// use hyper_sdk::{Digest, Result};
///
/// /// Takes every image to be an empty one.
/// struct EmptyImages;
///
/// #[async_trait]
/// impl Resolver for EmptyImages {
///     async fn context(&self, _: &str, _: &Platform) -> Result<Option<Resolved>> {
///         Ok(None)
///     }
///
///     async fn epoch(&self, _: EpochOf) -> Result<Option<i64>> {
///         Ok(None)
///     }
///
///     async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
///         Ok(Resolved::Image {
///             reference: name.to_owned(),
///             manifest: Digest::sha256(name),
///             config: Box::new(ImageConfig::empty(platform)),
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let (text, options) = ("FROM base\nRUN make\n", FrontendOptions::default());
/// let lowered = lower_dockerfile("Dockerfile", text, &options, &EmptyImages, &mut Vec::new()).await?;
/// assert_eq!(lowered.graph.vertices().len(), 2);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Resolves a named context; `None` when there is no context of this name.
    async fn context(&self, name: &str, platform: &Platform) -> Result<Option<Resolved>>;

    /// The time of the object that SOURCE_DATE_EPOCH names, in seconds since 1970; `None` when it has no time. Remote objects
    /// are fetched for it.
    async fn epoch(&self, of: EpochOf) -> Result<Option<i64>>;

    /// Resolves an image reference.
    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved>;
}

/// Turns a text into a graph and the config of an image.
///
/// A builder has a frontend for Dockerfiles. The directive `# syntax=NAME` at the top of a text, or the request, names
/// another one.
///
/// ```
/// use async_trait::async_trait;
/// use hyper_sdk::Result;
/// use hyper_sdk::frontend::{Frontend, FrontendOptions, Lowered, Resolver};
/// use hyper_sdk::graph::{FileAction, FileOp, Graph, MakeFile, Op, SourceOp};
/// use hyper_sdk::oci::ImageConfig;
/// use hyper_sdk::platform::Platform;
///
/// /// Makes an image of one file, which holds the text.
/// #[derive(Debug)]
/// struct Note;
///
/// #[async_trait]
/// impl Frontend for Note {
///     async fn lower(
///         &self,
///         name: &str,
///         text: &str,
///         options: &FrontendOptions,
///         _: &dyn Resolver,
///         _: &mut Vec<String>,
///     ) -> Result<Lowered> {
///         let mut graph = Graph::new();
///         let nothing = graph.add(Op::Source(SourceOp::Scratch), vec![], "scratch");
///         let file = MakeFile {
///             name: name.to_owned(),
///             destination: "/note".to_owned(),
///             content: text.to_owned(),
///             chown: None,
///             chmod: None,
///         };
///         let op = Op::File(FileOp { actions: vec![FileAction::MakeFile(file)], link: false });
///         let root = graph.add(op, vec![nothing], "write the note");
///         let platform = options.platform.clone().unwrap_or_else(Platform::host);
///         let mut lowered = Lowered::new(graph, root, ImageConfig::empty(&platform));
///         lowered.record("NOTE", true);
///         Ok(lowered)
///     }
/// }
/// ```
///
/// # Guarantees
/// Object-safe. No step runs while a text is lowered; the resolver resolves all names.
#[async_trait]
pub trait Frontend: std::fmt::Debug + Send + Sync + 'static {
    /// Lowers a text. `name` is its name in messages. Warnings go to `warnings`, also when there is an error.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with all errors of the text; those of the resolver.
    async fn lower(
        &self,
        name: &str,
        text: &str,
        options: &FrontendOptions,
        resolver: &dyn Resolver,
        warnings: &mut Vec<String>,
    ) -> Result<Lowered>;
}

/// A shared frontend of any kind.
pub type SharedFrontend = std::sync::Arc<dyn Frontend>;

/// The options of a frontend, from a build request.
#[derive(Clone, Debug, Default)]
pub struct FrontendOptions {
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// The stage to build; without, the last one.
    pub target: Option<String>,
    /// Further names of stages, for FROM and `from`.
    pub aliases: BTreeMap<String, String>,
    /// The platform to build for; without, that of the host.
    pub platform: Option<Platform>,
    /// Labels of the image, in addition to those of the text.
    pub labels: BTreeMap<String, String>,
    /// Whether no step may come from the cache.
    pub no_cache: bool,
    /// The stages whose steps may not come from the cache.
    pub no_cache_filter: Vec<String>,
    /// The names of the builder's other frontends, for messages about a text that asks for an unknown one.
    pub frontends: Vec<String>,
}

/// An entry of the history of the image.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryStep {
    /// The instruction, as history shows it.
    pub created_by: String,
    /// Whether it made a layer.
    pub layer: bool,
}

/// The graph of a target, with the config of its image.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The graph.
    pub graph: Graph,
    /// The vertex whose result is the root file system of the image.
    pub root: VertexId,
    /// The config of the image, with the base's history and without its root file system.
    pub config: ImageConfig,
    /// The entries of the history after those of the base.
    pub history: Vec<HistoryStep>,
    /// The creation time of the newest base image in use, in seconds since 1970.
    pub newest_base: Option<i64>,
    /// The value of SOURCE_DATE_EPOCH, in seconds since 1970.
    pub epoch: Option<i64>,
}

impl Lowered {
    /// A graph with the config of its image, without history.
    pub fn new(graph: Graph, root: VertexId, config: ImageConfig) -> Self {
        Self { graph, root, config, history: Vec::new(), newest_base: None, epoch: None }
    }

    /// Adds an entry to the history. Every layer that the graph adds to its base needs one, with `layer` set.
    pub fn record(&mut self, created_by: impl Into<String>, layer: bool) {
        self.history.push(HistoryStep { created_by: created_by.into(), layer });
    }
}
