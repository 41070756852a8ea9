//! The backends and options of a solver.

use super::on_error::OnError;
use super::record::StepRecorder;
use crate::cache::{Imports, SharedCache};
use crate::exec::{DevicePermissions, Devices, Executor, Network, SecretBytes, StepLimits};
use crate::layer::copy::StatCache;
use crate::media_type::Compression;
use crate::progress::Progress;
use crate::snapshot::SharedSnapshotter;
use crate::source::Sources;
use crate::store::SharedStore;
use crate::store::damage::Damage;
use crate::{Digest, Error, ErrorKind, MissingInput};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The backends of a solver.
#[derive(Clone, Debug)]
pub(crate) struct SolverBackends {
    /// The store of layers.
    pub store: SharedStore,
    /// The snapshotter of unpacked layers.
    pub snapshotter: SharedSnapshotter,
    /// The executor of commands.
    pub executor: Arc<dyn Executor>,
    /// The build cache.
    pub cache: SharedCache,
    /// The sources of images and contexts.
    pub sources: Sources,
    /// The folder of the solver: indexes of layers, cache mounts, temporary files. Several processes can share it.
    pub folder: PathBuf,
}

/// The epoch of a result: files in new layers have at most this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpochChoice {
    /// Seconds since 1970 that the caller gave. They are part of the keys.
    Given(i64),
    /// Seconds since 1970.
    Known(i64),
    /// The newest of a local time and of the times of fetched sources.
    Newest {
        /// The newest local time, in seconds since 1970.
        newest: Option<i64>,
        /// The epoch when nothing has a time.
        otherwise: i64,
    },
}

impl Default for EpochChoice {
    /// The time 0.
    fn default() -> Self {
        Self::Known(0)
    }
}

/// Options of a solver.
#[derive(Clone, Debug, Default)]
pub(crate) struct SolverOptions {
    /// The epoch of the result.
    pub epoch: EpochChoice,
    /// The compression of layers.
    pub compression: Compression,
    /// The level of the compression.
    pub compression_level: Option<i32>,
    /// Whether an output needs layers with the true times of files.
    pub keeps_times: bool,
    /// The network of commands that do not name one.
    pub network: Network,
    /// What each command may use.
    pub limits: StepLimits,
    /// Whether commands may have all privileges.
    pub allow_insecure: bool,
    /// Whether commands may use the host's network in a build with another network.
    pub allow_host_network: bool,
    /// The devices of the host.
    pub devices: Devices,
    /// The devices that commands may use.
    pub allow_devices: DevicePermissions,
    /// Extra entries of /etc/hosts.
    pub extra_hosts: Vec<(String, String)>,
    /// The content of /etc/resolv.conf in commands; without, that of the host.
    pub resolv_conf: Option<String>,
    /// Sockets of ssh agents by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretBytes>,
    /// Digests of files, by their `stat`.
    pub stat_cache: Arc<StatCache>,
    /// How many commands run at once; without, the number of processors and at least four.
    pub parallel: Option<usize>,
    /// The parts of the result that outputs need.
    pub needs: Needs,
    /// What is run when a command fails.
    pub on_error: Option<OnError>,
    /// The address of the vertex that this is for; without, it is for all.
    pub on_error_in: Option<Digest>,
    /// The damaged blobs of the store that were found.
    pub damage: Damage,
    /// The caches of other machines.
    pub imports: Imports,
    /// Whether the results of all steps are kept, for a cache that other machines import.
    pub keeps_results: bool,
    /// Whether the contents of cache mounts are for other machines.
    pub shares_mounts: bool,
    /// Who keeps what the keys of steps that ran were made of.
    pub recorder: Option<StepRecorder>,
    /// The receiver of events.
    pub progress: Progress,
}

/// The parts of a result that outputs need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// Nothing but the cache. Copies onto a base image without an index, which nothing else uses, are checked and not made: [`crate::solve::StepResult::Unmade`].
    Nothing,
    /// The files of the result.
    Files,
    /// The layers.
    #[default]
    Layers,
    /// The layers with their blobs. Those of the base image are fetched while steps run.
    Blobs,
}

pub(super) fn missing_secret(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("the secret `{id}` is required, and the request does not give it"),
    )
    .with_missing(MissingInput::Secret(id.to_owned()))
}
