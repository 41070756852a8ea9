//! Lowers RUN.

use super::lower::Lowering;
use super::lower_error::LowerResult;
use super::stage::{StageState, absolute, clean};
use crate::dockerfile::{self, Device, Diagnostic, RunCommand, Spanned, Statement, Word};
use crate::graph::{
    CacheOwner, DeviceRequest, ExecOp, Mount, MountKind, NetworkMode, Op, Security, Sharing, VertexId,
};

/// The variables that configure proxies, in lower case. RUN sees them without ARG; the history and the cache ignore them.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
/// The variable with the socket of an ssh agent.
const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";
/// The folder with the script of a heredoc.
const SCRIPTS: &str = "/dev/pipes";
/// The kernel rejects an argument of this many bytes. The shell then sources the script from a file, so that `$0`, standard
/// input and the options are those of `-c`.
const LONGEST_ARGUMENT: usize = 128 << 10;
/// The name of that file.
const LONG_SCRIPT: &str = "RUN";

impl Lowering<'_> {
    pub(super) async fn run(
        &mut self,
        stage: usize,
        state: &mut StageState,
        statement: &Statement,
        run: &dockerfile::Run,
    ) -> LowerResult<()> {
        let mut asked = RunMounts { inputs: vec![state.vertex], mounts: Vec::new(), secret_env: Vec::new() };
        let (parsed, _) = run.mounts(self.escape(), &state.variables)?;
        for (word, mount) in run.mounts.iter().zip(parsed) {
            self.mount(stage, state, (word, mount), &mut asked).await?;
        }
        let RunMounts { inputs, mut mounts, secret_env } = asked;
        let args = match run.command.run_command() {
            RunCommand::Exec(args) => args,
            RunCommand::Shell(text) if text.len() >= LONGEST_ARGUMENT && can_source(&state.shell()) => {
                let kind = MountKind::Inline { name: LONG_SCRIPT.to_owned(), content: text, mode: 0o644 };
                mounts.push(Mount { target: SCRIPTS.to_owned(), kind });
                in_shell(state, format!(". {SCRIPTS}/{LONG_SCRIPT}"))
            }
            RunCommand::Shell(text) => in_shell(state, text),
            RunCommand::Script { name, content } => {
                let script = format!("{SCRIPTS}/{name}");
                let kind = MountKind::Inline { name, content, mode: 0o755 };
                mounts.push(Mount { target: SCRIPTS.to_owned(), kind });
                in_shell(state, script)
            }
        };
        // The last mount of a target counts: agents override secrets, and secrets override other mounts.
        mounts.sort_by_key(|mount| match mount.kind {
            MountKind::Ssh { .. } => 2,
            MountKind::Secret { .. } => 1,
            _ => 0,
        });
        let arguments: Vec<String> =
            state.arguments_seen().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let created_by = match arguments.len() {
            0 => format!("RUN {}", args.join(" ")),
            count => format!("RUN |{count} {} {}", arguments.join(" "), args.join(" ")),
        };
        let mut op = ExecOp::new(args);
        op.env.clone_from(&state.variables);
        // It is set without an agent, too, as scripts read the variable.
        let agent = mounts.iter().find(|mount| matches!(mount.kind, MountKind::Ssh { .. }));
        if let Some(agent) = agent
            && !op.env.iter().any(|(name, _)| name == SSH_AUTH_SOCK)
        {
            op.env.push((SSH_AUTH_SOCK.to_owned(), agent.target.clone()));
        }
        op.uncached_env = self.proxies();
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

    /// The variables of the proxies in the request, in lower and in upper case, as programs differ in which they read.
    fn proxies(&self) -> Vec<(String, String)> {
        let mut proxies = Vec::new();
        for name in PROXIES {
            let given = self.options.build_args.iter().rfind(|(given, _)| given.eq_ignore_ascii_case(name));
            if let Some((_, value)) = given.filter(|(_, value)| !value.is_empty()) {
                proxies.push((name.to_uppercase(), value.clone()));
                proxies.push((name.to_owned(), value.clone()));
            }
        }
        proxies
    }

    async fn mount(
        &mut self,
        stage: usize,
        state: &StageState,
        (word, mount): (&Word, dockerfile::Mount),
        run: &mut RunMounts,
    ) -> LowerResult<()> {
        let target = mount.target.as_deref().map(|t| clean(&absolute(&state.workdir(), t)));
        let mount = match mount.kind {
            dockerfile::MountKind::Bind => {
                let target = self.checked_target(word, &mount, target, state)?;
                self.bind_mount(stage, word, &mount, target, &mut run.inputs).await?
            }
            dockerfile::MountKind::Cache => {
                let target = self.checked_target(word, &mount, target, state)?;
                self.cache_mount(stage, word, &mount, target, &mut run.inputs).await?
            }
            dockerfile::MountKind::Tmpfs => {
                let kind = MountKind::Tmpfs { size: mount.size, read_only: mount.read_only };
                Mount { target: self.checked_target(word, &mount, target, state)?, kind }
            }
            dockerfile::MountKind::Secret => {
                match self.secret_mount(word, &mount, target, &mut run.secret_env)? {
                    Some(mount) => mount,
                    None => return Ok(()),
                }
            }
            dockerfile::MountKind::Ssh => {
                let number = run.mounts.iter().filter(|m| matches!(m.kind, MountKind::Ssh { .. })).count();
                self.ssh_mount(word, &mount, target, number)?
            }
        };
        run.mounts.push(mount);
        Ok(())
    }

    /// The target of a mount; by default the working directory, unless that is the root.
    fn checked_target(
        &self,
        word: &Word,
        mount: &dockerfile::Mount,
        target: Option<String>,
        state: &StageState,
    ) -> LowerResult<String> {
        match target {
            Some(target) if target == "/" => Err(self.root_target(word).into()),
            Some(target) => Ok(target),
            None => Some(clean(&state.workdir())).filter(|target| target != "/").ok_or_else(|| {
                self.error(word, format!("a {} mount needs `target`", mount.kind.name())).into()
            }),
        }
    }

    fn root_target(&self, word: &Word) -> Diagnostic {
        self.error(word, "a mount cannot have the target `/`")
    }

    async fn bind_mount(
        &mut self,
        stage: usize,
        word: &Word,
        mount: &dockerfile::Mount,
        target: String,
        inputs: &mut Vec<VertexId>,
    ) -> LowerResult<Mount> {
        let vertex = match &mount.from {
            Some(name) => self.input(stage, &Spanned::new(name.clone(), word.span), false).await?,
            None => self.main_context(),
        };
        let source = clean(mount.source.as_deref().unwrap_or("/"));
        let input = push_input(inputs, vertex);
        Ok(Mount { target, kind: MountKind::Bind { input, source, writable: !mount.read_only } })
    }

    async fn cache_mount(
        &mut self,
        stage: usize,
        word: &Word,
        mount: &dockerfile::Mount,
        target: String,
        inputs: &mut Vec<VertexId>,
    ) -> LowerResult<Mount> {
        let source = clean(mount.source.as_deref().unwrap_or("/"));
        let from = match &mount.from {
            Some(name) => {
                let vertex = self.input(stage, &Spanned::new(name.clone(), word.span), false).await?;
                Some((push_input(inputs, vertex), source.clone()))
            }
            None if source != "/" => {
                let message = format!("a cache mount without `from` has no `{source}` as its first content");
                return Err(self.error(word, message).into());
            }
            None => None,
        };
        // The target as written: two working directories share the cache of a relative target.
        let written = || dockerfile::clean_path(mount.target.as_deref().unwrap_or_default());
        let id = mount.id.clone().unwrap_or_else(written);
        let id = match self.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
            _ => id,
        };
        // A part of a source keeps its mode and owner.
        let is_owned = source == "/" && (mount.mode, mount.uid, mount.gid) != (None, None, None);
        let kind = MountKind::Cache {
            id,
            from,
            read_only: mount.read_only,
            sharing: match mount.sharing {
                None | Some(dockerfile::Sharing::Shared) => Sharing::Shared,
                Some(dockerfile::Sharing::Private) => Sharing::Private,
                Some(dockerfile::Sharing::Locked) => Sharing::Locked,
            },
            owner: is_owned.then(|| CacheOwner {
                mode: mount.mode.unwrap_or(0o755) & 0o777,
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
            }),
        };
        Ok(Mount { target, kind })
    }

    /// A secret as a file; `None` for a secret that is only a variable.
    fn secret_mount(
        &self,
        word: &Word,
        mount: &dockerfile::Mount,
        target: Option<String>,
        secret_env: &mut Vec<(String, String, bool)>,
    ) -> LowerResult<Option<Mount>> {
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
                return Ok(None);
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
        Ok(Some(Mount { target, kind }))
    }

    /// The socket of an ssh agent. `number` counts the earlier ones of the command.
    fn ssh_mount(
        &self,
        word: &Word,
        mount: &dockerfile::Mount,
        target: Option<String>,
        number: usize,
    ) -> LowerResult<Mount> {
        if mount.source.is_some() {
            return Err(self.error(word, "`source` is not allowed for mount type `ssh`").into());
        }
        let target = match target {
            Some(target) if target == "/" => return Err(self.root_target(word).into()),
            Some(target) => target,
            None => format!("/run/buildkit/ssh_agent.{number}"),
        };
        let kind = MountKind::Ssh {
            id: mount.id.clone().unwrap_or_else(|| "default".to_owned()),
            required: mount.required,
            mode: mount.mode.unwrap_or(0o600),
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
        };
        Ok(Mount { target, kind })
    }
}

/// The lowered mounts of one RUN.
struct RunMounts {
    inputs: Vec<VertexId>,
    mounts: Vec<Mount>,
    /// The variable, the secret, and whether it is required.
    secret_env: Vec<(String, String, bool)>,
}

/// Whether the words are a POSIX shell, which can source a file, with the option `-c`.
fn can_source(shell: &[String]) -> bool {
    let [program, options @ ..] = shell else { return false };
    let names = ["sh", "ash", "bash", "dash", "ksh", "mksh", "zsh"];
    let name = match program.rsplit('/').next() {
        Some("busybox") => options.first().map(String::as_str),
        name => name,
    };
    let text_follows = options
        .last()
        .is_some_and(|option| option.starts_with('-') && !option.starts_with("--") && option.ends_with('c'));
    name.is_some_and(|name| names.contains(&name)) && text_follows
}

fn in_shell(state: &StageState, command: String) -> Vec<String> {
    let mut args = state.shell();
    args.push(command);
    args
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
