//! The state of a stage while its instructions are lowered.

use super::windows;
use crate::frontend::HistoryStep;
use crate::graph::VertexId;
use crate::oci::{ContainerConfig, ImageConfig};
use crate::platform::Platform;

/// The PATH of an image that has none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments for the builder, which commands do not see.
const UNSEEN_ARGUMENTS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The state after the instructions so far.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    /// The root file system.
    pub(super) vertex: VertexId,
    /// The platform of the image that the stage, or one below it, begins with. Without an image, it is not known whose
    /// programs the files are.
    pub(super) base_platform: Option<Platform>,
    /// The config of the image.
    pub(super) config: ImageConfig,
    /// History after that of the base image.
    pub(super) history: Vec<HistoryStep>,
    /// The variables that expansion and RUN see: ENV and ARG, in the order in which they were last set.
    pub(super) variables: Vec<(String, String)>,
    /// The names and values of the declared arguments for the history of RUN. Some have no value.
    pub(super) arguments: Vec<(String, String)>,
    /// Whether this stage has a CMD, so that ENTRYPOINT keeps it.
    pub(super) command_set: bool,
}

impl StageState {
    /// The state right after FROM of an image or `scratch`. An image without PATH gets one.
    pub(super) fn new(vertex: VertexId, mut config: ImageConfig) -> Self {
        config.forget_unknown_fields();
        let needs_path = !windows::is_for(&config);
        let env = &mut config.config.env;
        if needs_path && !env.iter().any(|pair| split_pair(pair).0 == "PATH") {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        let mut state = Self {
            vertex,
            base_platform: None,
            config,
            history: Vec::new(),
            variables: Vec::new(),
            arguments: Vec::new(),
            command_set: false,
        };
        state.take_environment();
        state
    }

    /// The state right after a FROM of this stage. The environment overrides the arguments.
    pub(super) fn inherit(&self) -> Self {
        let mut state = Self { command_set: false, ..self.clone() };
        state.take_environment();
        state
    }

    fn take_environment(&mut self) {
        for pair in &self.config.config.env {
            let (name, value) = split_pair(pair);
            set(&mut self.variables, &name, &value);
        }
    }

    pub(super) fn container(&mut self) -> &mut ContainerConfig {
        &mut self.config.config
    }

    /// Sets a variable that instructions and commands see.
    pub(super) fn set_variable(&mut self, name: &str, value: &str) {
        set(&mut self.variables, name, value);
    }

    /// Sets an environment variable of the image.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.set_variable(name, value);
        let pair = format!("{name}={value}");
        let env = &mut self.config.config.env;
        match env.iter_mut().find(|e| e.split('=').next() == Some(name)) {
            Some(entry) => *entry = pair,
            None => env.push(pair),
        }
    }

    /// Declares an argument. The history of RUN shows it, and later instructions see its value.
    pub(super) fn set_argument(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|_| !UNSEEN_ARGUMENTS.contains(&name)) {
            self.set_variable(name, value);
        }
        let value = value.unwrap_or_default();
        match self.arguments.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_owned(),
            None => self.arguments.push((name.to_owned(), value.to_owned())),
        }
    }

    /// The declared arguments with the values that a command sees.
    pub(super) fn arguments_seen(&self) -> Vec<(&str, &str)> {
        let mut arguments = Vec::new();
        for (name, value) in &self.arguments {
            let seen = self.variables.iter().find(|(known, _)| known == name);
            arguments.push((name.as_str(), seen.map_or(value, |(_, value)| value).as_str()));
        }
        arguments
    }

    /// The shell of the shell form.
    pub(super) fn shell(&self) -> Vec<String> {
        match &self.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ if windows::is_for(&self.config) => windows::SHELL.map(str::to_owned).to_vec(),
            _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        }
    }

    /// The working directory, absolute and clean.
    pub(super) fn workdir(&self) -> String {
        let directory = &self.config.config.working_dir;
        if windows::is_for(&self.config) {
            let directory = directory.replace('\\', "/");
            return clean(directory.split_once(':').map_or(directory.as_str(), |(_, path)| path));
        }
        clean(directory)
    }

    /// Adds an entry to the history.
    pub(super) fn record(&mut self, created_by: impl Into<String>, layer: bool) {
        self.history.push(HistoryStep { created_by: created_by.into(), layer });
    }
}

/// Sets a variable, as the last of the list.
fn set(list: &mut Vec<(String, String)>, name: &str, value: &str) {
    list.retain(|(known, _)| known != name);
    list.push((name.to_owned(), value.to_owned()));
}

/// Splits `NAME=value`; without `=` the value is empty.
pub(super) fn split_pair(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.to_owned())
}

/// An absolute path without `.`, `..`, double and trailing slashes. `..` stops at the root.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Makes a path absolute, from a directory. A slash or `/.` at the end stands for a directory and stays as a slash.
pub(super) fn absolute(directory: &str, path: &str) -> String {
    let directory_meant = path.is_empty() || path.ends_with('/') || path.ends_with("/.") || path == ".";
    let joined = if path.starts_with('/') { clean(path) } else { clean(&format!("{directory}/{path}")) };
    if directory_meant && joined != "/" { format!("{joined}/") } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_stay_below_the_root() {
        for (directory, path, expected) in [
            ("/", "a", "/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "../../..", "/"),
            ("/w", "/a//b/./c/..", "/a/b"),
            ("/", ".", "/"),
        ] {
            assert_eq!(absolute(directory, path), expected);
        }
    }

    #[test]
    fn the_last_value_of_a_variable_counts_and_is_last() {
        let mut graph = crate::graph::Graph::new();
        let v = graph.add(crate::graph::Op::Source(crate::graph::SourceOp::Scratch), vec![], "");
        let mut config = ImageConfig::default();
        config.config.env = vec!["A=1".into(), "B=2".into()];
        let mut state = StageState::new(v, config);
        state.set_argument("B", Some("4"));
        state.set_argument("C", None);
        state.set_argument("BUILDKIT_SBOM_SCAN_STAGE", Some("true"));
        state.set_env("A", "3");
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(state.config.config.env, ["A=3", "B=2", &path]);
        let names = |state: &StageState| {
            state.variables.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        };
        assert_eq!(names(&state), [path.as_str(), "B=4", "A=3"]);
        assert_eq!(state.arguments_seen(), [("B", "4"), ("C", ""), ("BUILDKIT_SBOM_SCAN_STAGE", "true")]);
        // The next stage begins with the environment of the image.
        let child = state.inherit();
        assert_eq!(names(&child), ["A=3", "B=2", path.as_str()]);
        assert_eq!(child.arguments_seen()[0], ("B", "2"));
    }
}
