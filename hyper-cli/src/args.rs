//! Options that several commands take.

use clap::{ArgMatches, Args, FromArgMatches as _, ValueEnum};
use hyper_sdk::session::SessionOptions;
use hyper_sdk::space::CacheLimit;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Folder that keeps the local store, the cache and the logs [env: HYPER_ROOT]
    ///
    /// Without it: `/var/lib/hyper` for root, else `$XDG_DATA_HOME/hyper` or `~/.local/share/hyper`.
    // The environment is read elsewhere: the parser would take the option for a required one in its usage.
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Folder of the `config.json` with the credentials of registries; `~/.docker` without it [env: DOCKER_CONFIG]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,
    /// How much the cache of builds may take: a size such as `20GB`, a part of the disk such as `10%`, or `off` [env: HYPER_CACHE_LIMIT]
    ///
    /// What was least recently used is removed at the end of a build that exceeds it. Images with a name do not count.
    /// Without it: a tenth of the disk or 20 GB, whichever is more, and never more than half of the disk.
    #[arg(long, global = true, value_name = "SIZE")]
    pub(crate) cache_limit: Option<CacheLimit>,
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// When to use colour; `NO_COLOR` in the environment counts as `never` unless this is given
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// Prints results only, no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text or a table for people
    #[value(alias = "table")]
    Text,
    /// JSON
    Json,
    /// SARIF 2.1.0, of `build --check` alone
    Sarif,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorChoice {
    /// Whether to colour standard error.
    pub(crate) fn resolve(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
                    || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
                !refused && io::stderr().is_terminal()
            }
        }
    }
}

/// What makes the containers of steps.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ExecutorArgs {
    /// What makes the containers of RUN steps: `native`, `runc`, `crun`, or the path of another OCI runtime
    ///
    /// Without it `native`: hyperbuild itself. The images are the same. A runtime needs root, or a user with subordinate ids; it
    /// does not run programs of 32-bit x86 on a 64-bit machine.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) executor: Option<String>,
}

/// How registries are reached.
#[derive(Clone, Debug, Default, Args)]
pub struct TransportArgs {
    /// Speaks plain HTTP to registries; without it TLS, and to a registry on this machine whichever it speaks
    #[arg(long)]
    pub plain_http: bool,
    /// Accepts any TLS certificate of a registry: others in the network can then read and change everything
    #[arg(long)]
    pub insecure: bool,
    /// File of certificates (PEM) to trust for registries, besides those of the system; may be repeated
    ///
    /// Certificates of authorities, or of registries themselves. Certificates for one registry are also looked for in
    /// `HOST[:PORT]/*.crt` (and client certificates in `NAME.cert` with `NAME.key`) below the first of these folders
    /// that has such a folder: `~/.config/containers/certs.d`, `~/.config/docker/certs.d`, `/etc/containers/certs.d`,
    /// `/etc/docker/certs.d`.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Vec<PathBuf>,
}

impl TransportArgs {
    /// Whether a command has these arguments.
    pub(crate) fn are_of(command: &clap::Command) -> bool {
        command.get_groups().any(|group| Some(group.get_id()) == Self::group_id().as_ref())
    }

    /// How a command reaches registries, by its arguments; the default where it has none of these.
    ///
    /// # Errors
    /// Those of the parser.
    pub(crate) fn of(command: &clap::Command, matches: &ArgMatches) -> Result<Self, clap::Error> {
        if Self::are_of(command) { Self::from_arg_matches(matches) } else { Ok(Self::default()) }
    }

    /// Sets these options in those of a session.
    #[must_use]
    pub fn apply(&self, mut options: SessionOptions) -> SessionOptions {
        options.plain_http = self.plain_http;
        options.insecure_tls = self.insecure;
        options.authorities.clone_from(&self.ca_file);
        options
    }
}
