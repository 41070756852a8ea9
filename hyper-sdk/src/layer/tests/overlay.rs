//! Overlay upper directories: our own against the merged view, and the kernel's.

use super::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Layers {
    folder: tempfile::TempDir,
    /// Topmost first.
    directories: Vec<PathBuf>,
    indexes: Vec<Arc<LayerIndex>>,
}

impl Layers {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), directories: Vec::new(), indexes: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) {
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
    let mut sorted = changes.to_vec();
    sorted.sort_by(|a, b| a.0.layer_order(&b.0));
    layers.push(&write_layer(&sorted).0);
    let (_, index) = diff(&layers.directories[0], &layers.directories[1..]);
    let kinds: Vec<_> = index.entries().iter().map(|e| format!("{} {}", e.kind.name(), e.path)).collect();
    assert_eq!(kinds, ["directory d", "opaque whiteout d", "file d/n", "whiteout f", "directory new"]);
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
fn what_the_kernel_changes_is_what_the_layer_says() {
    let mut layers = Layers::new();
    let base = [
        dir("etc"),
        file("etc/hosts", "1"),
        file("etc/passwd", "2"),
        dir("opt"),
        dir("opt/app"),
        file("opt/app/x", "3"),
        symlink("lib", "usr/lib"),
    ];
    let mut sorted = base.to_vec();
    sorted.sort_by(|a, b| a.0.layer_order(&b.0));
    layers.push(&write_layer(&sorted).0);
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
        std::fs::write(merged.join("transient"), "").unwrap();
        std::fs::remove_file(merged.join("transient")).unwrap();
        std::os::unix::net::UnixListener::bind(merged.join("new/socket")).unwrap();
        let (bytes, _) = tree_of(merged);
        apply::apply(&bytes[..], expected.path(), &options(ApplyStyle::Plain, &[])).unwrap();
    }) else {
        return;
    };
    let index = reader::scan(&bytes[..]).unwrap();
    let kinds: Vec<_> = index.entries().iter().map(|e| format!("{} {}", e.kind.name(), e.path)).collect();
    assert_eq!(
        kinds,
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
        ]
    );
    // Unpacked in another second than the one in which it was changed.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    layers.push(&bytes);
    assert_eq!(tree_of(expected.path()).1.entries(), shown(&layers.tree()));
    // What was unpacked from the layer says the same again.
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
        // The difference of the topmost directory, put in its place, shows the same.
        let (bytes, index) = diff(&layers.directories[0], &layers.directories[1..]);
        let mut again = layers.indexes[..2].to_vec();
        again.push(Arc::new(index));
        let again = TreeIndex::new(again);
        prop_assert_eq!(shown(&again), shown(&tree));
        prop_assert!(reader::scan(&bytes[..]).is_ok());
    }
}
