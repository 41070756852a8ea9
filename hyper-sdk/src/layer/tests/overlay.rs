//! Tests of overlay upper directories: unpacked ones against the merged view, and those of the kernel.

use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) struct Layers {
    folder: tempfile::TempDir,
    /// Topmost first.
    pub(super) directories: Vec<PathBuf>,
    indexes: Vec<Arc<LayerIndex>>,
}

impl Layers {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), directories: Vec::new(), indexes: Vec::new() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let directory = self.folder.path().join(format!("layer{}", self.directories.len()));
        std::fs::create_dir(&directory).unwrap();
        let options = options(ApplyStyle::Overlay, &self.directories);
        let applied = apply::apply(bytes, &directory, &options).unwrap();
        self.directories.insert(0, directory);
        self.indexes.push(Arc::new(applied.index));
    }

    fn tree(&self) -> TreeIndex {
        TreeIndex::new(self.indexes.clone())
    }
}

fn diff(upper: &Path, lowers: &[PathBuf]) -> (Vec<u8>, LayerIndex) {
    let mut writer = LayerWriter::new(Vec::new(), None);
    diff_overlay(upper, lowers, &mut writer, &DiffOptions::default()).unwrap();
    writer.finish().unwrap()
}

#[test]
fn whiteouts_and_opaque_marks_that_hide_nothing_are_dropped() {
    let mut layers = Layers::new();
    layers.push(&write_layer(&[dir("d"), dir("d/sub"), file("d/sub/x", ""), file("f", "")]).0);
    let changes = [
        dir("d"),
        opaque("d"),
        file("d/n", ""),
        whiteout("f"),
        whiteout("nothing"),
        dir("new"),
        opaque("new"),
    ];
    layers.push(&write_layer(&sorted(&changes)).0);
    let (_, index) = diff(&layers.directories[0], &layers.directories[1..]);
    assert_eq!(
        kinds(&index),
        ["directory d", "opaque whiteout d", "file d/n", "whiteout f", "directory new"]
    );
}

fn kinds(index: &LayerIndex) -> Vec<String> {
    index.entries().iter().map(|e| format!("{} {}", e.kind.name(), e.path)).collect()
}

fn sorted(entries: &[(Entry, Vec<u8>)]) -> Vec<(Entry, Vec<u8>)> {
    let mut sorted = entries.to_vec();
    sorted.sort_by(|a, b| a.0.layer_order(&b.0));
    sorted
}

fn hardlink(text: &str, target: &str) -> (Entry, Vec<u8>) {
    other(text, EntryKind::Hardlink { target: path(target) }, 0o644)
}

#[test]
fn files_that_only_seem_changed_are_not_in_the_layer() {
    let mut layers = Layers::new();
    let same = [
        dir("d"),
        file("d/content", "one"),
        file("d/mode", ""),
        file("d/same", "1"),
        file("d/time", ""),
        dir("e"),
        dir("e/below"),
        file("e/below/same", "2"),
        symlink("e/link", "x"),
        symlink("e/other", "x"),
        other("e/pipe", EntryKind::Fifo, 0o600),
        dir("o"),
        file("o/same", "3"),
        dir("touched"),
    ];
    layers.push(&write_layer(&sorted(&same)).0);
    // Layers in between without these files, and one with some of them.
    layers.push(&write_layer(&[file("z", "")]).0);
    layers.push(&write_layer(&[dir("d"), file("d/same", "1")]).0);
    let mut now = same.to_vec();
    now[1].1 = b"two".to_vec();
    now[2].0.mode = 0o600;
    now[4].0.mtime = 7;
    now[9].0.kind = EntryKind::Symlink { target: b"y".to_vec() };
    now[13].0.mtime = 7;
    now.push(opaque("o"));
    layers.push(&write_layer(&sorted(&now)).0);
    let (bytes, index) = diff(&layers.directories[0], &layers.directories[1..]);
    assert_eq!(
        kinds(&index),
        [
            "directory d",
            "file d/content",
            "file d/mode",
            "file d/time",
            "directory e",
            "symlink e/other",
            "directory o",
            "opaque whiteout o",
            "file o/same",
        ]
    );
    let time = layers.directories[0].join("touched").metadata().unwrap().modified().unwrap();
    assert_eq!(time, std::time::UNIX_EPOCH, "a directory that is left out has the time of the lower one");

    // Without changes the layer is empty, also for two trees.
    let [before, after] = ["before", "after"].map(|n| layers.folder.path().join(n));
    for folder in [&before, &after] {
        std::fs::create_dir(folder).unwrap();
        let same = write_layer(&sorted(&same)).0;
        apply::apply(&same[..], folder, &options(ApplyStyle::Plain, &[])).unwrap();
    }
    assert_eq!(kinds(&diff(&after, std::slice::from_ref(&before)).1), [""; 0]);
    std::fs::File::open(after.join("touched")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let trees = |old: &Path, new: &Path| {
        let mut writer = LayerWriter::new(Vec::new(), None);
        diff_trees(old, new, &mut writer, &DiffOptions::default()).unwrap();
        writer.finish().unwrap().1
    };
    assert_eq!(kinds(&trees(&before, &after)), [""; 0]);
    let time = after.join("touched").metadata().unwrap().modified().unwrap();
    assert_eq!(time, std::time::UNIX_EPOCH);

    apply::apply(&bytes[..], &after, &options(ApplyStyle::Plain, &[])).unwrap();
    layers.indexes.pop();
    layers.indexes.push(Arc::new(index));
    assert_eq!(
        tree_of(&after).1.entries(),
        shown(&layers.tree()).into_iter().filter(|e| e.path != path("z")).collect::<Vec<_>>()
    );
}

#[test]
fn a_layer_has_all_names_of_a_file_or_none() {
    let below = [
        file("a", "1"),
        file("b", "2"),
        file("c", "3"),
        hardlink("d", "c"),
        file("e", "4"),
        file("f", "4"),
        dir("g"),
        file("g/h", "5"),
    ];
    let above = [
        // A new name after the old one, and one before it.
        file("a", "1"),
        hardlink("a2", "a"),
        file("B", "2"),
        hardlink("b", "B"),
        // Two names as before, and two that were two files.
        file("c", "3"),
        hardlink("d", "c"),
        file("e", "4"),
        hardlink("f", "e"),
        // The other name is new because its directory is.
        dir("g"),
        opaque("g"),
        file("g/h", "5"),
        hardlink("z", "g/h"),
    ];
    let expected = [
        "file B",
        "file a",
        "hardlink a2",
        "hardlink b",
        "file e",
        "hardlink f",
        "directory g",
        "opaque whiteout g",
        "file g/h",
        "hardlink z",
    ];
    let mut layers = Layers::new();
    layers.push(&write_layer(&sorted(&below)).0);
    layers.push(&write_layer(&sorted(&above)).0);
    assert_eq!(kinds(&diff(&layers.directories[0], &layers.directories[1..]).1), expected);

    let [old, new] = ["old", "new"].map(|n| layers.folder.path().join(n));
    for (folder, entries) in [(&old, sorted(&below)), (&new, sorted(&above))] {
        std::fs::create_dir(folder).unwrap();
        let bytes = write_layer(&entries).0;
        apply::apply(&bytes[..], folder, &options(ApplyStyle::Plain, &[])).unwrap();
    }
    let mut writer = LayerWriter::new(Vec::new(), None);
    diff_trees(&old, &new, &mut writer, &DiffOptions::default()).unwrap();
    let found = kinds(&writer.finish().unwrap().1);
    // Trees have no opaque directories: this one is unchanged, but its file has another name now.
    assert_eq!(found, expected.iter().filter(|e| !e.starts_with("opaque")).copied().collect::<Vec<_>>());
}

#[test]
fn a_changed_root_is_in_the_layer() {
    let (lower, upper) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mode = |folder: &tempfile::TempDir, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(folder.path(), mode).unwrap();
    };
    mode(&lower, 0o755);
    mode(&upper, 0o755);
    assert!(diff(upper.path(), &[lower.path().into()]).1.is_empty());
    mode(&upper, 0o700);
    let (_, index) = diff(upper.path(), &[lower.path().into()]);
    assert_eq!(index.entries()[0].mode, 0o700);
    assert!(index.entries()[0].path.is_root());
}

#[test]
fn a_layer_that_does_not_mention_the_root_shows_the_one_below() {
    let mut layers = Layers::new();
    layers.push(&write_layer(&[(Entry::directory(LayerPath::root(), 0o1750), Vec::new()), file("f", "")]).0);
    layers.push(&write_layer(&[file("g", "")]).0);
    layers.push(&write_layer(&[]).0);
    // The folder of a step is made from an archive of zeros.
    layers.push(&[0; 1024]);
    for directory in &layers.directories {
        let mode = rustix::fs::stat(directory).unwrap().st_mode & 0o7777;
        assert_eq!(mode, 0o1750, "{}", directory.display());
    }
    assert!(diff(&layers.directories[0], &layers.directories[1..]).1.is_empty());
}

/// Mounts an overlay as the sandbox does, lets `work` change it, and returns the difference as a layer.
fn changed_by_kernel(layers: &Layers, work: impl FnOnce(&Path)) -> Option<Vec<u8>> {
    let [upper, scratch, merged] = ["upper", "work", "merged"].map(|n| layers.folder.path().join(n));
    for directory in [&upper, &scratch, &merged] {
        std::fs::create_dir(directory).unwrap();
    }
    let lowers: Vec<_> = layers.directories.iter().map(|d| d.display().to_string()).collect();
    let data = format!(
        "lowerdir={},upperdir={},workdir={},userxattr",
        lowers.join(":"),
        upper.display(),
        scratch.display()
    );
    let data = std::ffi::CString::new(data).unwrap();
    if let Err(e) = mount("overlay", &merged, "overlay", MountFlags::empty(), data.as_c_str()) {
        println!("SKIPPED: overlay cannot be mounted here ({e})");
        return None;
    }
    work(&merged);
    let (bytes, _) = diff(&upper, &layers.directories);
    unmount(&merged, UnmountFlags::DETACH).unwrap();
    Some(bytes)
}

#[test]
fn a_layer_has_the_changes_that_the_kernel_made() {
    let mut layers = Layers::new();
    let base = [
        dir("etc"),
        file("etc/hosts", "1"),
        file("etc/passwd", "2"),
        dir("opt"),
        dir("opt/app"),
        file("opt/app/x", "3"),
        symlink("lib", "usr/lib"),
        dir("usr"),
        file("usr/tool", "5"),
        file("usr/unchanged", "6"),
        dir("var"),
    ];
    layers.push(&write_layer(&sorted(&base)).0);
    layers.push(&write_layer(&[dir("etc"), file("etc/motd", "hello")]).0);
    let expected = tempfile::tempdir().unwrap();
    let Some(bytes) = changed_by_kernel(&layers, |merged| {
        std::fs::remove_file(merged.join("etc/hosts")).unwrap();
        std::fs::write(merged.join("etc/passwd"), "changed").unwrap();
        std::fs::remove_dir_all(merged.join("opt/app")).unwrap();
        std::fs::create_dir(merged.join("opt/app")).unwrap();
        std::fs::write(merged.join("opt/app/y"), "4").unwrap();
        std::fs::hard_link(merged.join("opt/app/y"), merged.join("opt/app/z")).unwrap();
        std::fs::remove_file(merged.join("lib")).unwrap();
        std::fs::create_dir(merged.join("lib")).unwrap();
        std::fs::create_dir_all(merged.join("new/deep")).unwrap();
        std::fs::hard_link(merged.join("usr/tool"), merged.join("usr/tool2")).unwrap();
        // Overlay copies a file up when its mode is set to the same value.
        for name in ["etc/motd", "usr/unchanged", "var"] {
            let mode = merged.join(name).metadata().unwrap().permissions();
            std::fs::set_permissions(merged.join(name), mode).unwrap();
        }
        std::fs::write(merged.join("var/transient"), "").unwrap();
        std::fs::remove_file(merged.join("var/transient")).unwrap();
        std::fs::write(merged.join("transient"), "").unwrap();
        std::fs::remove_file(merged.join("transient")).unwrap();
        std::os::unix::net::UnixListener::bind(merged.join("new/socket")).unwrap();
        let (bytes, _) = tree_of(merged);
        apply::apply(&bytes[..], expected.path(), &options(ApplyStyle::Plain, &[])).unwrap();
    }) else {
        return;
    };
    let index = reader::scan(&bytes[..]).unwrap();
    assert_eq!(
        kinds(&index),
        [
            "directory etc",
            "whiteout etc/hosts",
            "file etc/passwd",
            "directory lib",
            "directory new",
            "directory new/deep",
            "directory opt",
            "directory opt/app",
            "opaque whiteout opt/app",
            "file opt/app/y",
            "hardlink opt/app/z",
            "directory usr",
            "file usr/tool",
            "hardlink usr/tool2",
        ]
    );
    // That directory has not changed: it keeps its old time.
    let var = std::fs::File::open(expected.path().join("var")).unwrap();
    var.set_modified(std::time::UNIX_EPOCH).unwrap();
    // The layer is unpacked in another second than the change.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    layers.push(&bytes);
    assert_eq!(tree_of(expected.path()).1.entries(), shown(&layers.tree()));
    // A diff of the unpacked layer gives the same layer again.
    let again = diff(&layers.directories[0], &layers.directories[1..]).0;
    assert!(again == bytes, "the layer of the unpacked folder is another");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn upper_directories_show_what_the_merged_view_shows(a in layers(false), b in layers(true), c in layers(true)) {
        let mut layers = Layers::new();
        for entries in [&a, &b, &c] {
            layers.push(&write_layer(entries).0);
        }
        let tree = layers.tree();
        let lowers = files::Lowers::open(&layers.directories).unwrap();
        let everything = [&a, &b, &c].into_iter().flatten().map(|(e, _)| &e.path);
        for path in everything {
            let shown = lowers.find(path).unwrap().map(|n| (files::type_of(&n.stat), n.stat.st_mode & 0o7777));
            let expected = tree.lookup(path).map(|n| {
                let kind = match n.entry.kind {
                    EntryKind::Directory => rustix::fs::FileType::Directory,
                    EntryKind::Symlink { .. } => rustix::fs::FileType::Symlink,
                    EntryKind::Fifo => rustix::fs::FileType::Fifo,
                    _ => rustix::fs::FileType::RegularFile,
                };
                (kind, n.entry.mode)
            });
            prop_assert_eq!(shown, expected, "{}", path);
        }
        // The diff of the topmost directory, used as a layer, shows the same.
        let (bytes, index) = diff(&layers.directories[0], &layers.directories[1..]);
        let mut again = layers.indexes[..2].to_vec();
        again.push(Arc::new(index));
        let again = TreeIndex::new(again);
        // A directory with only a new time is unchanged.
        let without_times = |tree: &TreeIndex| {
            let mut entries = shown(tree);
            entries.iter_mut().filter(|e| e.is_directory()).for_each(|e| e.mtime = 0);
            entries
        };
        prop_assert_eq!(without_times(&again), without_times(&tree));
        prop_assert!(reader::scan(&bytes[..]).is_ok());
    }
}

/// Programs may set attributes that look like those of an overlay: they have no meaning and are in no layer.
#[test]
fn fake_overlay_attributes_are_ignored() {
    let mut layers = Layers::new();
    layers.push(&write_layer(&sorted(&[dir("d"), file("d/f", "1"), dir("e"), file("e/g", "2")])).0);
    let expected = tempfile::tempdir().unwrap();
    let Some(bytes) = changed_by_kernel(&layers, |merged| {
        for path in ["d", "d/f", "e", "new", "new/h"] {
            match path {
                "new" => std::fs::create_dir(merged.join(path)).unwrap(),
                "new/h" => std::fs::write(merged.join(path), "3").unwrap(),
                _ => {}
            }
            for space in ["user", "trusted"] {
                for (name, value) in
                    [("redirect", "/x"), ("metacopy", ""), ("opaque", "y"), ("whiteout", "y")]
                {
                    let name = format!("{space}.overlay.{name}");
                    // Older kernels refuse some, and other users than root may not set all.
                    let flags = rustix::fs::XattrFlags::empty();
                    let _ = rustix::fs::setxattr(merged.join(path), name, value.as_bytes(), flags);
                }
            }
        }
        let (bytes, index) = tree_of(merged);
        assert!(index.entries().iter().all(|entry| entry.xattrs.is_empty()));
        apply::apply(&bytes[..], expected.path(), &options(ApplyStyle::Plain, &[])).unwrap();
    }) else {
        return;
    };
    let index = reader::scan(&bytes[..]).unwrap();
    assert!(
        index.entries().iter().all(|entry| entry.xattrs.is_empty() && !entry.kind.is_whiteout()),
        "{index:?}"
    );
    layers.push(&bytes);
    assert_eq!(tree_of(expected.path()).1.entries(), shown(&layers.tree()));
}
