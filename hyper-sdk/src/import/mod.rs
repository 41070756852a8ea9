//! Import of images into a store: from OCI layouts, from the storage folders of other registries, and from running registries.
//!
//! ```text
//!   ImportSource      repositories ─▶ roots (tags, manifests without a tag) ─▶ manifests, blobs
//!     OciFolder         a folder with one OCI image layout
//!     DistributionTree  the storage folder of Distribution (docker-registry)
//!     ZotTree           the storage folder of zot: an OCI layout for each repository
//!     RegistrySource    a running registry, through a client
//!        │
//!   import()          for each root: blobs, then manifests (children first), then the tag
//!        │
//!   ImportTarget      a store, or a look at one that changes nothing
//! ```
//!
//! # Invariants
//! - Every byte is checked against its digest before a manifest names it, and a tag moves after all that it needs is in place.
//! - Content that is damaged, missing or not accepted fails what needs it and nothing else; it is reported by name.
//! - A source is read only within its folder: a link that leads out of it is an error, as are pipes and devices.
//! - A blob of another repository is linked only when the repository of the source has it too.
//! - Memory does not grow with the number of repositories, tags and manifests, nor with the size of blobs. An exception is
//!   `index.json` of a layout, which is read once and kept while its repository is imported.

mod blobs;
mod distribution;
mod folder;
mod importer;
mod layout_index;
mod oci;
#[cfg(feature = "client")]
mod registry;
mod report;
mod roots;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod turns;
mod zot;

pub use distribution::{DistributionTree, digest_of_link};
pub use importer::{ImportOptions, RepositoryFilter, TagRules, import};
pub use layout_index::LayoutIndex;
pub use oci::OciFolder;
#[cfg(feature = "client")]
pub use registry::RegistrySource;
pub use report::{ImportEvent, ImportObserver, Imported, TagOutcome};
pub use source::{ImportRoot, ImportSource, SourceManifest};
pub use target::{ExistingTags, ImportTarget};
pub use zot::ZotTree;
