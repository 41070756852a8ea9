//! The owners that a running step sees and sets.

use super::lookup::status;
use crate::layer::{OWNER_ATTRIBUTE, format_owner, parse_owner};
use crate::sandbox::records::{self, Inode, LowerOwners, StepRecord, inode, key};
use crate::sandbox::{RootFs, view};
use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The owners of a step.
pub(in crate::exec) struct StepOwners {
    /// What the step writes to, and the device that its tree shows.
    upper: Option<(OwnedFd, u64)>,
    lower: LowerOwners,
    /// What carries no attribute: in the tree of the step, by the inode of the upper folder.
    step: HashMap<Inode, (u32, u32)>,
    /// The same elsewhere, such as in memory, by device too. It goes with the step.
    elsewhere: HashMap<(u64, Inode), (u32, u32)>,
}

enum Identified {
    /// In the upper folder of the step.
    Upper(Inode),
    /// In a layer below.
    Lower(String),
    Elsewhere(u64, Inode),
}

/// Gives a file or a folder an owner. What cannot carry one, such as an old kernel's memory, is in no layer.
pub(in crate::exec) fn record(path: &Path, owner: (u32, u32)) -> rustix::io::Result<()> {
    let done = if owner == (0, 0) {
        rustix::fs::removexattr(path, OWNER_ATTRIBUTE)
    } else {
        rustix::fs::setxattr(path, OWNER_ATTRIBUTE, format_owner(owner).as_bytes(), XattrFlags::empty())
    };
    match done {
        Err(Errno::NODATA) => Ok(()),
        done => done,
    }
}

impl StepOwners {
    /// Reads what the layers record, and opens the folder that the step writes to. To be called while its path still
    /// leads there.
    pub(in crate::exec) fn open(rootfs: &RootFs) -> Result<Self> {
        let (upper, layers) = match rootfs {
            RootFs::Overlay { lowers, upper } => (upper.as_ref().map(|(upper, _)| upper), lowers.clone()),
            RootFs::Folder { path, .. } => (Some(path), vec![path.clone()]),
        };
        let lower = records::lower_owners(&layers)?;
        let upper = upper
            .map(|path| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty())
                    .map(|fd| (fd, 0))
                    .map_err(|e| Error::io("cannot open a folder", path, e.into()))
            })
            .transpose()?;
        Ok(Self { upper, lower, step: HashMap::new(), elsewhere: HashMap::new() })
    }

    /// Notes which device the tree of the step shows. To be called when it is the root.
    pub(super) fn enter(&mut self) -> Result<()> {
        if let Some((_, device)) = &mut self.upper {
            // Files of an overlay can show another device than its folders; a link is a file.
            let stat = rustix::fs::stat("/").map_err(|e| Error::io("cannot look at", "/", e.into()))?;
            *device = stat.st_dev;
        }
        Ok(())
    }

    /// Whether no link and no pipe has another owner than root.
    pub(super) fn knows_nothing(&self) -> bool {
        self.lower.is_empty() && self.step.is_empty()
    }

    /// What is to be kept of it.
    pub(super) fn record(&self) -> StepRecord {
        let mut record: StepRecord =
            self.step.iter().map(|(&(ino, s, ns), &(uid, gid))| (ino, s, ns, uid, gid)).collect();
        record.sort_unstable();
        record
    }

    fn identify(&self, file: &OwnedFd, device: u64) -> rustix::io::Result<Identified> {
        if let Some((upper, root)) = &self.upper
            && *root == device
        {
            let path = rustix::fs::readlinkat(CWD, view::fd_path(file), Vec::new())?;
            let path = path.as_bytes().strip_prefix(b"/").unwrap_or_default();
            return match inode(upper, OsStr::from_bytes(path)) {
                Ok(inode) => Ok(Identified::Upper(inode)),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(Identified::Lower(key(path))),
                Err(e) => Err(e),
            };
        }
        Ok(Identified::Elsewhere(device, inode(file, "")?))
    }

    /// The recorded owner of a bare path; `None` when the file system's own counts.
    pub(super) fn get(&self, file: &OwnedFd) -> rustix::io::Result<Option<(u32, u32)>> {
        let mut value = [0; 32];
        match rustix::fs::getxattr(view::fd_path(file), OWNER_ATTRIBUTE, &mut value) {
            Ok(length) => return Ok(parse_owner(&value[..length])),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::RANGE) => {}
            Err(e) => return Err(e),
        }
        if self.lower.is_empty() && self.step.is_empty() && self.elsewhere.is_empty() {
            return Ok(None);
        }
        let stat = status(file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            if self.elsewhere.is_empty() {
                return Ok(None);
            }
            return Ok(self.elsewhere.get(&(stat.st_dev, inode(file, "")?)).copied());
        }
        let found = match self.identify(file, stat.st_dev)? {
            // What came up from below unchanged is whose it was there.
            Identified::Upper(inode) => match self.step.get(&inode) {
                Some(owner) => Some(*owner),
                None => self.lower.get(&self.shown_path(file)?).copied(),
            },
            Identified::Lower(path) => self.lower.get(&path).copied(),
            Identified::Elsewhere(device, inode) => self.elsewhere.get(&(device, inode)).copied(),
        };
        Ok(found)
    }

    fn shown_path(&self, file: &OwnedFd) -> rustix::io::Result<String> {
        let path = rustix::fs::readlinkat(CWD, view::fd_path(file), Vec::new())?;
        Ok(key(path.as_bytes().strip_prefix(b"/").unwrap_or_default()))
    }

    /// The owner of a bare path as the step sees it.
    pub(super) fn shown(&self, file: &OwnedFd) -> rustix::io::Result<(u32, u32)> {
        match self.get(file)? {
            Some(owner) => Ok(owner),
            None => status(file).map(|stat| (stat.st_uid, stat.st_gid)),
        }
    }

    /// Records the owner of a bare path. In an overlay it must have been changed before, so that it is in the upper
    /// folder.
    pub(super) fn set(&mut self, file: &OwnedFd, owner: (u32, u32)) -> rustix::io::Result<()> {
        let stat = status(file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            match record(&view::fd_path(file), owner) {
                // In memory, before Linux 6.6: such a file is in no layer.
                Err(Errno::OPNOTSUPP) => {
                    self.elsewhere.insert((stat.st_dev, inode(file, "")?), owner);
                    return Ok(());
                }
                done => return done,
            }
        }
        match self.identify(file, stat.st_dev)? {
            Identified::Upper(inode) => drop(self.step.insert(inode, owner)),
            Identified::Lower(_) => return Err(Errno::ROFS),
            Identified::Elsewhere(device, inode) => drop(self.elsewhere.insert((device, inode), owner)),
        }
        Ok(())
    }

    /// Makes sure that a link or pipe keeps its owner under another name: one that only a layer below knows is brought
    /// up.
    pub(super) fn hold(&mut self, file: &OwnedFd) -> rustix::io::Result<()> {
        if self.lower.is_empty() {
            return Ok(());
        }
        let stat = status(file)?;
        if matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory) {
            return Ok(());
        }
        let Some(owner) = self.get(file)? else { return Ok(()) };
        touch(file)?;
        self.set(file, owner)
    }
}

/// Changes the owner to what it is in truth: an overlay then has the file in its upper folder, and the kernel takes away
/// what a change of owner takes away, such as the set-user-id bit.
pub(super) fn touch(file: &OwnedFd) -> rustix::io::Result<()> {
    let (uid, gid) = (Some(rustix::fs::Uid::ROOT), Some(rustix::fs::Gid::ROOT));
    rustix::fs::chownat(file.as_fd(), "", uid, gid, AtFlags::EMPTY_PATH)
}
