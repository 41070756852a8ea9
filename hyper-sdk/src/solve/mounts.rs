//! The mounts of a command: trees of stages and contexts, caches and their locks, secrets.

use super::chain::{Chain, input_value, unmade};
use super::options::missing_secret;
use super::{SolveContext, StepResult, blocking};
use crate::digest::Hasher;
use crate::exec::{self, CacheMount, ExecMount, MountSource, RootFs, SecretBytes};
use crate::graph::{CacheOwner, ExecOp, InputIndex, Mount, MountKind, Sharing};
use crate::layer::copy::{CopySpec, EmptyDestination, Planner, SourceRoot, threads};
use crate::layer::{FileTime, LayerWriter};
use crate::snapshot::UnpackOptions;
use crate::{Digest, Error, ErrorKind, MissingInput, Result};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The path of the selected part of a context in its snapshot.
const SOURCE: &str = "/source";

/// The cache folders of a command, held while it runs.
pub(super) struct Caches {
    folders: HashMap<usize, PathBuf>,
    /// Those that another machine may fill.
    pub(super) shareable: Vec<CacheFolder>,
    _locks: Vec<File>,
}

/// The folder of a cache mount of a command.
pub(super) struct CacheFolder {
    /// What it is known by, on every machine.
    pub(super) name: Digest,
    pub(super) id: String,
    pub(super) folder: PathBuf,
}

impl Caches {
    /// The folder of a mount, when it is a cache.
    pub(super) fn folder(&self, mount: usize) -> Option<&Path> {
        self.folders.get(&mount).map(PathBuf::as_path)
    }
}

impl SolveContext {
    /// The key of a mount of a part of an input: the selected files of a context, or the whole stage.
    pub(super) async fn source_key(
        &self,
        inputs: &[StepResult],
        input: InputIndex,
        source: &str,
    ) -> Result<String> {
        match input_value(inputs, input)? {
            StepResult::Chain(chain) => Ok(chain.key().to_owned()),
            StepResult::Folder(root) => Ok(self.folder_digest(root, source).await?.to_string()),
            StepResult::Unmade => Err(unmade()),
        }
    }

    /// The digest of the files in a part of a stage. `None` when the part does not exist, and for a whole stage, whose chain
    /// ID is cheaper.
    pub(super) async fn part_digest(&self, chain: &Chain, source: &str) -> Result<Option<Digest>> {
        if source == "/" {
            return Ok(None);
        }
        let tree = self.tree(chain).await?;
        let Ok(path) = tree.resolve(source.as_bytes(), true) else { return Ok(None) };
        if path.is_root() || tree.lookup(&path).is_none() {
            return Ok(None);
        }
        blocking(move || tree.content_digest(&[path])).await.map(Some)
    }

    async fn folder_digest(&self, root: &Arc<SourceRoot>, source: &str) -> Result<Digest> {
        let (root, stat_cache) = (Arc::clone(root), Arc::clone(&self.stat_cache));
        let spec = selected(source);
        blocking(move || {
            let mut planner = Planner::new(&EmptyDestination, FileTime::of(0));
            planner.copy(&root, &spec)?;
            planner.finish().content_digest(&*stat_cache, threads())
        })
        .await
    }

    /// The tree of a chain, unpacked.
    pub(super) async fn view(&self, chain: &Chain) -> Result<RootFs> {
        let name = self.unpack(chain).await?;
        self.snapshotter.view(name.as_ref()).await
    }

    /// A part of an input, as a tree and the path in it.
    ///
    /// For a context it is a snapshot of the files that are not ignored, owned by root.
    async fn part(&self, inputs: &[StepResult], input: InputIndex, source: &str) -> Result<(RootFs, String)> {
        let root = match input_value(inputs, input)? {
            StepResult::Chain(chain) => return Ok((self.view(chain).await?, source.to_owned())),
            StepResult::Folder(root) => Arc::clone(root),
            StepResult::Unmade => return Err(unmade()),
        };
        let spec = selected(source);
        let (digest, times) = {
            let (root, stat_cache, spec) = (Arc::clone(&root), Arc::clone(&self.stat_cache), spec.clone());
            blocking(move || {
                let now = FileTime::now();
                let mut planner = Planner::new(&EmptyDestination, now);
                planner.copy(&root, &spec)?;
                let plan = planner.finish();
                // The top folder has the newest time of its content.
                let top = root.lookup(b"")?.map(|metadata| metadata.time());
                let times = Arc::new(plan.times().table(now, top));
                Ok((plan.content_digest(&*stat_cache, threads())?, times))
            })
            .await?
        };
        let mut id = Hasher::sha256();
        id.update_field("part of a context with true times");
        id.update_field(digest.as_str());
        id.update_field(times.digest().as_str());
        let id = id.finish();
        if !self.snapshotter.has(&id).await? {
            let scratch = self.scratch.clone();
            let tar = blocking(move || {
                let io = |e| Error::io("cannot write the part of a context to mount", &scratch, e);
                let file = tempfile::tempfile_in(&scratch).map_err(io)?;
                let mut writer = LayerWriter::new(BufWriter::new(file), None);
                let mut planner = Planner::new(&EmptyDestination, FileTime::of(0)).with_scratch(&scratch);
                planner.copy(&root, &spec)?;
                planner.finish().write(&mut writer)?;
                let mut file = writer.finish()?.0.into_inner().map_err(|e| io(e.into_error()))?;
                file.flush().and_then(|()| file.rewind()).map_err(io)?;
                Ok(file)
            })
            .await?;
            let options = UnpackOptions { times: Some(times), ..UnpackOptions::default() };
            self.snapshotter.apply(None, &id, options, Box::new(tar)).await?;
        }
        Ok((self.snapshotter.view(Some(&id)).await?, SOURCE.to_owned()))
    }

    /// Finds the cache folders of a command, and waits for locked ones.
    ///
    /// The locks are files, so that they work between processes. They are taken in the order of their names, so that commands
    /// cannot deadlock. Mounts of one command with the same cache share it.
    ///
    /// A shared one is not locked against other commands, but against those who copy its content for other machines.
    ///
    /// With `--no-cache`, a cache with an owner or mode starts empty, once in a build, and later builds use the new cache.
    pub(super) async fn lock_caches(
        &self,
        exec: &ExecOp,
        inputs: &[StepResult],
        reset: bool,
    ) -> Result<Caches> {
        let mut keys = HashMap::new();
        let mut wanted: BTreeMap<String, Sharing> = BTreeMap::new();
        let mut shareable = BTreeMap::new();
        for (at, mount) in exec.mounts.iter().enumerate() {
            let MountKind::Cache { id, sharing, owner, .. } = &mount.kind else { continue };
            let Some(name) = self.cache_name(&mount.kind, inputs).await? else { continue };
            let mut key = name.hex().to_owned();
            if owner.is_some() {
                key = self.generation(&key, reset)?;
            }
            let strictest = wanted.entry(key.clone()).or_insert(*sharing);
            if *sharing == Sharing::Locked || *strictest == Sharing::Shared {
                *strictest = *sharing;
            }
            // One that has just been emptied stays empty.
            if !(reset && owner.is_some()) {
                shareable.insert(key.clone(), (name, id.clone()));
            }
            keys.insert(at, key);
        }
        let (mut found, mut locks) = (HashMap::new(), Vec::new());
        for (key, sharing) in wanted {
            let folder = match sharing {
                Sharing::Shared => {
                    let folder = self.cache_mounts.join(&key);
                    locks.push(wait_for_lock(&folder, Lock::InUse).await?);
                    folder
                }
                Sharing::Locked => {
                    let folder = self.cache_mounts.join(&key);
                    locks.push(wait_for_lock(&folder, Lock::Alone).await?);
                    folder
                }
                Sharing::Private => {
                    let mut number = 0;
                    loop {
                        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
                        let folder = self.cache_mounts.join(format!("{key}{suffix}"));
                        if let Some(lock) = try_lock(&folder, Lock::Alone)? {
                            locks.push(lock);
                            break folder;
                        }
                        number += 1;
                    }
                }
            };
            crate::uses::mark(&folder);
            found.insert(key, folder);
        }
        let folders = keys.iter().filter_map(|(at, key)| Some((*at, found.get(key)?.clone()))).collect();
        let shareable = shareable
            .into_iter()
            .filter_map(|(key, (name, id))| Some(CacheFolder { name, id, folder: found.get(&key)?.clone() }));
        Ok(Caches { folders, shareable: shareable.collect(), _locks: locks })
    }

    /// What a cache mount is known by; `None` for another mount. It is the same on every machine.
    pub(super) async fn cache_name(
        &self,
        mount: &MountKind,
        inputs: &[StepResult],
    ) -> Result<Option<Digest>> {
        let MountKind::Cache { id, from, owner, .. } = mount else { return Ok(None) };
        let mut name = Hasher::sha256();
        name.update_field(id);
        // A cache has one folder for each owner and mode, and one without.
        if let Some(CacheOwner { mode, uid, gid }) = owner {
            name.update_field(format!("{mode:o} {uid} {gid}"));
        }
        if let Some((input, source)) = from {
            name.update_field(self.source_key(inputs, *input, source).await?);
            name.update_field(source);
        }
        Ok(Some(name.finish()))
    }

    /// The name of the current generation of a cache.
    pub(super) fn generation(&self, key: &str, reset: bool) -> Result<String> {
        let path = self.cache_mounts.join(format!("{key}.generation"));
        let mut renewed = self.reset_caches.lock().unwrap_or_else(PoisonError::into_inner);
        if reset && renewed.insert(key.to_owned()) {
            let FileTime { seconds, nanoseconds } = FileTime::now();
            let unique = Digest::sha256(format!("{seconds} {nanoseconds} {}", std::process::id()));
            tempfile::NamedTempFile::new_in(&self.cache_mounts)
                .and_then(|mut staged| {
                    staged.write_all(&unique.hex().as_bytes()[..16])?;
                    staged.persist(&path).map(drop).map_err(|e| e.error)
                })
                .map_err(|e| Error::io("cannot reset a cache mount", &path, e))?;
        }
        let generation = std::fs::read_to_string(&path).unwrap_or_default();
        let is_name = generation.len() == 16 && generation.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(if is_name { format!("{key}-from-{generation}") } else { key.to_owned() })
    }

    /// The mount for the executor; `None` for a missing optional secret.
    pub(super) async fn mount(
        &self,
        mount: &Mount,
        cache: Option<&Path>,
        inputs: &[StepResult],
    ) -> Result<Option<ExecMount>> {
        let source = match &mount.kind {
            MountKind::Bind { input, source, writable } => {
                let (tree, path) = self.part(inputs, *input, source).await?;
                MountSource::Tree { tree, path, writable: *writable }
            }
            MountKind::Cache { from, read_only, owner, .. } => {
                let owner = owner.map(|CacheOwner { mode, uid, gid }| exec::CacheOwner { mode, uid, gid });
                let from = match from {
                    Some((input, path)) => {
                        let (tree, path) = self.part(inputs, *input, path).await?;
                        let folder = if owner.is_some() { "/cache" } else { "" };
                        Some((tree, format!("{path}{folder}")))
                    }
                    None => None,
                };
                let path = cache.ok_or_else(|| Error::internal("a cache mount without its folder"))?;
                MountSource::Cache(CacheMount { path: path.to_owned(), read_only: *read_only, owner, from })
            }
            MountKind::Inline { name, content, mode } => {
                MountSource::Inline { name: name.clone(), content: content.clone(), mode: *mode }
            }
            MountKind::Tmpfs { size, read_only } => MountSource::Tmpfs { size: *size, read_only: *read_only },
            MountKind::Secret { id, required, mode, uid, gid } => match self.secrets.get(id) {
                Some(secret) => MountSource::Secret {
                    content: SecretBytes::new(secret.expose()),
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                },
                None if *required => return Err(missing_secret(id)),
                None => return Ok(None),
            },
            MountKind::Ssh { id, required, mode, uid, gid } => match self.ssh.get(id) {
                Some(path) => MountSource::Socket { path: path.clone(), mode: *mode, uid: *uid, gid: *gid },
                None if *required => {
                    let message =
                        format!("the ssh agent `{id}` is required, and the request does not give it");
                    return Err(Error::new(ErrorKind::NotFound, message)
                        .with_missing(MissingInput::SshAgent(id.clone())));
                }
                None => return Ok(None),
            },
        };
        Ok(Some(ExecMount { target: mount.target.clone(), source }))
    }
}

fn selected(source: &str) -> CopySpec {
    let mut spec = CopySpec::new([source], SOURCE);
    spec.wildcards = false;
    spec
}

/// A lock of a cache folder.
#[derive(Clone, Copy)]
pub(super) enum Lock {
    /// For one command at a time.
    Alone,
    /// For any number of commands, while nobody copies the content.
    InUse,
    /// For whoever copies the content, while no command has [`Lock::InUse`].
    Still,
}

/// Waits for a lock of a cache folder.
pub(super) async fn wait_for_lock(folder: &Path, lock: Lock) -> Result<File> {
    let mut pause = Duration::from_millis(1);
    loop {
        match try_lock(folder, lock)? {
            Some(lock) => return Ok(lock),
            None => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Tries to take a lock of a cache folder.
pub(super) fn try_lock(folder: &Path, lock: Lock) -> Result<Option<File>> {
    let path = folder.with_extension(match lock {
        Lock::Alone => "lock",
        Lock::InUse | Lock::Still => "shared",
    });
    let failed = |e| Error::io("cannot lock a cache mount", &path, e);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let locked = match lock {
        Lock::Alone | Lock::Still => file.try_lock(),
        Lock::InUse => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}
