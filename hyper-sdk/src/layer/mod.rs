//! Layers: tar, whiteouts, differences, compression and the index of a layer's files.
//!
//! ```text
//!   directory ──diff──▶ LayerWriter ──tar──▶ LayerCompressor ──▶ blob      (digest, diff ID, size)
//!                            │
//!                            ▼
//!                       LayerIndex ──chain──▶ TreeIndex                    (who is where, without unpacking)
//!                            ▲
//!                            │
//!   directory ◀──apply── LayerReader ◀──tar── Decompressor ◀──────── blob
//! ```
//!
//! Everything here blocks: callers run it on blocking threads, or in the helper process of a sandbox.
//!
//! # Invariants
//! - The same entries give the same bytes, whatever the machine, the user and the number of threads.
//! - Nothing is read or written outside the directories that were given, whatever a layer says.

pub mod apply;
mod async_decompress;
pub mod compress;
pub mod copy;
pub mod decompress;
pub mod diff;
pub mod entry;
mod file_time;
mod files;
mod hardlinks;
pub mod index;
mod index_format;
mod lower_layers;
mod owner;
pub mod passwd;
mod prune;
pub mod reader;
mod times;
mod tree;
pub mod writer;

pub use apply::{Applied, ApplyOptions, ApplyStyle, DevicePolicy, OwnerPolicy, apply};
pub use async_decompress::AsyncDecompressor;
pub use compress::{CompressOptions, CompressedLayer, LayerCompressor};
pub use decompress::{ArchiveFormat, Decompressor, ReadAhead, VerifiedLayer};
pub use diff::{DiffOptions, diff_overlay, diff_trees};
pub use entry::{Entry, EntryKind, LayerPath, MAX_NAME};
pub use file_time::FileTime;
pub use index::{LayerIndex, LayerIndexBuilder};
pub(crate) use owner::{BEYOND, OWNER_ATTRIBUTE, format_owner, parse_owner};
pub use reader::{LayerReader, scan};
pub use times::{EntryTimes, TimesTable};
pub use tree::{Node, TreeIndex};
pub use writer::LayerWriter;

#[cfg(test)]
mod tests;
