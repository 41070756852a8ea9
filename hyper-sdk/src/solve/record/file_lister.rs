//! Lists the files that the key of a copy is made of.

use super::{FileHash, FileList, KeyedHash, MAX_FILES};
use crate::Digest;
use crate::Result;
use crate::graph::{FileAction, FileOp, Vertex};
use crate::layer::copy::{DigestedEntry, Plan, StatCache, pattern};
use crate::layer::{EntryKind, escape};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Collects the files of a plan while its digest is made.
#[derive(Debug)]
pub(in crate::solve) struct FileLister {
    /// Clean destinations, the longest first.
    destinations: Vec<Vec<u8>>,
    /// The one source, when there is no other and it has no wildcard.
    single: Option<Vec<u8>>,
    shows_modes: bool,
    shows_paths: bool,
    found: Mutex<Option<RawFiles>>,
}

/// Files before their hashes are made.
#[derive(Debug, Default)]
pub(in crate::solve) struct RawFiles {
    total: u64,
    files: Vec<RawFile>,
    shows_paths: bool,
}

#[derive(Debug)]
struct RawFile {
    path: String,
    mode: Option<u32>,
    owner: (u32, u32),
    content: Vec<u8>,
}

impl FileLister {
    /// A lister for a file operation.
    pub(in crate::solve) fn new(vertex: &Vertex, file: &FileOp) -> Self {
        let (mut sources, mut destinations, mut shows_modes) = (Vec::new(), Vec::new(), true);
        for action in &file.actions {
            let destination = match action {
                FileAction::Copy(copy) => {
                    shows_modes &= copy.chmod.is_none();
                    sources.extend(copy.sources.iter().map(|source| pattern::clean(source.as_bytes())));
                    &copy.destination
                }
                FileAction::MakeDirectory(make) => &make.path,
                FileAction::MakeFile(make) => {
                    shows_modes &= make.chmod.is_none();
                    &make.destination
                }
            };
            destinations.push(pattern::clean(destination.as_bytes()));
        }
        destinations.sort_by_key(|path| std::cmp::Reverse(path.len()));
        let single = match sources.as_slice() {
            [one] if !pattern::has_wildcards(one) => Some(one.clone()),
            _ => None,
        };
        let shows_paths = vertex.shows_paths;
        Self { destinations, single, shows_modes, shows_paths, found: Mutex::default() }
    }

    /// The content digest of a plan, whose files are listed.
    ///
    /// # Errors
    /// Those of reading the files.
    pub(in crate::solve) fn digest(&self, plan: &Plan, hasher: &StatCache, threads: usize) -> Result<Digest> {
        let mut raw = RawFiles { shows_paths: self.shows_paths, ..RawFiles::default() };
        let mut list = |entry: DigestedEntry<'_>| {
            raw.total += 1;
            if raw.total <= MAX_FILES as u64 {
                raw.files.push(self.raw(&entry));
            }
        };
        let digest = plan.listed_digest(hasher, threads, Some(&mut list))?;
        if raw.total > MAX_FILES as u64 {
            raw.files = Vec::new();
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(raw);
        Ok(digest)
    }

    /// The files that were listed.
    pub(in crate::solve) fn take(&self) -> Option<RawFiles> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn raw(&self, found: &DigestedEntry<'_>) -> RawFile {
        let entry = found.entry;
        let mut content = entry.kind.name().as_bytes().to_vec();
        match &entry.kind {
            EntryKind::Symlink { target } => content.extend_from_slice(target),
            // The path in the layer has the destination in it.
            EntryKind::Hardlink { target } => content.extend(self.below(target.as_bytes())),
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                content.extend_from_slice(&major.to_le_bytes());
                content.extend_from_slice(&minor.to_le_bytes());
            }
            _ => {}
        }
        if let Some((sha256, capability)) = found.hashed {
            content.extend_from_slice(sha256);
            content.extend_from_slice(capability);
        }
        for (name, value) in &entry.xattrs {
            content.extend_from_slice(name);
            content.extend_from_slice(value);
        }
        RawFile {
            path: escape(&self.path(found)),
            mode: self.shows_modes.then_some(entry.mode),
            owner: (entry.uid, entry.gid),
            content,
        }
    }

    /// The path of an entry in its source.
    fn path(&self, found: &DigestedEntry<'_>) -> Vec<u8> {
        match &found.source {
            Some(_) if found.is_fetched => b".".to_vec(),
            Some(path) => path.clone(),
            None => {
                let is_file = matches!(found.entry.kind, EntryKind::File { .. } | EntryKind::Hardlink { .. });
                let (path, single) = (found.entry.path.as_bytes(), self.single.as_deref());
                let below = self.below(path);
                match single {
                    Some(single) if is_file && below == b"." => single.to_vec(),
                    Some(single) if is_file && single.rsplit(|&b| b == b'/').next() == Some(&below) => {
                        single.to_vec()
                    }
                    Some(single) if !single.is_empty() && below != b"." => [single, b"/", &below].concat(),
                    _ => below,
                }
            }
        }
    }

    /// A path of the layer from the destination on; `.` for the destination and what is above it.
    fn below(&self, path: &[u8]) -> Vec<u8> {
        for destination in &self.destinations {
            let rest = match destination.is_empty() {
                true => Some(path),
                false => path.strip_prefix(&destination[..]).and_then(|rest| rest.strip_prefix(b"/")),
            };
            if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
                return rest.to_vec();
            }
        }
        b".".to_vec()
    }
}

impl RawFiles {
    /// Empty files.
    #[cfg(test)]
    pub(super) fn of(paths: impl Iterator<Item = String>) -> Self {
        let file = |path| RawFile { path, mode: None, owner: (0, 0), content: Vec::new() };
        let files: Vec<RawFile> = paths.map(file).collect();
        Self { total: files.len() as u64, files, shows_paths: true }
    }

    /// The list, with hashes.
    pub(super) fn hashed(self, hash: &KeyedHash) -> FileList {
        let mut owners: HashMap<(u32, u32), String> = HashMap::new();
        let shows_paths = self.shows_paths;
        let files = self.files.into_iter().map(|file| {
            let owner = owners.entry(file.owner).or_insert_with(|| {
                let (user, group) = (file.owner.0.to_le_bytes(), file.owner.1.to_le_bytes());
                hash.short(&[b"owner", &user, &group], 4)
            });
            let mode = file.mode.map_or_else(String::new, |mode| format!("{mode:04o}"));
            let content = hash.short(&[b"file", &file.content], 8);
            let path = match shows_paths {
                true => file.path,
                false => hash.short(&[b"path", file.path.as_bytes()], 8),
            };
            FileHash(path, mode, owner.clone(), content)
        });
        FileList { total: self.total, files: files.collect(), is_hidden: !shows_paths }
    }
}
