//! Helpers of the cases.

use crate::layer::{Entry, EntryKind, LayerPath, LayerReader, LayerWriter};
use crate::sandbox::RootFs;
use crate::snapshot::{Active, SharedSnapshotter, TarStream, UnpackOptions};
use crate::testing::{TestContent, TestFile, TestTree};
use crate::{Digest, ErrorKind, Result};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

pub(super) fn chain(text: &str) -> Digest {
    Digest::sha256(text)
}

#[track_caller]
pub(super) fn fails<T: Debug>(result: Result<T>, kinds: &[ErrorKind]) {
    let error = result.unwrap_err();
    assert!(kinds.contains(&error.kind()), "the error is {error:?}, expected one of {kinds:?}");
}

/// A layer of files that belong to root. A path that ends with `/` is a folder (`!opaque` makes it opaque). Content
/// that begins with `->` is a link. The content `-` makes a whiteout.
pub(super) fn layer(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), None);
    let mut sorted: Vec<(Entry, &str)> = Vec::new();
    for (name, content) in entries {
        let path = LayerPath::from_archive(name.as_bytes()).unwrap();
        let link = content.strip_prefix("->").map(|target| target.as_bytes().to_vec());
        let mut entry = match (*content, link) {
            ("!opaque", _) => Entry::new(path, EntryKind::OpaqueWhiteout, 0),
            ("-", _) => Entry::whiteout(path),
            (_, Some(target)) => Entry::new(path, EntryKind::Symlink { target }, 0o777),
            _ if name.ends_with('/') => Entry::directory(path, 0o755),
            _ => Entry::file(path, content.len() as u64, 0o644),
        };
        entry.mtime = 1_000_000_000;
        sorted.push((entry, content));
    }
    sorted.sort_by(|a, b| a.0.layer_order(&b.0));
    for (entry, content) in sorted {
        writer.append(&entry, Some(&mut content.as_bytes())).unwrap();
    }
    writer.finish().unwrap().0
}

pub(super) fn reader(tar: impl Into<Vec<u8>>) -> Box<dyn Read + Send> {
    Box::new(Cursor::new(tar.into()))
}

pub(super) async fn try_apply(
    snapshots: &SharedSnapshotter,
    parent: Option<&str>,
    name: &str,
    tar: impl Into<Vec<u8>>,
) -> Result<()> {
    let parent = parent.map(chain);
    snapshots.apply(parent.as_ref(), &chain(name), UnpackOptions::default(), reader(tar)).await
}

pub(super) async fn apply(
    snapshots: &SharedSnapshotter,
    parent: Option<&str>,
    name: &str,
    entries: &[(&str, &str)],
) {
    try_apply(snapshots, parent, name, layer(entries)).await.unwrap();
}

/// The content of a file of a chain.
pub(super) async fn read(snapshots: &SharedSnapshotter, name: &str, path: &str) -> Option<String> {
    let bytes = snapshots.read_file(Some(&chain(name)), path, 1 << 20).await.unwrap();
    bytes.map(|bytes| String::from_utf8(bytes).unwrap())
}

pub(super) async fn read_all(mut tar: TarStream) -> std::io::Result<Vec<u8>> {
    let work = move || {
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes).map(|_| bytes)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The entries of a tar by path; the root has the empty path.
pub(super) fn entries(tar: &[u8]) -> BTreeMap<String, (Entry, Vec<u8>)> {
    let mut reader = LayerReader::new(tar);
    let mut all = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut bytes = Vec::new();
        if matches!(entry.kind, EntryKind::File { .. }) {
            reader.read_to_end(&mut bytes).unwrap();
        }
        all.insert(String::from_utf8(entry.path.as_bytes().to_vec()).unwrap(), (entry, bytes));
    }
    all
}

/// The whole tree of a chain.
pub(super) async fn export(
    snapshots: &SharedSnapshotter,
    name: &Digest,
) -> BTreeMap<String, (Entry, Vec<u8>)> {
    let tar = snapshots.export(Some(name), "/", Default::default()).await.unwrap();
    entries(&read_all(tar).await.unwrap())
}

/// The paths of a chain without the root.
pub(super) async fn paths(snapshots: &SharedSnapshotter, name: &str) -> Vec<String> {
    export(snapshots, &chain(name)).await.into_keys().filter(|path| !path.is_empty()).collect()
}

/// The paths of the difference of a tree without the root.
pub(super) async fn changes(snapshots: &SharedSnapshotter, active: &dyn Active) -> Vec<String> {
    let tar = read_all(snapshots.diff(active).await.unwrap()).await.unwrap();
    entries(&tar).into_keys().filter(|path| !path.is_empty()).collect()
}

/// The expected files of an image as lines, to be compared with [`found`]. Owners are compared only when the tests run
/// as root.
pub(super) fn expected(tree: &TestTree) -> BTreeMap<String, String> {
    tree.iter().map(|(path, file)| (path.clone(), line(file))).collect()
}

pub(super) fn found(entries: &BTreeMap<String, (Entry, Vec<u8>)>) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (path, (entry, bytes)) in entries.iter().filter(|(path, _)| !path.is_empty()) {
        let content = match &entry.kind {
            EntryKind::File { .. } => TestContent::File(bytes.clone().into()),
            EntryKind::Directory => TestContent::Folder,
            EntryKind::Symlink { target } => TestContent::Link(String::from_utf8(target.clone()).unwrap()),
            EntryKind::Hardlink { target } => {
                let target = String::from_utf8(target.as_bytes().to_vec()).unwrap();
                TestContent::File(entries[&target].1.clone().into())
            }
            other => panic!("{path} is a {}", other.name()),
        };
        let (mode, uid, gid) = (entry.mode, entry.uid, entry.gid);
        let file = TestFile { content, mode, uid, gid, mtime: entry.mtime as u64 };
        lines.insert(path.clone(), line(&file));
    }
    lines
}

fn line(file: &TestFile) -> String {
    let mut file = file.clone();
    if file.content == TestContent::Folder {
        // Writing below changes the time of a directory.
        file.mtime = 0;
    }
    if !rustix::process::geteuid().is_root() {
        (file.uid, file.gid) = (0, 0);
    }
    file.summary()
}

/// The host path where a step would write a file of a tree.
pub(super) fn place(active: &dyn Active, path: &str) -> PathBuf {
    let top: &Path = match active.rootfs() {
        RootFs::Overlay { upper: Some((upper, _)), .. } => upper,
        RootFs::Folder { path, writable: true } => path,
        other => panic!("a step cannot write to {other:?}"),
    };
    top.join(path)
}

/// Writes a file of a tree as a step would.
pub(super) fn write(active: &dyn Active, path: &str, content: &str) {
    let place = place(active, path);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(place, content).unwrap();
}

/// The content of a file in the folders of a read-only tree.
pub(super) fn shown(rootfs: &RootFs, path: &str) -> Option<String> {
    let folders = match rootfs {
        RootFs::Overlay { lowers, upper: None } => lowers.clone(),
        RootFs::Folder { path, writable: false } => vec![path.clone()],
        other => panic!("the view can be written to: {other:?}"),
    };
    folders.iter().find_map(|folder| std::fs::read_to_string(folder.join(path)).ok())
}
