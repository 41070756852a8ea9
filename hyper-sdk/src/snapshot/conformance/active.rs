//! Cases about trees that a step may write to.

use super::kit::*;
use crate::layer::LayerWriter;
use crate::sandbox::RootFs;
use crate::snapshot::{Active, SharedSnapshotter};
use crate::{Digest, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

const BASE: &[(&str, &str)] = &[("d/", ""), ("d/f", "old"), ("g", "old")];

pub async fn an_unchanged_tree_has_no_difference(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    assert_eq!(active.parent(), Some(&chain("a")));
    assert!(changes(&snapshots, &*active).await.is_empty());
    snapshots.abandon(active).await.unwrap();
}

pub async fn written_files_are_the_difference(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    write(&*active, "new/deep/file", "content");
    write(&*active, "g", "changed");
    let tar = read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap();
    let entries = entries(&tar);
    let paths: Vec<&str> = entries.keys().map(String::as_str).filter(|path| !path.is_empty()).collect();
    assert_eq!(paths, ["g", "new", "new/deep", "new/deep/file"]);
    assert_eq!(
        (entries["g"].1.as_slice(), entries["new/deep/file"].1.as_slice()),
        (&b"changed"[..], &b"content"[..])
    );
    // A second diff is the same.
    assert_eq!(read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap(), tar);
    snapshots.abandon(active).await.unwrap();
}

pub async fn a_difference_unpacks_to_the_committed_tree(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    write(&*active, "new/file", "content");
    write(&*active, "d/f", "changed");
    let tar = read_all(snapshots.diff(&*active).await.unwrap()).await.unwrap();
    snapshots.commit(active, &chain("b")).await.unwrap();
    try_apply(&snapshots, Some("a"), "c", tar).await.unwrap();
    assert_eq!(export(&snapshots, &chain("b")).await, export(&snapshots, &chain("c")).await);
}

pub async fn a_tree_may_begin_with_nothing(snapshots: SharedSnapshotter) {
    let active = snapshots.prepare(None).await.unwrap();
    assert_eq!(active.parent(), None);
    write(&*active, "f", "first");
    assert_eq!(changes(&snapshots, &*active).await, ["f"]);
    snapshots.commit(active, &chain("a")).await.unwrap();
    assert_eq!(paths(&snapshots, "a").await, ["f"]);
}

pub async fn a_commit_can_be_read(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    write(&*active, "g", "new");
    assert!(!snapshots.has(&chain("b")).await.unwrap());
    snapshots.commit(active, &chain("b")).await.unwrap();
    assert!(snapshots.has(&chain("b")).await.unwrap());
    assert_eq!(read(&snapshots, "b", "/g").await.as_deref(), Some("new"));
    assert_eq!(
        read(&snapshots, "b", "/d/f").await.as_deref(),
        Some("old"),
        "files of the parent are visible"
    );
    // The commit can be a parent.
    apply(&snapshots, Some("b"), "c", &[("h", "x")]).await;
    assert_eq!(paths(&snapshots, "c").await, ["d", "d/f", "g", "h"]);
}

pub async fn a_commit_leaves_its_parent_alone(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let before = export(&snapshots, &chain("a")).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    write(&*active, "d/f", "new");
    snapshots.commit(active, &chain("b")).await.unwrap();
    assert_eq!(export(&snapshots, &chain("a")).await, before);
}

pub async fn a_second_commit_keeps_the_first(snapshots: SharedSnapshotter) {
    for content in ["first", "second"] {
        let active = snapshots.prepare(None).await.unwrap();
        write(&*active, "f", content);
        snapshots.commit(active, &chain("a")).await.unwrap();
    }
    assert_eq!(read(&snapshots, "a", "/f").await.as_deref(), Some("first"));
    assert_eq!(snapshots.list().await.unwrap().len(), 1);
}

pub async fn an_abandoned_tree_is_removed(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    write(&*active, "f", "x");
    let place = place(&*active, "f");
    snapshots.abandon(active).await.unwrap();
    assert!(!place.exists(), "its files are removed");
    assert_eq!(snapshots.list().await.unwrap().len(), 1);
}

pub async fn a_dropped_tree_is_removed(snapshots: SharedSnapshotter) {
    let active = snapshots.prepare(None).await.unwrap();
    write(&*active, "f", "x");
    let place = place(&*active, "f");
    drop(active);
    assert!(snapshots.list().await.unwrap().is_empty());
    // Its files are removed in the background.
    let gone = async {
        while place.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .expect("the files of a dropped tree are removed");
}

/// A tree that no snapshotter has prepared.
#[derive(Debug)]
struct Foreign(RootFs, #[allow(dead_code, reason = "it keeps the folder")] tempfile::TempDir);

impl Active for Foreign {
    fn rootfs(&self) -> &RootFs {
        &self.0
    }

    fn parent(&self) -> Option<&Digest> {
        None
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

fn foreign() -> Box<Foreign> {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().to_owned();
    Box::new(Foreign(RootFs::Folder { path, writable: true }, folder))
}

pub async fn a_foreign_tree_is_refused(snapshots: SharedSnapshotter) {
    fails(snapshots.diff(&*foreign()).await.map(drop), &[ErrorKind::Invalid]);
    fails(snapshots.commit(foreign(), &chain("a")).await, &[ErrorKind::Invalid]);
    assert!(!snapshots.has(&chain("a")).await.unwrap());
    // A tree of another snapshotter would be removed with its owner.
    fails(snapshots.abandon(foreign()).await, &[ErrorKind::Invalid]);
}

pub async fn trees_of_one_parent_do_not_mix(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let a = chain("a");
    let trees = futures::future::try_join_all((0..4).map(|_| snapshots.prepare(Some(&a)))).await.unwrap();
    for (number, tree) in trees.iter().enumerate() {
        write(&**tree, "own", &number.to_string());
        write(&**tree, &format!("file{number}"), "x");
    }
    let commits = trees.into_iter().enumerate().map(|(number, tree)| {
        let snapshots = snapshots.clone();
        async move {
            assert_eq!(changes(&snapshots, &*tree).await, [format!("file{number}"), "own".to_owned()]);
            snapshots.commit(tree, &chain(&format!("tree {number}"))).await.unwrap();
        }
    });
    futures::future::join_all(commits).await;
    for number in 0..4 {
        let name = format!("tree {number}");
        assert_eq!(read(&snapshots, &name, "/own").await, Some(number.to_string()));
    }
}

/// The layer of a difference with times of at most 5, and the file of its index.
async fn published(snapshots: &SharedSnapshotter, active: &dyn Active) -> (Vec<u8>, tempfile::NamedTempFile) {
    let mut writer = LayerWriter::new(Vec::new(), Some(5));
    let exact = read_all(snapshots.diff(active).await.unwrap()).await.unwrap();
    writer.append_all(&exact[..]).unwrap();
    let (tar, index) = writer.finish().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), index.to_bytes()).unwrap();
    (tar, file)
}

pub async fn a_layer_is_packed_as_it_was(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", BASE).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    write(&*active, "new/deep/file", "content");
    write(&*active, "g", "changed");
    let (tar, index) = published(&snapshots, &*active).await;
    snapshots.commit(active, &chain("b")).await.unwrap();
    let packed = snapshots.pack(&chain("b"), index.path()).await.unwrap();
    assert_eq!(read_all(packed).await.unwrap(), tar);
    // The same files, unpacked.
    try_apply(&snapshots, Some("a"), "c", tar.clone()).await.unwrap();
    let packed = snapshots.pack(&chain("c"), index.path()).await.unwrap();
    assert_eq!(read_all(packed).await.unwrap(), tar);
}

pub async fn a_layer_of_other_files_is_not_packed(snapshots: SharedSnapshotter) {
    let active = snapshots.prepare(None).await.unwrap();
    write(&*active, "f", "first");
    let (_, index) = published(&snapshots, &*active).await;
    snapshots.commit(active, &chain("a")).await.unwrap();
    apply(&snapshots, None, "b", &[("f", "other")]).await;
    let read = match snapshots.pack(&chain("b"), index.path()).await {
        Ok(tar) => read_all(tar).await.is_ok(),
        Err(_) => false,
    };
    assert!(!read, "other files were packed");
    let missing = snapshots.pack(&chain("none"), index.path()).await.map(drop);
    fails(missing, &[ErrorKind::NotFound]);
}
