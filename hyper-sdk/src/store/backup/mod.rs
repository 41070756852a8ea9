//! Backups of a registry, and what becomes of them: a restored store, or one that moved.
//!
//! ```text
//!   Portable ──rows of one moment──▶ snapshot file ──▶ begin_restore … add_bytes … finish_restore ──▶ Portable
//!      │                                                                 ▲
//!      └──bytes, while a hold keeps them──▶ BackupFolder ────────────────┘
//! ```
//!
//! A [`BackupFolder`] has many snapshots, of one registry or of several, and each blob once:
//!
//! ```text
//!   FOLDER/hyperregistry-backup      says that this is a backup, and of which version
//!   FOLDER/lock                      who writes holds it alone, who reads holds it with others
//!   FOLDER/snapshots/ID.jsonl        all metadata of one moment: see `snapshot_file`
//!   FOLDER/blobs/ALGORITHM/AB/HEX    the bytes of a blob
//!   FOLDER/damaged/ALGORITHM-HEX     bytes that a check found damaged; a backup that copies the blob again removes them
//!   FOLDER/tmp/                      what is not whole yet
//! ```
//!
//! # Invariants
//! - A snapshot gets its name when every blob that it needs is there, checked against its digest and on the disk.
//! - A blob gets its name in the same way; so one that is there with the right size is not copied again.
//! - Blobs are removed only when every snapshot in the folder can be read.
//! - The rows of a snapshot fit each other; what does not is left out and named when the snapshot is made.
//! - Ids are in the order in which the snapshots were made, whatever the clock says.
//! - No link within the folder is followed.

mod blob_file;
mod copies;
mod create;
mod fitting;
mod folder;
mod inspect;
mod lineage;
mod places;
mod remove;
mod restore;
mod snapshot_file;

pub use create::{BackupEvent, BackupObserver, CreateOptions, Created, create};
pub use folder::BackupFolder;
pub use inspect::{Checked, Fault, SnapshotInfo, check, list};
pub use lineage::newest;
pub use remove::{Removed, remove};
pub use restore::{RestoreOptions, Restored, migrate, restore};
pub use snapshot_file::{SnapshotHeader, SnapshotReader, SnapshotWriter};

#[cfg(test)]
mod tests;
