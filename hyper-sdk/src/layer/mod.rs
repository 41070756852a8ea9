//! Layers: tar, whiteouts, differences, compression and the index of a layer's files.
//!
//! ```text
//!   directory ──diff──▶ LayerWriter ──tar──▶ LayerCompressor ──▶ blob      (digest, diff ID, size)
//!                            │
//!                            ▼
//!                       LayerIndex ──chain──▶ TreeIndex                    (the merged files, without unpacking)
//!                            ▲
//!                            │
//!   directory ◀──apply── LayerReader ◀──tar── Decompressor ◀──────── blob
//! ```
//!
//! All functions here block: call them on blocking threads, or in the helper process of a sandbox.
//!
//! # Invariants
//! - The same entries give the same bytes on every machine, for every user and for every number of threads.
//! - Nothing is read or written outside the given directories, whatever a layer contains.

mod apply;
mod async_decompress;
mod compress;
pub mod copy;
mod decompress;
mod diff;
mod entry;
mod estargz;
mod file_time;
mod files;
mod hardlinks;
mod index;
mod index_format;
mod join;
mod lower_layers;
mod owner;
mod pack;
mod packed_entries;
mod passwd;
mod prune;
mod reader;
mod times;
mod tree;
mod writer;

pub(crate) use apply::unpack;
pub use apply::{Applied, ApplyOptions, ApplyStyle, DevicePolicy, OwnerPolicy, apply};
pub use async_decompress::AsyncDecompressor;
pub use compress::{CompressOptions, CompressedLayer, LayerCompressor};
pub(crate) use decompress::ReadAhead;
pub use decompress::{ArchiveFormat, Decompressor, VerifiedLayer};
pub use diff::{DiffOptions, OwnerLookup, TimeLookup, diff_trees};
pub(crate) use diff::{diff_copy, diff_overlay, write_folder};
pub use entry::{Entry, EntryKind, LayerPath};
pub(crate) use entry::{MAX_NAME, escape};
pub(crate) use estargz::{TABLE_DIGEST, write_estargz};
pub use file_time::FileTime;
pub(crate) use files::open_resolved;
pub use index::LayerIndex;
pub(crate) use index_format::Bounds;
pub(crate) use join::join;
pub(crate) use owner::{OWNER_ATTRIBUTE, UNMAPPED_OWNER, format_owner, parse_owner};
pub(crate) use pack::pack;
pub use passwd::{Owner, ProcessUser, resolve_user};
pub(crate) use passwd::{ResolvedOwner, resolve_owner};
pub(crate) use prune::keep_only;
pub use reader::LayerReader;
pub(crate) use reader::scan;
pub use times::{EntryTimes, TimesTable};
pub(crate) use tree::TreeIndex;
pub use writer::LayerWriter;

#[cfg(test)]
mod tests;
