//! Frontends: from a source text to a graph and an image config. Nothing runs here; base images are only resolved.

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
        /// The full reference, for people and provenance.
        reference: String,
        /// The image manifest.
        manifest: Digest,
        /// The config of the image.
        config: Box<ImageConfig>,
    },
    /// Files, as the build context of this name.
    Folder(String),
    /// Nothing: an empty base.
    Scratch,
}

/// What SOURCE_DATE_EPOCH names where it is no number.
#[derive(Clone, Debug)]
pub enum EpochOf {
    /// The main build context.
    Context,
    /// A named context.
    Named(Resolved),
    /// A stage of the text.
    Stage {
        /// What the stage fetches.
        fetches: Vec<SourceOp>,
        /// When the newest of its base images was made, in seconds since 1970.
        newest_base: Option<i64>,
    },
}

/// Looks names up that a frontend finds: named contexts first, then images.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// What a named context stands for; `None` when there is none of this name.
    async fn context(&self, name: &str, platform: &Platform) -> Result<Option<Resolved>>;

    /// The time of what SOURCE_DATE_EPOCH names, in seconds since 1970; none where it has no time of its own. What is
    /// remote is fetched for it.
    async fn epoch(&self, of: EpochOf) -> Result<Option<i64>>;

    /// What an image reference stands for.
    async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved>;
}

/// Turns a text into a graph and the config of an image.
///
/// A builder has one for Dockerfiles. Others are asked for by the name in the directive `# syntax=NAME` at the top of the
/// text, or by the request.
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
/// Object-safe. Nothing runs while a text is lowered; names are asked of the resolver.
#[async_trait]
pub trait Frontend: std::fmt::Debug + Send + Sync + 'static {
    /// Lowers a text, which messages call `name`. What is noticed goes to `warnings`, also when there is an error.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with every fault of the text; those of the resolver.
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

/// What a frontend takes from a build request.
#[derive(Clone, Debug, Default)]
pub struct FrontendOptions {
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// The stage to build; the last one without.
    pub target: Option<String>,
    /// Names that stand for stages of the text, in FROM and `from`.
    pub aliases: BTreeMap<String, String>,
    /// The platform to build for; the host's without.
    pub platform: Option<Platform>,
    /// Labels that the image gets beside those of the text.
    pub labels: BTreeMap<String, String>,
    /// Whether no step may come from the cache.
    pub no_cache: bool,
    /// The stages whose steps may not come from the cache.
    pub no_cache_filter: Vec<String>,
}

/// An entry of the history of the image to be.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryStep {
    /// The instruction, as history shows it.
    pub created_by: String,
    /// Whether it made a layer.
    pub layer: bool,
}

/// A target, lowered.
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
    /// When the newest base image in use was made, in seconds since 1970.
    pub newest_base: Option<i64>,
    /// The time that SOURCE_DATE_EPOCH asks for, in seconds since 1970.
    pub epoch: Option<i64>,
}

impl Lowered {
    /// A graph with the config of the image to be, without history.
    pub fn new(graph: Graph, root: VertexId, config: ImageConfig) -> Self {
        Self { graph, root, config, history: Vec::new(), newest_base: None, epoch: None }
    }

    /// Adds an entry to the history. Every layer that the graph puts on its base has one, with `layer` set.
    pub fn record(&mut self, created_by: impl Into<String>, layer: bool) {
        self.history.push(HistoryStep { created_by: created_by.into(), layer });
    }
}
