//! What a step without mounts finds at the places of its mounts: files and folders that are put into its tree, and taken
//! away again after the step.
//!
//! What the tree has at a place is moved aside first, and back at the end. So the layer of a step has nothing of its
//! mounts, as with real ones. A folder has the time that it would have without: its own, or that of the step's last
//! change in it.

use super::mount_api::wrong;
use super::mountpoint::{self, KEPT, Kind, Made};
use crate::sandbox::lent::{self, Cache};
use crate::sandbox::{tree, view};
use crate::{Error, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// The places in the tree of one step.
pub(super) struct Places {
    root: OwnedFd,
    /// The path of the root, as the kernel shows it.
    top: PathBuf,
    /// The path of the root, as the caller gave it.
    tree: PathBuf,
    /// A folder beside the tree for what was moved aside.
    aside: PathBuf,
    record: lent::Record,
    made: Vec<Made>,
    taken: Vec<Taken>,
}

struct Taken {
    parent: OwnedFd,
    name: OsString,
    /// The path below the root.
    path: PathBuf,
    /// The cache that was moved there. It is held open, so that nothing else gets its number when the step removes it.
    cache: Option<(Cache, OwnedFd)>,
}

/// A place to fill.
pub(super) struct Place<'a> {
    pub(super) parent: BorrowedFd<'a>,
    pub(super) name: &'a OsStr,
    /// The mode of what was there.
    pub(super) mode: u32,
    /// Whether nothing was there.
    pub(super) is_new: bool,
}

impl Places {
    /// Begins in the tree `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let root = view::open_folder(path)?;
        // An earlier step on this tree may have been killed.
        lent::put_back(path)?;
        let aside = lent::aside_of(path);
        tree::remove(&aside)?;
        std::fs::create_dir(&aside).map_err(|e| Error::io("cannot make a folder", &aside, e))?;
        let record = lent::Record::begin(path)?;
        let (top, tree) =
            (shown(root.as_fd()).map_err(wrong("cannot find the path of", path))?, path.to_owned());
        Ok(Self { root, top, tree, aside, record, made: Vec::new(), taken: Vec::new() })
    }

    /// The root of the tree.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Moves aside what is at `target` and lets `fill` put something there. It is removed after the step.
    pub(super) fn put(
        &mut self,
        target: &str,
        kind: Kind,
        fill: impl FnOnce(Place<'_>) -> Result<()>,
    ) -> Result<()> {
        self.put_one(target, kind, None, fill)
    }

    /// Moves aside what is at `target` and moves the cache at `home` there. It is moved back after the step.
    pub(super) fn lend(&mut self, target: &str, home: &Path) -> Result<()> {
        let meta =
            std::fs::symlink_metadata(home).map_err(|e| Error::io("cannot open a cache folder", home, e))?;
        let kind = if meta.is_dir() { Kind::Folder } else { Kind::File };
        let held = rustix::fs::open(home, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(wrong("cannot open a cache folder", home))?;
        let cache = Cache::at(home)?;
        cache.note_tree(&self.tree)?;
        let lent = self.put_one(target, kind, Some((cache.clone(), held)), |place| {
            match rustix::fs::renameat_with(CWD, home, place.parent, place.name, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(()),
                Err(Errno::XDEV) => Err(Error::unsupported(
                    "without isolation, a cache and the tree of a step must be on one file system: choose another \
                     state folder",
                )
                .with_context("path", home.display())),
                Err(e) => Err(wrong("cannot move a cache to its place", home)(e)),
            }
        });
        if lent.is_err() {
            // The first error counts.
            let _ = cache.take_note_back(&self.tree);
        }
        lent
    }

    fn put_one(
        &mut self,
        target: &str,
        kind: Kind,
        cache: Option<(Cache, OwnedFd)>,
        fill: impl FnOnce(Place<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut made = Vec::new();
        let found = mountpoint::open(self.root.as_fd(), target, kind, None, &mut made)?;
        let failed = wrong("cannot use a place in the tree of the step", target);
        // What was made in the content of another place ends with that.
        made.retain(|one| !self.taken.iter().any(|taken| one.path().starts_with(&taken.path)));
        for one in &made {
            self.reset_time(one).map_err(&failed)?;
        }
        self.made.extend(made);
        let at = shown(found.file.as_fd()).map_err(&failed)?;
        let mode = rustix::fs::fstat(&found.file).map_err(&failed)?.st_mode & 0o7777;
        let (Some(above), Some(name), Ok(path)) = (at.parent(), at.file_name(), at.strip_prefix(&self.top))
        else {
            return Err(
                Error::invalid("a mount is not in the tree of the step").with_context("target", target)
            );
        };
        let parent = view::open_folder(above)?;
        let time = modified(parent.as_fd()).map_err(&failed)?;
        let number = self.taken.len();
        self.record.note(number, path, cache.as_ref().map(|(cache, _)| cache))?;
        rustix::fs::renameat(&parent, name, CWD, self.aside.join(number.to_string())).map_err(&failed)?;
        let (name, path) = (name.to_owned(), path.to_owned());
        let place = Place { parent: parent.as_fd(), name: &name, mode, is_new: found.is_new };
        let filled = fill(place);
        let timed = set_modified(parent.as_fd(), time).map_err(&failed);
        self.taken.push(Taken { parent, name, path, cache: cache.filter(|_| filled.is_ok()) });
        filled.and(timed)
    }

    /// Gives the folder above a mount point the time that it had, except where the mount point stays.
    fn reset_time(&self, one: &Made) -> rustix::io::Result<()> {
        if KEPT.iter().any(|kept| Path::new(kept) == one.path()) {
            return Ok(());
        }
        let above = one.path().parent().unwrap_or(Path::new(""));
        match mountpoint::folder_below(self.root.as_fd(), above) {
            Some(parent) => set_modified(parent.as_fd(), one.time_before()),
            None => Ok(()),
        }
    }

    /// Takes away what was put, and moves back what was there. No process of the step may run any more.
    pub(super) fn put_back(self) -> Result<()> {
        let mut outcome = Ok(());
        for (number, taken) in self.taken.iter().enumerate().rev() {
            let back = self.put_one_back(number, taken);
            outcome = outcome.and(back);
        }
        for one in self.made.iter().rev().filter(|one| !KEPT.iter().any(|kept| Path::new(kept) == one.path()))
        {
            let removed = self.remove_unused(one);
            outcome = outcome.and(removed.map_err(wrong("cannot remove a mount point", one.path())));
        }
        // What could not be put back is left to those who remove the tree.
        outcome?;
        tree::remove(&self.aside)?;
        self.record.end()
    }

    fn put_one_back(&self, number: usize, taken: &Taken) -> Result<()> {
        let failed = wrong("cannot put back what a mount covered", &taken.path);
        let parent = taken.parent.as_fd();
        let time = modified(parent).map_err(&failed)?;
        let place = view::fd_path(&parent).join(&taken.name);
        if let Some((cache, _)) = &taken.cache {
            cache.bring_home(Some(&place), &self.tree)?;
        }
        tree::remove(&place)?;
        match rustix::fs::renameat(CWD, self.aside.join(number.to_string()), parent, &taken.name) {
            // The step removed the folder.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed(e)),
        }
        set_modified(parent, time).map_err(&failed)
    }

    /// Removes a mount point unless the step has put something there.
    fn remove_unused(&self, one: &Made) -> rustix::io::Result<()> {
        let above = one.path().parent().unwrap_or(Path::new(""));
        let (Some(parent), Some(name)) =
            (mountpoint::folder_below(self.root.as_fd(), above), one.path().file_name())
        else {
            return Ok(());
        };
        let time = modified(parent.as_fd())?;
        let Ok(stat) = rustix::fs::statat(&parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(());
        };
        let removed = match FileType::from_raw_mode(stat.st_mode) {
            // A folder with entries stays.
            FileType::Directory => {
                rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::REMOVEDIR).is_ok()
            }
            FileType::RegularFile if stat.st_size == 0 => {
                rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty()).is_ok()
            }
            _ => false,
        };
        if removed { set_modified(parent.as_fd(), time) } else { Ok(()) }
    }
}

/// Makes the folder of a place.
pub(super) fn make_folder(place: &Place<'_>, mode: u32) -> Result<OwnedFd> {
    let failed = wrong("cannot make a folder for the step", Path::new(place.name));
    rustix::fs::mkdirat(place.parent, place.name, Mode::RWXU).map_err(&failed)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(place.parent, place.name, flags, Mode::empty()).map_err(&failed)?;
    rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode)).map_err(&failed)?;
    Ok(folder)
}

/// The path that the kernel shows for an open file.
fn shown(file: BorrowedFd<'_>) -> rustix::io::Result<PathBuf> {
    let bytes = rustix::fs::readlink(view::fd_path(&file), Vec::new())?.into_bytes();
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

type Time = (i64, i64);

fn modified(folder: BorrowedFd<'_>) -> rustix::io::Result<Time> {
    rustix::fs::fstat(folder).map(|stat| (stat.st_mtime, stat.st_mtime_nsec as i64))
}

fn set_modified(folder: BorrowedFd<'_>, (seconds, nanoseconds): Time) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ },
    };
    rustix::fs::futimens(folder, &times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn listing(top: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![top.to_owned()];
        while let Some(folder) = todo.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().flatten() {
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                let shown = path.strip_prefix(top).unwrap().display().to_string();
                if meta.is_dir() {
                    let time = meta.modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
                    found.push(format!("{shown}/ {time}"));
                    todo.push(path);
                } else {
                    found.push(format!("{shown} {}", std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    fn age(folder: &Path) {
        let time = UNIX_EPOCH + Duration::from_secs(77);
        std::fs::File::open(folder).unwrap().set_modified(time).unwrap();
    }

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("fs");
        for name in ["etc", "used", "cache/old"] {
            std::fs::create_dir_all(top.join(name)).unwrap();
        }
        std::fs::write(top.join("etc/hosts"), "own").unwrap();
        for name in ["proc", "sys", "dev"] {
            std::fs::create_dir(top.join(name)).unwrap();
        }
        for name in ["etc", "used", "cache/old", "cache", "proc", "sys", "dev", "."] {
            age(&top.join(name));
        }
        (folder, top)
    }

    fn file(text: &str) -> impl FnOnce(Place<'_>) -> Result<()> + '_ {
        move |place| {
            std::fs::write(view::fd_path(&place.parent).join(place.name), text).unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_tree_is_as_before_afterwards() {
        let (_folder, top) = tree();
        let before = listing(&top);
        let mut places = Places::open(&top).unwrap();
        places.put("/etc/hosts", Kind::File, file("ours")).unwrap();
        places.put("/etc/resolv.conf", Kind::File, file("new")).unwrap();
        places.put("/used/a/b", Kind::Folder, |place| make_folder(&place, 0o755).map(drop)).unwrap();
        places.put("/used/a/b/c", Kind::File, file("nested")).unwrap();
        places.put("/dev", Kind::Folder, |place| make_folder(&place, 0o755).map(drop)).unwrap();
        assert_eq!(std::fs::read_to_string(top.join("etc/hosts")).unwrap(), "ours");
        assert_eq!(std::fs::read_to_string(top.join("used/a/b/c")).unwrap(), "nested");
        std::fs::write(top.join("dev/left"), "x").unwrap();
        places.put_back().unwrap();
        assert_eq!(listing(&top), before);
        assert_eq!(
            std::fs::metadata(&top).unwrap().modified().unwrap(),
            UNIX_EPOCH + Duration::from_secs(77)
        );
        assert!(!top.with_extension("aside").exists());
    }

    #[test]
    fn what_the_step_changed_stays() {
        let (_folder, top) = tree();
        let mut places = Places::open(&top).unwrap();
        places.put("/etc/hosts", Kind::File, file("ours")).unwrap();
        places.put("/used/a", Kind::Folder, |place| make_folder(&place, 0o755).map(drop)).unwrap();
        std::fs::write(top.join("etc/passwd"), "root").unwrap();
        age(&top.join("etc"));
        std::fs::remove_dir_all(top.join("used")).unwrap();
        std::fs::write(top.join("used"), "a file now").unwrap();
        places.put_back().unwrap();
        let after = listing(&top);
        assert!(
            after.contains(&"etc/ 77".to_owned()) && after.contains(&"etc/hosts own".to_owned()),
            "{after:?}"
        );
        assert!(after.contains(&"used a file now".to_owned()), "{after:?}");
    }

    #[test]
    fn a_cache_is_moved_in_and_back() {
        let (folder, top) = tree();
        let cache = folder.path().join("shared");
        std::fs::create_dir(&cache).unwrap();
        let mut places = Places::open(&top).unwrap();
        places.lend("/cache", &cache).unwrap();
        std::fs::write(top.join("cache/kept"), "x").unwrap();
        places.put_back().unwrap();
        assert_eq!(std::fs::read_to_string(cache.join("kept")).unwrap(), "x");
        assert!(top.join("cache/old").exists());
    }

    #[test]
    fn an_empty_folder_of_the_tree_is_not_taken_for_a_mount_point() {
        let (_folder, top) = tree();
        let before = listing(&top);
        let mut places = Places::open(&top).unwrap();
        places.put("/cache", Kind::Folder, |place| make_folder(&place, 0o755).map(drop)).unwrap();
        places.put("/cache/old", Kind::Folder, |place| make_folder(&place, 0o755).map(drop)).unwrap();
        places.put_back().unwrap();
        assert_eq!(listing(&top), before);
    }

    /// A tree with two caches, one in the other, and a mount in the outer one.
    fn lent() -> (tempfile::TempDir, PathBuf, [PathBuf; 2]) {
        let (folder, top) = tree();
        let homes = ["outer", "inner"].map(|name| folder.path().join(name));
        for home in &homes {
            std::fs::create_dir(home).unwrap();
            std::fs::write(home.join("old"), "precious").unwrap();
        }
        std::fs::create_dir(homes[0].join("covered")).unwrap();
        std::fs::write(homes[0].join("covered/file"), "precious").unwrap();
        (folder, top, homes)
    }

    /// Puts everything into the tree, up to a number of places. The places are never put back, as after a kill.
    fn killed_after(count: usize, top: &Path, homes: &[PathBuf; 2], more: impl FnOnce()) {
        let mut places = Places::open(top).unwrap();
        let mut all: [&mut dyn FnMut(&mut Places); 4] = [
            &mut |places| places.put("/etc/hosts", Kind::File, file("ours")).unwrap(),
            &mut |places| places.lend("/cache", &homes[0]).unwrap(),
            &mut |places| places.lend("/cache/in", &homes[1]).unwrap(),
            &mut |places| {
                places.put("/cache/covered", Kind::Folder, |p| make_folder(&p, 0o755).map(drop)).unwrap();
            },
        ];
        for put in &mut all[..count] {
            put(&mut places);
        }
        more();
    }

    fn assert_home(homes: &[PathBuf; 2]) {
        for file in [homes[0].join("old"), homes[1].join("old"), homes[0].join("covered/file")] {
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious", "{}", file.display());
        }
    }

    #[test]
    fn the_caches_of_a_killed_step_are_put_back() {
        for count in 0..=4 {
            let (_folder, top, homes) = lent();
            killed_after(count, &top, &homes, || ());
            lent::put_back(&top).unwrap();
            assert_home(&homes);
            // It can be called again, and the tree can be used again.
            lent::put_back(&top).unwrap();
            Places::open(&top).unwrap().put_back().unwrap();
        }
    }

    #[test]
    fn a_line_that_was_not_followed_by_a_move_changes_nothing() {
        let (_folder, top, homes) = lent();
        let cache = Cache::at(&homes[0]).unwrap();
        let mut record = lent::Record::begin(&top).unwrap();
        record.note(0, Path::new("cache"), Some(&cache)).unwrap();
        let record_file = top.with_extension("lent");
        let mut text = std::fs::read(&record_file).unwrap();
        text.extend(b"{\"number\":1,\"pla");
        std::fs::write(&record_file, text).unwrap();
        lent::put_back(&top).unwrap();
        assert_home(&homes);
        assert!(top.join("cache/old").exists());
    }

    #[test]
    fn a_cache_that_the_step_moved_or_hid_behind_a_link_is_found() {
        for killed in [true, false] {
            let (folder, top, homes) = lent();
            let elsewhere = folder.path().join("elsewhere");
            std::fs::create_dir(&elsewhere).unwrap();
            let change = || {
                std::fs::rename(top.join("cache"), top.join("used/moved")).unwrap();
                std::os::unix::fs::symlink(&elsewhere, top.join("cache")).unwrap();
            };
            if killed {
                killed_after(4, &top, &homes, change);
                lent::put_back(&top).unwrap();
            } else {
                let mut places = Places::open(&top).unwrap();
                places.lend("/cache", &homes[0]).unwrap();
                change();
                places.put_back().unwrap();
            }
            assert_home(&homes);
            assert!(!homes[0].is_symlink());
        }
    }

    #[test]
    fn a_cache_that_a_killed_step_has_is_fetched_before_a_new_one_is_made() {
        for count in 0..=4 {
            let (_folder, top, homes) = lent();
            killed_after(count, &top, &homes, || ());
            for home in homes.iter().rev() {
                lent::fetch_home(home).unwrap();
                assert!(!home.with_extension("lent").exists());
            }
            assert_home(&homes);
            lent::put_back(&top).unwrap();
            assert_home(&homes);
        }
        // A tree that is gone had no cache any more.
        let (_folder, top, homes) = lent();
        let cache = Cache::at(&homes[0]).unwrap();
        cache.note_tree(&top.join("gone/fs")).unwrap();
        std::fs::rename(&homes[0], top.join("elsewhere")).unwrap();
        lent::fetch_home(&homes[0]).unwrap();
        assert!(!homes[0].exists() && !homes[0].with_extension("lent").exists());
    }

    #[test]
    fn the_note_of_another_tree_stays() {
        let (folder, top, homes) = lent();
        killed_after(2, &top, &homes, || ());
        // Another step has got the cache between its way home and the end of the note.
        let other = folder.path().join("other/fs");
        std::fs::create_dir_all(&other).unwrap();
        let note = homes[0].with_extension("lent");
        std::fs::write(&note, other.as_os_str().as_encoded_bytes()).unwrap();
        lent::put_back(&top).unwrap();
        assert_home(&homes);
        assert_eq!(std::fs::read(&note).unwrap(), other.as_os_str().as_encoded_bytes());
        // That of the tree goes, whichever path leads to it.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("other"), &link).unwrap();
        Cache::at(&homes[0]).unwrap().take_note_back(&link.join("fs")).unwrap();
        assert!(!note.exists());
    }

    #[test]
    fn a_cache_that_cannot_be_lent_has_no_note() {
        let (_folder, top, homes) = lent();
        let mut places = Places::open(&top).unwrap();
        places.lend("/etc/hosts/below", &homes[0]).unwrap_err();
        assert_home(&homes);
        assert!(!homes[0].with_extension("lent").exists());
        places.put_back().unwrap();
        assert_home(&homes);
    }

    #[test]
    fn caches_at_home_have_no_notes() {
        let (_folder, top, homes) = lent();
        let mut places = Places::open(&top).unwrap();
        places.lend("/cache", &homes[0]).unwrap();
        assert!(homes[0].with_extension("lent").exists());
        places.put_back().unwrap();
        assert!(homes[0].exists() && !homes[0].with_extension("lent").exists());
    }

    #[test]
    fn a_new_cache_at_home_is_replaced_only_when_it_is_empty() {
        for filled in [false, true] {
            let (_folder, top, homes) = lent();
            killed_after(2, &top, &homes, || std::fs::create_dir(&homes[0]).unwrap());
            if filled {
                std::fs::write(homes[0].join("new"), "also").unwrap();
            }
            lent::put_back(&top).unwrap();
            assert_eq!(homes[0].join("old").exists(), !filled);
            assert_eq!(homes[0].join("new").exists(), filled);
        }
    }
}
