//! The rules of copying: the entries that a copy makes for a given destination.
//!
//! # Invariants
//! - Earlier planned entries hide those of the destination at their paths.
//! - No entry is outside the root of the layer: a path of the destination is cleaned, and its links are followed within
//!   the root.

use super::conflicts::{self, check_name};
use super::destination::Destination;
use super::listing::{Listing, SourceFile};
use super::metadata::{Metadata, join};
use super::pattern::{ParentMatch, PatternList, clean, has_wildcards};
use super::pending::{PendingMap, PlannedFolder, Rules, kind_of};
use super::plan::Plan;
use super::planned_entry::{Content, PlannedEntry};
use super::reading;
use super::source::SourceRoot;
use super::wildcard::{find_matches, split_wildcards};
use super::{CopySpec, suggest};
use crate::layer::Owner;
use crate::layer::entry::escape;
use crate::layer::{Entry, EntryKind, FileTime, LayerPath};
use crate::{Error, ErrorKind, Result, ResultExt};
use rustix::fs::FileType;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

const DIRECTORY_MODE: u32 = 0o755;
const SET_GID: u32 = 0o2000;
const MAX_LINKS: usize = 255;

/// What a [`Planner`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The entries of the layer.
    Plan,
    /// Only the newest time of the sources; files are not planned. `threads` threads read directories.
    NewestTime { threads: usize },
}

/// Plans one instruction.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    destination: &'a dyn Destination,
    pub(super) now: FileTime,
    pub(super) scratch: Option<PathBuf>,
    pub(super) pending: PendingMap,
    /// Directories of the destination that are removed with everything below them.
    hidden: BTreeSet<LayerPath>,
    pub(super) newest: Option<i64>,
    /// What is computed.
    pub(super) mode: Mode,
    matches: u64,
}

struct Parent {
    metadata: Metadata,
    target: LayerPath,
    made: bool,
}

/// A file or directory of a source.
#[derive(Clone, Copy)]
struct Found<'s> {
    /// The path, without links.
    path: &'s [u8],
    metadata: &'s Metadata,
    /// The directory that lists it, and its number there.
    listed: Option<(&'s PlannedFolder, u32)>,
}

/// The state of copying one match of a source.
struct Copying<'s> {
    root: &'s Arc<SourceRoot>,
    include: Option<&'s PatternList>,
    exclude: &'s PatternList,
    rules: Arc<Rules>,
    parents: Vec<Parent>,
    required: Option<&'s [u8]>,
    found_required: bool,
    /// What was listed already.
    listings: HashMap<Vec<u8>, Arc<Listing>>,
}

impl<'a> Planner<'a> {
    /// Makes a planner for a destination. `now` is the time of directories and inline files without a source.
    pub(crate) fn new(destination: &'a dyn Destination, now: FileTime) -> Self {
        Self {
            destination,
            now,
            scratch: None,
            pending: PendingMap::default(),
            hidden: BTreeSet::new(),
            newest: None,
            mode: Mode::Plan,
            matches: 0,
        }
    }

    /// Sets the folder for the unnamed file with decompressed data. Compressed archives need it.
    #[must_use]
    pub(crate) fn with_scratch(mut self, folder: impl Into<PathBuf>) -> Self {
        self.scratch = Some(folder.into());
        self
    }

    fn threads(&self) -> usize {
        match self.mode {
            Mode::Plan => reading::threads(),
            Mode::NewestTime { threads } => threads,
        }
    }

    /// Returns the plan.
    pub(crate) fn finish(self) -> Plan {
        let is_opaque = |path: &LayerPath| self.hidden.contains(path);
        let has_opaque = !self.hidden.is_empty();
        Plan { entries: self.pending.finish(has_opaque.then_some(&is_opaque)) }
    }

    /// Makes a directory and its missing parents, for WORKDIR. Existing directories are unchanged.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when a part of the path is something else.
    pub(crate) fn make_directory(&mut self, path: &str, mode: u32, owner: Option<Owner>) -> Result<()> {
        let target = self.resolve(&LayerPath::root(), path.as_bytes())?;
        self.ensure_directory(&target, mode & 0o777, owner)
    }

    /// Adds a file with the given bytes, for inline documents. It has mode 0644 and belongs to root, before `--chmod`
    /// and `--chown`. The sources of `spec` are ignored.
    ///
    /// # Errors
    /// Those of [`Planner::copy`] that concern the destination.
    pub(crate) fn inline_file(
        &mut self,
        name: &str,
        data: impl Into<Arc<[u8]>>,
        spec: &CopySpec,
    ) -> Result<()> {
        let data = data.into();
        let name = clean(name.as_bytes());
        let base = name.rsplit(|&b| b == b'/').next().unwrap_or_default();
        let target = self.target_of(base, None, spec)?;
        let mode = spec.chmod.as_ref().map_or(0o644, |change| change.apply(0o644, false));
        let mut entry = Entry::file(target, data.len() as u64, mode);
        let owner = spec.chown.unwrap_or_default();
        (entry.uid, entry.gid) = (owner.uid, owner.gid);
        entry.set_time(self.now);
        self.changed_now(&entry.path);
        self.put_file(PlannedEntry::new(entry, Content::Inline(data)), || "inline document".to_owned())
    }

    /// Copies sources in order, for COPY and ADD of local files.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a source without wildcards that does not exist; [`ErrorKind::Conflict`] when a
    /// directory would replace something else or the reverse; [`ErrorKind::Invalid`] for malformed patterns and
    /// archives; [`ErrorKind::Unsupported`] for names that a layer cannot contain; [`ErrorKind::Io`] from the source.
    /// After an error the planner must not be used.
    pub(crate) fn copy(&mut self, root: &Arc<SourceRoot>, spec: &CopySpec) -> Result<()> {
        for source in &spec.sources {
            self.copy_source(root, spec, source).context("source", source)?;
        }
        Ok(())
    }

    fn copy_source(&mut self, root: &Arc<SourceRoot>, spec: &CopySpec, source: &str) -> Result<()> {
        let mut from = source;
        let mut include = None;
        let mut required = None;
        if spec.parents {
            let (parent, below) = source.split_once("/./").unwrap_or(("", source));
            from = parent;
            let below = String::from_utf8_lossy(&clean(below.as_bytes())).into_owned();
            if !has_wildcards(from.as_bytes()) && !has_wildcards(below.as_bytes()) {
                if below.is_empty() {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        "`--parents` needs a path after the pivot `/./`: name the files to copy, such as `**`",
                    ));
                }
                required = Some(below.clone().into_bytes());
            }
            include = Some(PatternList::new([below])?);
        }
        let from = clean(from.as_bytes());
        let (fixed, wild) = split_wildcards(&from, spec.wildcards);
        let matches = match &wild {
            None => vec![from.clone()],
            Some(pattern) => {
                let base = root.resolve(&fixed)?;
                if root.lookup(&base)?.is_none() {
                    return Err(suggest::missing(root, &String::from_utf8_lossy(&fixed), &fixed));
                }
                find_matches(root, &base, pattern)?
            }
        };
        let shown = |name: &[u8]| wild.as_ref().map_or_else(|| source.to_owned(), |_| escape(name));
        for name in matches {
            let real = root.resolve(&name)?;
            let metadata = root.lookup(&real)?.ok_or_else(|| suggest::missing(root, &shown(&name), &name))?;
            let base = name.rsplit(|&b| b == b'/').next().unwrap_or_default().to_vec();
            let Some(excluded) = spec.excluded_source(&name, &metadata, wild.is_some()) else { continue };
            if spec.unpack
                && metadata.file_type == FileType::RegularFile
                && self.unpack(root, &real, &metadata, spec)?
            {
                self.newest = self.newest.max(Some(metadata.mtime.0));
                continue;
            }
            let target = self.target_of(&base, Some(&metadata), spec)?;
            self.matches += 1;
            let mut copying = Copying {
                root,
                include: include.as_ref(),
                exclude: &spec.exclude,
                rules: Arc::new(Rules {
                    root: Arc::clone(root),
                    chown: spec.chown,
                    chmod: spec.chmod.clone(),
                    number: self.matches,
                }),
                parents: Vec::new(),
                required: required.as_deref(),
                found_required: required.is_none(),
                listings: HashMap::new(),
            };
            // Patterns may leave out directories of any size.
            if metadata.is_directory() && copying.include.is_none() && copying.exclude.is_empty() {
                copying.listings = root.read_ahead(&real, self.threads());
            }
            let above = (&ParentMatch::default(), &excluded);
            let found = Found { path: &real, metadata: &metadata, listed: None };
            self.copy_tree(&mut copying, found, b"", target, above)?;
            let found = copying.found_required;
            if let Some(required) = required.as_deref().filter(|_| !found) {
                // A file that `--exclude` left out exists nevertheless.
                let path = join(&real, required);
                if spec.exclude.is_empty() || root.lookup(&path)?.is_none() {
                    return Err(suggest::missing(root, source, &path));
                }
            }
        }
        Ok(())
    }

    /// The target of one source, with its missing parents made. It is the destination itself if the contents of a
    /// directory are copied.
    fn target_of(&mut self, base: &[u8], metadata: Option<&Metadata>, spec: &CopySpec) -> Result<LayerPath> {
        let mode = spec.chmod.as_ref().and_then(|c| c.fixed()).map_or(DIRECTORY_MODE, |m| m & 0o777);
        let owner = spec.chown;
        let text = spec.destination.as_bytes();
        let is_directory = metadata.is_some_and(Metadata::is_directory);
        let cut = text.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
        let ensure = if matches!(&text[cut..], b"" | b".") { text } else { &text[..cut] };
        let ensure = self.resolve(&LayerPath::root(), ensure)?;
        self.ensure_directory(&ensure, mode, owner)?;
        let mut target = self.resolve(&LayerPath::root(), text)?;
        let existing = self.kind(&target);
        let contents = spec.directory_contents && is_directory;
        let into = matches!(existing, Some(EntryKind::Directory)) || (is_directory && existing.is_some());
        if into && !contents && !base.is_empty() {
            check_name(base)?;
            target = target.join(base)?;
        }
        if contents && existing.is_none() {
            self.ensure_directory(&target, mode, owner)?;
        } else if let Some(parent) = target.parent() {
            self.ensure_directory(&parent, mode, owner)?;
        }
        Ok(target)
    }

    fn copy_tree(
        &mut self,
        copying: &mut Copying<'_>,
        found: Found<'_>,
        below: &[u8],
        target: LayerPath,
        above: (&ParentMatch, &ParentMatch),
    ) -> Result<()> {
        let Found { path: from, metadata, .. } = found;
        let top = below.is_empty();
        let (mut included, mut excluded) = (true, false);
        let (mut include, mut exclude) = (ParentMatch::default(), above.1.clone());
        if !top {
            if let Some(list) = copying.include {
                (included, include) = list.matches(below, above.0);
            }
            if !copying.exclude.is_empty() {
                (excluded, exclude) = copying.exclude.matches(below, above.1);
            }
            included &= !excluded;
        }
        if !metadata.is_directory() && !included {
            return Ok(());
        }
        if included {
            if copying.required.is_some_and(|r| starts_with(below, r)) {
                copying.found_required = true;
            }
            self.make_parents(copying, from)?;
        }
        if !metadata.is_directory() {
            if top {
                self.changed_now(&target);
            }
            return self.copy_leaf(copying, found, target);
        }
        if included {
            self.copy_directory(copying, found, &target, top)?;
        }
        if excluded && !copying.exclude.has_exceptions() {
            return Ok(());
        }
        copying.parents.push(Parent { metadata: *metadata, target: target.clone(), made: included });
        let listing = match copying.listings.remove(from) {
            Some(listing) => listing,
            None => copying.root.list(from)?,
        };
        let folder = PlannedFolder::new(&target, &listing, &copying.rules);
        for (at, (name, metadata)) in (0..).zip(listing.iter()) {
            check_name(name)?;
            let (from, below) = (join(from, name), join(below, name));
            let listed = (self.mode == Mode::Plan).then_some((&folder, at));
            let found = Found { path: &from, metadata: &metadata, listed };
            self.copy_tree(copying, found, &below, target.join(name)?, (&include, &exclude))?;
        }
        copying.parents.pop();
        if top {
            self.set_time(&target, copying.root, from, metadata);
        }
        Ok(())
    }

    /// Makes the parents of an included path that were not included themselves, with the current time. An existing
    /// parent keeps its owner and only gets the mode.
    fn make_parents(&mut self, copying: &mut Copying<'_>, from: &[u8]) -> Result<()> {
        for i in 0..copying.parents.len() {
            let Parent { metadata, target, made } = &copying.parents[i];
            if *made {
                continue;
            }
            let existing = match self.kind(target) {
                None => None,
                Some(EntryKind::Directory) => self.pending.get(target).map(Cow::into_owned).or_else(|| {
                    self.metadata(target).map(|entry| PlannedEntry::new(entry.into_owned(), Content::None))
                }),
                Some(other) => return Err(conflicts::directory_over(target, &other, from)),
            };
            let mut pending = match existing {
                Some(mut existing) => {
                    if existing.entry.mode == metadata.mode {
                        copying.parents[i].made = true;
                        continue;
                    }
                    existing.entry.mode = metadata.mode;
                    existing
                }
                None => {
                    let entry = copying.rules.entry(target.clone(), EntryKind::Directory, metadata);
                    PlannedEntry::new(entry, Content::None)
                }
            };
            pending.entry.set_time(self.now);
            self.pending.insert(pending);
            copying.parents[i].made = true;
        }
        Ok(())
    }

    fn copy_directory(
        &mut self,
        copying: &Copying<'_>,
        found: Found<'_>,
        target: &LayerPath,
        top: bool,
    ) -> Result<()> {
        let Found { path: from, metadata, listed } = found;
        match self.kind(target) {
            None => {}
            // An existing directory keeps its metadata; its time is set after its content is planned.
            Some(EntryKind::Directory) if top => return Ok(()),
            Some(EntryKind::Directory) => {}
            Some(other) => return Err(conflicts::directory_over(target, &other, from)),
        }
        match listed {
            Some((folder, at)) => self.pending.insert_listed(target, folder, at),
            None => {
                let entry = copying.rules.entry(target.clone(), EntryKind::Directory, metadata);
                self.pending.insert(PlannedEntry::new(entry, Content::None));
            }
        }
        Ok(())
    }

    fn copy_leaf(&mut self, copying: &Copying<'_>, found: Found<'_>, target: LayerPath) -> Result<()> {
        let Found { path: from, metadata, listed } = found;
        self.newest = self.newest.max(Some(metadata.mtime.0));
        if self.mode != Mode::Plan {
            return Ok(());
        }
        let kind = match (kind_of(metadata), metadata.file_type) {
            (Some(kind), _) => {
                if let Some((folder, at)) = listed {
                    self.check_file(&target, &kind, || escape(from))?;
                    self.pending.insert_listed(&target, folder, at);
                    return Ok(());
                }
                kind
            }
            (None, FileType::Symlink) => EntryKind::Symlink { target: copying.root.read_link(from)? },
            (None, _) => {
                return Err(Error::unsupported("a file of an unknown kind cannot be copied")
                    .with_context("path", escape(from)));
            }
        };
        let content = match metadata.file_type {
            FileType::RegularFile => {
                Content::Source { root: copying.root.clone(), file: SourceFile::named(from, metadata) }
            }
            _ => Content::None,
        };
        let links = copying.rules.links(metadata).map(Box::new);
        let entry = copying.rules.entry(target, kind, metadata);
        self.put_file(PlannedEntry { entry, content, links }, || escape(from))
    }

    /// Plans an entry that is not a directory. It replaces any entry except a directory.
    fn put_file(&mut self, planned: PlannedEntry, from: impl Fn() -> String) -> Result<()> {
        self.check_file(&planned.entry.path, &planned.entry.kind, from)?;
        self.pending.insert(planned);
        Ok(())
    }

    /// Whether an entry that is not a directory can be planned.
    fn check_file(&self, target: &LayerPath, kind: &EntryKind, from: impl Fn() -> String) -> Result<()> {
        if target.is_root() || matches!(self.kind(target), Some(EntryKind::Directory)) {
            return Err(conflicts::file_over_directory(target, kind, &from()));
        }
        check_name(target.file_name())
    }

    /// The kind of the current entry at a path, without following a link.
    pub(super) fn kind(&self, path: &LayerPath) -> Option<EntryKind> {
        if path.is_root() {
            return Some(EntryKind::Directory);
        }
        self.metadata(path).map(|entry| entry.kind.clone())
    }

    /// The current entry at a path, without following a link; `None` for the root.
    pub(super) fn metadata(&self, path: &LayerPath) -> Option<Cow<'_, Entry>> {
        if path.is_root() {
            return None;
        }
        match self.pending.get(path) {
            Some(Cow::Borrowed(planned)) => return Some(Cow::Borrowed(&planned.entry)),
            Some(Cow::Owned(planned)) => return Some(Cow::Owned(planned.entry)),
            None => {}
        }
        if !self.hidden.is_empty()
            && (self.hidden.contains(path) || path.ancestors().any(|a| self.hidden.contains(&a)))
        {
            return None;
        }
        self.destination.entry(path).map(Cow::Borrowed)
    }

    /// Follows all links of a path, with `top` as the root for absolute links and `..`. Missing parts are kept as they
    /// are.
    pub(super) fn resolve(&self, top: &LayerPath, path: &[u8]) -> Result<LayerPath> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|&b| b == b'/')
                .filter(|p| !p.is_empty() && *p != b".")
                .rev()
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut todo = parts(&clean(path));
        let mut done = top.clone();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                if done != *top {
                    done = done.parent().unwrap_or_default();
                }
                continue;
            }
            let next = done.join(&part)?;
            match self.kind(&next) {
                Some(EntryKind::Symlink { target }) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::invalid(
                            "too many symbolic links follow one another in the destination",
                        )
                        .with_context("path", escape(path)));
                    }
                    if target.first() == Some(&b'/') {
                        done = top.clone();
                    }
                    todo.extend(parts(&target));
                }
                _ => done = next,
            }
        }
        Ok(done)
    }

    /// Makes a directory and its missing parents. In a setgid directory, as on a disk, a new one is setgid too and has
    /// the same group unless an owner is given.
    pub(super) fn ensure_directory(
        &mut self,
        path: &LayerPath,
        mode: u32,
        owner: Option<Owner>,
    ) -> Result<()> {
        if path.is_root() {
            return Ok(());
        }
        for directory in path.ancestors().chain([path.clone()]) {
            match self.kind(&directory) {
                Some(EntryKind::Directory) => {}
                Some(other) => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("cannot make the directory `/{path}`: `/{directory}` is a {}", other.name()),
                    ));
                }
                None => {
                    check_name(directory.file_name())?;
                    let inherited = directory
                        .parent()
                        .and_then(|parent| self.metadata(&parent))
                        .filter(|parent| parent.mode & SET_GID != 0)
                        .map(|parent| parent.gid);
                    let mode = if inherited.is_some() { mode | SET_GID } else { mode };
                    let owner = owner.unwrap_or(Owner { uid: 0, gid: inherited.unwrap_or(0) });
                    let mut entry = Entry::directory(directory.clone(), mode);
                    (entry.uid, entry.gid) = (owner.uid, owner.gid);
                    entry.set_time(self.now);
                    self.pending.insert(PlannedEntry::new(entry, Content::None));
                }
            }
        }
        Ok(())
    }

    /// Removes the entries at a path and below it.
    pub(super) fn remove(&mut self, path: &LayerPath) {
        self.pending.remove(path);
        if self.destination.entry(path).is_some_and(Entry::is_directory) {
            self.hidden.insert(path.clone());
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.matches += 1;
        self.matches
    }
}

fn starts_with(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
