//! The limits of what RUN steps use.

use crate::failure::Failure;
use crate::flags::{of_value, wrong};
use clap::Args;
use hyper_sdk::build::text;
use hyper_sdk::exec::StepLimits;

/// The flags of limits. They change neither results nor what the cache knows.
#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Limit of each process of RUN steps, such as nofile=1024:4096; `-1` is no limit; may be repeated
    ///
    /// NAME is core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending or
    /// stack. HARD is SOFT without it. Only root may raise a hard limit.
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// Size of /dev/shm in RUN steps, such as 64m or 1g; 64m without it
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    shm_size: Option<String>,
    /// Limit of each RUN step together with what it starts, such as memory=2g; may be repeated
    ///
    /// NAME is memory, memory-swap, cpus, cpu-shares, cpu-quota, cpu-period, cpuset-cpus, cpuset-mems or pids-limit: the flags
    /// of these names say the same. They need control groups that this user may make.
    #[arg(long = "resource", value_name = "NAME=VALUE")]
    resources: Vec<String>,
    /// Memory of each RUN step, such as 512m; its processes are killed when it is used up
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory and swap of each RUN step together; -1 for all swap, twice the memory without it
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processors that each RUN step may use, such as 1.5
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// Weight of each RUN step among others that want the processors; that of everything else is 1024
    #[arg(short, long, value_name = "WEIGHT", allow_hyphen_values = true)]
    cpu_shares: Option<String>,
    /// Processor time of each RUN step in a period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// Length of a period of --cpu-quota, in microseconds; 100000 without it
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_period: Option<String>,
    /// Processors that RUN steps run on, such as 0-3 or 0,2
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_cpus: Option<String>,
    /// Memory nodes of RUN steps, such as 0-1
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_mems: Option<String>,
    /// Processes and threads that each RUN step may have
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Control group in which those of RUN steps are made, as a path from the root of the hierarchy
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

impl LimitArgs {
    /// The limits of the flags. Where both give a limit, `--resource` counts, as in buildx.
    pub(super) fn limits(&self) -> Result<StepLimits, Failure> {
        let shm_size = self.shm_size.as_deref();
        let shm_size =
            shm_size.map(|size| text::shm_size(size).map_err(of_value("shm-size", size))).transpose()?;
        let flags = [
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpus", &self.cpus),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-quota", &self.cpu_quota),
            ("cpu-period", &self.cpu_period),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
            ("pids-limit", &self.pids_limit),
        ];
        let mut limits: Vec<(&str, &str)> =
            flags.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        for text in &self.resources {
            let expected = || Failure::usage(format!("--resource `{text}`: expected NAME=VALUE"));
            limits.push(text.split_once('=').ok_or_else(expected)?);
        }
        let mut group = text::resources(limits).map_err(|error| Failure::usage(error.message()))?;
        group.parent.clone_from(&self.cgroup_parent);
        group.validate().map_err(|error| Failure::usage(error.message()))?;
        Ok(StepLimits {
            ulimits: text::ulimits(&self.ulimits).map_err(wrong("ulimit"))?,
            shm_size: shm_size.flatten(),
            group,
        })
    }
}
