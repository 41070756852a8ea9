//! Tests of several parts together: round trips of archives and directories, and hostile archives.

mod archive;
mod hostile;
mod joins;
mod overlay;
mod unpack;

use super::*;
use crate::Digest;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Read;

pub(super) fn path(text: &str) -> LayerPath {
    LayerPath::new(text).unwrap()
}

/// Whether every owner can be set. The root of a user namespace with a single id cannot.
pub(super) fn is_root() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ids = map.split_whitespace().nth(2).and_then(|n| n.parse::<u64>().ok());
    rustix::process::geteuid().is_root() && ids.is_some_and(|n| n > 65_000)
}

/// Entries with the content of the files.
pub(super) type Contents = Vec<(Entry, Vec<u8>)>;

pub(super) fn write_layer(entries: &[(Entry, Vec<u8>)]) -> (Vec<u8>, LayerIndex) {
    let mut writer = LayerWriter::new(Vec::new(), None);
    for (entry, content) in entries {
        writer.append(entry, Some(&mut content.as_slice())).unwrap();
    }
    writer.finish().unwrap()
}

pub(super) fn read_layer(bytes: &[u8]) -> Contents {
    let mut reader = LayerReader::new(bytes);
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        out.push((entry, content));
    }
    out
}

pub(super) fn file(text: &str, content: &str) -> (Entry, Vec<u8>) {
    let mut entry = Entry::file(path(text), content.len() as u64, 0o644);
    own(&mut entry);
    (entry, content.into())
}

pub(super) fn other(text: &str, kind: EntryKind, mode: u32) -> (Entry, Vec<u8>) {
    let mut entry = Entry::new(path(text), kind, mode);
    if !entry.kind.is_whiteout() {
        own(&mut entry);
    }
    (entry, Vec::new())
}

pub(super) fn dir(text: &str) -> (Entry, Vec<u8>) {
    other(text, EntryKind::Directory, 0o755)
}

pub(super) fn whiteout(text: &str) -> (Entry, Vec<u8>) {
    other(text, EntryKind::Whiteout, 0)
}

pub(super) fn opaque(text: &str) -> (Entry, Vec<u8>) {
    other(text, EntryKind::OpaqueWhiteout, 0)
}

pub(super) fn symlink(text: &str, target: &str) -> (Entry, Vec<u8>) {
    other(text, EntryKind::Symlink { target: target.into() }, 0o777)
}

/// The files that an ordinary user unpacks belong to that user.
fn own(entry: &mut Entry) {
    if !is_root() {
        entry.uid = rustix::process::geteuid().as_raw();
        entry.gid = rustix::process::getegid().as_raw();
    }
}

/// The entries of the merged view; implied directories belong to the user who unpacks.
pub(super) fn shown(tree: &TreeIndex) -> Vec<Entry> {
    let mut entries: Vec<_> = tree.nodes().map(|n| n.entry.clone()).collect();
    entries.iter_mut().filter(|_| !is_root()).for_each(own);
    entries
}

pub(super) fn options(style: ApplyStyle, lowers: &[std::path::PathBuf]) -> ApplyOptions {
    let owners = if is_root() { OwnerPolicy::Keep } else { OwnerPolicy::Ignore };
    ApplyOptions { lowers: lowers.to_vec(), owners, ..ApplyOptions::new(style) }
}

/// The content of a directory as a layer without a parent.
pub(super) fn tree_of(directory: &std::path::Path) -> (Vec<u8>, LayerIndex) {
    let empty = tempfile::tempdir().unwrap();
    let mut writer = LayerWriter::new(Vec::new(), None);
    diff_trees(empty.path(), directory, &mut writer, &DiffOptions::default()).unwrap();
    writer.finish().unwrap()
}

/// Random layers with few names, so that entries collide; whiteouts and opaque marks only with `whiteouts`.
pub(super) fn layers(whiteouts: bool) -> impl Strategy<Value = Contents> {
    let name = prop_oneof![4 => "[ab]", 2 => "[ab]{2}", 1 => "a\\.b", 1 => "\u{e9}[ab]"];
    let path = proptest::collection::vec(name, 1..4).prop_map(|parts| path(&parts.join("/")));
    let content = prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..1500)];
    let one = (path, 0..20u8, content, 0..0o7777u32, 0..3i64, any::<bool>());
    proptest::collection::vec(one, 0..24).prop_map(move |items| {
        let mut contents = BTreeMap::new();
        let mut builder = crate::layer::index::LayerIndexBuilder::new();
        for (path, kind, content, mode, mtime, twice) in items {
            let (kind, content) = match kind {
                0..8 => (EntryKind::Directory, Vec::new()),
                8..14 => {
                    let digest = Some(Digest::sha256(&content));
                    (EntryKind::File { size: content.len() as u64, digest }, content)
                }
                14 | 15 => (EntryKind::Symlink { target: content_target(mode) }, Vec::new()),
                16 => (EntryKind::Fifo, Vec::new()),
                17 | 18 if whiteouts => (EntryKind::Whiteout, Vec::new()),
                _ if whiteouts => (EntryKind::OpaqueWhiteout, Vec::new()),
                _ => (EntryKind::Directory, Vec::new()),
            };
            let mut entry = Entry::new(path.clone(), kind, mode);
            entry.mtime = mtime * 100_000_000;
            own(&mut entry);
            if is_root() && twice {
                (entry.uid, entry.gid) = (1000, 50);
            }
            match entry.kind {
                EntryKind::Symlink { .. } => entry.mode = 0o777,
                EntryKind::Whiteout | EntryKind::OpaqueWhiteout => {
                    entry = Entry::new(path.clone(), entry.kind, 0);
                }
                // An ordinary user could not read files without read permission.
                _ => entry.mode |= 0o700,
            }
            if !entry.kind.is_whiteout() {
                contents.insert(path, content);
            }
            let _ = builder.add(entry);
        }
        let mut writer = LayerWriter::new(std::io::sink(), None);
        let mut kept = Vec::new();
        for entry in builder.finish().entries() {
            let content = if entry.kind.is_whiteout() { None } else { contents.get(&entry.path) };
            let content = if entry.size() > 0 { content.cloned().unwrap_or_default() } else { Vec::new() };
            if writer.append(entry, Some(&mut content.as_slice())).is_ok() {
                kept.push((entry.clone(), content));
            }
        }
        kept
    })
}

fn content_target(seed: u32) -> Vec<u8> {
    [&b"a"[..], b"../..", b"/etc", b"aa/b"][seed as usize % 4].to_vec()
}
