//! Tests of copies as text: a source tree, an instruction and the resulting entries.

use super::file_digest::{FileHasher, ReadingHasher};
use super::*;
use crate::Digest;
use crate::digest::Hasher;
use crate::layer::{Entry, EntryKind, FileTime, LayerIndex, LayerPath, LayerWriter, TreeIndex};
use crate::{ErrorKind, Result};
use proptest::prelude::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

mod archives;
mod naming;
mod reading;
mod recorded;

/// Makes files from lines: `a/b 644 text`, `dir/ 755`, `link -> target`, `name = other name of one file`.
fn make(folder: &Path, tree: &str) {
    let mut modes = Vec::new();
    for line in tree.split(';').map(str::trim).filter(|l| !l.is_empty()) {
        if let Some((name, target)) = line.split_once(" -> ") {
            symlink(target, folder.join(name)).unwrap();
            continue;
        }
        if let Some((name, first)) = line.split_once(" = ") {
            std::fs::hard_link(folder.join(first), folder.join(name)).unwrap();
            continue;
        }
        let mut words = line.splitn(3, ' ');
        let name = words.next().unwrap();
        let mode = words.next().map(|m| u32::from_str_radix(m, 8).unwrap());
        let path = folder.join(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(&path).unwrap();
            modes.push((path, mode.unwrap_or(0o775)));
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, words.next().unwrap_or("")).unwrap();
            modes.push((path, mode.unwrap_or(0o664)));
        }
    }
    for (path, mode) in modes {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// The digest of the files that `spec` selects from a source, independent of the destination.
fn content_digest(
    root: &Arc<SourceRoot>,
    spec: &CopySpec,
    hasher: &dyn FileHasher,
    threads: usize,
) -> Result<Digest> {
    let mut digest = Hasher::sha256();
    // Every source is planned separately, so that sources cannot hide or conflict with each other.
    for source in &spec.sources {
        let spec = CopySpec {
            sources: vec![source.clone()],
            destination: "/".to_owned(),
            unpack: false,
            ..spec.clone()
        };
        let mut planner = Planner::new(&EmptyDestination, FileTime::of(0));
        planner.copy(root, &spec)?;
        planner.finish().add_to(&mut digest, hasher, threads, None)?;
    }
    Ok(digest.finish())
}

fn context(tree: &str) -> (tempfile::TempDir, Arc<SourceRoot>) {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), tree);
    let root = SourceRoot::open(folder.path(), SourceKind::Context, None).unwrap();
    (folder, Arc::new(root))
}

/// A destination from lines such as `etc/ 755 0:0`, `file 644`, `link -> target`.
fn destination(tree: &str) -> TreeIndex {
    let mut entries: Vec<Entry> = Vec::new();
    for line in tree.split(';').map(str::trim).filter(|l| !l.is_empty()) {
        let (name, kind) = match line.split_once(" -> ") {
            Some((name, target)) => (name, EntryKind::Symlink { target: target.into() }),
            None => match line.strip_suffix('/') {
                Some(name) => (name, EntryKind::Directory),
                None => (line, EntryKind::File { size: 0, digest: None }),
            },
        };
        entries.push(Entry::new(LayerPath::new(name).unwrap(), kind, 0o700));
    }
    entries.sort_by(Entry::layer_order);
    TreeIndex::new(vec![Arc::new(LayerIndex::from_sorted(entries).unwrap())])
}

fn show(plan: &Plan) -> String {
    let line = |entry: &Entry| {
        let owner = if (entry.uid, entry.gid) == (0, 0) {
            String::new()
        } else {
            format!(" {}:{}", entry.uid, entry.gid)
        };
        let path = &entry.path;
        match &entry.kind {
            EntryKind::Directory => format!("{path}/ {:o}{owner}", entry.mode),
            EntryKind::File { size, .. } => format!("{path} {:o}{owner} {size}", entry.mode),
            EntryKind::Symlink { target } => format!("{path} -> {}{owner}", String::from_utf8_lossy(target)),
            EntryKind::Hardlink { target } => format!("{path} = {target}"),
            other => format!("{path} {} {:o}", other.name(), entry.mode),
        }
    };
    plan.entries().iter().map(|e| line(&e.entry)).collect::<Vec<_>>().join("; ")
}

fn plan(root: &Arc<SourceRoot>, to: &dyn Destination, spec: &CopySpec) -> Result<Plan> {
    let scratch = tempfile::tempdir().unwrap();
    let mut planner = Planner::new(to, FileTime::of(5)).with_scratch(scratch.path());
    planner.copy(root, spec)?;
    Ok(planner.finish())
}

#[test]
fn sources_are_copied_to_their_targets() {
    let tree = "f 640 xx; d/ 700; d/a 4755 1; d/sub/b; link -> d; flink -> f; d/in -> ../f; x1 600; x2 604; h1 644 h; h2 = h1";
    let (_folder, root) = context(tree);
    let all = "bin/; file; to -> real; real/; real/sub/; dangling -> some/where; abs -> /real";
    for (to, sources, at, expected) in [
        // Files, with and without a slash.
        ("", "f", "/x", "x 640 2"),
        ("", "f", "/x/", "x/ 755; x/f 640 2"),
        ("", "/f", "/a/b/c", "a/ 755; a/b/ 755; a/b/c 640 2"),
        (all, "f", "/bin", "bin/f 640 2"),
        (all, "f", "/file", "file 640 2"),
        // Directories copy their contents; existing parents only get a new time.
        ("", "d", "/x", "x/ 755; x/a 4755 1; x/in -> ../f; x/sub/ 755; x/sub/b 664 0"),
        (all, "d/", "/real", "real/ 700; real/a 4755 1; real/in -> ../f; real/sub/ 755; real/sub/b 664 0"),
        // Links: followed at the top of the source and in the destination.
        ("", "link/sub", "/", "b 664 0"),
        ("", "flink", "/", "flink 640 2"),
        (all, "f", "/to/", "real/f 640 2"),
        (all, "f", "/abs", "real/f 640 2"),
        (all, "f", "/dangling/", "some/ 755; some/where/ 755; some/where/f 640 2"),
        (all, "f", "/to/../x", "x 640 2"),
        (all, "f", "/../../x", "x 640 2"),
        // Wildcards: of several files with one target the last one stays; no match is allowed.
        ("", "x?", "/x", "x 604 0"),
        ("", "x* f", "/n/", "n/ 755; n/f 640 2; n/x1 600 0; n/x2 604 0"),
        ("", "z*", "/n/", ""),
        ("", "d/*", "/n/", "n/ 755; n/a 4755 1; n/b 664 0; n/in 640 2"),
        // Several sources without a trailing slash are copied one after the other, too.
        ("", "f x1", "/n", "n 600 0"),
        ("", "d f", "/n", "n/ 755; n/a 4755 1; n/f 640 2; n/in -> ../f; n/sub/ 755; n/sub/b 664 0"),
        (all, "f x1", "/bin", "bin/f 640 2; bin/x1 600 0"),
        // Hard links within one match stay.
        ("", "h1 h2", "/n/", "n/ 755; n/h1 644 1; n/h2 644 1"),
    ] {
        let tree = destination(to);
        let spec = CopySpec::new(sources.split(' '), at);
        let plan = plan(&root, &tree, &spec).unwrap_or_else(|e| panic!("{sources} {at}: {e}"));
        assert_eq!(show(&plan), expected, "COPY {sources} {at}");
    }
    let spec = CopySpec::new(["."], "/n/");
    assert!(show(&plan(&root, &EmptyDestination, &spec).unwrap()).contains("n/h1 644 1; n/h2 = n/h1"));
}

#[test]
fn files_and_directories_do_not_replace_each_other() {
    let (_folder, root) = context("f; d/m/x; t/m");
    let to = "file; d/; d/m -> file; f/; g/m/";
    for (sources, at, kind, part) in [
        ("d", "/d", ErrorKind::Conflict, "directory over the symlink `/d/m`"),
        ("d", "/file", ErrorKind::Conflict, "directory over the file `/file`"),
        ("f", "/file/x", ErrorKind::Conflict, "`/file` is a file"),
        ("t", "/g", ErrorKind::Conflict, "replace the directory `/g/m`"),
        ("f", "/", ErrorKind::Conflict, "replace the directory `/f`"),
        ("missing", "/", ErrorKind::NotFound, "`missing` not found"),
        ("F", "/", ErrorKind::NotFound, "did you mean `f`"),
        ("d/misssing", "/", ErrorKind::NotFound, "`d/misssing` not found ("),
        ("[", "/", ErrorKind::Invalid, "not a pattern"),
        ("nowhere/*", "/", ErrorKind::NotFound, "`nowhere` not found"),
    ] {
        let e = plan(&root, &destination(to), &CopySpec::new([sources], at)).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(part), "{e}");
    }
    // The sources of one instruction are copied in order: the second one conflicts with the first.
    let e = plan(&root, &EmptyDestination, &CopySpec::new(["d", "t"], "/n/")).unwrap_err();
    assert!(e.to_string().contains("replace the directory `/n/m`"), "{e}");
}

#[test]
fn copy_flags_are_applied() {
    let (_folder, root) = context(
        "app/ 775; app/keep 644; app/views/exception; app/views/test; x/y/a.txt; x/y/b.md; x/a.txt; r/",
    );
    let spec = |f: &dyn Fn(&mut CopySpec)| {
        let mut spec = CopySpec::new(["app"], "/o/");
        f(&mut spec);
        show(&plan(&root, &EmptyDestination, &spec).unwrap())
    };
    let list = |patterns: &[&str]| PatternList::new(patterns).unwrap();
    assert_eq!(spec(&|s| s.exclude = list(&["views"])), "o/ 755; o/keep 644 0");
    assert_eq!(
        spec(&|s| s.exclude = list(&["views", "!views/exception"])),
        "o/ 755; o/keep 644 0; o/views/ 755; o/views/exception 664 0"
    );
    // A wildcard match itself can be left out, and patterns are relative below it.
    assert_eq!(
        spec(&|s| (s.exclude, s.sources) = (list(&["keep", "**/test"]), vec!["app/*".into()])),
        "o/ 755; o/exception 664 0"
    );
    assert!(spec(&|s| s.exclude = list(&["/views"])).contains("o/views/test"));
    let owner = crate::layer::Owner { uid: 7, gid: 8 };
    assert_eq!(
        spec(&|s| (s.chown, s.exclude) = (Some(owner), list(&["views"]))),
        "o/ 755 7:8; o/keep 644 7:8 0"
    );
    let chmod = |text: &str| Some(ModeChange::parse(text).unwrap());
    assert_eq!(spec(&|s| (s.chmod, s.exclude) = (chmod("711"), list(&["views"]))), "o/ 711; o/keep 711 0");
    assert_eq!(spec(&|s| (s.chmod, s.exclude) = (chmod("go="), list(&["views"]))), "o/ 755; o/keep 600 0");
    let parents = |source: &str| spec(&|s| (s.parents, s.sources) = (true, vec![source.to_owned()]));
    assert_eq!(parents("./x/y/*.txt"), "o/ 755; o/x/ 755; o/x/y/ 755; o/x/y/a.txt 664 0");
    assert_eq!(parents("./x/./y/*.txt"), "o/ 755; o/y/ 755; o/y/a.txt 664 0");
    assert_eq!(parents("x/y/./*.md"), "o/ 755; o/b.md 664 0");
    assert_eq!(parents("**/a.txt"), "o/ 755; o/x/ 755; o/x/a.txt 664 0; o/x/y/ 755; o/x/y/a.txt 664 0");
    assert_eq!(parents("r"), "o/ 755; o/r/ 775");
    for nothing in ["x/z", ".", "./", "x/./"] {
        let mut missing = CopySpec::new([nothing], "/o/");
        missing.parents = true;
        let e = plan(&root, &EmptyDestination, &missing).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::NotFound, "{nothing}");
    }
    for there in ["x", "x -> y; y/"] {
        let mut over = CopySpec::new(["x/a.txt"], "/");
        over.parents = true;
        let e = plan(&root, &destination(there), &over).unwrap_err();
        assert!(e.to_string().contains("directory over the"), "{e}");
    }

    // Parents that `--parents` needs keep the owner of existing directories.
    let mut over = CopySpec::new(["x/a.txt"], "/");
    (over.parents, over.chown) = (true, Some(owner));
    assert_eq!(show(&plan(&root, &destination("x/"), &over).unwrap()), "x/ 755; x/a.txt 664 7:8 0");

    let json = serde_json::to_string(&over).unwrap();
    assert_eq!(serde_json::from_str::<CopySpec>(&json).unwrap(), over);
}

#[derive(Debug)]
struct Ignore(PatternList);

impl PathFilter for Ignore {
    fn decide(&self, path: &[u8], _is_directory: bool) -> FilterDecision {
        match self.0.matches(path, &Default::default()).0 {
            false => FilterDecision::Keep,
            true if self.0.has_exceptions() => FilterDecision::DropUnlessNeeded,
            true => FilterDecision::Drop,
        }
    }
}

#[test]
fn ignored_files_do_not_exist() {
    let (folder, _) = context("a/b/c; a/d; e; l -> a/d");
    let ignoring = |patterns: &[&str]| {
        let filter = Ignore(PatternList::new(patterns).unwrap());
        Arc::new(SourceRoot::open(folder.path(), SourceKind::Context, Some(Arc::new(filter))).unwrap())
    };
    let root = ignoring(&["*", "!a/b/c"]);
    assert_eq!(
        show(&plan(&root, &EmptyDestination, &CopySpec::new(["."], "/")).unwrap()),
        "a/ 755; a/b/ 755; a/b/c 664 0"
    );
    for source in ["e", "a/d", "l"] {
        let e = plan(&root, &EmptyDestination, &CopySpec::new([source], "/")).unwrap_err();
        assert!(e.to_string().contains("excluded by the ignore file"), "{e}");
    }
    let root = ignoring(&["a"]);
    assert_eq!(show(&plan(&root, &EmptyDestination, &CopySpec::new(["*"], "/n/")).unwrap_or_default()), "");
    assert!(plan(&root, &EmptyDestination, &CopySpec::new(["a/d"], "/")).is_err());
    let root = ignoring(&["*", "!a/z"]);
    assert!(plan(&root, &EmptyDestination, &CopySpec::new(["a"], "/")).is_err());
    assert!(plan(&root, &EmptyDestination, &CopySpec::new(["."], "/")).unwrap().entries().is_empty());
}

#[test]
fn remembered_listings_are_the_first_ones() {
    let (folder, root) = context("a/b/c; a/d; e");
    let planned = |root| show(&plan(root, &EmptyDestination, &CopySpec::new(["."], "/")).unwrap());
    let before = planned(&root);
    let newest = |sources: &[&str]| newest_mtime(&root, &CopySpec::new(sources.iter().copied(), "/x/"), 2);
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    for name in ["a/b/c", "a/d", "e"] {
        let file = std::fs::File::options().write(true).open(folder.path().join(name)).unwrap();
        file.set_modified(old + std::time::Duration::from_secs(name.len() as u64)).unwrap();
    }
    root.remember_listings();
    assert_eq!(newest(&["."]).unwrap(), Some(1005));
    assert_eq!(newest(&["a/d", "*"]).unwrap(), Some(1005));
    assert_eq!(newest(&["a/d"]).unwrap(), Some(1003));
    assert_eq!(newest(&["none*"]).unwrap(), None);
    assert!(newest(&["none"]).is_err());
    std::fs::write(folder.path().join("a/new"), "").unwrap();
    std::fs::create_dir_all(folder.path().join("f/g")).unwrap();
    assert_eq!(planned(&root), before, "the first listing was remembered");
    root.forget_listings();
    let after = planned(&root);
    assert!(after.contains("a/new") && after.contains("f/g"), "{after}");
    std::fs::remove_file(folder.path().join("a/new")).unwrap();
    assert!(!planned(&root).contains("a/new"), "listings are no longer remembered");
}

#[test]
fn read_ahead_lists_all_directories() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..300 {
        let directory = folder.path().join(format!("{}/{}/{i}", i % 7, i % 31));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("file"), "").unwrap();
    }
    let root = Arc::new(SourceRoot::open(folder.path(), SourceKind::Context, None).unwrap());
    let spec = CopySpec::new(["."], "/");
    let before = show(&plan(&root, &EmptyDestination, &spec).unwrap());
    root.remember_listings();
    newest_mtime(&root, &spec, 4).unwrap();
    std::fs::remove_dir_all(folder.path().join("3")).unwrap();
    assert_eq!(show(&plan(&root, &EmptyDestination, &spec).unwrap()), before);
}

#[test]
fn directories_and_inline_files_are_made() {
    let tree = destination("tmp/; app -> srv; f");
    let make = |path: &str| -> Result<String> {
        let mut planner = Planner::new(&tree, FileTime::of(5));
        planner.make_directory(path, 0o755, Some(crate::layer::Owner { uid: 1, gid: 2 }))?;
        Ok(show(&planner.finish()))
    };
    assert_eq!(make("/tmp/").unwrap(), "");
    assert_eq!(make("/").unwrap(), "");
    assert_eq!(make("/tmp/a/b").unwrap(), "tmp/a/ 755 1:2; tmp/a/b/ 755 1:2");
    assert_eq!(make("/app/x").unwrap(), "srv/ 755 1:2; srv/x/ 755 1:2");
    assert_eq!(make("/f/x").unwrap_err().kind(), ErrorKind::Conflict);

    let (_folder, root) = context("file");
    let spec = CopySpec::new(["file"], "/test/");
    let mut planner = Planner::new(&tree, FileTime::of(5));
    planner.copy(&root, &spec).unwrap();
    planner.inline_file("robots.txt", *b"hello", &spec).unwrap();
    planner.inline_file("x", *b"he", &CopySpec::new([""], "/name")).unwrap();
    let plan = planner.finish();
    assert_eq!(show(&plan), "name 644 2; test/ 755; test/file 664 0; test/robots.txt 644 5");
    assert_eq!(plan.entries()[0].entry.mtime, 5);
    let mut writer = LayerWriter::new(Vec::new(), None);
    plan.write(&mut writer).unwrap();
    assert_eq!(writer.finish().unwrap().1.len(), 4);
}

#[test]
fn destinations_are_joined_to_the_working_folder() {
    for (folder, text, expected) in [
        ("/b", ".", "/b/"),
        ("/b", "", "/b/"),
        ("/b", "./b", "/b/b"),
        ("/", "x/", "/x/"),
        ("/b", "/x/.", "/x/"),
        ("/b", "../../x", "/x"),
        ("/", "/", "/"),
        ("/b", "/symlink/..", "/"),
    ] {
        assert_eq!(destination_path(folder, text), expected);
    }
}

#[test]
fn new_directories_inherit_setgid_and_group() {
    let entry = |name: &str, mode, gid| {
        let mut entry = Entry::directory(LayerPath::new(name).unwrap(), mode);
        (entry.uid, entry.gid) = (7, gid);
        entry
    };
    let index = LayerIndex::from_sorted(vec![entry("s", 0o3777, 8)]).unwrap();
    let to = TreeIndex::new(vec![Arc::new(index)]);
    let (_folder, root) = context("f 640; d/e/ 700");
    for (source, at, chown, expected) in [
        ("f", "/s/t/u/x", None, "s/t/ 2755 0:8; s/t/u/ 2755 0:8; s/t/u/x 640 0"),
        ("d", "/s/t", None, "s/t/ 2755 0:8; s/t/e/ 700"),
        ("f", "/s/t/", Some((5, 6)), "s/t/ 2755 5:6; s/t/f 640 5:6 0"),
    ] {
        let mut spec = CopySpec::new([source], at);
        spec.chown = chown.map(|(uid, gid)| crate::layer::Owner { uid, gid });
        assert_eq!(show(&plan(&root, &to, &spec).unwrap()), expected, "{at}");
    }
    let mut planner = Planner::new(&to, FileTime::of(5));
    planner.make_directory("/s/w", 0o755, None).unwrap();
    assert_eq!(show(&planner.finish()), "s/w/ 2755 0:8");
}

#[test]
fn directories_have_the_time_of_their_source_or_the_current_time() {
    let (folder, root) = context("f; d/s/b; e/");
    for (name, time) in [("d/s", 11), ("d", 22), ("e", 33), ("", 44)] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(time);
        std::fs::File::open(folder.path().join(name)).unwrap().set_modified(time).unwrap();
    }
    let image = SourceRoot::open(folder.path(), SourceKind::RootFilesystem, None).unwrap();
    let (root, image) = (&root, &Arc::new(image));
    let old = "old/; old/s/";
    for (from, to, flags, sources, at, expected) in [
        (root, "", "", "d", "/n", "n 22; n/s 11"),
        (root, "", "", "d", "/n/m/", "n 5; n/m 22; n/m/s 11"),
        (root, "", "", "f", "/n/", "n 5"),
        (root, "", "", "d f", "/n/", "n 5; n/s 11"),
        (root, "", "", "f d", "/n/", "n 22; n/s 11"),
        (root, "", "", ".", "/n/", "n 5; n/d 22; n/d/s 11; n/e 33"),
        (image, "", "", ".", "/n/", "n 44; n/d 22; n/d/s 11; n/e 33"),
        (image, "", "parents", "d/s/b", "/n/", "n 44; n/d 5; n/d/s 5"),
        // An existing directory keeps its time unless a directory is copied into it.
        (root, old, "", "d", "/old", "old 22; old/s 11"),
        (root, old, "", "f", "/old", ""),
        (root, old, "", "e", "/old", ""),
        (root, old, "exclude", "d", "/old", ""),
        (root, old, "", "d", "/", "s 11"),
    ] {
        let mut spec = CopySpec::new(sources.split(' '), at);
        spec.parents = flags == "parents";
        spec.exclude = PatternList::new(Some("*").filter(|_| flags == "exclude")).unwrap();
        let plan = plan(from, &destination(to), &spec).unwrap();
        let entries = plan.entries();
        let directories = entries.iter().map(|e| &e.entry).filter(|e| e.is_directory());
        let times: Vec<String> = directories.map(|e| format!("{} {}", e.path, e.mtime)).collect();
        assert_eq!(times.join("; "), expected, "COPY {sources} {at}");
    }
    let mut planner = Planner::new(&EmptyDestination, FileTime::of(5));
    planner.copy(root, &CopySpec::new(["d"], "/n")).unwrap();
    planner.inline_file("x", *b"x", &CopySpec::new(["x"], "/n/")).unwrap();
    assert_eq!(planner.finish().entries()[0].entry.mtime, 5);
}

#[test]
fn the_digest_covers_everything_except_times() {
    let (folder, root) = context("a 644 one; d/b 600 two; l -> a");
    let spec = CopySpec::new(["."], "/x");
    let digest = |spec: &CopySpec| content_digest(&root, spec, &ReadingHasher, 2).unwrap();
    let first = digest(&spec);
    std::fs::File::options()
        .write(true)
        .open(folder.path().join("a"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    assert_eq!(digest(&spec), first);
    let mut fixed = spec.clone();
    fixed.chmod = Some(ModeChange::parse("755").unwrap());
    let fixed_first = digest(&fixed);
    std::fs::set_permissions(folder.path().join("a"), std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_ne!(digest(&spec), first);
    assert_eq!(digest(&fixed), fixed_first);
    std::fs::write(folder.path().join("d/b"), "owt").unwrap();
    assert_ne!(digest(&fixed), fixed_first);
}

#[test]
fn links_pipes_and_odd_names_are_copied() {
    let (folder, _) = context("a -> b; b -> a; out -> /../../etc");
    let root = Arc::new(SourceRoot::open(folder.path(), SourceKind::RootFilesystem, None).unwrap());
    assert_eq!(
        plan(&root, &EmptyDestination, &CopySpec::new(["a"], "/")).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        plan(&root, &EmptyDestination, &CopySpec::new(["out/passwd"], "/")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    std::fs::remove_file(folder.path().join("a")).unwrap();
    std::fs::remove_file(folder.path().join("b")).unwrap();
    let name = std::ffi::OsStr::new("pipe");
    let directory = std::fs::File::open(folder.path()).unwrap();
    rustix::fs::mknodat(&directory, name, rustix::fs::FileType::Fifo, 0o622.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("sock")).unwrap();
    use std::os::unix::ffi::OsStrExt;
    std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
    let plan = plan(&root, &EmptyDestination, &CopySpec::new(["."], "/")).unwrap();
    let entries = plan.entries();
    let names: Vec<_> = entries.iter().map(|e| (e.entry.path.as_bytes(), e.entry.kind.name())).collect();
    assert_eq!(
        names,
        [(&b"out"[..], "symlink"), (b"pipe", "fifo"), (b"sock", "file"), (b"\xff\xfe", "file")]
    );
    let mut writer = LayerWriter::new(Vec::new(), None);
    plan.write(&mut writer).unwrap();
    std::fs::write(folder.path().join(".wh.x"), "").unwrap();
    let spec = CopySpec::new(["."], "/");
    assert_eq!(
        super::tests::plan(&root, &EmptyDestination, &spec).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

/// The memory for a planned file does not depend on how long its path in the source is.
#[test]
fn a_plan_has_no_copies_of_paths_and_metadata() {
    use super::listing::SourceFile;
    use super::planned_entry::{Content, PlannedEntry};
    let (_folder, root) = context("d/e/a; d/e/b; d/e/c; d/f");
    let planned = plan(&root, &EmptyDestination, &CopySpec::new(["."], "/x/")).unwrap();
    let mut listings = Vec::new();
    for PlannedEntry { entry, content, .. } in planned.entries() {
        match content {
            Content::Source { file: SourceFile::Listed(listing, _), .. } => {
                listings.push(Arc::as_ptr(&listing))
            }
            Content::None => assert!(entry.is_directory()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listings.len(), 4);
    listings.dedup();
    assert_eq!(listings.len(), 2, "one listing for each folder");
}

/// `HYPER_COPY_FILES` sets the number of files, to measure.
#[test]
fn many_small_files_are_planned_and_hashed_fast() {
    let (folder, root) = context("");
    let files: usize = std::env::var("HYPER_COPY_FILES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000);
    for directory in 0..files / 50 {
        let path = folder.path().join(format!("d{directory}"));
        std::fs::create_dir(&path).unwrap();
        for file in 0..50 {
            std::fs::write(path.join(format!("f{file}")), [7; 500]).unwrap();
        }
    }
    let start = std::time::Instant::now();
    let spec = CopySpec::new(["."], "/x/");
    let cache = StatCache::new();
    content_digest(&root, &spec, &cache, 2).unwrap();
    let hashed = start.elapsed();
    let planned = plan(&root, &EmptyDestination, &spec).unwrap();
    let took = start.elapsed();
    assert_eq!(planned.entries().len(), files + files / 50 + 1);
    let mut writer = LayerWriter::new(std::io::sink(), None);
    planned.write(&mut writer).unwrap();
    println!(
        "{files} files: hashed in {hashed:?}, planned in {:?}, written in {:?}",
        took - hashed,
        start.elapsed() - took
    );
    // A generous limit for loaded machines, to detect quadratic work.
    assert!(took.as_secs() < 5);
}

proptest! {
    // Few cases, since each makes a tree on the disk.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn entries_are_sorted_and_stay_inside(
        at in "/?([a-c.]{1,2}/?){0,4}",
        source in "/?([a-c.*]{1,2}/?){0,3}",
        links in proptest::collection::vec(("[a-c]", "/?([a-c.]{1,2}/){0,3}"), 0..3),
    ) {
        let (_folder, root) = context("a/b/c; a/c; b/a; c");
        let mut lines = String::from("q/");
        for (name, target) in links.iter().filter(|(n, t)| !t.is_empty() && links.iter().filter(|(m, _)| m == n).count() == 1) {
            lines.push_str(&format!("; {name} -> {target}"));
        }
        let tree = destination(&lines);
        let spec = CopySpec::new([source], destination_path("/", &at));
        if let Ok(plan) = plan(&root, &tree, &spec) {
            let mut writer = LayerWriter::new(Vec::new(), None);
            prop_assert!(plan.write(&mut writer).is_ok(), "{}", show(&plan));
            for entry in plan.entries() {
                prop_assert!(entry.entry.path.parts().all(|p| p != b".." && p != b"."));
            }
        }
    }
}
