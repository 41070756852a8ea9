//! Tests that apply, diff and the merged view agree.

use super::*;
use crate::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

fn unpack(
    target: &std::path::Path,
    entries: &[(Entry, Vec<u8>)],
    style: ApplyStyle,
    lowers: &[PathBuf],
) -> crate::layer::apply::Applied {
    let (bytes, index) = write_layer(entries);
    let applied = apply::apply(&bytes[..], target, &options(style, lowers)).unwrap();
    assert_eq!(applied.index, index);
    applied
}

fn plain(entries: &[(Entry, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    unpack(folder.path(), entries, ApplyStyle::Plain, &[]);
    folder
}

/// The entries of the merged view, with hardlinks unresolved.
fn merged(layers: &[LayerIndex]) -> Vec<Entry> {
    let tree = TreeIndex::new(layers.iter().cloned().map(Arc::new).collect());
    shown(&tree)
}

#[test]
fn metadata_survives_in_the_right_order() {
    let mut setuid = file("bin/su", "x");
    setuid.0.mode = 0o4755;
    setuid.0.mtime = 1_000_000;
    let mut read_only = other("ro", EntryKind::Directory, 0o555);
    read_only.0.mtime = 2_000_000;
    let mut with_xattr = file("ro/f", "y");
    with_xattr.0.mode = 0o400;
    if is_root() {
        (setuid.0.uid, setuid.0.gid) = (12, 34);
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        with_xattr.0.uid = 77;
        with_xattr.0.xattrs.insert(b"security.capability".to_vec(), capability.to_vec());
    } else {
        println!("SKIPPED: owners and file capabilities, as this is not root");
    }
    let link = other("twin", EntryKind::Hardlink { target: path("bin/su") }, 0o4755);
    let entries = [dir("bin"), setuid.clone(), read_only, with_xattr.clone(), symlink("s", "/nowhere"), link];
    let folder = plain(&entries);
    let su = std::fs::metadata(folder.path().join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.mtime(), su.nlink()), (0o4755, 1_000_000, 2));
    assert_eq!((su.uid(), su.gid()), (setuid.0.uid, setuid.0.gid));
    let ro = std::fs::metadata(folder.path().join("ro")).unwrap();
    assert_eq!((ro.mode() & 0o7777, ro.mtime()), (0o555, 2_000_000));
    let (_, index) = tree_of(folder.path());
    assert_eq!(index.get(&path("ro/f")).unwrap().xattrs, with_xattr.0.xattrs);
    assert_eq!(index.get(&path("twin")).unwrap().kind, EntryKind::Hardlink { target: path("bin/su") });
    std::fs::set_permissions(folder.path().join("ro"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn devices_need_privilege_or_a_policy() {
    let entries = [other("null", EntryKind::CharDevice { major: 1, minor: 3 }, 0o666), file("z", "after")];
    let (bytes, _) = write_layer(&entries);
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(ApplyStyle::Plain, &[]);
    let result = apply::apply(&bytes[..], folder.path(), &options);
    if let Ok(applied) = &result {
        assert!(applied.skipped.is_empty());
        let (_, index) = tree_of(folder.path());
        assert_eq!(index.get(&path("null")).unwrap().kind, EntryKind::CharDevice { major: 1, minor: 3 });
        println!("SKIPPED: the policy for devices, as they can be made here");
        return;
    }
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Denied);
    options.devices = DevicePolicy::Skip;
    let applied = apply::apply(&bytes[..], folder.path(), &options).unwrap();
    assert_eq!(applied.skipped, [path("null")]);
    assert!(!folder.path().join("null").exists());
    assert!(applied.index.get(&path("null")).is_some());
}

#[test]
fn owners_that_cannot_be_set_are_an_error() {
    if is_root() {
        println!("SKIPPED: owners that cannot be set, as root sets them all");
        return;
    }
    let mut entry = file("f", "x");
    entry.0.uid = 4242;
    let (bytes, _) = write_layer(&[entry]);
    let folder = tempfile::tempdir().unwrap();
    let error = apply::apply(&bytes[..], folder.path(), &ApplyOptions::new(ApplyStyle::Plain)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("4242"), "{error}");
}

#[test]
fn a_whiteout_does_not_hide_its_own_layer() {
    for entries in
        [vec![dir("d"), opaque("d"), file("d/new", "n")], vec![whiteout("d"), dir("d"), file("d/new", "n")]]
    {
        let lower = [dir("d"), file("d/old", "o"), dir("d/sub"), file("d/sub/x", "x")];
        let folder = plain(&lower);
        unpack(folder.path(), &entries, ApplyStyle::Plain, &[]);
        let (_, index) = tree_of(folder.path());
        let left: Vec<_> = index.entries().iter().map(|e| e.path.to_string()).collect();
        assert_eq!(left, ["d", "d/new"]);
    }
}

#[test]
fn implied_directories_have_the_metadata_of_the_lower_layer() {
    let lower = tempfile::tempdir().unwrap();
    let mut special = other("a", EntryKind::Directory, 0o1777);
    special.0.mtime = 1_234_567;
    if is_root() {
        (special.0.uid, special.0.gid) = (7, 8);
    }
    let source = [special.clone(), dir("a/b"), file("a/b/first", "linked")];
    unpack(lower.path(), &source, ApplyStyle::Overlay, &[]);
    let middle = tempfile::tempdir().unwrap();
    unpack(middle.path(), &[file("other", "")], ApplyStyle::Overlay, &[lower.path().into()]);
    let upper = tempfile::tempdir().unwrap();
    let lowers = [middle.path().to_owned(), lower.path().to_owned()];
    let entries = [
        file("a/b/new", "n"),
        other("a/b/twin", EntryKind::Hardlink { target: path("a/b/first") }, 0o644),
        file("c/d", ""),
    ];
    unpack(upper.path(), &entries, ApplyStyle::Overlay, &lowers);
    let a = std::fs::metadata(upper.path().join("a")).unwrap();
    assert_eq!((a.mode() & 0o7777, a.mtime()), (0o1777, 1_234_567));
    assert_eq!((a.uid(), a.gid()), (special.0.uid, special.0.gid));
    assert_eq!(std::fs::metadata(upper.path().join("c")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::read(upper.path().join("a/b/twin")).unwrap(), b"linked");
    // With a whiteout in a middle layer, the same directory has default metadata and the link dangles.
    let hidden = tempfile::tempdir().unwrap();
    unpack(hidden.path(), &[whiteout("a")], ApplyStyle::Overlay, &[lower.path().into()]);
    let lowers = [hidden.path().to_owned(), lower.path().to_owned()];
    let upper = tempfile::tempdir().unwrap();
    unpack(upper.path(), &entries[..1], ApplyStyle::Overlay, &lowers);
    assert_eq!(std::fs::metadata(upper.path().join("a")).unwrap().mode() & 0o7777, 0o755);
    let (bytes, _) = write_layer(&entries);
    let upper = tempfile::tempdir().unwrap();
    let error = apply::apply(&bytes[..], upper.path(), &options(ApplyStyle::Overlay, &lowers)).unwrap_err();
    assert!(error.to_string().contains("hardlink"), "{error}");
}

#[test]
fn an_opaque_root_keeps_its_own_owner_mode_and_time() {
    let lower = tempfile::tempdir().unwrap();
    let mut root = dir("root");
    root.0.path = LayerPath::root();
    (root.0.mode, root.0.mtime) = (0o1711, 1_234_567);
    if is_root() {
        (root.0.uid, root.0.gid) = (7, 8);
    }
    unpack(lower.path(), &[root.clone(), file("old", "o")], ApplyStyle::Overlay, &[]);
    let upper = tempfile::tempdir().unwrap();
    let mark = (Entry::new(LayerPath::root(), EntryKind::OpaqueWhiteout, 0), Vec::new());
    let lowers = [lower.path().to_owned()];
    unpack(upper.path(), &[mark.clone(), file("new", "n")], ApplyStyle::Overlay, &lowers);
    let plain = plain(&[root.clone(), file("old", "o")]);
    unpack(plain.path(), &[mark, file("new", "n")], ApplyStyle::Plain, &[]);
    for folder in [upper.path(), plain.path()] {
        let found = std::fs::metadata(folder).unwrap();
        assert_eq!((found.mode() & 0o7777, found.mtime()), (0o1711, 1_234_567));
        assert_eq!((found.uid(), found.gid()), (root.0.uid, root.0.gid));
    }
    assert!(!plain.path().join("old").exists());
}

#[test]
fn directories_below_an_opaque_one_have_default_metadata() {
    let mut special = dir("a/b");
    special.0.mode = 0o1777;
    let lower = tempfile::tempdir().unwrap();
    unpack(lower.path(), &[dir("a"), special], ApplyStyle::Overlay, &[]);
    let upper = tempfile::tempdir().unwrap();
    let entries = [dir("a"), opaque("a"), file("a/b/c", "")];
    unpack(upper.path(), &entries, ApplyStyle::Overlay, &[lower.path().into()]);
    assert_eq!(std::fs::metadata(upper.path().join("a/b")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn equal_size_and_time_do_not_hide_a_change() {
    let (old, new) =
        (plain(&[file("f", "aaa"), file("g", "ggg")]), plain(&[file("f", "bbb"), file("g", "ggg")]));
    let mut writer = LayerWriter::new(Vec::new(), None);
    diff_trees(old.path(), new.path(), &mut writer, &DiffOptions::default()).unwrap();
    let (_, index) = writer.finish().unwrap();
    assert_eq!(index.entries().iter().map(|e| e.path.to_string()).collect::<Vec<_>>(), ["f"]);
}

#[test]
fn the_owner_comes_from_the_lookup() {
    let new = plain(&[dir("d"), file("d/f", "x")]);
    let empty = tempfile::tempdir().unwrap();
    let owner = |p: &LayerPath, _: &rustix::fs::Stat, _| if *p == path("d/f") { (5, 6) } else { (0, 0) };
    let mut writer = LayerWriter::new(Vec::new(), None);
    diff_trees(
        empty.path(),
        new.path(),
        &mut writer,
        &DiffOptions { owner: Some(&owner), time: None, portable: false },
    )
    .unwrap();
    let (_, index) = writer.finish().unwrap();
    let f = index.get(&path("d/f")).unwrap();
    assert_eq!((f.uid, f.gid), (5, 6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn unpacking_and_packing_round_trips(entries in layers(false)) {
        let folder = plain(&entries);
        let (_, index) = tree_of(folder.path());
        // Implied directories are made and found.
        prop_assert_eq!(index.entries(), merged(&[write_layer(&entries).1]));
    }

    #[test]
    fn the_merged_view_equals_the_unpacked_tree(a in layers(false), b in layers(true), c in layers(true)) {
        let folder = tempfile::tempdir().unwrap();
        let mut indexes = Vec::new();
        for entries in [&a, &b, &c] {
            indexes.push(unpack(folder.path(), entries, ApplyStyle::Plain, &[]).index);
        }
        let (_, index) = tree_of(folder.path());
        prop_assert_eq!(index.entries(), merged(&indexes));
    }

    #[test]
    fn a_difference_of_trees_turns_one_into_the_other(a in layers(false), b in layers(false)) {
        let (old, new) = (plain(&a), plain(&b));
        let mut writer = LayerWriter::new(Vec::new(), None);
        diff_trees(old.path(), new.path(), &mut writer, &DiffOptions::default()).unwrap();
        let (bytes, _) = writer.finish().unwrap();
        apply::apply(&bytes[..], old.path(), &options(ApplyStyle::Plain, &[])).unwrap();
        prop_assert_eq!(tree_of(old.path()).1, tree_of(new.path()).1);
    }
}

/// Links to files of lower layers are made at the end, so what comes after them counts.
#[test]
fn late_links_follow_the_order_of_the_archive() {
    let link = |text: &str, to: &str| other(text, EntryKind::Hardlink { target: path(to) }, 0o644);
    let lower = plain(&[file("lower", "from below"), file("other", "x")]);
    let mut bytes = Vec::new();
    for entry in [
        link("a", "lower"),
        link("b", "a"),
        link("c", "lower"),
        link("gone", "lower"),
        file("gone", "a file now"),
        link("dir", "lower"),
        dir("dir"),
        file("dir/x", "y"),
        file("late", "replaced"),
        link("late", "lower"),
    ] {
        let (one, _) = write_layer(std::slice::from_ref(&entry));
        bytes.truncate(bytes.len().saturating_sub(1024));
        bytes.extend(one);
    }
    let upper = tempfile::tempdir().unwrap();
    let options = options(ApplyStyle::Overlay, &[lower.path().to_owned()]);
    apply::apply(&bytes[..], upper.path(), &options).unwrap();
    let text = |name: &str| std::fs::read_to_string(upper.path().join(name)).unwrap();
    for name in ["a", "b", "c", "late"] {
        assert_eq!(text(name), "from below", "{name}");
        assert_eq!(std::fs::metadata(upper.path().join(name)).unwrap().nlink(), 4, "{name}");
    }
    assert_eq!((text("gone"), text("dir/x")), ("a file now".to_owned(), "y".to_owned()));
}

/// Two halves, so that a layer is unpacked before the layers below it.
#[test]
fn a_layer_may_be_unpacked_before_the_lower_ones() {
    let (below, above) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut top = dir("d");
    top.0.mode = 0o700;
    let (lower, _) = write_layer(&[top, file("d/f", "1"), file("gone", "2")]);
    let (upper, _) = write_layer(&[file("d/g", "3"), whiteout("gone"), whiteout("nothing")]);
    let wanted = options(ApplyStyle::Overlay, &[]);
    let late = apply::unpack(&upper[..], above.path(), &wanted).unwrap();
    apply::apply(&lower[..], below.path(), &wanted).unwrap();
    late.finish(&[below.path().to_owned()]).unwrap();
    assert_eq!(std::fs::metadata(above.path().join("d")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(files::is_whiteout(&rustix::fs::lstat(above.path().join("gone")).unwrap()));
    assert!(!above.path().join("nothing").exists());
    assert!(rustix::fs::lstat(above.path().join("nothing")).is_err());
}

#[test]
fn a_whiteout_of_the_lowest_layer_is_left_out_when_it_is_known_to_be_the_lowest() {
    let (bytes, _) = write_layer(&[dir("d"), file("d/f", "x"), whiteout("d/gone"), whiteout("e")]);
    for all_lowers in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let options = ApplyOptions { all_lowers, ..options(ApplyStyle::Overlay, &[]) };
        apply::apply(&bytes[..], folder.path(), &options).unwrap();
        let exists = |name: &str| rustix::fs::lstat(folder.path().join(name)).is_ok();
        assert_eq!((exists("d/f"), exists("d/gone"), exists("e")), (true, !all_lowers, !all_lowers));
    }
}

/// The files of one platform are in a folder beside those of others.
#[test]
fn files_of_other_folders_stay_until_all_are_written() {
    let target = tempfile::tempdir().unwrap();
    for old in ["a/old", "a/new/older", "b/old", "c/old"] {
        std::fs::create_dir_all(target.path().join(old).parent().unwrap()).unwrap();
        std::fs::write(target.path().join(old), "").unwrap();
    }
    std::fs::write(target.path().join("top"), "").unwrap();
    let options = ApplyOptions {
        owners: OwnerPolicy::Ignore,
        below: path("a"),
        prune: true,
        ..ApplyOptions::new(ApplyStyle::Plain)
    };
    let left =
        |names: &[&str]| -> Vec<bool> { names.iter().map(|n| target.path().join(n).exists()).collect() };
    apply::apply(&write_layer(&[dir("new"), file("new/f", "")]).0[..], target.path(), &options).unwrap();
    assert_eq!(
        left(&["a/old", "a/new/older", "a/new/f", "b/old", "c/old", "top"]),
        [false, false, true, true, true, true]
    );
    keep_only(target.path(), &["a".to_owned(), "b".to_owned()]).unwrap();
    assert_eq!(left(&["a/new/f", "b/old", "c", "top"]), [true, true, false, false]);
    // Without entries there may be no folder.
    let nothing = ApplyOptions { below: path("d"), ..options };
    apply::apply(&write_layer(&[]).0[..], target.path(), &nothing).unwrap();
    assert_eq!(left(&["a/new/f", "b/old"]), [true, true]);
}
