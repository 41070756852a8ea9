//! The command of a step and its settings, as data that is sent to the helper.

use super::limits::StepLimits;
use crate::sandbox::{NetworkPlace, RootFs};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Network access of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The network of the host.
    #[default]
    Host,
    /// Only a loopback interface.
    None,
    /// A network of the build, which the commands of the build share: what this machine reaches is reached, and its loopback
    /// interface is not. See [`super::Executor::build_network`].
    Private,
}

/// Privileges of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Docker's default capabilities and a system call filter.
    #[default]
    Sandbox,
    /// All capabilities, no filter.
    Insecure,
}

/// Bytes that are never printed and are wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretBytes(#[serde(with = "base64_bytes")] Vec<u8>);

impl SecretBytes {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for the one place that uses them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(|_| D::Error::custom("a secret is not valid base64"))
    }
}

/// A persistent folder that is mounted into a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheMount {
    /// The folder on the host. It is made if missing; its parent must exist.
    pub path: PathBuf,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Mode and owner of a new folder unless `from` provides them; `None` for 0755 and root.
    pub owner: Option<CacheOwner>,
    /// The initial content of a new folder, with its mode and owner: a tree and a path within it. With `owner` the path
    /// may be missing.
    pub from: Option<(RootFs, String)>,
}

/// Mode and owner of the folder of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheOwner {
    /// The mode.
    pub mode: u32,
    /// The owner, as the step sees it.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A restriction of a mount of a host path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostOption {
    /// Read-only.
    ReadOnly,
    /// No set-user-id programs.
    NoSetUserId,
    /// No device nodes.
    NoDevices,
    /// No running of programs.
    NoExecution,
}

/// The content of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A path in another tree. What the command writes to it is discarded.
    Tree {
        /// The tree.
        tree: RootFs,
        /// The path within it; symlinks are resolved within the tree.
        path: String,
        /// Whether the command may write.
        writable: bool,
    },
    /// A file or folder of the host, such as a build context. What the command writes to it is discarded.
    Host {
        /// The folder that `path` is resolved in.
        root: PathBuf,
        /// The path below it; symlinks are resolved within `root`.
        path: String,
        /// Whether the command may write.
        writable: bool,
    },
    /// A device, file or folder of the host itself. Writes of the command are kept. A device can be opened unless
    /// [`HostOption::NoDevices`] is given; device nodes in a folder cannot.
    HostPath {
        /// The path on the host.
        path: PathBuf,
        /// The restrictions.
        options: Vec<HostOption>,
    },
    /// A persistent folder.
    Cache(CacheMount),
    /// A tmpfs, with the mode of the folder that it is mounted on. In a new folder everybody may write.
    Tmpfs {
        /// The size limit in bytes.
        size: Option<u64>,
        /// Whether the mount is read-only.
        read_only: bool,
    },
    /// A read-only folder with one file, in memory.
    Inline {
        /// The name of the file.
        name: String,
        /// Its content.
        content: String,
        /// Its mode.
        mode: u32,
    },
    /// A read-only file with a secret, in memory.
    Secret {
        /// The content.
        content: SecretBytes,
        /// Its mode.
        mode: u32,
        /// Its owner, as the step sees it.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The socket of an ssh agent of the host. The step can list keys and sign; other requests fail.
    Socket {
        /// The socket.
        path: PathBuf,
        /// The mode that the step sees.
        mode: u32,
        /// The owner that the step sees.
        uid: u32,
        /// The group that the step sees.
        gid: u32,
    },
}

/// A mount of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecMount {
    /// The path, absolute or relative to the working folder.
    pub target: String,
    /// The content.
    pub source: MountSource,
}

/// A command and its settings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The program and its arguments. A program without a slash is searched in the `PATH` of `env`.
    pub args: Vec<String>,
    /// The whole environment (including secrets), in order; a later entry wins.
    pub env: Vec<(String, String)>,
    /// The absolute working folder. Missing parts are made and belong to the user.
    pub cwd: String,
    /// `user`, `user:group`, by name or number, resolved within the root file system; empty for root.
    pub user: String,
    /// Supplementary groups in addition to those that the user has in the root file system.
    pub groups: Vec<u32>,
    /// The mounts in addition to the root file system, parents before the mounts below them. Of several with one target
    /// the last one is used.
    pub mounts: Vec<ExecMount>,
    /// Network access.
    pub network: Network,
    /// The network of the build, for [`Network::Private`].
    pub network_place: Option<NetworkPlace>,
    /// Privileges.
    pub security: Security,
    /// The host name that the step sees; `None` for `hyper`.
    pub hostname: Option<String>,
    /// Entries of `/etc/hosts` in addition to localhost: name and address.
    pub extra_hosts: Vec<(String, String)>,
    /// The content of `/etc/resolv.conf`; `None` for the host's, as the helper reads it; with
    /// [`Network::Private`] for that with the resolver of the network alone.
    pub resolv_conf: Option<String>,
    /// What the command may use.
    pub limits: StepLimits,
}

impl ExecSpec {
    /// A command that runs as root in `/`, with the host's network and an empty environment.
    pub fn new(args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            groups: Vec::new(),
            mounts: Vec::new(),
            network: Network::Host,
            network_place: None,
            security: Security::Sandbox,
            hostname: None,
            extra_hosts: Vec::new(),
            resolv_conf: None,
            limits: StepLimits::default(),
        }
    }
}

impl fmt::Debug for ExecSpec {
    /// The environment can hold secrets: only its names are printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSpec")
            .field("args", &self.args)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("groups", &self.groups)
            .field("mounts", &self.mounts)
            .field("network", &self.network)
            .field("security", &self.security)
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let mut spec = ExecSpec::new(["true"]);
        spec.env.push(("TOKEN".into(), "hunter2".into()));
        spec.mounts.push(ExecMount {
            target: "/s".into(),
            source: MountSource::Secret { content: SecretBytes::new("hunter2"), mode: 0o400, uid: 0, gid: 0 },
        });
        assert!(!format!("{spec:?}").contains("hunter2"));
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ExecSpec>(&text).unwrap(), spec);
    }
}
