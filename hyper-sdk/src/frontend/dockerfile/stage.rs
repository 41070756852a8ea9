//! The state of a stage while its instructions are lowered.

use crate::frontend::HistoryStep;
use crate::graph::VertexId;
use crate::oci::{ContainerConfig, ImageConfig};
use crate::platform::Platform;

/// The PATH of an image that has none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the instructions of a stage have made so far.
#[derive(Clone, Debug)]
pub(super) struct StageState {
    /// The root file system.
    pub(super) vertex: VertexId,
    /// The config of the image.
    pub(super) config: ImageConfig,
    /// History after that of the base image.
    pub(super) history: Vec<HistoryStep>,
    /// ENV and ARG in the order of their declaration: what expansion and RUN see. The last of a name counts.
    pub(super) variables: Vec<(String, String)>,
    /// The arguments declared, for the history of RUN: name and value.
    pub(super) arguments: Vec<(String, String)>,
    /// The platform.
    pub(super) platform: Platform,
    /// Whether CMD was set in this stage, so that ENTRYPOINT leaves it.
    pub(super) command_set: bool,
}

impl StageState {
    /// The state right after FROM of an image or `scratch`.
    pub(super) fn new(vertex: VertexId, config: ImageConfig, platform: Platform) -> Self {
        let variables = config.config.env.iter().map(|pair| split_pair(pair)).collect();
        Self {
            vertex,
            config,
            history: Vec::new(),
            variables,
            arguments: Vec::new(),
            platform,
            command_set: false,
        }
    }

    /// The state right after FROM of this stage.
    pub(super) fn inherit(&self) -> Self {
        Self { command_set: false, ..self.clone() }
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

    /// Remembers an argument for the history of RUN.
    pub(super) fn set_argument(&mut self, name: &str, value: &str) {
        self.set_variable(name, value);
        set(&mut self.arguments, name, value);
    }

    /// The shell of the shell form.
    pub(super) fn shell(&self) -> Vec<String> {
        match &self.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        }
    }

    /// The working directory, absolute and clean.
    pub(super) fn workdir(&self) -> String {
        clean(&self.config.config.working_dir)
    }

    /// Adds an entry to the history.
    pub(super) fn record(&mut self, created_by: impl Into<String>, layer: bool) {
        self.history.push(HistoryStep { created_by: created_by.into(), layer });
    }
}

fn set(list: &mut Vec<(String, String)>, name: &str, value: &str) {
    match list.iter_mut().find(|(n, _)| n == name) {
        Some(entry) => entry.1 = value.to_owned(),
        None => list.push((name.to_owned(), value.to_owned())),
    }
}

/// Splits `NAME=value`; without `=` the value is empty.
pub(super) fn split_pair(pair: &str) -> (String, String) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    (name.to_owned(), value.to_owned())
}

/// An absolute path without `.`, `..`, doubled and trailing slashes; `..` stops at the root.
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

/// A path that may be relative to a directory, made absolute. A slash or `/.` at the end, which says that a directory
/// is meant, stays as a slash.
pub(super) fn absolute(directory: &str, path: &str) -> String {
    let directory_meant = path.is_empty() || path.ends_with('/') || path.ends_with("/.") || path == ".";
    let joined = if path.starts_with('/') { clean(path) } else { clean(&format!("{directory}/{path}")) };
    if directory_meant && joined != "/" { format!("{joined}/") } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_stay_below_the_root() {
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
    fn the_last_value_of_a_variable_counts_and_keeps_its_place() {
        let mut graph = crate::graph::Graph::new();
        let v = graph.add(crate::graph::Op::Source(crate::graph::Source::Scratch), vec![], "");
        let mut config = ImageConfig::default();
        config.config.env = vec!["A=1".into(), "B=2".into()];
        let mut state = StageState::new(v, config, Platform::host());
        state.set_env("A", "3");
        state.set_argument("B", "4");
        assert_eq!(state.config.config.env, ["A=3", "B=2"]);
        assert_eq!(state.variables, [("A".into(), "3".into()), ("B".into(), "4".into())]);
    }
}
