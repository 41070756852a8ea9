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
    /// The folder that the step writes to, and the device number that its tree shows.
    upper: Option<(OwnedFd, u64)>,
    lower: LowerOwners,
    /// The owners of files without attributes in the tree of the step, by their inode in the upper folder.
    step: HashMap<Inode, (u32, u32)>,
    /// The same for other mounts, such as a tmpfs, by device and inode. They are dropped with the step.
    elsewhere: HashMap<(u64, Inode), (u32, u32)>,
}

enum Identified {
    /// In the upper folder of the step.
    Upper(Inode),
    /// In a layer below.
    Lower(String),
    Elsewhere(u64, Inode),
}

/// Records the owner of a file or folder in its attribute. Files that cannot have one, such as in a tmpfs of an old
/// kernel, are in no layer.
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
    /// Reads the records of the layers and opens the folder that the step writes to. Must be called while its path is
    /// valid.
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

    /// Notes the device number that the tree of the step shows. Must be called when the tree is the root.
    pub(super) fn enter(&mut self) -> Result<()> {
        if let Some((_, device)) = &mut self.upper {
            // Files of an overlay can have another device number than its folders, and so can links.
            let stat = rustix::fs::stat("/").map_err(|e| Error::io("cannot stat", "/", e.into()))?;
            *device = stat.st_dev;
        }
        Ok(())
    }

    /// Whether all links and pipes belong to root.
    pub(super) fn is_empty(&self) -> bool {
        self.lower.is_empty() && self.step.is_empty()
    }

    /// The record to be saved.
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

    /// The recorded owner of an `O_PATH` descriptor; `None` when the file system's owner applies.
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
            // A file that was copied up unchanged keeps its owner from the lower layer.
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

    /// The owner of an `O_PATH` descriptor as the step sees it.
    pub(super) fn shown(&self, file: &OwnedFd) -> rustix::io::Result<(u32, u32)> {
        match self.get(file)? {
            Some(owner) => Ok(owner),
            None => status(file).map(|stat| (stat.st_uid, stat.st_gid)),
        }
    }

    /// Records the owner of an `O_PATH` descriptor. In an overlay the file must be in the upper folder already.
    pub(super) fn set(&mut self, file: &OwnedFd, owner: (u32, u32)) -> rustix::io::Result<()> {
        let stat = status(file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            match record(&view::fd_path(file), owner) {
                // In a tmpfs before Linux 6.6. Such a file is in no layer.
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

    /// Makes sure that a link or pipe keeps its owner under another name: one that is recorded only in a lower layer is
    /// copied up.
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

/// Sets the real owner again: an overlay then copies the file up, and the kernel clears what every change of owner
/// clears, such as the set-user-id bit.
pub(super) fn touch(file: &OwnedFd) -> rustix::io::Result<()> {
    let (uid, gid) = (Some(rustix::fs::Uid::ROOT), Some(rustix::fs::Gid::ROOT));
    rustix::fs::chownat(file.as_fd(), "", uid, gid, AtFlags::EMPTY_PATH)
}
