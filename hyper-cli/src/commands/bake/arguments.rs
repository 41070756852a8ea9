//! The arguments of `hyperbuild bake`.

use crate::args::{ExecutorArgs, TransportArgs};
use crate::commands::build;
use crate::failure::Failure;
use crate::flags::unsupported;
use crate::render::Mode;
use clap::Args;
use std::path::PathBuf;

/// Builds the targets of docker-bake.hcl, docker-bake.json and compose files
///
/// The files and the flags are those of `docker buildx bake`. Targets that share a context and a Dockerfile share their steps,
/// and a target may be the build context of another. Without --file these are read, as far as they exist: compose.yaml,
/// compose.yml, docker-compose.yml, docker-compose.yaml, docker-bake.json, docker-bake.hcl, docker-bake.override.json,
/// docker-bake.override.hcl.
#[derive(Debug, Args)]
pub(crate) struct BakeArgs {
    /// Targets and groups to build, or patterns of their names; `default` without any
    #[arg(value_name = "TARGET")]
    pub(super) targets: Vec<String>,
    /// File with definitions, `-` for standard input; a later file overrides an earlier one; may be repeated
    #[arg(short, long = "file", value_name = "FILE")]
    pub(super) files: Vec<String>,
    /// Changes an attribute of the targets that match; `+=` appends to a list; may be repeated
    #[arg(long = "set", value_name = "TARGET.KEY=VALUE")]
    pub(super) sets: Vec<String>,
    /// Value of a variable, in place of the environment's; may be repeated
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub(super) variables: Vec<String>,
    /// Prints what would be built, as JSON, and builds nothing
    #[arg(long)]
    pub(super) print: bool,
    /// Lists what the files define: targets or variables, or type=targets|variables,format=json
    #[arg(long, value_name = "WHAT")]
    pub(super) list: Option<String>,
    /// How progress is shown on standard error; `auto` without it [env: BUILDKIT_PROGRESS]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(super) progress: Option<Mode>,
    /// Pushes the images: --set=*.push=true
    #[arg(long)]
    pub(super) push: bool,
    /// Keeps the images in the local store: --set=*.load=true
    #[arg(long)]
    pub(super) load: bool,
    /// Runs every step, and ignores the cache: --set=*.no-cache=true
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) no_cache: Option<bool>,
    /// Asks registries for base images, even when the local store has them: --set=*.pull=true
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) pull: Option<bool>,
    /// Writes what was built to a file, as JSON by target
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,
    /// Permits what targets ask for: security.insecure, network.host, device=NAME, and files: fs=DIR, fs.read=DIR, fs.write=DIR
    #[arg(long, value_name = "WHAT")]
    pub(super) allow: Vec<String>,
    /// Attestation with the list of packages: --set=*.attest=type=sbom
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "VALUE", hide = true)]
    sbom: Option<String>,
    /// Attestation of the origin: --set=*.attest=type=provenance
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "VALUE", hide = true)]
    provenance: Option<String>,
    #[arg(long, hide = true)]
    builder: Option<String>,
    #[arg(long, hide = true)]
    call: Option<String>,
    #[arg(long, hide = true)]
    check: bool,
    #[arg(long, hide = true)]
    policy: Vec<String>,
    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
}

impl BakeArgs {
    /// Whether standard error is a stream of events.
    pub(crate) fn prints_events(&self) -> bool {
        build::progress_mode(self.progress).is_ok_and(|mode| mode == Mode::Json)
    }

    /// Refuses what is not supported, by name.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let flags = [
            ("builder", self.builder.as_deref().is_some_and(|name| name != "default")),
            ("call", self.call.as_deref().is_some_and(|method| method != "build")),
            ("check", self.check),
            ("policy", !self.policy.is_empty()),
        ];
        if let Some((name, _)) = flags.iter().find(|(_, given)| *given) {
            return Err(unsupported(format!("--{name} is not supported yet")));
        }
        if self.print && self.list.is_some() {
            return Err(Failure::usage("--print and --list exclude each other"));
        }
        if let Some(first) = self.targets.first()
            && ["http://", "https://", "git@", "git://", "ssh://"]
                .iter()
                .any(|start| first.starts_with(start))
        {
            let message =
                format!("`{first}`: definitions of a git repository or of the web are not supported yet");
            return Err(unsupported(message));
        }
        Ok(())
    }

    /// The changes of `--set`, and those that other flags stand for.
    pub(super) fn overrides(&self) -> Vec<String> {
        let mut all = self.sets.clone();
        for (key, value) in [
            ("push", self.push.then_some(true)),
            ("load", self.load.then_some(true)),
            ("no-cache", self.no_cache),
            ("pull", self.pull),
        ] {
            all.extend(value.map(|value| format!("*.{key}={value}")));
        }
        for (kind, value) in [("sbom", &self.sbom), ("provenance", &self.provenance)] {
            all.extend(value.as_deref().map(|value| match value {
                "true" | "1" => format!("*.attest=type={kind}"),
                "false" | "0" => format!("*.attest=type={kind},disabled=true"),
                fields => format!("*.attest=type={kind},{fields}"),
            }));
        }
        all
    }
}
