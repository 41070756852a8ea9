//! The arguments of `hyperbuild build`.

use super::cache_arguments::CacheArgs;
use super::call::{Call, Method};
use super::limits::LimitArgs;
use super::on_error::Reaction;
use crate::args::{ExecutorArgs, TransportArgs};
use crate::failure::Failure;
use crate::render::Mode;
use crate::unsupported_flags::UnsupportedFlags;
use clap::{ArgAction, Args, ValueEnum};
use hyper_sdk::Reference;
use hyper_sdk::exec::{Isolation, Network};
use std::path::PathBuf;

/// The variable with the way of showing progress.
const PROGRESS: &str = "BUILDKIT_PROGRESS";

/// Builds an image from a Dockerfile
///
/// Without --output and --push the image is kept in the local store, under its tags. The flags are those of
/// `docker buildx build`; an unsupported flag is an error that names it.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Files that COPY and ADD read: a folder, a git repository, an archive on the web, or `-` for standard input
    ///
    /// A git repository is an address such as `https://HOST/NAME.git#REF:FOLDER` or `git@HOST:NAME.git`. An archive is a tar
    /// archive, plain or compressed. Standard input and a web address hold an archive, or a Dockerfile that is built without
    /// a context.
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: String,
    /// Dockerfile, `-` for standard input; Dockerfile, dockerfile or Containerfile of the context without it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Name of the image, as [HOST/]NAME[:TAG]; may be repeated
    #[arg(short, long = "tag", value_name = "NAME")]
    pub(crate) tags: Vec<Reference>,
    /// Value of an ARG; `NAME` alone takes it from the environment
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    pub(crate) build_args: Vec<String>,
    /// Named context for FROM and --from: a folder, git repository, archive, image, layout or stage; may be repeated
    ///
    /// CONTEXT is a folder, the address of a git repository or of an archive on the web as for the build context,
    /// `docker-image://IMAGE`, `oci-layout://DIR[:TAG][@DIGEST]`, or `target:STAGE` for a stage of the same Dockerfile.
    #[arg(long = "build-context", value_name = "NAME=CONTEXT")]
    pub(crate) build_contexts: Vec<String>,
    /// Stage to build, by name or number; the last one without it
    #[arg(long, value_name = "STAGE")]
    pub(crate) target: Option<String>,
    /// Platform to build for, as OS[(VERSION)]/ARCH[/VARIANT] or `local`; several with commas between; may be repeated
    ///
    /// Without it, that of this machine. The image for several platforms is an index with one image for each; what they share
    /// is built once.
    #[arg(long = "platform", value_name = "PLATFORM")]
    pub(crate) platforms: Vec<String>,
    /// Runs every step, and ignores the cache
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    pub(crate) no_cache: bool,
    /// Runs every step of these stages, and ignores the cache for them
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(crate) no_cache_filter: Vec<String>,
    #[command(flatten)]
    pub(crate) caches: CacheArgs,
    /// Asks registries for base images, even when the local store has them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    pub(crate) pull: bool,
    /// Network of RUN steps that do not choose one
    #[arg(long, value_enum, value_name = "MODE", default_value_t = NetworkMode::Default)]
    pub(crate) network: NetworkMode,
    /// How RUN steps are separated from this machine
    #[arg(long, value_enum, value_name = "MODE", default_value_t = IsolationMode::Default)]
    pub(crate) isolation: IsolationMode,
    #[command(flatten)]
    pub(crate) executor: ExecutorArgs,
    /// Secret for RUN --mount=type=secret, as id=ID,src=FILE or id=ID,env=NAME
    #[arg(long = "secret", value_name = "SPEC")]
    pub(crate) secrets: Vec<String>,
    /// Agent for RUN --mount=type=ssh and git over ssh: default, or ID=SOCKET; without a socket that of SSH_AUTH_SOCK
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    pub(crate) ssh: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Annotation of the image's manifest, or with PLACE:KEY=VALUE of another part
    ///
    /// PLACE is `manifest`, `manifest-descriptor`, `index` or `index-descriptor`, or several of them with commas between; the
    /// first two may name a platform, as in `manifest[linux/amd64]`. One of an index makes an index over the manifest.
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    pub(crate) annotations: Vec<String>,
    /// What to make: type=image|registry|oci|docker|tar|local|cacheonly with dest=, or a folder, or `-`; may be repeated
    ///
    /// `type=image[,push=true]` is the local store, and `type=registry` is `type=image,push=true`. `type=oci`, `docker` and
    /// `tar` write to the file `dest=`, or to standard output without it, and `type=oci,tar=false` and `type=local` to the
    /// folder `dest=`. A folder alone is `type=local`, `-` alone is a tar on standard output. Images take `name=`, in place
    /// of --tag,
    /// `compression=gzip|estargz|zstd|uncompressed`, `compression-level=`, `force-compression=`, `oci-mediatypes=`,
    /// `rewrite-timestamp=`, `annotation[-PLACE].KEY=`; `type=image` takes `push-by-digest=`, `name-canonical=`,
    /// `registry.insecure=`, `store=`, `unpack=`, `dangling-name-prefix=`; `type=local` and `tar` take `platform-split=`,
    /// `type=local` takes `mode=copy|delete`; all take `source-date-epoch=`.
    #[arg(short, long = "output", value_name = "SPEC")]
    pub(crate) outputs: Vec<String>,
    /// Pushes the image under its tags: --output=type=image,push=true
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    pub(crate) push: bool,
    /// Keeps the image in the local store, and loads it into a docker or podman that runs
    ///
    /// The engine is the one of `DOCKER_HOST` or `CONTAINER_HOST`, or else the first that answers at its usual socket. Without
    /// one this is --output=type=image.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    pub(crate) load: bool,
    /// Writes the digest of the image to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Writes what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// How progress is shown on standard error; `auto` without it [env: BUILDKIT_PROGRESS]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) progress: Option<Mode>,
    /// What to do when a RUN step fails: a shell in its files, with its mounts and its environment, reads standard input
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) on_error: Option<Reaction>,
    /// Line of /etc/hosts in RUN steps
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    pub(crate) hosts: Vec<String>,
    /// Permits what a Dockerfile cannot do by default: security.insecure, network.host, device or device=NAME
    #[arg(long, value_name = "WHAT")]
    pub(crate) allow: Vec<String>,
    /// Folder with descriptions of devices (CDI) for RUN --device, in place of /etc/cdi and /var/run/cdi
    #[arg(long = "cdi-config-dir", value_name = "DIR")]
    pub(crate) device_folders: Vec<PathBuf>,
    /// Time that the image carries, in seconds since 1970, or `now`
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) source_date_epoch: Option<String>,
    /// Shows what the build would do and builds nothing: each step with its key, and whether its result is in the cache
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Checks the Dockerfile and builds nothing: --call=check
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    pub(crate) check: bool,
    /// What to do with the Dockerfile: build it, check it, or list what its target takes or which targets it has
    ///
    /// METHOD is `build`, `check`, `outline` or `targets`. `,format=FORMAT` may follow it, and `,ignorestatus=true` to exit
    /// with 0 whatever a check finds.
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub(crate) call: Call,
    /// Checks the Dockerfile and rewrites it where there is one safe way to do so
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    pub(crate) fix: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) transport: TransportArgs,
    #[command(flatten)]
    pub(crate) unsupported: UnsupportedFlags,
}

/// How progress is shown, by the flag or else by the environment.
pub(in crate::commands) fn mode(flag: Option<Mode>) -> Result<Mode, Failure> {
    match (flag, std::env::var(PROGRESS)) {
        (Some(mode), _) => Ok(mode),
        (None, Ok(text)) if !text.is_empty() => Mode::from_str(&text, true)
            .map_err(|_| Failure::usage(format!("{PROGRESS}=`{text}` is no way to show progress"))),
        (None, _) => Ok(Mode::Auto),
    }
}

impl BuildArgs {
    /// Refuses flags that contradict each other.
    pub(super) fn check_methods(&self) -> Result<(), Failure> {
        if self.on_error.is_some() && (self.context == "-" || self.file.as_deref() == Some("-")) {
            return Err(Failure::usage(
                "--on-error reads standard input, which is the context or the Dockerfile",
            ));
        }
        let method = self.call.method;
        if self.dry_run && (self.checks() || method != Method::Build) {
            return Err(Failure::usage("--dry-run plans a build, and --call asks for something else"));
        }
        if (self.check || self.fix) && !matches!(method, Method::Build | Method::Check) {
            return Err(Failure::usage(
                "--check and --fix check the Dockerfile, and --call asks for something else",
            ));
        }
        if !self.checks()
            && (self.call.ignore_status || (method == Method::Build && self.call.format.is_some()))
        {
            return Err(Failure::usage(
                "--call takes a format for check, outline and targets, and ignorestatus for check",
            ));
        }
        Ok(())
    }

    /// How progress is shown, by the flag or else by the environment.
    pub(super) fn mode(&self) -> Result<Mode, Failure> {
        mode(self.progress)
    }

    /// Whether standard error is a stream of events.
    pub(crate) fn prints_events(&self) -> bool {
        self.mode().is_ok_and(|mode| mode == Mode::Json)
    }

    /// Whether the Dockerfile is only checked.
    pub(crate) fn checks(&self) -> bool {
        self.check || self.fix || self.call.method == Method::Check
    }
}

/// The network of RUN steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkMode {
    /// That of the host
    Default,
    /// A loopback interface alone
    None,
    /// That of the host
    Host,
    /// One of the build, through pasta or slirp4netns, without the loopback interface of this machine
    Private,
}

/// How RUN steps are separated from this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationMode {
    /// Namespaces, as far as this machine has them
    Default,
    /// None: one step at a time in a chroot, as root, for containers that permit no namespaces and hold nothing else
    None,
}

impl From<IsolationMode> for Isolation {
    fn from(mode: IsolationMode) -> Self {
        match mode {
            IsolationMode::Default => Self::Full,
            IsolationMode::None => Self::None,
        }
    }
}

impl From<NetworkMode> for Network {
    fn from(mode: NetworkMode) -> Self {
        match mode {
            NetworkMode::None => Self::None,
            NetworkMode::Private => Self::Private,
            NetworkMode::Default | NetworkMode::Host => Self::Host,
        }
    }
}
