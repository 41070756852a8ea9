//! Cases about reading and removing committed snapshots.

use super::kit::*;
use crate::ErrorKind;
use crate::sandbox::RootFs;
use crate::snapshot::SharedSnapshotter;
use crate::testing::RandomImage;

pub async fn a_view_shows_the_files(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "a"), ("g", "a")]).await;
    apply(&snapshots, Some("a"), "b", &[("f", "b")]).await;
    for (name, expected) in [("a", "a"), ("b", "b")] {
        let view = snapshots.view(Some(&chain(name))).await.unwrap();
        assert_eq!(shown(&view, "f").as_deref(), Some(expected));
        assert_eq!(shown(&view, "g").as_deref(), Some("a"));
    }
}

pub async fn a_view_of_nothing_is_empty(snapshots: SharedSnapshotter) {
    match snapshots.view(None).await.unwrap() {
        RootFs::Overlay { lowers, upper: None } => {
            assert!(lowers.iter().all(|folder| std::fs::read_dir(folder).unwrap().next().is_none()));
        }
        RootFs::Folder { path, writable: false } => {
            assert!(std::fs::read_dir(path).unwrap().next().is_none())
        }
        other => panic!("the view can be written to: {other:?}"),
    }
    assert_eq!(snapshots.read_file(None, "/f", 10).await.unwrap(), None);
}

pub async fn a_file_is_read_within_its_tree(snapshots: SharedSnapshotter) {
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "of the host").unwrap();
    let out = format!("->{}", outside.path().display());
    let up = format!("->../../../../../../..{}", outside.path().display());
    apply(
        &snapshots,
        None,
        "a",
        &[
            ("d/", ""),
            ("d/f", "content"),
            ("absolute", "->/d/f"),
            ("relative", "->d/f"),
            ("folder", "->d"),
            ("above", "->../../d/f"),
            ("out", &out),
            ("up", &up),
            ("loop", "->loop"),
        ],
    )
    .await;
    for path in ["/absolute", "/relative", "/folder/f", "/above", "/../../d/f"] {
        assert_eq!(read(&snapshots, "a", path).await.as_deref(), Some("content"), "{path}");
    }
    let host = outside.path().display().to_string();
    for path in ["/out", "/up", "/loop", &host, &format!("/../../../..{host}")] {
        assert_eq!(read(&snapshots, "a", path).await, None, "{path}");
    }
}

pub async fn only_regular_files_are_read(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("f", "x")]).await;
    for path in ["/", "/d", "/f/below", "/none"] {
        assert_eq!(read(&snapshots, "a", path).await, None, "{path}");
    }
}

pub async fn a_large_file_is_refused(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "12345")]).await;
    let name = chain("a");
    for limit in [5, 6, 1 << 40] {
        assert_eq!(
            snapshots.read_file(Some(&name), "/f", limit).await.unwrap().as_deref(),
            Some(&b"12345"[..])
        );
    }
    for limit in [0, 4] {
        fails(snapshots.read_file(Some(&name), "/f", limit).await, &[ErrorKind::TooLarge]);
    }
}

pub async fn an_export_is_the_whole_tree(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/f", "x"), ("l", "->d/f")]).await;
    apply(&snapshots, Some("a"), "b", &[("d/f", "-"), ("g", "y")]).await;
    let tree = export(&snapshots, &chain("b")).await;
    let lines: Vec<String> = tree
        .iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, (e, _))| format!("{path} {}", e.kind.name()))
        .collect();
    assert_eq!(lines, ["d directory", "g file", "l symlink"]);
    assert!(tree.values().all(|(entry, _)| entry.nanoseconds == 0), "in whole seconds");
    assert_eq!((tree["g"].0.mode, tree["g"].0.mtime), (0o644, 1_000_000_000));
}

pub async fn an_export_of_a_folder_is_below_it(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("d/", ""), ("d/e/", ""), ("d/e/f", "x"), ("g", "y")]).await;
    for path in ["/d", "d", "/d/"] {
        let tar = snapshots.export(Some(&chain("a")), path, Default::default()).await.unwrap();
        let paths: Vec<String> =
            entries(&read_all(tar).await.unwrap()).into_keys().filter(|path| !path.is_empty()).collect();
        assert_eq!(paths, ["e", "e/f"], "{path}");
    }
}

pub async fn an_export_of_a_missing_path_fails(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "x")]).await;
    for path in ["/none", "/f"] {
        // The error comes at once or at the end of the stream; the tar never looks complete.
        let failed = match snapshots.export(Some(&chain("a")), path, Default::default()).await {
            Ok(tar) => read_all(tar).await.is_err(),
            Err(_) => true,
        };
        assert!(failed, "{path}");
    }
}

pub async fn an_export_unpacks_as_the_same_tree(snapshots: SharedSnapshotter) {
    let image = RandomImage::new(42);
    let mut below: Option<String> = None;
    for (number, layer) in image.layers.iter().enumerate() {
        let name = format!("layer {number}");
        try_apply(&snapshots, below.as_deref(), &name, layer.tar.to_vec()).await.unwrap();
        below = Some(name);
    }
    let top = chain(&below.unwrap());
    let tar = snapshots.export(Some(&top), "/", Default::default()).await.unwrap();
    let tar = read_all(tar).await.unwrap();
    try_apply(&snapshots, None, "again", tar).await.unwrap();
    assert_eq!(found(&export(&snapshots, &chain("again")).await), found(&export(&snapshots, &top).await));
}

pub async fn every_chain_is_listed_with_its_parent(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "x")]).await;
    apply(&snapshots, Some("a"), "b", &[("g", "x")]).await;
    let active = snapshots.prepare(Some(&chain("b"))).await.unwrap();
    snapshots.commit(active, &chain("c")).await.unwrap();
    let mut list: Vec<_> =
        snapshots.list().await.unwrap().into_iter().map(|info| (info.chain, info.parent)).collect();
    let mut expected =
        vec![(chain("a"), None), (chain("b"), Some(chain("a"))), (chain("c"), Some(chain("b")))];
    list.sort();
    expected.sort();
    assert_eq!(list, expected);
}

pub async fn a_chain_is_removed(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "x")]).await;
    apply(&snapshots, None, "b", &[("f", "y")]).await;
    assert_eq!(snapshots.remove(&[chain("a")]).await.unwrap(), [chain("a")]);
    assert!(!snapshots.has(&chain("a")).await.unwrap());
    assert_eq!(read(&snapshots, "b", "/f").await.as_deref(), Some("y"));
    assert_eq!(snapshots.list().await.unwrap().len(), 1);
    apply(&snapshots, None, "a", &[("f", "new")]).await;
    assert_eq!(read(&snapshots, "a", "/f").await.as_deref(), Some("new"));
}

/// Who lists takes nothing for a leftover that is being removed.
pub async fn chains_are_removed_while_others_list(snapshots: SharedSnapshotter) {
    let names: Vec<String> = (0..24).map(|number| format!("listed {number}")).collect();
    for name in &names {
        apply(&snapshots, None, name, &[("a", "a")]).await;
    }
    let lister = snapshots.clone();
    let listing = tokio::spawn(async move {
        while !lister.list().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    });
    for name in &names {
        assert_eq!(snapshots.remove(&[chain(name)]).await.unwrap(), [chain(name)]);
    }
    listing.await.unwrap();
}

pub async fn a_parent_is_removed_after_its_children(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "x")]).await;
    apply(&snapshots, Some("a"), "b", &[("g", "y")]).await;
    apply(&snapshots, Some("b"), "c", &[("h", "z")]).await;
    assert!(snapshots.remove(&[chain("a")]).await.unwrap().is_empty(), "it is a parent");
    assert_eq!(read(&snapshots, "c", "/f").await.as_deref(), Some("x"));
    let mut removed = snapshots.remove(&[chain("b"), chain("c")]).await.unwrap();
    let mut expected = [chain("b"), chain("c")];
    removed.sort();
    expected.sort();
    assert_eq!(removed, expected, "a parent is removed after its last child");
    assert_eq!(read(&snapshots, "a", "/f").await.as_deref(), Some("x"));
}

pub async fn removing_an_unknown_chain_is_not_an_error(snapshots: SharedSnapshotter) {
    assert!(snapshots.remove(&[chain("unknown")]).await.unwrap().is_empty());
    assert!(snapshots.remove(&[]).await.unwrap().is_empty());
}

pub async fn a_tree_in_use_keeps_its_chain(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "x")]).await;
    let active = snapshots.prepare(Some(&chain("a"))).await.unwrap();
    match snapshots.remove(&[chain("a")]).await {
        Ok(removed) => assert!(removed.is_empty(), "a step works on it"),
        Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{e:?}"),
    }
    assert_eq!(read(&snapshots, "a", "/f").await.as_deref(), Some("x"));
    snapshots.abandon(active).await.unwrap();
    assert_eq!(snapshots.remove(&[chain("a")]).await.unwrap(), [chain("a")]);
}

pub async fn many_layers_are_unpacked_at_once(snapshots: SharedSnapshotter) {
    apply(&snapshots, None, "base", &[("f", "base")]).await;
    let tasks = (0..8).map(|number| {
        let snapshots = snapshots.clone();
        tokio::spawn(async move {
            let name = format!("layer {number}");
            let content = "x".repeat(number * 10_000);
            apply(&snapshots, Some("base"), &name, &[("own", &content)]).await;
            let active = snapshots.prepare(Some(&chain(&name))).await.unwrap();
            write(&*active, "made", &name);
            snapshots.commit(active, &chain(&format!("top {number}"))).await.unwrap();
            let top = format!("top {number}");
            assert_eq!(read(&snapshots, &top, "/made").await, Some(name));
            assert_eq!(read(&snapshots, &top, "/own").await, Some(content));
        })
    });
    futures::future::join_all(tasks).await.into_iter().for_each(|task| task.unwrap());
    assert_eq!(snapshots.list().await.unwrap().len(), 17);
}

pub async fn a_snapshotter_has_a_name(snapshots: SharedSnapshotter) {
    assert!(!snapshots.to_string().is_empty());
    assert_eq!(snapshots.capabilities(), snapshots.capabilities());
    assert!(snapshots.capabilities().max_depth > 1);
}

pub async fn a_snapshot_exists_after_reopening(snapshots: SharedSnapshotter, other: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "x")]).await;
    apply(&snapshots, Some("a"), "b", &[("g", "y")]).await;
    drop(snapshots);
    assert!(other.has(&chain("b")).await.unwrap());
    assert_eq!(paths(&other, "b").await, ["f", "g"]);
    assert_eq!(other.list().await.unwrap().len(), 2);
}

pub async fn two_handles_see_the_same_snapshots(snapshots: SharedSnapshotter, other: SharedSnapshotter) {
    apply(&snapshots, None, "a", &[("f", "one")]).await;
    apply(&other, None, "a", &[("f", "two")]).await;
    apply(&other, Some("a"), "b", &[("g", "y")]).await;
    for handle in [&snapshots, &other] {
        assert_eq!(read(handle, "b", "/f").await.as_deref(), Some("one"));
        assert_eq!(handle.list().await.unwrap().len(), 2);
    }
    let active = snapshots.prepare(Some(&chain("b"))).await.unwrap();
    let at_once = other.prepare(Some(&chain("b"))).await.unwrap();
    write(&*active, "own", "snapshots");
    write(&*at_once, "own", "other");
    snapshots.commit(active, &chain("c")).await.unwrap();
    other.commit(at_once, &chain("d")).await.unwrap();
    assert_eq!(read(&other, "c", "/own").await.as_deref(), Some("snapshots"));
    assert_eq!(read(&snapshots, "d", "/own").await.as_deref(), Some("other"));
}
