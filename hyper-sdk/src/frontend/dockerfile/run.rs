//! Lowers RUN.

use super::lower::{Lowering, Lowers};
use super::stage::{DEFAULT_PATH, StageState, absolute, clean};
use crate::dockerfile::{self, Device, RunCommand, Statement, Word};
use crate::graph::{DeviceRequest, ExecOp, Mount, MountKind, NetworkMode, Op, Security, Sharing, VertexId};

/// The variables that configure proxies: RUN sees them without ARG, and they count neither for history nor cache.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

impl Lowering<'_> {
    pub(super) async fn run(
        &mut self,
        stage: usize,
        state: &mut StageState,
        statement: &Statement,
        run: &dockerfile::Run,
    ) -> Lowers<()> {
        let mut mounts = Vec::new();
        let mut inputs = vec![state.vertex];
        let mut secret_env = Vec::new();
        let (parsed, _) = run.mounts(self.escape(), &state.variables)?;
        for (word, mount) in run.mounts.iter().zip(parsed) {
            self.mount(stage, state, (word, mount), &mut inputs, &mut mounts, &mut secret_env).await?;
        }
        let (args, shown) = match run.command.run_command() {
            RunCommand::Exec(args) => {
                let shown = args.join(" ");
                (args, shown)
            }
            RunCommand::Shell(text) => {
                let mut args = state.shell();
                args.push(text);
                let shown = args.join(" ");
                (args, shown)
            }
            RunCommand::Script { name, content } => {
                let target = format!("/dev/pipes/{name}");
                mounts
                    .push(Mount { target: target.clone(), kind: MountKind::Inline { content, mode: 0o755 } });
                (vec![target.clone()], target)
            }
        };
        let created_by = if state.arguments.is_empty() {
            format!("RUN {shown}")
        } else {
            let list: Vec<String> =
                state.arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("RUN |{} {} {shown}", list.len(), list.join(" "))
        };
        let mut op = ExecOp::new(args);
        op.env.clone_from(&state.variables);
        if !op.env.iter().any(|(name, _)| name == "PATH") {
            op.env.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
        }
        op.uncached_env = PROXIES
            .iter()
            .filter(|name| !op.env.iter().any(|(n, _)| n == *name))
            .filter_map(|name| Some(((*name).to_owned(), self.options.build_args.get(*name)?.clone())))
            .collect();
        op.cwd = state.workdir();
        op.user.clone_from(&state.config.config.user);
        op.mounts = mounts;
        op.secret_env = secret_env;
        op.hostname = self.options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned();
        op.network = match run.network.value {
            dockerfile::Network::Default => NetworkMode::Default,
            dockerfile::Network::None => NetworkMode::None,
            dockerfile::Network::Host => NetworkMode::Host,
        };
        op.security = match run.security.value {
            dockerfile::Security::Sandbox => Security::Sandbox,
            dockerfile::Security::Insecure => Security::Insecure,
        };
        let device = |d: &Device| DeviceRequest { name: d.name.clone(), required: d.required };
        op.devices = run.devices.iter().map(|word| device(&word.value)).collect();
        self.layer(state, statement, Op::Exec(Box::new(op)), inputs, created_by);
        Ok(())
    }

    async fn mount(
        &mut self,
        stage: usize,
        state: &StageState,
        (word, mount): (&Word, dockerfile::Mount),
        inputs: &mut Vec<VertexId>,
        mounts: &mut Vec<Mount>,
        secret_env: &mut Vec<(String, String, bool)>,
    ) -> Lowers<()> {
        let target = mount.target.as_deref().map(|t| clean(&absolute(&state.workdir(), t)));
        let needs_target = || self.error(word, format!("a {} mount needs `target`", mount.kind.name()));
        let checked = |target: Option<String>| match target {
            Some(t) if t == "/" => Err(self.error(word, "a mount cannot have the target `/`")),
            Some(t) => Ok(t),
            // Without one it is the working directory, which then has to be another than the root.
            None => Some(clean(&state.workdir())).filter(|t| t != "/").ok_or_else(needs_target),
        };
        let from =
            |from: &Option<String>| from.clone().map(|name| crate::dockerfile::Spanned::new(name, word.span));
        match mount.kind {
            dockerfile::MountKind::Bind => {
                let target = checked(target)?;
                let vertex = match from(&mount.from) {
                    Some(name) => self.input(stage, state, &name, false).await?,
                    None => self.main_context(),
                };
                let source = clean(mount.source.as_deref().unwrap_or("/"));
                let input = push_input(inputs, vertex);
                mounts.push(Mount {
                    target,
                    kind: MountKind::Bind { input, source, writable: !mount.read_only },
                });
            }
            dockerfile::MountKind::Cache => {
                let target = checked(target)?;
                let from = match from(&mount.from) {
                    Some(name) => {
                        let vertex = self.input(stage, state, &name, false).await?;
                        Some((push_input(inputs, vertex), clean(mount.source.as_deref().unwrap_or("/"))))
                    }
                    None => None,
                };
                let id = mount.id.clone().unwrap_or_else(|| target.clone());
                let id = match self.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
                    Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
                    _ => id,
                };
                let kind = MountKind::Cache {
                    id,
                    from,
                    read_only: mount.read_only,
                    sharing: match mount.sharing {
                        None | Some(dockerfile::Sharing::Shared) => Sharing::Shared,
                        Some(dockerfile::Sharing::Private) => Sharing::Private,
                        Some(dockerfile::Sharing::Locked) => Sharing::Locked,
                    },
                    mode: mount.mode.unwrap_or(0o755),
                    uid: mount.uid.unwrap_or(0),
                    gid: mount.gid.unwrap_or(0),
                };
                mounts.push(Mount { target, kind });
            }
            dockerfile::MountKind::Tmpfs => {
                mounts.push(Mount { target: checked(target)?, kind: MountKind::Tmpfs { size: mount.size } });
            }
            dockerfile::MountKind::Secret => {
                let file_name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
                let id = mount
                    .id
                    .clone()
                    .or_else(|| mount.source.clone())
                    .or_else(|| target.as_deref().map(file_name))
                    .ok_or_else(|| self.error(word, "a secret mount needs `id`"))?;
                if let Some(name) = &mount.env {
                    let name = if name.is_empty() { id.clone() } else { name.clone() };
                    secret_env.push((name, id.clone(), mount.required));
                    if target.is_none() {
                        return Ok(());
                    }
                }
                let target = target.unwrap_or_else(|| format!("/run/secrets/{}", file_name(&id)));
                let kind = MountKind::Secret {
                    id,
                    required: mount.required,
                    mode: mount.mode.unwrap_or(0o400),
                    uid: mount.uid.unwrap_or(0),
                    gid: mount.gid.unwrap_or(0),
                };
                mounts.push(Mount { target, kind });
            }
            dockerfile::MountKind::Ssh => {
                let number = mounts.iter().filter(|m| matches!(m.kind, MountKind::Ssh { .. })).count();
                let target = match target {
                    Some(target) => checked(Some(target))?,
                    None => format!("/run/buildkit/ssh_agent.{number}"),
                };
                let kind = MountKind::Ssh {
                    id: mount.id.clone().unwrap_or_else(|| "default".to_owned()),
                    required: mount.required,
                    mode: mount.mode.unwrap_or(0o600),
                    uid: mount.uid.unwrap_or(0),
                    gid: mount.gid.unwrap_or(0),
                };
                mounts.push(Mount { target, kind });
            }
        }
        Ok(())
    }
}

fn push_input(inputs: &mut Vec<VertexId>, vertex: VertexId) -> usize {
    match inputs.iter().skip(1).position(|v| *v == vertex) {
        Some(at) => at + 1,
        None => {
            inputs.push(vertex);
            inputs.len() - 1
        }
    }
}
