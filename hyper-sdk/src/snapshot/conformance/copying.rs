//! Cases about copies: layers of files from trees and from the host.

use super::kit::{apply, chain, entries, fails, layer, read_all};
use crate::layer::copy::{CopyRequest, CopySpec, CopyStep};
use crate::layer::{Entry, EntryKind, scan};
use crate::sandbox::RootFs;
use crate::snapshot::SharedSnapshotter;
use crate::{ErrorKind, Result};
use std::collections::BTreeMap;

type Files = BTreeMap<String, (Entry, Vec<u8>)>;

fn take(source: usize, from: &str, to: &str) -> CopyStep {
    CopyStep::Copy { source, spec: CopySpec::new([from], to) }
}

async fn try_copy(snapshots: &SharedSnapshotter, sources: Vec<RootFs>, plan: CopyRequest) -> Result<Files> {
    let tar = snapshots.copy(sources, plan).await?;
    Ok(entries(&read_all(tar).await?))
}

async fn copy(snapshots: &SharedSnapshotter, sources: Vec<RootFs>, steps: Vec<CopyStep>) -> Files {
    try_copy(snapshots, sources, CopyRequest { steps, ..CopyRequest::default() }).await.unwrap()
}

fn text<'a>(files: &'a Files, path: &str) -> Option<&'a str> {
    files.get(path).map(|(_, bytes)| std::str::from_utf8(bytes).unwrap())
}

pub async fn a_copy_takes_files_of_trees_and_of_the_host(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/one", "1"), ("d/two", "2"), ("own", "a")]).await;
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("own"), "host").unwrap();
    let tree = snapshots.view(Some(&chain("a"))).await.unwrap();
    let folder = RootFs::Folder { path: host.path().to_owned(), writable: false };
    let steps = vec![take(0, "/d", "/copied/"), take(0, "/own", "/of-a"), take(1, "own", "/of-host")];
    let files = copy(&snapshots, vec![tree, folder], steps).await;
    assert_eq!((text(&files, "copied/one"), text(&files, "copied/two")), (Some("1"), Some("2")));
    assert_eq!((text(&files, "of-a"), text(&files, "of-host")), (Some("a"), Some("host")));
    assert!(!files.contains_key("d") && !files.contains_key("own"), "{:?}", files.keys());
    assert_eq!(files["copied/one"].0.mtime, 1_000_000_000, "a file keeps its time");
}

pub async fn a_copy_sees_the_whole_of_a_tree(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/below", "a"), ("d/gone", "a"), ("d/both", "a")]).await;
    apply(&snapshots, Some("a"), "b", &[("d/", ""), ("d/gone", "-"), ("d/both", "b")]).await;
    let tree = snapshots.view(Some(&chain("b"))).await.unwrap();
    let files = copy(&snapshots, vec![tree], vec![take(0, "/d", "/")]).await;
    assert_eq!(
        (text(&files, "below"), text(&files, "both"), text(&files, "gone")),
        (Some("a"), Some("b"), None)
    );
}

pub async fn a_copy_follows_links_within_its_tree(snapshots: SharedSnapshotter) {
    apply(
        &snapshots,
        None,
        "a",
        &[("real/", ""), ("real/f", "inside"), ("link", "->/real"), ("l", "->/etc/passwd")],
    )
    .await;
    let tree = || async { vec![snapshots.view(Some(&chain("a"))).await.unwrap()] };
    let files = copy(&snapshots, tree().await, vec![take(0, "/link/f", "/f")]).await;
    assert_eq!(text(&files, "f"), Some("inside"));
    // The tree has no such file; the host does.
    let plan = CopyRequest { steps: vec![take(0, "/l", "/")], ..CopyRequest::default() };
    if let Ok(files) = try_copy(&snapshots, tree().await, plan).await {
        assert!(files.values().all(|(entry, _)| !matches!(entry.kind, EntryKind::File { .. })), "{files:?}");
    }
}

pub async fn a_copy_makes_folders_and_files(snapshots: SharedSnapshotter) {
    let spec = CopySpec::new([""; 0], "/made/note");
    let steps = vec![
        CopyStep::MakeDirectory { path: "/made".to_owned(), mode: 0o750, owner: None },
        CopyStep::MakeFile { name: "note".to_owned(), content: "said".to_owned(), spec },
    ];
    let files = copy(&snapshots, Vec::new(), steps).await;
    assert_eq!((files["made"].0.mode, text(&files, "made/note")), (0o750, Some("said")));
    assert_eq!(files["made"].0.kind, EntryKind::Directory);
}

pub async fn a_copy_of_a_missing_path_is_not_found(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "a")]).await;
    let tree = snapshots.view(Some(&chain("a"))).await.unwrap();
    let plan = CopyRequest { steps: vec![take(0, "/missing", "/")], ..CopyRequest::default() };
    fails(try_copy(&snapshots, vec![tree], plan).await, &[ErrorKind::NotFound]);
}

pub async fn the_indexes_of_a_copy_describe_its_destination(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "a")]).await;
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("index");
    let below = layer(&[("d/", ""), ("link", "->/d"), ("plain", "x")]);
    std::fs::write(&index, scan(&below[..]).unwrap().to_bytes()).unwrap();
    let tree = snapshots.view(Some(&chain("a"))).await.unwrap();
    let plan = CopyRequest {
        steps: vec![take(0, "/f", "/d"), take(0, "/f", "/link/g"), take(0, "/f", "/plain")],
        destination: vec![index],
        ..CopyRequest::default()
    };
    let files = try_copy(&snapshots, vec![tree], plan).await.unwrap();
    assert_eq!(
        [text(&files, "d/f"), text(&files, "d/g"), text(&files, "plain")],
        [Some("a"); 3],
        "{:?}",
        files.keys()
    );
}
