//! The image configuration (image-spec, config.md), with Docker's additions.
//!
//! It is a superset of both: `Healthcheck`, `OnBuild` and `Shell` are typed; other unknown fields are kept in `extra`.

use super::{Extra, nullable, text_list, text_map};
use crate::platform::Platform;
use crate::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The configuration of an image: platform, container configuration, layers and history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The creation time, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The architecture.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// The version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "text_list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// The configuration of containers of the image.
    #[serde(default, deserialize_with = "nullable")]
    pub config: ContainerConfig,
    /// The layers, as diff IDs.
    pub rootfs: RootFs,
    /// One entry for each instruction.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ImageConfig {
    /// The config of an image without layers for a platform.
    pub fn empty(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            ..Self::default()
        }
    }

    /// Parses the JSON of a config.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the position in the JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| {
            Error::new(ErrorKind::Invalid, "the image config is not valid JSON of an image config")
                .with_source(e)
        })
    }

    /// The config as compact JSON. Equal configs give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps with string keys and strings always serialise")
    }

    /// Removes unknown fields from the config of a base image: they describe that image (its container, its cache) and
    /// would be wrong for an image that is built on it. `StopTimeout` is kept. Empty fields are removed too.
    pub fn forget_unknown_fields(&mut self) {
        let is_given = |text: &String| !text.is_empty();
        self.author = self.author.take().filter(is_given);
        self.config.stop_signal = self.config.stop_signal.take().filter(is_given);
        self.config.args_escaped = self.config.args_escaped.filter(|escaped| *escaped);
        for words in [&mut self.config.entrypoint, &mut self.config.cmd, &mut self.config.shell] {
            *words = words.take().filter(|words| !words.is_empty());
        }
        self.extra.clear();
        self.config.extra.retain(|name, _| name == "StopTimeout");
        if let Some(check) = &mut self.config.healthcheck {
            check.extra.clear();
        }
        for entry in &mut self.history {
            entry.extra.clear();
        }
    }

    /// The platform that the image is for.
    pub fn platform(&self) -> Platform {
        let mut p = Platform::new(&self.os, &self.architecture, self.variant.as_deref());
        p.os_version.clone_from(&self.os_version);
        p.os_features.clone_from(&self.os_features);
        p
    }
}

/// The configuration of containers (image-spec, config.md, `config`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// User, or `user:group`, by name or number.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports: `80/tcp`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// Environment: `NAME=value`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The entrypoint; `None` and an empty list differ for inheritance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments, or the command when there is no entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// The paths of volumes.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// The working directory.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, deserialize_with = "text_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Whether `Cmd` is one escaped string (Windows).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    /// The health check (Docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for images that are built from this one (Docker).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell of the shell form (Docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A health check. Durations are in nanoseconds, as Docker writes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<i64>,
    /// Time after which a check has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<i64>,
    /// Time between checks during the start period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<i64>,
    /// Failures in a row that make a container unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// An entry of the history, for one instruction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The time, in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// The author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the instruction made no layer.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs in Go read `null` as empty.
    #[test]
    fn null_values_are_empty() {
        let config = ImageConfig::parse(
            br#"{"created":null,"author":null,"architecture":null,"os":null,"os.features":[null],"config":null,
                "rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
        )
        .unwrap();
        assert_eq!((config.os.as_str(), config.config), ("", ContainerConfig::default()));
        let config = ImageConfig::parse(
            br#"{"config":{"User":null,"ExposedPorts":null,"Env":null,"Entrypoint":null,"Cmd":null,"Volumes":null,
                "WorkingDir":null,"Labels":{"a":null,"b":"c"},"StopSignal":null,"Healthcheck":null,"OnBuild":null,
                "Shell":null},"rootfs":{"type":"layers","diff_ids":[]},
                "history":[{"created":null,"created_by":null,"empty_layer":null}]}"#,
        )
        .unwrap();
        assert_eq!(config.config.labels["a"], "");
        assert!(!config.history[0].empty_layer);
    }

    #[test]
    fn known_and_unknown_fields_are_kept() {
        let text = serde_json::json!({
            "architecture": "amd64", "os": "linux", "variant": "v2", "future": [1],
            "config": {"Healthcheck": {"Test": ["CMD", "true"], "Retries": 3, "New": 1}, "OnBuild": ["RUN x"],
                       "Shell": ["/bin/bash"], "Cmd": [], "StopTimeout": 3, "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": []},
            "history": [{"created_by": "x", "empty_layer": true, "y": 1}]
        });
        let config = ImageConfig::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&config.to_bytes()).unwrap(), text);
    }

    #[test]
    fn fields_about_the_base_image_are_removed() {
        let mut config = ImageConfig::parse(
            br#"{"architecture":"amd64","os":"linux","variant":"v2","author":"me","docker_version":"1","os.features":["f"],
                "config":{"Healthcheck":{"Test":["NONE"],"New":1},"Shell":["s"],"OnBuild":["RUN x"],"StopTimeout":3,
                          "ArgsEscaped":true,"Hostname":"h"},
                "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x","y":1}]}"#,
        )
        .unwrap();
        config.forget_unknown_fields();
        let expected = serde_json::json!({
            "architecture": "amd64", "os": "linux", "variant": "v2", "author": "me", "os.features": ["f"],
            "config": {"Healthcheck": {"Test": ["NONE"]}, "Shell": ["s"], "OnBuild": ["RUN x"], "StopTimeout": 3,
                       "ArgsEscaped": true},
            "rootfs": {"type": "layers", "diff_ids": []}, "history": [{"created_by": "x"}]
        });
        assert_eq!(serde_json::from_slice::<Value>(&config.to_bytes()).unwrap(), expected);
        config.config.cmd = Some(vec![]);
        config.config.stop_signal = Some(String::new());
        config.config.args_escaped = Some(false);
        config.forget_unknown_fields();
        let config = config.config;
        assert_eq!((config.cmd, config.stop_signal, config.args_escaped), (None, None, None));
    }

    #[test]
    fn null_collections_are_empty() {
        let config = ImageConfig::parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Volumes":null,"Cmd":null,"Labels":null,"OnBuild":null},
                "rootfs":{"type":"layers","diff_ids":null},"history":null}"#,
        )
        .unwrap();
        assert!(config.config.cmd.is_none() && config.history.is_empty());
    }
}
