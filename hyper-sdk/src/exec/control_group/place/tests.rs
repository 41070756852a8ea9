//! The rules of version 2, on folders that look like those of a kernel: each shape that is accepted and each refusal.

use super::*;
use Controller::{Cpu, Memory, Pids};
use std::fs;

/// A hierarchy in a folder. Every group of it has the controllers cpu, memory and pids, and hands down none.
struct Tree {
    folder: tempfile::TempDir,
    own: PathBuf,
}

impl Tree {
    /// One whose builder is in the group `own`.
    fn new(own: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = Self { own: join(folder.path(), own), folder };
        tree.group("");
        tree.file("", "cgroup.procs", "");
        let mut path = PathBuf::new();
        for part in Path::new(own) {
            path.push(part);
            tree.group(path.to_str().unwrap());
        }
        tree.file(own, "cgroup.procs", "10\n11\n");
        tree
    }

    fn path(&self, group: &str) -> PathBuf {
        join(self.folder.path(), group)
    }

    fn file(&self, group: &str, name: &str, text: &str) {
        fs::write(self.path(group).join(name), text).unwrap();
    }

    /// Makes a group.
    fn group(&self, group: &str) {
        fs::create_dir_all(self.path(group)).unwrap();
        for (name, text) in [
            ("cgroup.controllers", "cpu memory pids\n"),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", ""),
        ] {
            self.file(group, name, text);
        }
        if !group.is_empty() {
            self.file(group, "cgroup.type", "domain\n");
        }
    }

    fn hierarchy(&self) -> Hierarchy {
        Hierarchy { version: Version::Two, mount: self.folder.path().to_owned(), own: Some(self.own.clone()) }
    }

    fn look(
        &self,
        named: Option<&str>,
        controllers: &[Controller],
        world: &World<'_>,
    ) -> Result<Place, String> {
        let before = self.everything();
        let found = look(&self.hierarchy(), named, controllers, world);
        assert_eq!(before, self.everything(), "to look changes nothing");
        found.map_err(|why| why.replace(&self.folder.path().display().to_string(), "TREE"))
    }

    /// Every file with its content.
    fn everything(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut all, mut todo) = (Vec::new(), vec![self.folder.path().to_owned()]);
        while let Some(path) = todo.pop() {
            match path.is_dir() {
                true => todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path())),
                false => all.push((path.clone(), fs::read(&path).unwrap())),
            }
        }
        all.sort();
        all
    }
}

fn join(at: &Path, below: &str) -> PathBuf {
    if below.is_empty() { at.to_owned() } else { at.join(below) }
}

/// A machine with systemd, where everything was handed over and may be written, and 10 and 11 are the builder's.
fn handed_over() -> World<'static> {
    World {
        may_write: &|_| true,
        is_handed_over: &|_| true,
        has_manager: true,
        is_ours: &|pid| pid == 10 || pid == 11,
    }
}

/// The same, where nothing was handed over.
fn kept() -> World<'static> {
    World { is_handed_over: &|_| false, ..handed_over() }
}

#[test]
fn a_group_that_was_handed_over_is_used_once_the_builder_has_left_it() {
    let tree = Tree::new("user.slice/run.scope");
    let found = tree.look(None, &[Memory, Pids], &handed_over());
    assert_eq!(found.unwrap(), Place::WithBuilder(tree.own.clone()));
    tree.file("user.slice/run.scope", "cgroup.procs", "");
    assert_eq!(tree.look(None, &[Memory], &handed_over()).unwrap(), Place::Ready(tree.own.clone()));
    tree.file("user.slice/run.scope", "cgroup.subtree_control", "memory\n");
    assert_eq!(tree.look(None, &[Memory], &handed_over()).unwrap(), Place::Ready(tree.own.clone()));
}

#[test]
fn a_builder_that_was_moved_finds_the_group_that_was_handed_over() {
    let mut tree = Tree::new("run.scope/hyper-builder-7-0a");
    tree.file("run.scope", "cgroup.subtree_control", "cpu memory\n");
    let scope = tree.path("run.scope");
    let world = World { is_handed_over: &|path| path.ends_with("run.scope"), ..handed_over() };
    assert_eq!(tree.look(None, &[Cpu, Memory], &world).unwrap(), Place::Ready(scope));
    // Nothing above the mount.
    tree.own = tree.folder.path().to_owned();
    assert_eq!(builders_place(&tree.own), None);
}

#[test]
fn a_group_that_was_not_handed_over_is_refused_with_the_remedy() {
    let tree = Tree::new("system.slice/runner.service");
    // The group above was: it is not climbed to.
    let world = World { is_handed_over: &|path| path.ends_with("system.slice"), ..handed_over() };
    let why = tree.look(None, &[Memory], &world).unwrap_err();
    assert!(
        why.starts_with(
            "the control group of the builder, TREE/system.slice/runner.service, was not handed to it"
        ),
        "{why}"
    );
    assert!(
        why.contains("systemd-run --user --scope -p Delegate=yes hyperbuild")
            && why.contains("`cgroup-parent`"),
        "{why}"
    );
}

#[test]
fn the_top_of_a_container_is_its_own_and_that_of_a_machine_with_systemd_is_not() {
    let mut tree = Tree::new("");
    let container = World { has_manager: false, ..kept() };
    // The top of a machine has no type, and may have processes.
    assert_eq!(tree.look(None, &[Memory], &container).unwrap(), Place::Ready(tree.own.clone()));
    tree.file("", "cgroup.type", "domain\n");
    assert_eq!(tree.look(None, &[Memory], &container).unwrap(), Place::WithBuilder(tree.own.clone()));
    let why = tree.look(None, &[Memory], &kept()).unwrap_err();
    assert!(why.contains("TREE, was not handed to it"), "{why}");
    // One below the top is not the container's own.
    tree.group("other");
    tree.own = tree.path("other");
    assert!(tree.look(None, &[Memory], &container).unwrap_err().contains("was not handed to it"));
}

#[test]
fn processes_that_the_builder_did_not_start_are_not_moved() {
    let tree = Tree::new("run.scope");
    tree.file("run.scope", "cgroup.procs", "10\n3\n");
    let why = tree.look(None, &[Memory], &handed_over()).unwrap_err();
    assert!(why.contains("has processes that it did not start (such as 3)"), "{why}");
    // 0 is a process of another namespace.
    tree.file("run.scope", "cgroup.procs", "0\n");
    assert!(tree.look(None, &[Memory], &handed_over()).unwrap_err().contains("(such as 0)"));
}

#[test]
fn a_group_without_the_controller_or_the_right_to_write_is_refused() {
    let tree = Tree::new("run.scope");
    tree.file("run.scope", "cgroup.controllers", "memory\n");
    let why = tree.look(None, &[Memory, Pids], &handed_over()).unwrap_err();
    assert!(why.starts_with("TREE/run.scope has no controller `pids`; start the program"), "{why}");
    for file in ["run.scope", "run.scope/cgroup.procs", "run.scope/cgroup.subtree_control"] {
        let closed = tree.path(file);
        let world = World { may_write: &|path| path != closed, ..handed_over() };
        let why = tree.look(None, &[Memory], &world).unwrap_err();
        assert!(why.starts_with(&format!("this user may not write TREE/{file};")), "{why}");
    }
    tree.file("run.scope", "cgroup.type", "threaded\n");
    let why = tree.look(None, &[Memory], &handed_over()).unwrap_err();
    assert!(why.starts_with("TREE/run.scope is a group of threads (`threaded`)"), "{why}");
    let hidden = Hierarchy { own: None, ..tree.hierarchy() };
    let why = look(&hidden, None, &[Memory], &handed_over()).unwrap_err();
    assert_eq!(why, "no mount shows the control group of the builder");
}

#[test]
fn a_named_group_must_be_there_and_be_empty() {
    let tree = Tree::new("run.scope");
    let find = |named: &str, world: &World<'_>| tree.look(Some(named), &[Memory], world);
    let why = find("/builds", &kept()).unwrap_err();
    assert!(why.starts_with("there is no control group TREE/builds: make it"), "{why}");
    tree.group("builds");
    for named in ["/builds", "builds"] {
        assert_eq!(find(named, &kept()).unwrap(), Place::Ready(tree.path("builds")));
    }
    tree.file("builds", "cgroup.procs", "10\n");
    assert!(find("/builds", &kept()).unwrap_err().contains("TREE/builds has processes"));
    // Without a controller it may have processes.
    assert_eq!(tree.look(Some("/builds"), &[], &kept()).unwrap(), Place::Ready(tree.path("builds")));
    tree.file("builds", "cgroup.procs", "");
    tree.file("builds", "cgroup.controllers", "cpu\n");
    assert_eq!(find("/builds", &kept()).unwrap_err(), "TREE/builds has no controller `memory`");
    let closed = World { may_write: &|_| false, ..kept() };
    tree.file("builds", "cgroup.controllers", "memory\n");
    assert_eq!(find("/builds", &closed).unwrap_err(), "this user may not write TREE/builds");
}

#[test]
fn a_named_group_of_systemd_is_not_changed() {
    let tree = Tree::new("run.scope");
    tree.group("machine.slice");
    let find = |world: &World<'_>| tree.look(Some("/machine.slice"), &[Memory], world);
    let why = find(&kept()).unwrap_err();
    assert_eq!(
        why,
        "TREE/machine.slice is a group of systemd, and was not handed over: name one that you made"
    );
    let found = Ok(Place::Ready(tree.path("machine.slice")));
    assert_eq!(find(&handed_over()), found);
    assert_eq!(find(&World { has_manager: false, ..kept() }), found);
    // What systemd hands down anyway needs no change.
    tree.file("machine.slice", "cgroup.subtree_control", "memory\n");
    assert_eq!(find(&kept()), found);
}

#[test]
fn groups_of_version_1_are_made_where_the_user_may() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    let hierarchy =
        Hierarchy { version: Version::One, mount: folder.path().to_owned(), own: Some(own.clone()) };
    let find = |named, world: &World<'_>| look(&hierarchy, named, &[Memory], world);
    assert_eq!(find(None, &kept()).unwrap(), Place::Ready(own));
    assert_eq!(find(Some("/a/b"), &kept()).unwrap(), Place::Named(folder.path().join("a/b")));
    let closed = World { may_write: &|_| false, ..kept() };
    for named in [None, Some("/a/b")] {
        assert!(find(named, &closed).unwrap_err().contains("those of version 1 are root's"));
    }
}

#[test]
fn controllers_are_handed_down_after_the_builder_has_moved() {
    let tree = Tree::new("run.scope");
    let scope = tree.path("run.scope");
    let turn = Turn::take(&scope).unwrap();
    // Without the builder in it.
    Place::Ready(scope.clone()).prepare(&[Memory], &turn).unwrap();
    assert_eq!(fs::read_to_string(scope.join("cgroup.subtree_control")).unwrap(), "+memory");
    // Here the processes stay where they are, as nothing moves them: the group is put back and the error says so.
    let why = Place::WithBuilder(scope.clone()).prepare(&[Pids], &turn).unwrap_err();
    assert!(why.starts_with("the builder cannot be moved to "), "{why}");
    assert_eq!(fs::read_to_string(scope.join("cgroup.subtree_control")).unwrap(), "+memory");
    assert!(group_folder::groups_in(&scope).next().is_none(), "no group is left");
}

#[test]
fn only_what_the_builder_started_is_below_it() {
    let parent = |pid: u32| {
        [(4, 3), (3, 2), (2, 1), (1, 0), (9, 9)].into_iter().find(|(p, _)| *p == pid).map(|(_, up)| up)
    };
    let is = |builder, pid| is_below(builder, pid, &parent);
    assert!(is(Some(2), 4) && is(Some(2), 2) && !is(Some(3), 2));
    assert!(!is(Some(2), 0) && !is(Some(2), 9) && !is(Some(2), 77) && !is(None, 4));
}
