//! Build, store, serve and move OCI container images.
//!
//! The library is built on three traits, each with several backends and a public conformance suite: [`build::Builder`],
//! [`client::RegistryClient`] and [`store::RegistryStore`].
//!
//! # Invariants
//! - The SDK never reads the environment or the home folder: callers pass paths, clocks and credentials in.
//! - The SDK never writes to a terminal: callers follow [`progress`] and [`Error`].
//! - Modules import in one direction, from a line to those above it, and never in a circle:
//!
//! ```text
//! error digest reference oci media_type mode escape platform clock progress private_folder runtime small_file stale_files staged_file atomic_file byte_channel beneath remove_tree uses disk_usage secret s3 breaker
//!   └▶ dockerfile graph layer store
//!        └▶ sandbox layout bake
//!             └▶ lint client cache source snapshot exec
//!                  └▶ frontend solve export space import
//!                       └▶ build
//!                            └▶ session
//! ```

#[cfg(feature = "build")]
mod atomic_file;
#[cfg(feature = "bake")]
pub mod bake;
#[cfg(feature = "client")]
mod beneath;
pub mod breaker;
#[cfg(feature = "build")]
mod byte_channel;
pub mod clock;
pub mod digest;
#[cfg(feature = "build")]
mod disk_usage;
pub mod dockerfile;
mod error;
mod escape;
pub mod graph;
pub mod import;
pub mod lint;
pub mod media_type;
pub mod mode;
pub mod oci;
pub mod platform;
pub mod private_folder;
pub mod progress;
pub mod reference;
mod remove_tree;
pub mod runtime;
#[cfg(feature = "client")]
pub mod s3;
#[cfg(any(feature = "client", feature = "store-postgres"))]
mod secret;
pub mod small_file;
#[cfg(feature = "client")]
mod staged_file;
pub mod stale_files;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod layout;

#[cfg(feature = "build")]
pub mod build;
#[cfg(feature = "build")]
pub mod cache;
#[cfg(feature = "build")]
pub mod exec;
#[cfg(feature = "build")]
pub mod export;
#[cfg(feature = "build")]
pub mod frontend;
#[cfg(feature = "build")]
pub mod layer;
#[cfg(feature = "build")]
pub mod sandbox;
#[cfg(feature = "build")]
pub mod session;
#[cfg(feature = "build")]
pub mod snapshot;
#[cfg(feature = "build")]
pub mod solve;
#[cfg(feature = "build")]
pub mod source;
#[cfg(feature = "build")]
pub mod space;
#[cfg(feature = "build")]
pub mod uses;

pub use digest::Digest;
pub use error::{
    CommandFailure, Error, ErrorDetail, ErrorKind, FailedStep, MissingInput, QuotaExcess, RegistryFailure,
    Result, ResultExt, TextProblem,
};
pub use reference::{Reference, RepositoryName, RepositoryPattern, Tag, TextPattern};
#[cfg(any(feature = "client", feature = "store-postgres"))]
pub use secret::Secret;

/// The examples of the guide compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sdk.md")]
struct Guide;
