//! What a solver works with, and how.

use crate::cache::SharedCache;
use crate::exec::{DevicePermissions, Devices, Executor, Network, SecretBytes};
use crate::layer::copy::StatCache;
use crate::media_type::Compression;
use crate::progress::Progress;
use crate::snapshot::SharedSnapshotter;
use crate::source::Sources;
use crate::store::SharedStore;
use crate::store::damage::Damage;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a solver works with.
#[derive(Clone, Debug)]
pub(crate) struct SolverBackends {
    /// Where layers are kept.
    pub store: SharedStore,
    /// Where layers are unpacked.
    pub snapshotter: SharedSnapshotter,
    /// What runs commands.
    pub executor: Arc<dyn Executor>,
    /// What steps came to before.
    pub cache: SharedCache,
    /// Where images and contexts come from.
    pub sources: Sources,
    /// The folder of what the solver keeps itself: indexes of layers, cache mounts, files that live as long as a step.
    /// Several processes may share it.
    pub folder: PathBuf,
}

/// Which time a result carries: new layers have it at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpochChoice {
    /// These seconds since 1970, which the caller gave: they count for the cache.
    Given(i64),
    /// These seconds since 1970.
    Known(i64),
    /// The newest of a time and of the times of what the graph fetches.
    Newest {
        /// The newest time of what is here: seconds since 1970.
        newest: Option<i64>,
        /// What holds where nothing has a time.
        otherwise: i64,
    },
}

impl Default for EpochChoice {
    /// The time 0.
    fn default() -> Self {
        Self::Known(0)
    }
}

/// How a graph is solved.
#[derive(Clone, Debug, Default)]
pub(crate) struct SolverOptions {
    /// The time that the result carries.
    pub epoch: EpochChoice,
    /// How layers are compressed.
    pub compression: Compression,
    /// The level of the compression.
    pub compression_level: Option<i32>,
    /// Whether layers are asked for with the times that steps see.
    pub keeps_times: bool,
    /// The network of commands that do not say.
    pub network: Network,
    /// Whether commands may ask for all privileges.
    pub allow_insecure: bool,
    /// Whether commands may ask for the host's network where the build has another.
    pub allow_host_network: bool,
    /// The devices of the host.
    pub devices: Devices,
    /// Which of them commands may have.
    pub allow_devices: DevicePermissions,
    /// Extra entries of /etc/hosts.
    pub extra_hosts: Vec<(String, String)>,
    /// The content of /etc/resolv.conf in commands; the host's without.
    pub resolv_conf: Option<String>,
    /// Sockets of ssh agents by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, SecretBytes>,
    /// Digests of files by what `stat` says of them.
    pub stat_cache: Arc<StatCache>,
    /// How many commands run at once; as many as there are processors, and at least four, without.
    pub parallel: Option<usize>,
    /// What of the result is needed.
    pub needs: Needs,
    /// What is found to be damaged of the store.
    pub damage: Damage,
    /// Where events go.
    pub progress: Progress,
}

/// What of the result of a graph is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing but what is worth keeping in the cache. Copies onto a base image whose files nobody knows yet, and that
    /// nothing else uses, are looked at and not made: [`crate::solve::StepResult::Unmade`].
    Nothing,
    /// The layers, each of which is made.
    #[default]
    Layers,
    /// The layers with their blobs: those of the base image come while steps run.
    Blobs,
}
