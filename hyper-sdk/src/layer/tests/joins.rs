//! Tests of joined layers: an overlay shows the same with them as without them.

use super::overlay::Layers;
use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The tree that the kernel shows, with everything that a directory lists; `None` where overlays cannot be mounted.
fn shown_by_kernel(layers: &[PathBuf]) -> Option<LayerIndex> {
    let folder = tempfile::tempdir().unwrap();
    let [empty, other, merged] = ["empty", "other", "merged"].map(|name| folder.path().join(name));
    for directory in [&empty, &other, &merged] {
        std::fs::create_dir(directory).unwrap();
    }
    let mut lowers: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
    // The kernel needs two layers, and the metadata of the root is that of the first.
    lowers.extend([empty, other].map(|layer| layer.display().to_string()));
    let data = std::ffi::CString::new(format!("lowerdir={},userxattr", lowers.join(":"))).unwrap();
    if let Err(e) = mount("overlay", &merged, "overlay", MountFlags::RDONLY, data.as_c_str()) {
        println!("SKIPPED: overlay cannot be mounted here ({e})");
        return None;
    }
    let (_, index) = tree_of(&merged);
    unmount(&merged, UnmountFlags::DETACH).unwrap();
    Some(index)
}

/// The layers with those from `from` to `to` (topmost first) joined.
fn joined(layers: &[PathBuf], from: usize, to: usize, target: &Path) -> Vec<PathBuf> {
    std::fs::create_dir(target).unwrap();
    assert_eq!(join::join(&layers[from..to], &layers[to..], target, usize::MAX).unwrap(), None);
    [&layers[..from], &[target.to_owned()], &layers[to..]].concat()
}

fn sorted(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut sorted = entries.to_vec();
    sorted.sort_by(|a, b| a.0.layer_order(&b.0));
    write_layer(&sorted).0
}

#[test]
fn whiteouts_and_opaque_marks_are_kept_only_where_lower_layers_have_something() {
    let mut layers = Layers::new();
    layers.push(&sorted(&[
        dir("d"),
        file("d/lower", "1"),
        dir("e"),
        file("e/lower", "2"),
        file("f", "3"),
        dir("plain"),
        file("plain/x", "4"),
    ]));
    layers.push(&sorted(&[
        dir("d"),
        file("d/middle", "5"),
        file("own", "6"),
        dir("dir"),
        file("dir/g", "7"),
    ]));
    layers.push(&sorted(&[whiteout("e"), whiteout("f"), whiteout("own"), dir("dir"), whiteout("dir/g")]));
    layers.push(&sorted(&[dir("d"), opaque("d"), file("d/upper", "8"), dir("e"), file("e/upper", "9")]));
    layers.push(&sorted(&[file("plain", "a file")]));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("join");
    let list = joined(&layers.directories, 0, 4, &target);
    assert_eq!(list.len(), 2);
    let kinds: Vec<_> = files::names(files::open_top(&target).unwrap()).unwrap();
    assert_eq!(kinds, [&b"d"[..], b"dir", b"e", b"f", b"plain"]);
    let is_whiteout = |name: &str| files::is_whiteout(&rustix::fs::lstat(target.join(name)).unwrap());
    assert!(is_whiteout("f") && !target.join("dir/g").exists());
    let opaque = |name: &str| {
        files::is_opaque(std::os::fd::AsFd::as_fd(&files::open_top(&target.join(name)).unwrap())).unwrap()
    };
    assert!(opaque("d") && opaque("e") && !opaque("dir"));
    let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
    assert_eq!(inode(target.join("d/upper")), inode(layers.directories[1].join("d/upper")));
    if let Some(expected) = shown_by_kernel(&layers.directories) {
        assert_eq!(shown_by_kernel(&list).unwrap(), expected);
    }
}

#[test]
fn a_large_layer_is_named_and_nothing_is_made() {
    let mut layers = Layers::new();
    layers.push(&sorted(&[dir("a"), file("a/x", ""), file("a/y", ""), file("b", "")]));
    layers.push(&sorted(&[file("c", "")]));
    let folder = tempfile::tempdir().unwrap();
    let large = |limit| join::join(&layers.directories, &[], folder.path(), limit).unwrap();
    assert_eq!((large(3), large(0)), (Some(1), Some(0)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(large(4), None);
}

#[test]
fn links_within_a_layer_stay_links_and_times_and_modes_stay() {
    let mut layers = Layers::new();
    let mut first = file("d/first", "content");
    (first.0.mode, first.0.mtime) = (0o4711, 1_000_000);
    let second = other("d/second", EntryKind::Hardlink { target: path("d/first") }, 0o4711);
    let mut directory = dir("d");
    (directory.0.mode, directory.0.mtime) = (0o1750, 2_000_000);
    layers.push(&sorted(&[file("base", "")]));
    layers.push(&sorted(&[directory, first, second, symlink("d/link", "first")]));
    layers.push(&sorted(&[file("other", "")]));
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("join");
    joined(&layers.directories, 0, 2, &target);
    let status = |name: &str| std::fs::symlink_metadata(target.join(name)).unwrap();
    assert_eq!(status("d/first").ino(), status("d/second").ino());
    assert_eq!((status("d/first").mode() & 0o7777, status("d/first").mtime()), (0o4711, 1_000_000));
    assert_eq!((status("d").mode() & 0o7777, status("d").mtime()), (0o1750, 2_000_000));
    assert_eq!(std::fs::read_link(target.join("d/link")).unwrap(), PathBuf::from("first"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_overlay_shows_the_same_with_any_layers_joined(
        // A whiteout in the lowest layer is listed by the kernel, but cannot be looked up.
        lowest in layers(false),
        others in proptest::collection::vec(layers(true), 1..5),
        ends in (0..6_usize, 0..6_usize, 0..6_usize),
    ) {
        let mut layers = Layers::new();
        let all = [vec![lowest], others].concat();
        for entries in &all {
            layers.push(&write_layer(entries).0);
        }
        let count = layers.directories.len();
        let (from, to) = (ends.0 % count, 1 + ends.1 % count);
        let (from, to) = (from.min(to - 1), to);
        let folder = tempfile::tempdir().unwrap();
        let once = joined(&layers.directories, from, to, &folder.path().join("once"));
        // A join of joins.
        let twice = joined(&once, ends.2 % once.len(), once.len(), &folder.path().join("twice"));
        for list in [&once, &twice] {
            let before = files::Lowers::open(&layers.directories).unwrap();
            let after = files::Lowers::open(list).unwrap();
            for path in all.iter().flatten().map(|(entry, _)| &entry.path) {
                let look = |lowers: &files::Lowers| {
                    let node = lowers.find(path).unwrap();
                    node.map(|n| (n.stat.st_mode, n.stat.st_mtime, n.stat.st_size * i64::from(n.stat.st_mode & 0o40000 == 0)))
                };
                prop_assert_eq!(look(&before), look(&after), "{}", path);
            }
        }
        if let Some(expected) = shown_by_kernel(&layers.directories) {
            for list in [&once, &twice] {
                prop_assert_eq!(shown_by_kernel(list).unwrap(), expected.clone());
            }
        }
    }
}
