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
}

impl LimitArgs {
    /// The limits of the flags.
    pub(super) fn limits(&self) -> Result<StepLimits, Failure> {
        let shm_size =
            self.shm_size.as_deref().map(|size| text::shm_size(size).map_err(of_value("shm-size", size)));
        Ok(StepLimits {
            ulimits: text::ulimits(&self.ulimits).map_err(wrong("ulimit"))?,
            shm_size: shm_size.transpose()?.flatten(),
        })
    }
}
