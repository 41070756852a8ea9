//! Frontends: from a source text to a graph and an image config. Nothing runs here; base images are only resolved.

pub mod dockerfile;

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
#[derive(Debug)]
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
