//! Tests of the folder of snapshots.

use super::*;

fn chain(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

#[test]
fn a_commit_is_found_and_a_second_one_returns_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, leftovers) = Folders::open(folder.path()).unwrap();
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
    let (folders, _) = Folders::open(folder.path()).unwrap();
    let list = folders.pieces(Some(&chain("b"))).unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(std::fs::read(list[1].files.join("a")).unwrap(), b"a");
    assert_eq!(folders.pieces(Some(&chain("c"))).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn numbers_are_never_reused() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = Folders::open(folder.path()).unwrap();
    let first = folders.claim().unwrap();
    let (id, path) = (first.id, first.folder.clone());
    // Cancelled work may still use this path.
    drop(folders.give_up(first).unwrap());
    let second = folders.claim().unwrap();
    assert!(second.id > id && !path.exists());
    drop(folders.give_up(second).unwrap());
    let (other, _) = Folders::open(folder.path()).unwrap();
    assert!(other.claim().unwrap().id > id + 1, "another process knows it too");
}

#[test]
fn only_folders_of_dead_processes_are_leftovers() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = Folders::open(folder.path()).unwrap();
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
    let (second, leftovers) = Folders::open(folder.path()).unwrap();
    assert_eq!(leftovers.len(), 3);
    assert!(leftovers[0].path.join("fs/dead").exists());
    assert!(leftovers[2].path.join("fs/unnamed").exists());
    assert_eq!(second.numbers("active").unwrap(), [alive.id].into());
    assert_eq!(second.numbers("layers").unwrap(), [].into());
    // While one process removes them, others ignore them. After its death the next one continues. Only folders without
    // a lock may be removed by two processes.
    assert_eq!(Folders::open(folder.path()).unwrap().1.len(), 1);
    drop(leftovers);
    assert_eq!(Folders::open(folder.path()).unwrap().1.len(), 3);
}

#[test]
fn concurrent_starts_and_claims_do_not_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let opened = &|| {
        let (folders, leftovers) = Folders::open(folder.path()).unwrap();
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
    let (folders, _) = Folders::open(folder.path()).unwrap();
    assert_eq!(folders.numbers("active").unwrap(), [].into());
    assert_eq!(folders.numbers("layers").unwrap().len(), 2);
}

#[test]
fn unsynced_layers_of_another_boot_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = Folders::open(folder.path()).unwrap();
    for name in ["a", "b"] {
        folders.commit(folders.claim().unwrap(), None, &chain(name), None).unwrap();
    }
    for (digest, mut record) in folders.list().unwrap() {
        record.boot = "another".to_owned();
        std::fs::write(folders.record_path(&digest), record.to_bytes()).unwrap();
    }
    std::fs::write(folders.root.join("synced"), "1").unwrap();
    let (folders, leftovers) = Folders::open(folder.path()).unwrap();
    assert!(folders.record(&chain("a")).unwrap().is_some());
    assert!(folders.record(&chain("b")).unwrap().is_none());
    assert_eq!(leftovers.len(), 1);
}

#[test]
fn only_old_layers_are_synced() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = Folders::open(folder.path()).unwrap();
    for name in ["a", "b"] {
        folders.commit(folders.claim().unwrap(), None, &chain(name), None).unwrap();
    }
    assert!(folders.sync_in_background().is_none());
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let first = File::options().write(true).open(folders.record_path(&chain("a"))).unwrap();
    first.set_modified(an_hour_ago).unwrap();
    folders.sync_in_background().unwrap().join().unwrap();
    assert_eq!(folders.synced(), folders.record(&chain("a")).unwrap().unwrap().id);
    assert!(folders.sync_in_background().is_none());
}

#[test]
fn an_unfinished_layer_is_not_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = Folders::open(folder.path()).unwrap();
    let slow = folders.claim().unwrap();
    let id = slow.id;
    folders.commit(folders.claim().unwrap(), None, &chain("fast"), None).unwrap();
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let fast = File::options().write(true).open(folders.record_path(&chain("fast"))).unwrap();
    fast.set_modified(an_hour_ago).unwrap();
    if let Some(thread) = folders.sync_in_background() {
        thread.join().unwrap();
    }
    assert!(folders.synced() < id);
    folders.commit(slow, None, &chain("slow"), None).unwrap();
    folders.sync_in_background().unwrap().join().unwrap();
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
    let (folders, _) = Folders::open(folder.path()).unwrap();
    folders.commit(folders.claim().unwrap(), None, &chain("a"), None).unwrap();
    std::fs::write(folders.record_path(&chain("a")), "").unwrap();
    let (folders, leftovers) = Folders::open(folder.path()).unwrap();
    assert!(folders.record(&chain("a")).unwrap().is_none());
    assert_eq!(leftovers.len(), 1);
}

#[test]
fn removals_need_exclusive_access() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = Folders::open(folder.path()).unwrap();
    let (second, _) = Folders::open(folder.path()).unwrap();
    assert_eq!(first.exclusively(|| Ok(())).unwrap_err().kind(), ErrorKind::Conflict);
    drop(second);
    first.exclusively(|| Ok(())).unwrap();
}

#[test]
fn a_join_replaces_a_record_that_is_damaged_or_has_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let (folders, _) = Folders::open(folder.path()).unwrap();
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
