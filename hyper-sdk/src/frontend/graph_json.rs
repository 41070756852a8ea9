//! The frontend for graphs as JSON: a list of steps, which programs write.
//!
//! ```text
//!   {"steps": [{"op": "image", "name": "alpine:3"},                               0
//!              {"op": "run", "on": 0, "args": ["apk", "add", "git"]},             1
//!              {"op": "context"},                                                 2
//!              {"op": "copy", "on": 1, "from": 2, "sources": ["."], "to": "/src"},  3
//!              {"op": "configure", "on": 3, "entrypoint": ["/src/run"]}],         4
//!    "target": 4}
//! ```
//! A step names earlier steps by their positions in the list. `on` is the step whose root file system it changes; the result
//! is a new root file system. A command has the environment, working directory and user of the steps that it is based on.

use super::{Frontend, FrontendOptions, HistoryStep, Lowered, Resolved, Resolver};
use crate::clock::parse_rfc3339;
use crate::dockerfile::clean_path;
use crate::graph::{
    CopyAction, ExecOp, FileAction, FileOp, Graph, MakeFile, Mount, MountKind, NetworkMode, Op, Sharing,
    SourceOp, VertexId,
};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::{Error, Result};
use async_trait::async_trait;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The PATH of an image that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A list of steps, with the target.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    steps: Vec<Step>,
    /// The step whose result is the image.
    target: usize,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Step {
    /// The files and the config of an image or named context.
    Image { name: String },
    /// An empty root file system. The braces make unknown fields an error.
    Scratch {},
    /// The files of a build context; without a name, of the main context.
    Context {
        #[serde(default)]
        name: String,
    },
    /// Runs a command.
    Run(Run),
    /// Copies files of another step.
    Copy(Copy),
    /// Writes a file.
    File {
        on: usize,
        path: String,
        content: String,
        #[serde(default)]
        chown: Option<String>,
        #[serde(default)]
        chmod: Option<String>,
    },
    /// Changes the config of the image.
    Configure(Configure),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    on: usize,
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    user: Option<String>,
    /// Whether it has no network, whatever the network of the build.
    #[serde(default)]
    offline: bool,
    #[serde(default)]
    mounts: Vec<RunMount>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum RunMount {
    Bind {
        from: usize,
        #[serde(default)]
        source: Option<String>,
        target: String,
    },
    Cache {
        target: String,
        #[serde(default)]
        id: Option<String>,
    },
    Tmpfs {
        target: String,
    },
    Secret {
        id: String,
        target: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy {
    on: usize,
    from: usize,
    sources: Vec<String>,
    to: String,
    #[serde(default)]
    chown: Option<String>,
    #[serde(default)]
    chmod: Option<String>,
    #[serde(default)]
    exclude: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configure {
    on: usize,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    workdir: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    expose: Vec<String>,
}

/// The frontend for lists of steps as JSON. A builder needs to be given it.
///
/// ```no_run
/// # fn example(options: hyper_sdk::build::LocalBuilderOptions) -> hyper_sdk::Result<()> {
/// use hyper_sdk::build::{BuildContext, BuildRequest};
/// use hyper_sdk::frontend::JsonFrontend;
/// use std::sync::Arc;
///
/// let builder = options.frontend("json", Arc::new(JsonFrontend)).open()?;
/// let text = r#"{"steps": [{"op": "scratch"}, {"op": "file", "on": 0, "path": "/a", "content": "a"}], "target": 1}"#;
/// let mut request = BuildRequest::new(text, BuildContext::Empty);
/// request.frontend = Some("json".to_owned());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for wrong JSON, and for a wrong step, with its position in the list; those of the resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonFrontend;

#[async_trait]
impl Frontend for JsonFrontend {
    async fn lower(
        &self,
        name: &str,
        text: &str,
        options: &FrontendOptions,
        resolver: &dyn Resolver,
        _: &mut Vec<String>,
    ) -> Result<Lowered> {
        if options.target.is_some() {
            return Err(Error::unsupported("a graph has one target: leave the name of a target out"));
        }
        let text: Text = serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("`{name}` is not the JSON of a graph")).with_source(e))?;
        let mut lowering = Lowering {
            graph: Graph::new(),
            platform: options.platform.clone().unwrap_or_else(Platform::host),
            resolver,
            no_cache: options.no_cache,
            newest_base: None,
            results: Vec::new(),
        };
        for (at, step) in text.steps.into_iter().enumerate() {
            let result = lowering.step(step).await.map_err(|e| e.with_context("graph step", at))?;
            lowering.results.push(result);
        }
        lowering.finish(text.target, options)
    }
}

/// The result of a step.
#[derive(Clone)]
enum StepOutput {
    /// A root file system with the config of an image.
    Root(Box<State>),
    /// Files alone.
    Files(VertexId),
}

#[derive(Clone)]
struct State {
    vertex: VertexId,
    config: ImageConfig,
    history: Vec<HistoryStep>,
}

struct Lowering<'a> {
    graph: Graph,
    platform: Platform,
    resolver: &'a dyn Resolver,
    no_cache: bool,
    newest_base: Option<i64>,
    results: Vec<StepOutput>,
}

impl Lowering<'_> {
    fn output(&self, at: usize) -> Result<&StepOutput> {
        self.results.get(at).ok_or_else(|| Error::invalid(format!("there is no step {at} before this one")))
    }

    /// The root file system that a step changes.
    fn root(&self, at: usize) -> Result<State> {
        match self.output(at)? {
            StepOutput::Root(state) => Ok((**state).clone()),
            StepOutput::Files(_) => Err(Error::invalid(format!(
                "step {at} is a build context: copy its files into an image or into scratch"
            ))),
        }
    }

    /// The vertex with the files of a step, to copy from or to mount.
    fn files(&self, at: usize) -> Result<VertexId> {
        Ok(match self.output(at)? {
            StepOutput::Root(state) => state.vertex,
            StepOutput::Files(vertex) => *vertex,
        })
    }

    async fn step(&mut self, step: Step) -> Result<StepOutput> {
        match step {
            Step::Image { name } => self.image(&name).await,
            Step::Scratch {} => Ok(self.scratch()),
            Step::Context { name } if name.is_empty() => Ok(self.folder(String::new())),
            Step::Context { name } => match self.resolver.context(&name, &self.platform).await? {
                Some(resolved) => self.resolved(resolved),
                None => Err(Error::invalid(format!("the build has no context `{name}`"))),
            },
            Step::Run(run) => self.run(run),
            Step::Copy(copy) => self.copy(copy),
            Step::File { on, path, content, chown, chmod } => {
                let state = self.root(on)?;
                check_mode(chmod.as_deref())?;
                let destination = destination(&path)?;
                if destination.ends_with('/') {
                    return Err(Error::invalid(format!("`{path}` names a folder: a file needs a name")));
                }
                let name = destination.rsplit('/').next().unwrap_or_default().to_owned();
                let created_by = format!("FILE {destination}");
                let file = MakeFile { name, destination, content, chown, chmod };
                let op = Op::File(FileOp { actions: vec![FileAction::MakeFile(file)], link: false });
                Ok(self.layer(state, op, Vec::new(), created_by))
            }
            Step::Configure(configure) => self.configure(configure),
        }
    }

    async fn image(&mut self, name: &str) -> Result<StepOutput> {
        if name == "scratch" {
            return Ok(self.scratch());
        }
        let resolved = match self.resolver.context(name, &self.platform).await? {
            Some(resolved) => resolved,
            None => self.resolver.image(name, &self.platform).await?,
        };
        self.resolved(resolved)
    }

    fn resolved(&mut self, resolved: Resolved) -> Result<StepOutput> {
        match resolved {
            Resolved::Scratch => Ok(self.scratch()),
            Resolved::Folder(name) => Ok(self.folder(name)),
            Resolved::Image { reference, manifest, mut config } => {
                let name = format!("FROM {reference}");
                let op = Op::Source(SourceOp::Image { reference, manifest });
                let vertex = self.graph.add(op, Vec::new(), name);
                config.forget_unknown_fields();
                // Triggers are for Dockerfiles.
                config.config.on_build.clear();
                self.newest_base = self.newest_base.max(config.created.as_deref().and_then(parse_rfc3339));
                Ok(StepOutput::Root(Box::new(State { vertex, config: *config, history: Vec::new() })))
            }
        }
    }

    fn scratch(&mut self) -> StepOutput {
        let vertex = self.graph.add(Op::Source(SourceOp::Scratch), Vec::new(), "scratch");
        let config = ImageConfig::empty(&self.platform);
        StepOutput::Root(Box::new(State { vertex, config, history: Vec::new() }))
    }

    fn folder(&mut self, name: String) -> StepOutput {
        let shown = if name.is_empty() { "build context".to_owned() } else { format!("context {name}") };
        StepOutput::Files(self.graph.add(Op::Source(SourceOp::Folder { name }), Vec::new(), shown))
    }

    fn run(&mut self, run: Run) -> Result<StepOutput> {
        let state = self.root(run.on)?;
        if run.args.is_empty() {
            return Err(Error::invalid("a command needs a program"));
        }
        let config = &state.config.config;
        let mut op = ExecOp::new(run.args);
        op.env = environment(&config.env, &run.env)?;
        op.cwd = directory(run.cwd.as_deref().unwrap_or(&config.working_dir), &config.working_dir);
        op.user = run.user.unwrap_or_else(|| config.user.clone());
        op.network = if run.offline { NetworkMode::None } else { NetworkMode::Default };
        let mut inputs = Vec::new();
        for mount in run.mounts {
            op.mounts.push(self.mount(mount, &mut inputs)?);
        }
        let created_by = format!("RUN {}", op.args.join(" "));
        Ok(self.layer(state, Op::Exec(Box::new(op)), inputs, created_by))
    }

    /// A mount of a command. Its input is added after the root file system and the other inputs.
    fn mount(&self, mount: RunMount, inputs: &mut Vec<VertexId>) -> Result<Mount> {
        let (target, kind) = match mount {
            RunMount::Bind { from, source, target } => {
                inputs.push(self.files(from)?);
                let source = directory(source.as_deref().unwrap_or("/"), "/");
                (target, MountKind::Bind { input: inputs.len(), source, writable: false })
            }
            RunMount::Cache { target, id } => {
                let id = id.unwrap_or_else(|| clean_path(&target));
                let kind = MountKind::Cache {
                    id,
                    from: None,
                    read_only: false,
                    sharing: Sharing::Shared,
                    owner: None,
                };
                (target, kind)
            }
            RunMount::Tmpfs { target } => (target, MountKind::Tmpfs { size: None, read_only: false }),
            RunMount::Secret { id, target } => {
                (target, MountKind::Secret { id, required: true, mode: 0o400, uid: 0, gid: 0 })
            }
        };
        if !target.starts_with('/') || directory(&target, "/") == "/" {
            return Err(Error::invalid(format!(
                "the target `{target}` of a mount is not an absolute path below the root"
            )));
        }
        Ok(Mount { target: directory(&target, "/"), kind })
    }

    fn copy(&mut self, copy: Copy) -> Result<StepOutput> {
        let state = self.root(copy.on)?;
        let from = self.files(copy.from)?;
        check_mode(copy.chmod.as_deref())?;
        if copy.sources.is_empty() {
            return Err(Error::invalid("nothing to copy: name at least one path"));
        }
        let destination = destination(&copy.to)?;
        let created_by = format!("COPY {} {destination}", copy.sources.join(" "));
        let action = CopyAction {
            input: 1,
            sources: copy.sources,
            destination,
            chown: copy.chown,
            chmod: copy.chmod,
            parents: false,
            exclude: copy.exclude,
            unpack: None,
            add: false,
        };
        let op = Op::File(FileOp { actions: vec![FileAction::Copy(Box::new(action))], link: false });
        let made = self.layer(state, op, vec![from], created_by);
        if let StepOutput::Root(state) = &made {
            // The name has the sources.
            self.graph.set_shows_paths(state.vertex);
        }
        Ok(made)
    }

    /// Adds a vertex that makes a layer on a root file system.
    fn layer(&mut self, mut state: State, op: Op, inputs: Vec<VertexId>, created_by: String) -> StepOutput {
        let inputs = std::iter::once(state.vertex).chain(inputs).collect();
        state.vertex = self.graph.add(op, inputs, created_by.clone());
        if self.no_cache {
            self.graph.set_no_cache(state.vertex);
        }
        state.history.push(HistoryStep { created_by, layer: true });
        StepOutput::Root(Box::new(state))
    }

    fn configure(&mut self, configure: Configure) -> Result<StepOutput> {
        let mut state = self.root(configure.on)?;
        let config = &mut state.config.config;
        for (name, value) in configure.env {
            check_variable(&name)?;
            let pair = format!("{name}={value}");
            match config.env.iter_mut().find(|e| e.split('=').next() == Some(name.as_str())) {
                Some(entry) => *entry = pair,
                None => config.env.push(pair),
            }
        }
        config.labels.extend(configure.labels);
        if let Some(entrypoint) = configure.entrypoint {
            config.entrypoint = Some(entrypoint);
            // CMD of the base has the arguments of another program.
            config.cmd = None;
        }
        config.cmd = configure.cmd.or(config.cmd.take());
        if let Some(workdir) = configure.workdir {
            config.working_dir = directory(&workdir, &config.working_dir);
        }
        config.user = configure.user.unwrap_or(std::mem::take(&mut config.user));
        for port in configure.expose {
            let port = if port.contains('/') { port } else { format!("{port}/tcp") };
            config.exposed_ports.insert(port, serde_json::json!({}));
        }
        state.history.push(HistoryStep { created_by: "CONFIGURE".to_owned(), layer: false });
        Ok(StepOutput::Root(Box::new(state)))
    }

    fn finish(self, target: usize, options: &FrontendOptions) -> Result<Lowered> {
        let State { vertex, mut config, history } = self.root(target)?;
        config.config.labels.extend(options.labels.clone());
        let mut lowered = Lowered::new(self.graph, vertex, config);
        (lowered.history, lowered.newest_base) = (history, self.newest_base);
        Ok(lowered)
    }
}

/// Makes a path absolute, from `base`.
fn directory(path: &str, base: &str) -> String {
    match path.starts_with('/') {
        true => clean_path(path),
        false => clean_path(&format!("/{base}/{path}")),
    }
}

/// The destination of files: an absolute path, with a slash at the end for a folder.
fn destination(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("the destination `{path}` is not an absolute path")));
    }
    let clean = directory(path, "/");
    Ok(if path.ends_with('/') && clean != "/" { format!("{clean}/") } else { clean })
}

/// The environment of a command: that of the image, and the variables of the command.
fn environment(image: &[String], own: &BTreeMap<String, String>) -> Result<Vec<(String, String)>> {
    let pairs = image.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut environment: Vec<(String, String)> =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for (name, value) in own {
        check_variable(name)?;
        environment.retain(|(known, _)| known != name);
        environment.push((name.clone(), value.clone()));
    }
    if !environment.iter().any(|(name, _)| name == "PATH") {
        environment.push(("PATH".to_owned(), DEFAULT_PATH.to_owned()));
    }
    Ok(environment)
}

fn check_variable(name: &str) -> Result<()> {
    match name.is_empty() || name.contains(['=', '\0']) {
        true => Err(Error::invalid(format!("`{}` is not the name of a variable", name.escape_debug()))),
        false => Ok(()),
    }
}

fn check_mode(mode: Option<&str>) -> Result<()> {
    mode.map_or(Ok(()), |mode| crate::mode::ModeChange::parse(mode).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::EpochOf;
    use crate::{Digest, ErrorKind};

    struct Names;

    #[async_trait]
    impl Resolver for Names {
        async fn context(&self, name: &str, _: &Platform) -> Result<Option<Resolved>> {
            Ok((name == "given").then(|| Resolved::Folder(name.to_owned())))
        }

        async fn epoch(&self, _: EpochOf) -> Result<Option<i64>> {
            Ok(None)
        }

        async fn image(&self, name: &str, platform: &Platform) -> Result<Resolved> {
            let mut config = ImageConfig::empty(platform);
            config.config.env = vec!["A=1".to_owned(), "B=2".to_owned()];
            config.config.working_dir = "/w".to_owned();
            config.config.on_build = vec!["RUN x".to_owned()];
            config.created = Some("1970-01-01T00:00:07Z".to_owned());
            let (reference, manifest) = (name.to_owned(), Digest::sha256(name));
            Ok(Resolved::Image { reference, manifest, config: Box::new(config) })
        }
    }

    async fn lower(text: &str) -> Result<Lowered> {
        let options = FrontendOptions {
            labels: [("l".to_owned(), "v".to_owned())].into(),
            ..FrontendOptions::default()
        };
        JsonFrontend.lower("graph", text, &options, &Names, &mut Vec::new()).await
    }

    #[tokio::test]
    async fn a_command_has_the_config_of_its_base() {
        let lowered = lower(
            r#"{"target": 4, "steps": [
                {"op": "image", "name": "base"},
                {"op": "configure", "on": 0, "env": {"B": "3"}, "workdir": "sub", "user": "7", "cmd": ["c"],
                 "expose": ["80"]},
                {"op": "context", "name": "given"},
                {"op": "run", "on": 1, "args": ["make", "x"], "env": {"C": "4"}, "offline": true, "mounts": [
                    {"type": "bind", "from": 2, "target": "/src/"},
                    {"type": "cache", "target": "/cache"}, {"type": "tmpfs", "target": "/t"},
                    {"type": "secret", "id": "key", "target": "/run/secrets/key"}]},
                {"op": "copy", "on": 3, "from": 2, "sources": ["a"], "to": "/b/", "chown": "1:2"}]}"#,
        )
        .await
        .unwrap();
        let vertices = lowered.graph.vertices();
        let run = vertices.iter().find_map(|v| if let Op::Exec(run) = &v.op { Some((v, run)) } else { None });
        let (vertex, run) = run.unwrap();
        let env: Vec<String> = run.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(env[..3], ["A=1", "B=3", "C=4"]);
        assert!(env[3].starts_with("PATH=/"));
        assert_eq!((run.cwd.as_str(), run.user.as_str(), run.network), ("/w/sub", "7", NetworkMode::None));
        assert_eq!((run.mounts.len(), run.mounts[0].target.as_str(), vertex.inputs.len()), (4, "/src", 2));
        let Op::File(file) = &lowered.graph.vertex(lowered.root).op else { panic!("{lowered:?}") };
        assert!(matches!(&file.actions[0], FileAction::Copy(copy) if copy.destination == "/b/"));
        let config = &lowered.config.config;
        assert_eq!((config.cmd.as_deref(), config.labels["l"].as_str()), (Some(&["c".to_owned()][..]), "v"));
        assert!(config.exposed_ports.contains_key("80/tcp") && config.on_build.is_empty());
        assert_eq!(lowered.newest_base, Some(7));
        let history: Vec<(&str, bool)> =
            lowered.history.iter().map(|step| (step.created_by.as_str(), step.layer)).collect();
        assert_eq!(history, [("CONFIGURE", false), ("RUN make x", true), ("COPY a /b/", true)]);
    }

    #[tokio::test]
    async fn errors_name_the_step() {
        for (steps, text) in [
            (r#"{"op": "elephant"}"#, "elephant"),
            (r#"{"op": "scratch", "x": 1}"#, "x"),
            (r#"{"op": "run", "on": 0, "args": ["a"]}"#, "no step 0 before this one (graph step: 0)"),
            (r#"{"op": "context"}, {"op": "run", "on": 0, "args": ["a"]}"#, "is a build context"),
            (r#"{"op": "scratch"}, {"op": "run", "on": 0, "args": []}"#, "a command needs a program"),
            (r#"{"op": "context", "name": "none"}"#, "no context `none`"),
            (
                r#"{"op": "scratch"}, {"op": "copy", "on": 0, "from": 0, "sources": [], "to": "/"}"#,
                "nothing to copy",
            ),
            (
                r#"{"op": "scratch"}, {"op": "copy", "on": 0, "from": 0, "sources": ["a"], "to": "b"}"#,
                "absolute",
            ),
            (r#"{"op": "scratch"}, {"op": "file", "on": 0, "path": "/a/", "content": ""}"#, "needs a name"),
            (r#"{"op": "scratch"}, {"op": "file", "on": 0, "path": "/", "content": ""}"#, "needs a name"),
            (
                r#"{"op": "scratch"}, {"op": "file", "on": 0, "path": "/a", "content": "", "chmod": "y"}"#,
                "graph step: 1",
            ),
            (r#"{"op": "scratch"}, {"op": "configure", "on": 0, "env": {"": "x"}}"#, "name of a variable"),
            (
                r#"{"op": "scratch"}, {"op": "run", "on": 0, "args": ["a"], "mounts": [{"type": "tmpfs", "target": "/.."}]}"#,
                "below the root",
            ),
        ] {
            let error = lower(&format!(r#"{{"steps": [{steps}], "target": 0}}"#)).await.unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(format!("{error} {cause}").contains(text), "{steps}: {error} {cause}");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{steps}");
        }
        assert!(lower(r#"{"steps": [], "target": 0}"#).await.is_err());
    }
}
