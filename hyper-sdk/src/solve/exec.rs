//! Runs commands.

use super::value::{Chain, Layer, Value};
use super::{SolveContext, blocking};
use crate::digest::Hasher;
use crate::exec::{
    CacheMount, ExecMount, ExecSpec, LogSink, MountSource, Network, RootFs, SecretBytes, Security,
};
use crate::graph::{ExecOp, InputIndex, Mount, MountKind, NetworkMode, Sharing};
use crate::layer::copy::{CopySpec, EmptyDestination, Planner};
use crate::progress::{LogStream, Task};
use crate::snapshot::DiffOptions;
use crate::{Digest, Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// How much of a failed command's output its error repeats.
const TAIL: usize = 4 << 10;

impl SolveContext {
    pub(super) async fn exec_keys(
        &self,
        mut hasher: Hasher,
        op: &[u8],
        exec: &ExecOp,
        base: &Chain,
        inputs: &[Value],
    ) -> Result<Vec<Digest>> {
        hasher.update_field(op);
        hasher.update_field(base.key());
        hasher.update_field(match self.network {
            Network::Host => "host",
            Network::None => "none",
        });
        for (name, address) in &self.extra_hosts {
            hasher.update_field("host entry");
            hasher.update_field(name);
            hasher.update_field(address);
        }
        for mount in &exec.mounts {
            let used = match &mount.kind {
                MountKind::Bind { input, source, .. } => Some((*input, source)),
                MountKind::Cache { from: Some((input, source)), .. } => Some((*input, source)),
                _ => None,
            };
            if let Some((input, source)) = used {
                hasher.update_field(self.content_key(inputs, input, source).await?);
            }
        }
        Ok(vec![hasher.finish()])
    }

    async fn content_key(&self, inputs: &[Value], input: InputIndex, source: &str) -> Result<String> {
        match input_value(inputs, input)? {
            Value::Chain(chain) => Ok(chain.key().to_owned()),
            Value::Folder(root) => {
                let (root, stat_cache) = (Arc::clone(root), Arc::clone(&self.stat_cache));
                let mut spec = CopySpec::new([source], "/source");
                spec.wildcards = false;
                let digest = blocking(move || {
                    let mut planner = Planner::new(&EmptyDestination, 0);
                    planner.copy(&root, &spec)?;
                    planner.finish().content_digest(&*stat_cache, threads())
                })
                .await?;
                Ok(digest.to_string())
            }
        }
    }

    pub(super) async fn run(
        &self,
        exec: &ExecOp,
        base: &Chain,
        inputs: &[Value],
        task: &Task,
    ) -> Result<Layer> {
        if exec.security == crate::graph::Security::Insecure && !self.allow_insecure {
            return Err(Error::new(
                ErrorKind::Denied,
                "RUN --security=insecure needs the permission `security.insecure`: build with --allow security.insecure",
            ));
        }
        let _permit =
            self.commands.acquire().await.map_err(|e| Error::internal("no permits").with_source(e))?;
        self.unpack(base).await?;
        let mut spec = ExecSpec::new(exec.args.iter().cloned());
        spec.env = exec.env.iter().chain(&exec.uncached_env).cloned().collect();
        spec.cwd.clone_from(&exec.cwd);
        spec.user.clone_from(&exec.user);
        spec.hostname.clone_from(&exec.hostname);
        spec.extra_hosts.clone_from(&self.extra_hosts);
        spec.resolv_conf.clone_from(&self.resolv_conf);
        spec.network = match exec.network {
            NetworkMode::Default => self.network,
            NetworkMode::Host => Network::Host,
            NetworkMode::None => Network::None,
        };
        if exec.security == crate::graph::Security::Insecure {
            spec.security = Security::Insecure;
        }
        for (name, id, required) in &exec.secret_env {
            match self.secrets.get(id) {
                Some(secret) => {
                    let value = std::str::from_utf8(secret.expose()).map_err(|_| {
                        Error::invalid(format!("the secret `{id}` is not UTF-8 and cannot be a variable"))
                    })?;
                    spec.env.push((name.clone(), value.to_owned()));
                }
                None if *required => return Err(missing_secret(id)),
                None => {}
            }
        }
        let mut guards = Vec::new();
        for mount in &exec.mounts {
            if let Some(mount) = self.mount(mount, inputs, &mut guards).await? {
                spec.mounts.push(mount);
            }
        }
        let active = self.snapshotter.prepare(base.id()).await?;
        let log = Arc::new(TaskLog::default());
        let status = {
            let run = self.executor.run(active.rootfs(), spec, Arc::clone(&log) as Arc<dyn LogSink>);
            tokio::pin!(run);
            loop {
                tokio::select! {
                    status = &mut run => break status,
                    () = log.wait() => log.drain(task),
                }
            }
        };
        log.drain(task);
        let result = match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Error::new(
                ErrorKind::CommandFailed,
                format!("the command failed with exit code {}", status.code),
            )
            .with_context("command", exec.args.join(" "))
            .with_context("exit code", status.code)
            .with_context("last output", log.tail())),
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            let _ = self.snapshotter.abandon(active).await;
            return Err(e);
        }
        let tar = self.snapshotter.diff(&*active, DiffOptions { epoch: Some(self.epoch) }).await?;
        let layer = match self.layer_of_tar(tar).await {
            Ok(layer) => layer,
            Err(e) => {
                let _ = self.snapshotter.abandon(active).await;
                return Err(e);
            }
        };
        let chain = super::chain_id(base.id(), &layer.diff_id);
        self.snapshotter.commit(active, &chain).await?;
        Ok(layer)
    }

    /// The tree of an input, unpacked.
    pub(super) async fn view(&self, inputs: &[Value], input: InputIndex) -> Result<RootFs> {
        match input_value(inputs, input)? {
            Value::Chain(chain) => {
                self.unpack(chain).await?;
                self.snapshotter.view(chain.id()).await
            }
            Value::Folder(root) => Ok(RootFs::Folder { path: root.path().to_owned(), writable: false }),
        }
    }

    async fn mount(
        &self,
        mount: &Mount,
        inputs: &[Value],
        guards: &mut Vec<OwnedMutexGuard<()>>,
    ) -> Result<Option<ExecMount>> {
        let source = match &mount.kind {
            MountKind::Bind { input, source, writable } => MountSource::Tree {
                tree: self.view(inputs, *input).await?,
                path: source.clone(),
                writable: *writable,
            },
            MountKind::Cache { id, from, read_only, sharing, mode, uid, gid } => {
                let mut name = Hasher::sha256();
                name.update_field(id);
                // Users of one cache with other owners see folders of their own, as with the peers.
                name.update_field(format!("{mode:o} {uid} {gid}"));
                let mut key = name.finish().hex().to_owned();
                let lock = |key: &str| {
                    let mut locks = self.mount_locks.lock().unwrap_or_else(PoisonError::into_inner);
                    Arc::clone(locks.entry(key.to_owned()).or_default())
                };
                match sharing {
                    Sharing::Shared => {}
                    Sharing::Locked => guards.push(lock(&key).lock_owned().await),
                    Sharing::Private => {
                        let first = key.clone();
                        for number in 1.. {
                            if let Ok(guard) = lock(&key).try_lock_owned() {
                                guards.push(guard);
                                break;
                            }
                            key = format!("{first}-{number}");
                        }
                    }
                }
                let from = match from {
                    Some((input, path)) => Some((self.view(inputs, *input).await?, path.clone())),
                    None => None,
                };
                let path = self.cache_mounts.join(key);
                MountSource::Cache(CacheMount {
                    path,
                    read_only: *read_only,
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    from,
                })
            }
            MountKind::Inline { content, mode } => MountSource::Secret {
                content: SecretBytes::new(content.as_bytes()),
                mode: *mode,
                uid: 0,
                gid: 0,
            },
            MountKind::Tmpfs { size } => MountSource::Tmpfs { size: *size },
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
        };
        Ok(Some(ExecMount { target: mount.target.clone(), source }))
    }
}

fn missing_secret(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("the secret `{id}` is required: give it with --secret id={id},src=FILE"),
    )
}

pub(super) fn input_value(inputs: &[Value], input: InputIndex) -> Result<&Value> {
    inputs.get(input).ok_or_else(|| Error::internal("an input that the vertex does not have"))
}

pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Carries output from the executor's threads to the task, and keeps its end.
#[derive(Default)]
struct TaskLog {
    waiting: Mutex<VecDeque<(LogStream, Vec<u8>)>>,
    tail: Mutex<VecDeque<u8>>,
    notify: tokio::sync::Notify,
}

impl TaskLog {
    async fn wait(&self) {
        self.notify.notified().await;
    }

    fn drain(&self, task: &Task) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for (stream, bytes) in waiting {
            task.log(stream, &bytes);
        }
    }

    fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl LogSink for TaskLog {
    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(bytes);
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
        drop(tail);
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((stream, bytes.to_vec()));
        self.notify.notify_one();
    }
}
