//! Looks at a state folder: every item with its size, its last use and how it is removed.

use super::aside::is_aside;
use super::describe;
use super::images::{Parts, parts_of, tagged, unkept};
use super::kinds::{Kinds, Stuck};
use super::{KindUsage, Space, SpaceItem, SpaceKind, SpaceUsage};
use crate::cache::CacheEntry;
use crate::reference::RepositoryName;
use crate::snapshot::SnapshotInfo;
use crate::solve::{STEPS_SUFFIX, blocking};
use crate::source::records_in;
use crate::store::{Roots, base_repository, is_internal, is_of_bases, local_reference};
use crate::uses::{self, Closed};
use crate::{Digest, ErrorKind, Reference, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many records of the cache are read together.
const PAGE: usize = 1000;

const DATABASES: [&str; 2] = ["store/hyper.db", "stat-cache"];
/// The files that a database has while it is open. They do not count, as the count itself opens it.
const LOGS: [&str; 2] = ["store/hyper.db-wal", "store/hyper.db-shm"];

/// How an item is removed.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Not at all.
    Keep,
    /// The records with these keys; then the blob that they name, if no other record does.
    Records(Vec<Digest>),
    /// A snapshot of the open ones with this number.
    Snapshot(usize, Digest),
    /// These files and folders.
    Paths(Vec<PathBuf>),
    /// The record of a base image; then the manifests that only it keeps.
    Base(PathBuf),
    /// A manifest of a repository.
    Manifest(RepositoryName, Digest),
}

/// An item, and what is needed to remove it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) item: SpaceItem,
    pub(super) used: SystemTime,
    pub(super) action: Action,
    /// Its files and folders on the disk.
    paths: Vec<PathBuf>,
    /// The bytes of blobs that are not files of the folder.
    elsewhere: u64,
}

/// What is in a state folder.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) total: u64,
    pub(super) found: Vec<Found>,
}

/// The manifests of base images that records keep; everything else has no root.
#[derive(Debug, Default)]
pub(super) struct BaseRoots(pub(super) HashSet<(RepositoryName, Digest)>);

impl Roots for BaseRoots {
    fn keeps_manifest(&self, repository: &RepositoryName, digest: &Digest) -> bool {
        self.0.contains(&(repository.clone(), digest.clone()))
    }

    fn keeps_blob(&self, _: &RepositoryName, _: &Digest) -> bool {
        true
    }
}

impl SpaceItem {
    fn new(kind: SpaceKind, id: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            kind,
            variant: None,
            id: id.into(),
            description: description.into(),
            size: 0,
            used: None,
            in_use: false,
            shared: false,
            prunable: !matches!(kind, SpaceKind::Image | SpaceKind::Database | SpaceKind::Other),
        }
    }
}

impl Found {
    /// An item without files.
    #[cfg(test)]
    pub(super) fn bare(kind: SpaceKind, id: &str, action: Action) -> Self {
        Self::new(SpaceItem::new(kind, id, "an item"), UNIX_EPOCH, action, Vec::new())
    }

    fn new(item: SpaceItem, used: SystemTime, action: Action, paths: Vec<PathBuf>) -> Self {
        Self { item, used, action, paths, elsewhere: 0 }
    }
}

/// A base image that a record names.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) record: PathBuf,
    pub(super) name: String,
    pub(super) repository: RepositoryName,
    pub(super) parts: Parts,
}

impl Space {
    /// What uses how much.
    pub(crate) async fn usage(&self) -> Result<SpaceUsage> {
        let root = self.root.clone();
        let closed = blocking(move || Closed::close_blocking(&root)).await?;
        let (oldest, has_server) = (closed.oldest, closed.has_server);
        drop(closed);
        let open = self.kinds().await?;
        let mut survey = self.survey(&open).await?;
        for found in &mut survey.found {
            found.item.in_use = oldest.is_some_and(|oldest| found.used >= oldest);
        }
        let variants: BTreeSet<_> =
            survey.found.iter().map(|of| (of.item.kind, of.item.variant.clone())).collect();
        let all: BTreeSet<_> = SpaceKind::ALL.into_iter().map(|kind| (kind, None)).chain(variants).collect();
        let nothing =
            |(kind, variant)| KindUsage { kind, variant, items: 0, size: 0, shared: 0, reclaimable: 0 };
        let mut kinds: Vec<KindUsage> = all.into_iter().map(nothing).collect();
        let busy = oldest.is_some() || has_server;
        for Found { item, .. } in &survey.found {
            let is_its = |of: &&mut KindUsage| of.kind == item.kind && of.variant == item.variant;
            let Some(kind) = kinds.iter_mut().find(is_its) else { continue };
            kind.items += 1;
            kind.size += item.size;
            kind.shared += if item.shared { item.size } else { 0 };
            let waits = busy && !matches!(item.kind, SpaceKind::Layer | SpaceKind::Log);
            kind.reclaimable += if item.prunable && !item.in_use && !waits { item.size } else { 0 };
        }
        Ok(SpaceUsage {
            total: survey.total,
            reclaimable: kinds.iter().map(|kind| kind.reclaimable).sum(),
            kinds,
            items: survey.found.into_iter().map(|found| found.item).collect(),
            warnings: open.stuck.into_iter().map(|stuck| stuck.reason).collect(),
        })
    }

    /// The base images that records name. A record that cannot be read is left out.
    pub(super) async fn bases(&self) -> Result<Vec<Base>> {
        let folder = self.root.join("sources/images");
        let records = blocking(move || Ok(records_in(&folder))).await?;
        let mut bases = Vec::new();
        for (record, name, digest) in records {
            if record.file_name().is_some_and(|name| is_aside(&name.to_string_lossy())) {
                continue;
            }
            let Ok(repository) = Reference::parse(&name).and_then(|name| base_repository(&name)) else {
                continue;
            };
            let parts = parts_of(&*self.store, &repository, &digest).await?;
            bases.push(Base { record, name, repository, parts });
        }
        Ok(bases)
    }

    /// All records of the cache, or none when the cache does not list them.
    pub(super) async fn records(&self) -> Result<Vec<CacheEntry>> {
        let mut all: Vec<CacheEntry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.key.clone());
            match self.cache.list(after.as_ref(), PAGE).await {
                Ok(page) if page.is_empty() => return Ok(all),
                Ok(page) => all.extend(page),
                Err(e) if e.kind() == ErrorKind::Unsupported => return Ok(all),
                Err(e) => return Err(e),
            }
        }
    }

    /// Every item, by kind and last use.
    pub(super) async fn survey(&self, kinds: &Kinds) -> Result<Survey> {
        let mut found = self.images().await?;
        let bases = self.bases().await?;
        let records = self.records().await?;
        found.extend(self.untagged(&bases).await?);
        for base in bases {
            let used = modified(&base.record);
            let item = SpaceItem::new(SpaceKind::Base, base.name.clone(), base.name);
            let mut paths = vec![base.record.clone()];
            paths.extend(base.parts.blobs.iter().map(|blob| self.blob_path(blob)));
            let mut of_base = Found::new(item, used, Action::Base(base.record), paths);
            of_base.elsewhere = base.parts.bytes;
            found.push(of_base);
        }
        let mut derived: HashMap<String, SystemTime> = HashMap::new();
        let mut unpacked: HashMap<Digest, SystemTime> = HashMap::new();
        let mut layers: BTreeMap<String, (Vec<CacheEntry>, SystemTime)> = BTreeMap::new();
        for entry in records {
            let of_layer = Some(entry.record.diff_id.hex().to_owned());
            let of_times = entry.record.times.as_ref().map(|times| format!("{}.times", times.hex()));
            for name in [of_layer, of_times].into_iter().flatten() {
                let last = derived.entry(name).or_insert(entry.used);
                *last = entry.used.max(*last);
            }
            if let Some(snapshot) = &entry.record.snapshot {
                let last = unpacked.entry(snapshot.clone()).or_insert(entry.used);
                *last = entry.used.max(*last);
            }
            let id = describe::layer_id(&entry.record);
            let group = layers.entry(id).or_insert((Vec::new(), entry.used));
            group.1 = group.1.max(entry.used);
            group.0.push(entry);
        }
        for (id, (entries, used)) in layers {
            let Some(first) = entries.first() else { continue };
            let blob = describe::blob_of(&first.record);
            let mut item =
                SpaceItem::new(SpaceKind::Layer, id, describe::layer(&first.record, entries.len()));
            // A note that a layer of an image was there goes with the image.
            if !is_internal(&first.record.repository) || is_of_bases(&first.record.repository) {
                item.description = "note of a base layer".to_owned();
            }
            let mut paths: Vec<PathBuf> = entries.iter().map(|entry| self.record_path(&entry.key)).collect();
            paths.extend(blob.map(|blob| self.blob_path(&blob.digest)));
            let keys = entries.iter().map(|entry| entry.key.clone()).collect();
            let mut layer = Found::new(item, used, Action::Records(keys), paths);
            layer.elsewhere = blob.map_or(0, |blob| blob.size);
            found.push(layer);
        }
        found.extend(snapshots(kinds, &unpacked).await?);
        found.extend(kinds.stuck.iter().map(stuck));
        let root = self.root.clone();
        found.extend(blocking(move || Ok(folders(&root, &derived))).await?);
        self.measure(found, kinds).await
    }

    fn record_path(&self, key: &Digest) -> PathBuf {
        self.root.join("cache").join(&key.hex()[..2]).join(key.hex())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let algorithm = digest.algorithm().name();
        self.root.join("store/blobs").join(algorithm).join(&digest.hex()[..2]).join(digest.hex())
    }

    async fn images(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for (repository, images) in tagged(&*self.store).await? {
            for (digest, tags) in images {
                let parts = parts_of(&*self.store, &repository, &digest).await?;
                let names = tags.iter().map(|tag| describe::name(&repository, tag)).collect::<Vec<_>>();
                let item = SpaceItem::new(SpaceKind::Image, digest.to_string(), names.join(", "));
                let paths = parts.blobs.iter().map(|blob| self.blob_path(blob)).collect();
                let mut image = Found::new(item, UNIX_EPOCH, Action::Keep, paths);
                image.elsewhere = parts.bytes;
                found.push(image);
            }
        }
        Ok(found)
    }

    /// The images that nothing keeps. What one of them keeps belongs to it.
    async fn untagged(&self, bases: &[Base]) -> Result<Vec<Found>> {
        let listed = unkept(&*self.store, Arc::new(base_roots(bases))).await?;
        let mut found = Vec::new();
        let mut within: HashSet<(RepositoryName, Digest)> = HashSet::new();
        let mut all = Vec::new();
        for ((repository, digest), _) in listed {
            let parts = parts_of(&*self.store, &repository, &digest).await?;
            let below = parts.manifests.iter().filter(|below| **below != digest);
            within.extend(below.map(|below| (repository.clone(), below.clone())));
            all.push((repository, digest, parts));
        }
        for (repository, digest, parts) in all {
            if within.contains(&(repository.clone(), digest.clone())) {
                continue;
            }
            let named = local_reference(&repository, None, None).map(|name| name.familiar());
            let description = match is_internal(&repository) {
                true => "image without a name".to_owned(),
                false => {
                    format!("image without a name, of {}", named.unwrap_or_else(|| repository.to_string()))
                }
            };
            let item = SpaceItem::new(SpaceKind::Untagged, digest.to_string(), description);
            let paths: Vec<PathBuf> = parts.blobs.iter().map(|blob| self.blob_path(blob)).collect();
            // It was in use at least when the newest of its blobs was stored.
            let used = paths.iter().map(|path| modified(path)).max().unwrap_or(UNIX_EPOCH);
            let mut image = Found::new(item, used, Action::Manifest(repository, digest), paths);
            image.elsewhere = parts.bytes;
            found.push(image);
        }
        Ok(found)
    }

    /// Gives every item its size. Bytes count for the first item that uses them.
    async fn measure(&self, mut found: Vec<Found>, kinds: &Kinds) -> Result<Survey> {
        let mut owners: HashMap<PathBuf, usize> = HashMap::new();
        let (mut parts, mut owner_of) = (Vec::new(), Vec::new());
        for (at, of) in found.iter_mut().enumerate() {
            for path in std::mem::take(&mut of.paths) {
                match owners.get(&path) {
                    None => {
                        owners.insert(path.clone(), at);
                        parts.push(path);
                        owner_of.push((at, false));
                    }
                    Some(owner) if *owner != at => {
                        of.item.shared = true;
                        if let Some((_, shared)) = owner_of.iter_mut().find(|(other, _)| other == owner) {
                            *shared = true;
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        parts.extend(DATABASES.iter().chain(&LOGS).map(|name| self.root.join(name)));
        let known = owner_of.len();
        let (all, sizes) = kinds.tool.usage(self.root.clone(), parts).await?;
        for ((at, shared), size) in owner_of.into_iter().zip(&sizes) {
            found[at].item.size += size;
            found[at].item.shared |= shared;
        }
        let is_here = self.root.join("store/blobs").is_dir();
        for of in found.iter_mut().filter(|_| !is_here) {
            of.item.size += of.elsewhere;
        }
        let (databases, logs) =
            sizes.get(known..).unwrap_or_default().split_at_checked(DATABASES.len()).unwrap_or_default();
        let database: u64 = databases.iter().sum();
        let total = all.saturating_sub(logs.iter().sum());
        let mut rest = vec![(SpaceKind::Database, "databases", database)];
        let named: u64 = found.iter().map(|of| of.item.size).sum::<u64>() + database;
        rest.push((SpaceKind::Other, "folders, records of builds, uploads", total.saturating_sub(named)));
        for (kind, description, size) in rest {
            let mut item = SpaceItem::new(kind, kind.name(), description);
            item.size = size;
            found.push(Found::new(item, UNIX_EPOCH, Action::Keep, Vec::new()));
        }
        for of in &mut found {
            of.item.used = of.used.duration_since(UNIX_EPOCH).ok().map(|used| used.as_secs() as i64);
            of.item.used = of.item.used.filter(|used| *used > 0);
        }
        found.sort_by(|a, b| (a.item.kind, a.used, &a.item.id).cmp(&(b.item.kind, b.used, &b.item.id)));
        Ok(Survey { total, found })
    }
}

/// The snapshots of every kind. `records` has the last use of those that records of the cache name.
///
/// A record does not say how the snapshot was kept that was used with it, so its use counts for the kind in which that was
/// used last: what builds with other options made long ago is not kept by the builds of today.
async fn snapshots(kinds: &Kinds, records: &HashMap<Digest, SystemTime>) -> Result<Vec<Found>> {
    let mut lists = Vec::with_capacity(kinds.open.len());
    for of in &kinds.open {
        lists.push(of.snapshotter.list().await?);
    }
    let mut latest: HashMap<Digest, (i64, usize)> = HashMap::new();
    for (kind, info) in lists.iter().enumerate().flat_map(|(kind, list)| list.iter().map(move |i| (kind, i)))
    {
        let known = latest.entry(info.chain.clone()).or_insert((info.used, kind));
        if info.used > known.0 {
            *known = (info.used, kind);
        }
    }
    let mut found = Vec::new();
    for (kind, mut list) in lists.into_iter().enumerate() {
        for info in list.iter_mut().filter(|info| latest.get(&info.chain).is_some_and(|last| last.1 == kind))
        {
            let of_record = records.get(&info.chain).and_then(|used| used.duration_since(UNIX_EPOCH).ok());
            info.used = info.used.max(of_record.map_or(0, |used| used.as_secs() as i64));
        }
        let used = used_with_parents(&list);
        for info in list {
            let mut item = SpaceItem::new(SpaceKind::Snapshot, info.chain.to_string(), "unpacked layer");
            item.variant = kinds.open[kind].variant.map(str::to_owned);
            let folder = info.folder.parent().map_or_else(|| info.folder.clone(), Path::to_owned);
            let used = used.get(&info.chain).copied().unwrap_or(info.used);
            let used = UNIX_EPOCH + Duration::from_secs(u64::try_from(used).unwrap_or(0));
            found.push(Found::new(item, used, Action::Snapshot(kind, info.chain), vec![folder]));
        }
    }
    Ok(found)
}

/// The last use of each snapshot: a parent was used when what stands on it was used.
fn used_with_parents(list: &[SnapshotInfo]) -> HashMap<Digest, i64> {
    let mut used: HashMap<Digest, i64> = list.iter().map(|info| (info.chain.clone(), info.used)).collect();
    let parents: HashMap<&Digest, &Digest> =
        list.iter().filter_map(|info| Some((&info.chain, info.parent.as_ref()?))).collect();
    for info in list {
        let (mut below, mut steps) = (parents.get(&info.chain), 0);
        while let Some(parent) = below.filter(|_| steps < list.len()) {
            match used.get_mut(*parent) {
                Some(of_parent) if *of_parent < info.used => *of_parent = info.used,
                _ => break,
            }
            (below, steps) = (parents.get(*parent), steps + 1);
        }
    }
    used
}

/// Snapshots that cannot be removed, as one item.
fn stuck(of: &Stuck) -> Found {
    let mut item =
        SpaceItem::new(SpaceKind::Snapshot, of.variant, "unpacked layers that cannot be removed now");
    (item.variant, item.prunable) = (Some(of.variant.to_owned()), false);
    Found::new(item, modified(&of.folder.join("chains")), Action::Keep, vec![of.folder.clone()])
}

/// The manifests that records of base images keep.
pub(super) fn base_roots(bases: &[Base]) -> BaseRoots {
    let all = bases.iter().flat_map(|base| {
        base.parts.manifests.iter().map(|manifest| (base.repository.clone(), manifest.clone()))
    });
    BaseRoots(all.collect())
}

fn modified(path: &Path) -> SystemTime {
    std::fs::symlink_metadata(path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH)
}

/// The entries of a folder of the state folder, without those that were taken away.
fn entries(root: &Path, name: &str) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(root.join(name)).into_iter().flatten().flatten();
    let named = entries.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()));
    named.filter(|(_, name)| !is_aside(name)).collect()
}

/// The last use of a folder: that of its marker, else its own time.
fn last_use(folder: &Path) -> SystemTime {
    match modified(&uses::marker(folder)) {
        UNIX_EPOCH => modified(folder),
        used => used,
    }
}

/// What is in folders of its own. `derived` has the last use of the layers of indexes.
fn folders(root: &Path, derived: &HashMap<String, SystemTime>) -> Vec<Found> {
    let mut found = Vec::new();
    let beside = |path: &Path, suffixes: &[&str]| -> Vec<PathBuf> {
        let with = |suffix: &&str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        std::iter::once(path.to_owned()).chain(suffixes.iter().map(with)).collect()
    };
    for (path, name) in entries(root, "mounts") {
        if path.is_dir() {
            let item = SpaceItem::new(SpaceKind::CacheMount, name, "cache mount");
            let paths = beside(&path, &[".lock", ".shared", ".used", ".lent"]);
            found.push(Found::new(item, last_use(&path), Action::Paths(paths.clone()), paths));
        }
    }
    for (path, name) in entries(root, "sources/git") {
        if path.is_dir() && name != "home" {
            let item = SpaceItem::new(SpaceKind::Source, name, "git repository");
            found.push(Found::new(item, last_use(&path), Action::Paths(vec![path.clone()]), vec![path]));
        }
    }
    for (path, name) in entries(root, "sources/checkouts") {
        if path.is_dir() && !name.starts_with('.') {
            let item = SpaceItem::new(SpaceKind::Source, name, "files of a commit");
            let paths = beside(&path, &[".seal", ".used"]);
            found.push(Found::new(item, last_use(&path), Action::Paths(paths.clone()), paths));
        }
    }
    for (path, name) in entries(root, "sources/web") {
        if path.is_dir() && !name.starts_with('.') {
            let item = SpaceItem::new(SpaceKind::Source, name, "file of the web");
            let paths = beside(&path, &[".used"]);
            found.push(Found::new(item, last_use(&path), Action::Paths(paths.clone()), paths));
        }
    }
    for (path, name) in entries(root, "indexes") {
        // Both the index of a layer and its table of times are of use as long as the record is.
        let of_layer = derived.get(&name).copied().unwrap_or(UNIX_EPOCH);
        let used = modified(&path).max(of_layer);
        let item = SpaceItem::new(SpaceKind::Index, name, "index of a layer");
        found.push(Found::new(item, used, Action::Paths(vec![path.clone()]), vec![path]));
    }
    for (path, name) in entries(root, "logs") {
        let item = SpaceItem::new(SpaceKind::Log, name, "log");
        found.push(Found::new(item, modified(&path), Action::Paths(vec![path.clone()]), vec![path]));
    }
    for (path, name) in entries(root, "history").into_iter().filter(|(_, name)| name.ends_with(STEPS_SUFFIX))
    {
        let item = SpaceItem::new(SpaceKind::Log, name, "why the steps of a build ran");
        found.push(Found::new(item, modified(&path), Action::Paths(vec![path.clone()]), vec![path]));
    }
    found
}
