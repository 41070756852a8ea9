//! Runs commands.

use super::SolveContext;
use super::chain::{Chain, StepResult, input_value};
use super::keys::{Keys, UsedInput};
use super::layers::NewLayer;
use super::made_layer::BlobTime;
use super::on_error::OnError;
use super::options::missing_secret;
use super::sink::Target;
use super::step_lock::{StepLock, Turn};
use super::task_log::TaskLog;
use super::turn::Right;
use super::value::{LayerTimes, snapshot_name};
use crate::digest::Hasher;
use crate::exec::{ExecSpec, LogSink, Network, NetworkPlace, Security};
use crate::graph::{ExecOp, Mount, MountKind, NetworkMode, Op, Sharing, Vertex};
use crate::progress::Task;
use crate::{CommandFailure, Digest, Error, ErrorDetail, ErrorKind, MissingInput, Result};
use std::sync::Arc;

/// The layer of a command that ran. The second value says whether its keys still match the files that it read. The lock is
/// for the time until the result is in the cache.
type Ran = (Box<NewLayer>, bool, Option<StepLock>);

impl SolveContext {
    /// The keys of a command, best first: by the definitions of its mounts, then by the files in them.
    pub(super) async fn exec_keys(
        &self,
        mut hasher: Hasher,
        exec: &ExecOp,
        base: &Chain,
        inputs: &[StepResult],
    ) -> Result<Keys> {
        self.check_permissions(exec)?;
        // A result without a device differs from one with it.
        for name in self.devices_of(exec)? {
            hasher.update_field("device");
            hasher.update_field(name);
        }
        let mut mounts: Vec<&Mount> = exec.mounts.iter().collect();
        mounts.sort_by(|a, b| a.target.cmp(&b.target));
        if mounts.iter().any(|mount| matches!(mount.kind, MountKind::Cache { .. })) {
            // A cache mount that was filled before steps saw true times may be wrong.
            hasher.update_field("true times");
        }
        hasher.update_field(keyed(exec, &mounts).to_bytes());
        hasher.update_field(base.key());
        hasher.update_field(match self.network {
            Network::Host => "host",
            // A command could have taken something from this machine on its network.
            Network::Private => "private",
            Network::None => "none",
        });
        for (name, address) in &self.extra_hosts {
            hasher.update_field("host entry");
            hasher.update_field(name);
            hasher.update_field(address);
        }
        let (mut definition, mut content, mut by_content) = (hasher.clone(), hasher, false);
        content.update_field("content");
        let mut inputs_used = Vec::new();
        for mount in mounts {
            let used = match &mount.kind {
                MountKind::Bind { input, source, .. } => Some((*input, source)),
                MountKind::Cache { from: Some((input, source)), .. } => Some((*input, source)),
                _ => None,
            };
            let Some((input, source)) = used else { continue };
            let key = self.source_key(inputs, input, source).await?;
            let number = exec.mounts.iter().position(|other| std::ptr::eq(other, mount)).map(|at| at + 1);
            // The key of a context is by its files already.
            if let StepResult::Chain(chain) = input_value(inputs, input)? {
                definition.update_field(source);
                if let Some(digest) = self.part_digest(chain, source).await? {
                    by_content = true;
                    content.update_field(digest.as_str());
                    inputs_used.push(UsedInput { input, mount: number, key: digest.to_string() });
                } else {
                    content.update_field(source);
                    content.update_field(&key);
                    inputs_used.push(UsedInput { input, mount: number, key: format!("{key} {source}") });
                }
            } else {
                content.update_field(&key);
                inputs_used.push(UsedInput { input, mount: number, key: key.clone() });
            }
            definition.update_field(key);
        }
        let mut digests = vec![definition.finish()];
        digests.extend(by_content.then(|| content.finish()));
        Ok(Keys { digests, planned: None, plan: None, used: inputs_used })
    }

    /// Rejects a command that lacks a permission, even when the result is in the cache.
    fn check_permissions(&self, exec: &ExecOp) -> Result<()> {
        let needs = |what: &str, permission: &str| {
            let message = format!("{what} needs the permission `{permission}`");
            let missing = MissingInput::Permission(permission.to_owned());
            Err(Error::new(ErrorKind::Denied, message).with_missing(missing))
        };
        if exec.security == crate::graph::Security::Insecure && !self.allow_insecure {
            return needs("RUN --security=insecure", "security.insecure");
        }
        // When all commands have the host's network, no permission is needed.
        if exec.network == NetworkMode::Host && self.network != Network::Host && !self.allow_host_network {
            return needs("RUN --network=host", "network.host");
        }
        self.devices_of(exec).map(drop)
    }

    /// Rejects a command that runs programs which this machine cannot run.
    pub(crate) fn check_platform(&self, vertex: &Vertex) -> Result<()> {
        let Some(platform) = &vertex.platform else { return Ok(()) };
        match self.refused.get().and_then(|refused| refused.get(platform)) {
            None => Ok(()),
            Some(why) => Err(Error::unsupported(why.clone()).with_context("platform", platform)),
        }
    }

    /// The devices of a command that are permitted and exist.
    pub(super) fn devices_of(&self, exec: &ExecOp) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for device in &exec.devices {
            names.extend(self.devices.grant(&device.name, device.required, &self.allow_devices)?);
        }
        Ok(names)
    }

    /// The command with its environment, without mounts and devices.
    fn spec_of(&self, exec: &ExecOp) -> Result<ExecSpec> {
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
        spec.limits.clone_from(&self.limits);
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
                // Empty, for scripts that reject unset variables.
                None => spec.env.push((name.clone(), String::new())),
            }
        }
        Ok(spec)
    }

    /// Checks that commands can have their limits. The executor is asked before the first command of a build, so that
    /// one whose steps are all cached needs no sandbox.
    async fn check_limits(&self) -> Result<()> {
        if self.limits.is_empty() {
            return Ok(());
        }
        self.limits_checked.get_or_try_init(|| self.executor.check_limits(&self.limits)).await.map(drop)
    }

    /// The network of this build, if it has one of its own. The first command makes it, whatever network that one has: what
    /// is missing is then said before anything has run.
    async fn own_network(&self) -> Result<Option<&NetworkPlace>> {
        if self.network != Network::Private {
            return Ok(None);
        }
        let made = self.build_network.get_or_try_init(|| self.executor.build_network()).await?;
        Ok(Some(made.place()))
    }

    /// Runs a command, unless somebody else runs an equal one meanwhile.
    pub(super) async fn run(
        &self,
        exec: &ExecOp,
        (vertex, keys, time): (&Vertex, &mut Keys, BlobTime),
        base: &Chain,
        inputs: &[StepResult],
        task: &Task,
    ) -> Result<Turn<Ran>> {
        self.check_platform(vertex)?;
        self.check_limits().await?;
        let mut right = match self.turn(exec, (vertex, keys, time), inputs).await? {
            Turn::Found(layer) => return Ok(Turn::Found(layer)),
            Turn::Runs(right) => right,
        };
        let made = self.run_now(exec, (vertex, &keys.digests, time), base, inputs, (task, &mut right)).await;
        let lock = right.lock.take();
        match made {
            Ok((new, keys_hold)) => Ok(Turn::Runs((Box::new(new), keys_hold, lock))),
            Err(e) => {
                lock.into_iter().for_each(StepLock::end);
                Err(e)
            }
        }
    }

    async fn run_now(
        &self,
        exec: &ExecOp,
        (vertex, keys, time): (&Vertex, &[Digest], BlobTime),
        base: &Chain,
        inputs: &[StepResult],
        (task, right): (&Task, &mut Right<'_>),
    ) -> Result<(NewLayer, bool)> {
        let (network, base_name) = tokio::try_join!(self.own_network(), self.unpack(base))?;
        let mut spec = self.spec_of(exec)?;
        if spec.network == Network::Private {
            spec.network_place = network.cloned();
        }
        let devices = self.devices.edits(&self.devices_of(exec)?)?;
        spec.env.extend(devices.env);
        spec.groups = devices.groups;
        // The last mount of a target counts: that of the command.
        spec.mounts = devices.mounts;
        for (at, mount) in exec.mounts.iter().enumerate() {
            spec.mounts.extend(self.mount(mount, right.caches.folder(at), inputs).await?);
        }
        // It may have waited long for a cache since the keys were made.
        let keys_hold = self.still_hold(keys, vertex, base, inputs, None).await;
        let active = self.snapshotter.prepare(base_name.as_ref()).await?;
        let log = Arc::new(TaskLog::default());
        let again = self.after_failure.keep(vertex, &spec);
        if exec.args == [OnError::PLACE] {
            // The vertex is there for the command, in whose place it stands.
            self.after_failure.run(&*self.executor, active.rootfs(), again, task).await;
            let _ = self.snapshotter.abandon(active).await;
            return Err(Error::new(ErrorKind::CommandFailed, "the command has ended"));
        }
        let run = self.executor.run(active.rootfs(), spec, Arc::clone(&log) as Arc<dyn LogSink>);
        let status = log.pass_on(task, run).await;
        if status.as_ref().is_ok_and(|status| !status.success()) {
            // Somebody may look around for long.
            right.lock.take().into_iter().for_each(StepLock::end);
            self.after_failure.run(&*self.executor, active.rootfs(), again, task).await;
        }
        if let Some(reached) =
            status.as_ref().ok().filter(|status| status.success()).and_then(|status| status.reached)
        {
            task.warn(format!("the command succeeded, but {reached}"));
        }
        let made = match status {
            Ok(status) if status.success() => match self.snapshotter.diff(&*active).await {
                // The snapshot has the files; without haste the blob is made of it.
                Ok(tar) => {
                    let target = match time {
                        BlobTime::Now => Target::Blob,
                        BlobTime::Later => Target::SmallTar,
                        BlobTime::OnDemand => Target::Hash,
                    };
                    self.layer_of_tar(target, tar).await
                }
                Err(e) => Err(e),
            },
            Ok(status) => Err(Error::new(
                ErrorKind::CommandFailed,
                match status.reached {
                    Some(reached) => format!("the command failed with exit code {}: {reached}", status.code),
                    None => format!("the command failed with exit code {}", status.code),
                },
            )
            .with_detail(ErrorDetail::Command(CommandFailure::new(status.code, log.tail())))),
            Err(e) => Err(e),
        };
        let kept = made
            .and_then(|(new, times)| Ok(NewLayer { times: Some(self.keep_times(&times.into())?), ..new }));
        let mut new = match kept {
            Ok(new) => new,
            Err(e) => {
                let _ = self.snapshotter.abandon(active).await;
                return Err(e);
            }
        };
        let chain = super::value::chain_id(base.id(), &new.diff_id);
        let below = base_name.as_ref().zip(base.id());
        let times = new.times.as_ref().map(LayerTimes::digest);
        let name = snapshot_name(below, &new.diff_id, &chain, times);
        self.snapshotter.commit(active, &name).await?;
        new.snapshot = Some(name);
        Ok((new, keys_hold))
    }
}

/// The part of the operation that the result depends on. The origin of mounted files is left out, as the key has their
/// content, and so is the id of a cache and how it is shared.
///
/// A shared cache that is named after its target keeps its id, so that another namespace of all caches gives another key.
pub(super) fn keyed(exec: &ExecOp, mounts: &[&Mount]) -> Op {
    let mut exec = exec.clone();
    exec.mounts = mounts.iter().map(|mount| (*mount).clone()).collect();
    for mount in &mut exec.mounts {
        if let MountKind::Bind { input, source, .. } | MountKind::Cache { from: Some((input, source)), .. } =
            &mut mount.kind
        {
            *input = 0;
            source.clear();
        }
        let MountKind::Cache { id, sharing, .. } = &mut mount.kind else { continue };
        let is_place = |name: &str| name == mount.target;
        let called_as_its_place = is_place(id) || id.split_once('/').is_some_and(|(_, name)| is_place(name));
        if !(called_as_its_place && *sharing == Sharing::Shared) {
            id.clear();
            *sharing = Sharing::Shared;
        }
    }
    Op::Exec(Box::new(exec))
}
