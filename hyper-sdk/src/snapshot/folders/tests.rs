//! Tests of the folder of snapshots.

use super::*;

/// Opens the folder as a start does that comes a minute after the others.
fn started(root: &Path) -> Result<(Folders, Vec<Removed>)> {
    let _ = std::fs::remove_file(root.join("looked"));
    Folders::open(root)
}

/// Syncs as a start does.
fn sync(folders: &Folders) -> Option<std::thread::JoinHandle<()>> {
    let _held = folders.hold_numbers().unwrap();
    folders.sync_listed(&folders.read_all().unwrap())
}

fn chain(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

#[test]
fn a_commit_is_found_and_a_second_one_returns_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, leftovers) = started(folder.path()).unwrap();
    assert!(leftovers.is_empty());
    let claim = folders.claim().unwrap();
    std::fs::write(claim.folder.join("fs/a"), "a").unwrap();
    assert!(folders.commit(claim, None, &chain("a"), None).unwrap().is_none());
    let again = folders.claim().unwrap();
    let id = again.id;
    let spare = folders.commit(again, None, &chain("a"), None).unwrap().unwrap();
    assert!(spare.path.starts_with(folders.root.join("removed")) && spare.path.join("fs").is_dir());
    assert!(folders.claim().unwrap().id > id);
    let child = folders.claim().unwrap();
    folders.commit(child, Some(&chain("a")), &chain("b"), None).unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    let list = folders.pieces(Some(&chain("b"))).unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(std::fs::read(list[1].files.join("a")).unwrap(), b"a");
    assert_eq!(folders.pieces(Some(&chain("c"))).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn numbers_are_never_reused() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    let first = folders.claim().unwrap();
    let (id, path) = (first.id, first.folder.clone());
    // Cancelled work may still use this path.
    drop(folders.give_up(first).unwrap());
    let second = folders.claim().unwrap();
    assert!(second.id > id && !path.exists());
    drop(folders.give_up(second).unwrap());
    let (other, _) = started(folder.path()).unwrap();
    assert!(other.claim().unwrap().id > id + 1, "another process knows it too");
}

#[test]
fn only_folders_of_dead_processes_are_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    let alive = folders.claim().unwrap();
    let dead = folders.claim().unwrap();
    std::fs::write(dead.folder.join("fs/dead"), "").unwrap();
    drop(dead);
    let unnamed = folders.claim().unwrap();
    std::fs::write(unnamed.folder.join("fs/unnamed"), "").unwrap();
    let moved = folders.root.join("layers").join(unnamed.id.to_string());
    std::fs::rename(&unnamed.folder, &moved).unwrap();
    drop(unnamed);
    // Its owner died before it made the lock file.
    std::fs::create_dir(folders.root.join("active/9")).unwrap();
    let (second, leftovers) = started(folder.path()).unwrap();
    assert_eq!(leftovers.len(), 3);
    assert!(leftovers[0].path.join("fs/dead").exists());
    assert!(leftovers[2].path.join("fs/unnamed").exists());
    assert_eq!(second.numbers("active").unwrap(), [alive.id].into());
    assert_eq!(second.numbers("layers").unwrap(), [].into());
    // While one process removes them, others ignore them. After its death the next one continues. Only folders without
    // a lock may be removed by two processes.
    assert_eq!(started(folder.path()).unwrap().1.len(), 1);
    drop(leftovers);
    assert_eq!(started(folder.path()).unwrap().1.len(), 3);
}

#[test]
fn concurrent_starts_and_claims_do_not_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let opened = &|| {
        let (folders, leftovers) = started(folder.path()).unwrap();
        for leftover in leftovers {
            std::fs::remove_dir_all(&leftover.path).ok();
        }
        folders
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for turn in 0..40 {
                    let folders = opened();
                    let claim = folders.claim().unwrap();
                    let own = claim.folder.join(format!("fs/{thread}-{turn}"));
                    std::fs::write(&own, "").unwrap();
                    drop(opened());
                    let files = std::fs::read_dir(claim.folder.join("fs")).unwrap();
                    assert_eq!(files.flatten().map(|e| e.path()).collect::<Vec<_>>(), [own]);
                    match turn % 3 {
                        0 => drop(folders.give_up(claim).unwrap()),
                        // Like a process that dies.
                        1 => drop(claim),
                        _ => {
                            let (name, id) = (chain(&format!("{}", turn % 6)), claim.id);
                            let spare = folders.commit(claim, None, &name, None).unwrap();
                            let record = folders.record(&name).unwrap().unwrap();
                            assert!(folders.files(record.id).is_dir());
                            assert_eq!(spare.is_none(), record.id == id);
                        }
                    }
                }
            });
        }
    });
    let (folders, _) = started(folder.path()).unwrap();
    assert_eq!(folders.numbers("active").unwrap(), [].into());
    assert_eq!(folders.numbers("layers").unwrap().len(), 2);
}

#[test]
fn unsynced_layers_of_another_boot_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    for name in ["a", "b"] {
        folders.commit(folders.claim().unwrap(), None, &chain(name), None).unwrap();
    }
    for (digest, mut record) in folders.list().unwrap() {
        record.boot = "another".to_owned();
        std::fs::write(folders.record_path(&digest), record.to_bytes()).unwrap();
    }
    std::fs::write(folders.root.join("synced"), "1").unwrap();
    let (folders, leftovers) = started(folder.path()).unwrap();
    assert!(folders.record(&chain("a")).unwrap().is_some());
    assert!(folders.record(&chain("b")).unwrap().is_none());
    assert_eq!(leftovers.len(), 1);
}

#[test]
fn only_old_layers_are_synced() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    for name in ["a", "b"] {
        folders.commit(folders.claim().unwrap(), None, &chain(name), None).unwrap();
    }
    assert!(sync(&folders).is_none());
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let first = File::options().write(true).open(folders.record_path(&chain("a"))).unwrap();
    first.set_modified(an_hour_ago).unwrap();
    sync(&folders).unwrap().join().unwrap();
    assert_eq!(folders.synced(), folders.record(&chain("a")).unwrap().unwrap().id);
    assert!(sync(&folders).is_none());
}

#[test]
fn an_unfinished_layer_is_not_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    let slow = folders.claim().unwrap();
    let id = slow.id;
    folders.commit(folders.claim().unwrap(), None, &chain("fast"), None).unwrap();
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let fast = File::options().write(true).open(folders.record_path(&chain("fast"))).unwrap();
    fast.set_modified(an_hour_ago).unwrap();
    if let Some(thread) = sync(&folders) {
        thread.join().unwrap();
    }
    assert!(folders.synced() < id);
    folders.commit(slow, None, &chain("slow"), None).unwrap();
    sync(&folders).unwrap().join().unwrap();
    assert_eq!(folders.synced(), id + 1);
    // A number that is marked durable is never allocated again.
    for name in ["fast", "slow"] {
        folders.retire(folders.record(&chain(name)).unwrap().unwrap().id).unwrap();
        folders.forget(&chain(name)).unwrap();
    }
    assert_eq!(folders.claim().unwrap().id, id + 2);
}

#[test]
fn a_damaged_record_is_dropped_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    folders.commit(folders.claim().unwrap(), None, &chain("a"), None).unwrap();
    std::fs::write(folders.record_path(&chain("a")), "").unwrap();
    let (folders, leftovers) = started(folder.path()).unwrap();
    assert!(folders.record(&chain("a")).unwrap().is_none());
    assert_eq!(leftovers.len(), 1);
}

#[test]
fn removals_need_exclusive_access() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = started(folder.path()).unwrap();
    let (second, _) = started(folder.path()).unwrap();
    assert_eq!(first.exclusively(|| Ok(())).unwrap_err().kind(), ErrorKind::Conflict);
    drop(second);
    first.exclusively(|| Ok(())).unwrap();
}

#[test]
fn a_join_replaces_a_record_that_is_damaged_or_has_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    let top = chain("top");
    let claim = folders.claim().unwrap();
    folders.commit(claim, None, &top, None).unwrap();
    let join = |folders: &Folders| {
        let claim = folders.claim().unwrap();
        let files = folders.files(claim.id);
        (folders.commit_join(claim, &top, None, 1).unwrap(), files)
    };
    let shown = |folders: &Folders| {
        let pieces = folders.pieces(Some(&top)).unwrap();
        (pieces[0].level, pieces[0].files.clone())
    };
    // That of another process is used.
    let (spare, first) = join(&folders);
    assert!(spare.is_none() && shown(&folders) == (1, first.clone()));
    locked(&folders.joins).clear();
    assert!(join(&folders).0.is_some());
    assert_eq!(shown(&folders), (1, first.clone()));
    // Its files are gone.
    std::fs::remove_dir_all(first.parent().unwrap()).unwrap();
    locked(&folders.joins).clear();
    let (spare, second) = join(&folders);
    assert!(spare.is_none() && second != first && second.is_dir());
    assert_eq!(shown(&folders), (1, second));
    // It is cut short.
    let record = std::fs::read_dir(folders.root.join("joins")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(record, "x").unwrap();
    locked(&folders.joins).clear();
    let (spare, third) = join(&folders);
    assert!(spare.is_none());
    assert_eq!(shown(&folders), (1, third));
}

/// A folder of two layers that an earlier start found in order, and the folders that it opened.
fn settled_folder() -> (tempfile::TempDir, Folders) {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    folders.commit(folders.claim().unwrap(), None, &chain("below"), None).unwrap();
    folders.commit(folders.claim().unwrap(), Some(&chain("below")), &chain("top"), None).unwrap();
    std::fs::write(folder.path().join("synced"), "2").unwrap();
    let state = folders.state().map(|state| settled::State { changed: 0, ..state });
    folders.settle(state, &folders.read_all().unwrap());
    assert!(folders.is_settled(folders.state().as_ref()));
    (folder, folders)
}

#[test]
fn a_start_reads_no_record_when_nothing_changed_since_all_was_in_order() {
    let (folder, folders) = settled_folder();
    drop(folders);
    // The record is damaged, which only a look at it shows.
    let record = std::fs::read_dir(folder.path().join("chains")).unwrap().next().unwrap().unwrap().path();
    let intact = std::fs::read(&record).unwrap();
    std::fs::write(&record, "x").unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    assert!(record.exists());
    drop(folders);
    std::fs::write(&record, intact).unwrap();
    let (folders, leftovers) = started(folder.path()).unwrap();
    assert!(leftovers.is_empty() && folders.is_whole(&chain("top")).unwrap());
}

#[test]
fn any_change_makes_the_next_start_read_all() {
    let changes: [fn(&Folders); 5] = [
        |folders| drop(folders.commit(folders.claim().unwrap(), None, &chain("new"), None).unwrap()),
        |folders| folders.forget(&chain("top")).unwrap(),
        |folders| std::fs::create_dir(folders.root.join("layers/77")).unwrap(),
        |folders| std::fs::remove_dir_all(folders.root.join("layers/1")).unwrap(),
        |folders| drop(folders.commit_join(folders.claim().unwrap(), &chain("top"), None, 1).unwrap()),
    ];
    for change in changes {
        let (_folder, folders) = settled_folder();
        change(&folders);
        assert!(!folders.is_settled(folders.state().as_ref()));
    }
    let (_folder, folders) = settled_folder();
    let another = Folders { boot: "another".to_owned(), ..folders };
    assert!(!another.is_settled(another.state().as_ref()));
}

#[test]
fn what_is_new_or_not_durable_or_unnamed_is_not_settled() {
    let (folder, folders) = settled_folder();
    std::fs::remove_file(folder.path().join("settled")).unwrap();
    let old = || folders.state().map(|state| settled::State { changed: 0, ..state });
    folders.settle(folders.state(), &folders.read_all().unwrap());
    assert!(!folder.path().join("settled").exists(), "it changed just now");
    std::fs::write(folder.path().join("synced"), "1").unwrap();
    folders.settle(old(), &folders.read_all().unwrap());
    assert!(!folder.path().join("settled").exists(), "a layer is not durable");
    std::fs::write(folder.path().join("synced"), "2").unwrap();
    std::fs::create_dir(folders.root.join("layers/77")).unwrap();
    folders.settle(old(), &folders.read_all().unwrap());
    assert!(!folder.path().join("settled").exists(), "a folder has no name");
    std::fs::remove_dir(folders.root.join("layers/77")).unwrap();
    folders.settle(old(), &folders.read_all().unwrap());
    assert!(folder.path().join("settled").exists());
}

#[test]
fn joins_are_found_after_a_start_that_read_nothing() {
    let (folder, folders) = settled_folder();
    let claim = folders.claim().unwrap();
    let files = folders.files(claim.id);
    assert!(folders.commit_join(claim, &chain("top"), None, 1).unwrap().is_none());
    std::fs::write(folder.path().join("synced"), "9").unwrap();
    let state = folders.state().map(|state| settled::State { changed: 0, ..state });
    folders.settle(state, &folders.read_all().unwrap());
    drop(folders);
    let (folders, _) = started(folder.path()).unwrap();
    assert!(folders.joins_are_read.get().is_none());
    let pieces = folders.pieces(Some(&chain("top"))).unwrap();
    assert_eq!((pieces.len(), pieces[0].level, &pieces[0].files), (1, 1, &files));
}

#[test]
fn starts_in_the_minute_after_one_that_read_all_read_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    folders.commit(folders.claim().unwrap(), None, &chain("a"), None).unwrap();
    let unnamed = folders.claim().unwrap();
    std::fs::rename(&unnamed.folder, folders.root.join("layers").join(unnamed.id.to_string())).unwrap();
    let active = folders.claim().unwrap();
    let record = folders.record_path(&chain("a"));
    std::fs::write(&record, "x").unwrap();
    drop((unnamed, active, folders));
    // What a step left is found at each start.
    let (folders, leftovers) = Folders::open(folder.path()).unwrap();
    assert!(record.exists() && leftovers.len() == 1);
    // A damaged record is found where it is used.
    assert!(folders.record(&chain("a")).unwrap().is_none() && !record.exists());
    drop((folders, leftovers));
    let old = SystemTime::now() - std::time::Duration::from_secs(61);
    let ahead = SystemTime::now() + std::time::Duration::from_secs(3600);
    for time in [old, ahead] {
        std::fs::write(&record, "x").unwrap();
        let looked = File::options().write(true).open(folder.path().join("looked")).unwrap();
        looked.set_modified(time).unwrap();
        Folders::open(folder.path()).unwrap();
        assert!(!record.exists());
    }
    std::fs::write(&record, "x").unwrap();
    std::fs::write(folder.path().join("looked"), "another boot").unwrap();
    Folders::open(folder.path()).unwrap();
    assert!(!record.exists());
}

#[test]
fn a_listing_finds_what_processes_left_that_died_a_moment_ago() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    folders.commit(folders.claim().unwrap(), None, &chain("a"), None).unwrap();
    let unnamed = folders.claim().unwrap();
    let left = folders.root.join("layers").join(unnamed.id.to_string());
    std::fs::rename(&unnamed.folder, &left).unwrap();
    drop((unnamed, folders));
    let (folders, leftovers) = Folders::open(folder.path()).unwrap();
    assert!(leftovers.is_empty() && left.exists());
    let (listing, leftovers) = folders.look_again().unwrap();
    assert_eq!((listing.records.len(), leftovers.len(), left.exists()), (1, 1, false));
}

#[test]
fn leftovers_come_in_portions_that_few_open_files_suffice_for() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = started(folder.path()).unwrap();
    folders.commit(folders.claim().unwrap(), None, &chain("a"), None).unwrap();
    let unnamed: Vec<_> = (0..100).map(|_| folders.claim().unwrap()).collect();
    for claim in unnamed.iter().skip(50) {
        std::fs::rename(&claim.folder, folders.root.join("layers").join(claim.id.to_string())).unwrap();
    }
    for number in 0..100 {
        let left = folders.root.join(format!("removed/1-{number}-1"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("lock"), "").unwrap();
    }
    drop((unnamed, folders));
    let (folders, mut leftovers) = started(folder.path()).unwrap();
    let mut removed = 0;
    while !leftovers.is_empty() {
        assert!(leftovers.len() <= leftovers::AT_ONCE);
        for leftover in leftovers {
            std::fs::remove_dir_all(&leftover.path).unwrap();
            removed += 1;
        }
        leftovers = folders.more_leftovers().unwrap();
    }
    assert_eq!(removed, 200);
    let left = |of: &str| std::fs::read_dir(folder.path().join(of)).unwrap().count();
    assert_eq!((left("active"), left("removed"), left("layers")), (0, 0, 1));
    assert!(folders.record(&chain("a")).unwrap().is_some());
}
