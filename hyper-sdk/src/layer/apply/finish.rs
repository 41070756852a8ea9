//! The second half of unpacking: what depends on the lower layers.

use super::super::entry::{Entry, EntryKind, LayerPath};
use super::super::files::{self, failed};
use super::super::index::LayerIndexBuilder;
use super::super::owner;
use super::super::prune::prune;
use super::{Applied, Apply, ApplyStyle, OwnerPolicy};
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

impl Apply<'_> {
    /// The entry for a directory that the layer does not mention, as in the lower layers.
    fn inherited(&self, path: &LayerPath) -> Result<Entry> {
        let mut entry = Entry::directory(path.clone(), 0o755);
        if self.options.style == ApplyStyle::Overlay
            && let Some(node) = self.lowers.find(path)?
            && files::type_of(&node.stat) == FileType::Directory
        {
            entry.mode = node.stat.st_mode & 0o7777;
            (entry.uid, entry.gid) = (node.stat.st_uid, node.stat.st_gid);
            entry.set_time(files::time_of(&node.stat));
            entry.xattrs = files::xattrs(node.parent.as_fd(), &node.name)
                .map_err(|e| failed("cannot read the attributes of a lower layer", path, e))?;
            entry.xattrs.retain(|name, _| !files::is_overlay_xattr(name));
            self.recorded_owner(&mut entry);
        }
        Ok(entry)
    }

    /// Takes the owner of an entry of a lower layer from its attribute.
    fn recorded_owner(&self, entry: &mut Entry) {
        if self.options.owners == OwnerPolicy::Record
            && let Some(owner) = owner::take_owner(&mut entry.xattrs)
        {
            (entry.uid, entry.gid) = owner;
        }
    }

    /// Makes the hardlinks to files of lower layers that the layer did not replace later. Those to one file are links to
    /// one copy.
    fn make_late_links(&mut self, index: &LayerIndexBuilder) -> Result<()> {
        let mut copies: BTreeMap<LayerPath, LayerPath> = BTreeMap::new();
        for (path, (entry, lower)) in std::mem::take(&mut self.late_links) {
            if !index.real(&path).is_some_and(|entry| entry.is_hardlink()) {
                continue;
            }
            let parent = self.parent(&path)?;
            match copies.get(&lower) {
                None => {
                    self.copy_lower(&entry, &lower, parent.as_fd())?;
                    copies.insert(lower, path);
                }
                Some(copy) => {
                    let above = copy.parent().unwrap_or_default();
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                    let from = OsStr::from_bytes(copy.file_name());
                    let to = OsStr::from_bytes(path.file_name());
                    files::open_below(self.top.as_fd(), above.as_bytes(), flags)
                        .and_then(|source| rustix::fs::linkat(source, from, &*parent, to, AtFlags::empty()))
                        .map_err(|e| failed("cannot make a hardlink of the layer", &path, e))?;
                }
            }
        }
        Ok(())
    }

    /// A hardlink to a file of a lower layer: overlay cannot link across layers, so the file is copied.
    fn copy_lower(&mut self, entry: &Entry, target: &LayerPath, parent: BorrowedFd<'_>) -> Result<()> {
        let node = self.lowers.find(target)?;
        let node = node.filter(|n| files::type_of(&n.stat) == FileType::RegularFile).ok_or_else(|| {
            Error::invalid("a hardlink of the layer does not lead to a file")
                .with_context("entry", &entry.path)
                .with_context("target", target)
        })?;
        let read_failed = |e| failed("cannot read a file of a lower layer", target, e);
        let source =
            files::open_below(node.parent.as_fd(), &node.name, OFlags::RDONLY).map_err(read_failed)?;
        let mut copy = entry.clone();
        copy.kind = EntryKind::File { size: 0, digest: None };
        copy.mode = node.stat.st_mode & 0o7777;
        (copy.uid, copy.gid) = (node.stat.st_uid, node.stat.st_gid);
        copy.set_time(files::time_of(&node.stat));
        copy.xattrs = files::xattrs(node.parent.as_fd(), &node.name).map_err(read_failed)?;
        copy.xattrs.retain(|name, _| !files::is_overlay_xattr(name));
        self.recorded_owner(&mut copy);
        let made = match files::make(&copy, parent) {
            Err(Errno::EXIST) => {
                self.remove(&copy.path, parent)?;
                files::make(&copy, parent)
            }
            other => other,
        };
        let file = made.map_err(|e| failed("cannot make an entry of the layer", &copy.path, e))?;
        let file = file.ok_or_else(|| Error::internal("a file was made without a descriptor"))?;
        let mut file = std::fs::File::from(file);
        std::io::copy(&mut std::fs::File::from(source), &mut file)?;
        self.metadata(&copy, parent, copy.path.file_name(), Some(file.as_fd()))
    }

    pub(super) fn finish(mut self) -> Result<Applied> {
        self.last_parent = None;
        let index = std::mem::take(&mut self.index);
        self.make_late_links(&index)?;
        if self.options.style == ApplyStyle::Overlay {
            self.whiteouts(&index)?;
        }
        let mut directories = std::mem::take(&mut self.directories);
        for (path, pending) in directories.iter_mut().filter(|(_, pending)| pending.implied) {
            // A whiteout may come after the entries that it affects: only now is it known what the layer hides. Every
            // layer has the same root, which cannot be hidden.
            if path.is_root() || !index.hides(path) {
                pending.entry = self.inherited(path)?;
            }
        }
        let index = index.finish();
        if self.options.style == ApplyStyle::Plain && self.options.prune {
            // Times and modes of directories are set after this.
            prune(self.top.as_fd(), &self.options.below, &index)?;
        }
        for (path, time) in std::mem::take(&mut self.times) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            // Directories with an entry get its metadata below, and replaced directories are gone.
            if directories.contains_key(&path) {
                continue;
            }
            let Ok(fd) = files::open_below(self.top.as_fd(), path.as_bytes(), flags) else { continue };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(&fd, &times)
                .map_err(|e| failed("cannot restore the time of a directory", &path, e))?;
        }
        for (path, pending) in directories.into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let wrong = |e| failed("cannot finish a directory of the target", &path, e);
            let fd = files::open_below(self.top.as_fd(), path.as_bytes(), flags).map_err(wrong)?;
            if pending.existed {
                for name in files::xattrs(fd.as_fd(), b"").map_err(wrong)?.keys() {
                    if !pending.entry.xattrs.contains_key(name) && !files::is_overlay_xattr(name) {
                        files::remove_xattr(fd.as_fd(), name).map_err(wrong)?;
                    }
                }
            }
            self.metadata(&pending.entry, fd.as_fd(), b"", Some(fd.as_fd()))?;
        }
        Ok(Applied { index, skipped: self.skipped })
    }

    /// Whether lower layers were given; without them every whiteout is kept.
    fn knows_lowers(&self) -> bool {
        self.options.all_lowers || !self.lowers.tops().is_empty()
    }

    /// Makes the whiteouts of an upper directory, after all entries that can replace them.
    fn whiteouts(&mut self, index: &LayerIndexBuilder) -> Result<()> {
        for entry in index.whiteouts() {
            let path = &entry.path;
            let real = index.real(path);
            let is_opaque = entry.kind == EntryKind::OpaqueWhiteout;
            if index.hides_above(path) && !self.directories.contains_key(path) {
                continue;
            }
            if is_opaque && !self.directories.contains_key(path) {
                // An opaque mark where the lower layers have no directory hides nothing.
                let lower = self.lowers.find(path)?;
                if self.knows_lowers() && lower.is_none_or(|n| files::type_of(&n.stat) != FileType::Directory)
                {
                    continue;
                }
                self.directory(&Entry::directory(path.clone(), 0o755), true)?;
            }
            if real.as_ref().is_some_and(Entry::is_directory) || is_opaque {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let fd = files::open_below(self.top.as_fd(), path.as_bytes(), flags)
                    .map_err(|e| failed("cannot open an opaque directory", path, e))?;
                files::set_xattr(fd.as_fd(), b"", files::OPAQUE_XATTR, b"y", path)?;
            } else if real.is_none() && !(self.knows_lowers() && self.lowers.find(path)?.is_none()) {
                let parent = self.parent(path)?;
                let name = OsStr::from_bytes(path.file_name());
                match rustix::fs::mknodat(&*parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
                    Ok(()) => {
                        // With this time a later diff gives the same layer.
                        let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
                        let times = Timestamps { last_access: time, last_modification: time };
                        rustix::fs::utimensat(&*parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                            .map_err(|e| failed("cannot set the time of a whiteout", path, e))?;
                    }
                    // An entry below the hidden path made it a directory: as an opaque directory it hides the rest.
                    Err(Errno::EXIST) => {
                        let fd = files::open_below(
                            parent.as_fd(),
                            path.file_name(),
                            OFlags::RDONLY | OFlags::DIRECTORY,
                        )
                        .map_err(|e| failed("cannot open an opaque directory", path, e))?;
                        files::set_xattr(fd.as_fd(), b"", files::OPAQUE_XATTR, b"y", path)?;
                    }
                    Err(e) => return Err(failed("cannot make a whiteout", path, e)),
                }
            }
        }
        Ok(())
    }
}
