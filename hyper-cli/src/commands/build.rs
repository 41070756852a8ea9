//! `hyperbuild build`.

use crate::backends::{Session, TransportArgs};
use crate::commands::call::{Call, Method};
use crate::commands::check;
use crate::commands::plan;
use crate::commands::result::Tell;
use crate::failure::Failure;
use crate::output::{self, Pipes};
use crate::refused::Refused;
use crate::render::{Mode, Renderer};
use crate::values::{self, unsupported};
use clap::{ArgAction, Args, ValueEnum};
use hyper_sdk::build::{BuildContext, BuildRequest, NamedContext, Output};
use hyper_sdk::exec::Network;
use hyper_sdk::platform::Platform;
use hyper_sdk::source::{StreamContext, read_context};
use hyper_sdk::{Error, ErrorKind, Reference};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// Builds an image from a Dockerfile
///
/// Without --output and --push the image is kept in the local store, under its tags. The flags are those of
/// `docker buildx build`; one that is not supported is refused by its name.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Files that COPY and ADD read: a folder, a git repository, an archive on the web, or `-` for standard input
    ///
    /// A git repository is an address such as `https://HOST/NAME.git#REF:FOLDER` or `git@HOST:NAME.git`. An archive is a tar
    /// archive, plain or compressed. Standard input and a web address hold an archive, or a Dockerfile that is built without
    /// a context.
    #[arg(value_name = "CONTEXT")]
    context: String,
    /// Dockerfile, `-` for standard input; Dockerfile, dockerfile or Containerfile of the context without it
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Name of the image, as [HOST/]NAME[:TAG]; may be repeated
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<Reference>,
    /// Value of an ARG; `NAME` alone takes it from the environment
    #[arg(long = "build-arg", value_name = "NAME=VALUE")]
    build_args: Vec<String>,
    /// Named context for FROM and --from: a folder, git repository, archive, image, layout or stage; may be repeated
    ///
    /// CONTEXT is a folder, the address of a git repository or of an archive on the web as for the build context,
    /// `docker-image://IMAGE`, `oci-layout://DIR[:TAG][@DIGEST]`, or `target:STAGE` for a stage of the same Dockerfile.
    #[arg(long = "build-context", value_name = "NAME=CONTEXT")]
    build_contexts: Vec<String>,
    /// Stage to build, by name or number; the last one without it
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Platform to build for, as OS[(VERSION)]/ARCH[/VARIANT]; that of this machine without it
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Runs every step although its result is known
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    no_cache: bool,
    /// Runs every step of these stages although its result is known
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Asks registries for base images although the local store has them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    pull: bool,
    /// Network of RUN steps that do not choose one
    #[arg(long, value_enum, value_name = "MODE", default_value_t = NetworkMode::Default)]
    network: NetworkMode,
    /// Secret for RUN --mount=type=secret, as id=ID,src=FILE or id=ID,env=NAME
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Agent for RUN --mount=type=ssh and git over ssh: default, or ID=SOCKET; without a socket that of SSH_AUTH_SOCK
    #[arg(long = "ssh", value_name = "ID[=SOCKET]")]
    ssh: Vec<String>,
    /// Label of the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Annotation of the image's manifest, or with PLACE:KEY=VALUE of another part
    ///
    /// PLACE is `manifest`, `manifest-descriptor`, `index` or `index-descriptor`, or several of them with commas between; the
    /// first two may name a platform, as in `manifest[linux/amd64]`. One of an index makes an index over the manifest.
    #[arg(long = "annotation", value_name = "KEY=VALUE")]
    annotations: Vec<String>,
    /// What to make: type=image|registry|oci|docker|tar|local|cacheonly with dest=, or a folder, or `-`; may be repeated
    ///
    /// `type=image[,push=true]` is the local store, and `type=registry` is `type=image,push=true`. `type=oci`, `docker` and
    /// `tar` write to the file `dest=`, or to standard output without it, and `type=oci,tar=false` and `type=local` to the
    /// folder `dest=`. A folder alone is `type=local`, `-` alone is a tar on standard output. Images take `name=`, in place
    /// of --tag,
    /// `compression=gzip|zstd|uncompressed`, `compression-level=`, `force-compression=`, `oci-mediatypes=`,
    /// `rewrite-timestamp=`, `annotation[-PLACE].KEY=`; `type=image` takes `push-by-digest=`, `name-canonical=`,
    /// `registry.insecure=`, `store=`, `unpack=`, `dangling-name-prefix=`; `type=local` and `tar` take `platform-split=`,
    /// `type=local` takes `mode=copy|delete`; all take `source-date-epoch=`.
    #[arg(short, long = "output", value_name = "SPEC")]
    outputs: Vec<String>,
    /// Pushes the image under its tags: --output=type=image,push=true
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    push: bool,
    /// Keeps the image in the local store: --output=type=image. There is no daemon to load it into
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    load: bool,
    /// Writes the digest of the image to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Writes what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How progress is shown on standard error
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Auto, env = "BUILDKIT_PROGRESS", hide_env_values = true)]
    progress: Mode,
    /// Line of /etc/hosts in RUN steps
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    hosts: Vec<String>,
    /// Permits what a Dockerfile may not do by itself: security.insecure, network.host, device or device=NAME
    #[arg(long, value_name = "WHAT")]
    allow: Vec<String>,
    /// Folder with descriptions of devices (CDI) for RUN --device, in place of /etc/cdi and /var/run/cdi
    #[arg(long = "cdi-config-dir", value_name = "DIR")]
    device_folders: Vec<PathBuf>,
    /// Time that the image carries, in seconds since 1970, or `now`
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    source_date_epoch: Option<String>,
    /// Says what the build would do, and builds nothing: each step with its key, and whether its result is in the cache
    #[arg(long)]
    dry_run: bool,
    /// Checks the Dockerfile and builds nothing: --call=check
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    check: bool,
    /// What to do with the Dockerfile: build it, check it, or list what its target takes or which targets it has
    ///
    /// METHOD is `build`, `check`, `outline` or `targets`; behind it may stand `,format=FORMAT`, and `,ignorestatus=true`
    /// to exit with 0 whatever a check finds.
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub(crate) call: Call,
    /// Checks the Dockerfile and rewrites what has one safe way to be written
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, hide_possible_values = true, hide_default_value = true, value_name = "BOOL")]
    fix: bool,
    #[command(flatten)]
    transport: TransportArgs,
    #[command(flatten)]
    refused: Refused,
}

impl BuildArgs {
    /// Refuses what would be done twice, or not at all.
    fn check_methods(&self) -> Result<(), Failure> {
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

    /// Whether what is told on standard error is for programs.
    pub(crate) fn tells_json(&self) -> bool {
        self.progress == Mode::Json
    }

    /// Whether the Dockerfile is only checked.
    pub(crate) fn checks(&self) -> bool {
        self.check || self.fix || self.call.method == Method::Check
    }
}

/// The network of RUN steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkMode {
    /// That of the host
    Default,
    /// A loopback interface alone
    None,
    /// That of the host
    Host,
}

pub(crate) async fn run(args: BuildArgs, session: &Session) -> Result<(), Failure> {
    args.refused.check()?;
    args.check_methods()?;
    let method = if args.checks() { Method::Check } else { args.call.method };
    // Named pipes stay open until the end.
    let builds = method == Method::Build && !args.dry_run;
    let _pipes = if builds { check_places(&args)? } else { Pipes::default() };
    let scratch = session.scratch(args.context == "-")?;
    // On a thread of its own: who waits for standard input can still be interrupted.
    let read = move || {
        let made = request(&args, &scratch, |name| std::env::var(name).ok());
        made.map(|(request, unpacked)| (args, request, unpacked))
    };
    let read = tokio::task::spawn_blocking(read).await;
    let (args, request, _unpacked) =
        read.map_err(|e| Error::internal("reading the context ended early").with_source(e))??;
    if method != Method::Build {
        let builder = session.local_builder(args.transport.clone()).await?;
        let stdin = args.file.as_deref() == Some("-") || args.context == "-";
        let outcome = check::run(method, args.fix.then_some(stdin), request, &builder, session).await;
        return match outcome {
            Err(Failure::Findings) if args.call.ignore_status => Ok(()),
            other => other,
        };
    }
    if args.dry_run {
        let builder = session.local_builder(args.transport.clone()).await?;
        let mode = if session.quiet { Mode::Quiet } else { args.progress };
        let renderer = Renderer::start(mode, session.color, None)?;
        let plan = builder.plan(request, renderer.progress()).await;
        renderer.finish(plan.is_err()).await?;
        return Ok(plan::report(&plan?, session.format)?);
    }
    let stdout_is_taken = uses_stdout(&args)?;

    let mode = if session.quiet { Mode::Quiet } else { args.progress };
    let logs = session.logs()?;
    let renderer = Renderer::start(mode, session.color, Some((&logs, "build")))?;
    let outcome = match session.builder(args.transport.clone()).await {
        Ok(builder) => builder.build(request, renderer.progress()).await,
        Err(e) => Err(e),
    };
    let log = renderer.finish(outcome.is_err()).await?;
    let output = outcome.map_err(|error| {
        let ran = error.kind() == ErrorKind::CommandFailed;
        let failure = Failure::from(error);
        match log.filter(|_| ran) {
            Some(log) => {
                failure.with_hint(format!("everything that the steps wrote is in {}", log.display()))
            }
            None => failure,
        }
    })?;
    let tell = Tell {
        iidfile: args.iidfile.as_deref(),
        metadata_file: args.metadata_file.as_deref(),
        print: (!stdout_is_taken).then_some(session.format),
    };
    Ok(tell.report(&output)?)
}

fn outputs(args: &BuildArgs) -> Result<Vec<Output>, Failure> {
    let mut outputs = args.outputs.iter().map(|o| output::parse(o)).collect::<Result<Vec<_>, _>>()?;
    if args.push {
        outputs.push(Output::push());
    }
    if args.load || outputs.is_empty() {
        outputs.push(Output::store());
    }
    Ok(outputs)
}

/// Refuses places that the result cannot be written to, before there is a result.
fn check_places(args: &BuildArgs) -> Result<Pipes, Failure> {
    let usage = |flag: &str, value: &str, why: String| Failure::usage(format!("--{flag} `{value}`: {why}"));
    let outputs = args.outputs.iter().map(|o| output::parse(o)).collect::<Result<Vec<_>, _>>()?;
    let stdout_is_taken = uses_stdout(args)?;
    let made: Vec<_> = outputs.iter().filter_map(|one| output::folder(one).map(Path::to_owned)).collect();
    let mut pipes = Pipes::default();
    for (output, value) in outputs.iter().zip(&args.outputs) {
        pipes.check(output, &made).map_err(|why| usage("output", value, why))?;
    }
    for (flag, path) in [("iidfile", &args.iidfile), ("metadata-file", &args.metadata_file)] {
        if let Some(path) = path {
            let usage = |why| usage(flag, &path.to_string_lossy(), why);
            if stdout_is_taken && output::is_stdout(path) {
                return Err(usage("an archive goes to standard output: name another file".to_owned()));
            }
            pipes.check_file(path, &made).map_err(usage)?;
        }
    }
    Ok(pipes)
}

fn uses_stdout(args: &BuildArgs) -> Result<bool, Failure> {
    let taken = outputs(args)?.iter().filter(|one| output::uses_stdout(one)).count();
    if taken > 1 {
        return Err(Failure::usage("only one output can go to standard output"));
    }
    Ok(taken == 1)
}

/// Makes the request of the arguments; reads the Dockerfile and the secrets.
fn request(
    args: &BuildArgs,
    scratch: &Path,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<(BuildRequest, Option<StreamContext>), Failure> {
    let (mut request, unpacked) = dockerfile_and_context(args, scratch)?;
    request.outputs = outputs(args)?;
    request.tags.clone_from(&args.tags);
    if let Some(name) = request.tags.iter().find(|t| t.digest().is_some()) {
        return Err(Failure::usage(format!("--tag `{name}`: a name cannot have a digest")));
    }
    for entry in &args.build_contexts {
        let (name, value) = values::key_value(entry);
        let value = value.filter(|v| !v.is_empty() && !name.is_empty());
        let usage = |why: String| Failure::usage(format!("--build-context `{entry}`: {why}"));
        let value = value.ok_or_else(|| usage("expected NAME=CONTEXT".to_owned()))?;
        let context = NamedContext::parse(value).map_err(|e| usage(e.to_string()))?;
        if let NamedContext::Folder(folder) = &context
            && !folder.is_dir()
        {
            return Err(usage(format!("there is no folder {}", folder.display())));
        }
        request.named_contexts.insert(name.to_ascii_lowercase(), context);
    }
    request.platform = match &args.platform {
        None => None,
        Some(list) if list.contains(',') => {
            return Err(unsupported(
                "--platform with several platforms is not supported yet: build them one by one",
            ));
        }
        Some(one) => {
            let usage = |e: Error| Failure::usage(format!("--platform: {e}"));
            Some(one.parse::<Platform>().map_err(usage)?)
        }
    };
    request.network = match args.network {
        NetworkMode::None => Network::None,
        NetworkMode::Default | NetworkMode::Host => Network::Host,
    };
    for allowed in &args.allow {
        let usage = |why: &str| Failure::usage(format!("--allow `{allowed}`: {why}"));
        match allowed.as_str() {
            "security.insecure" => request.allow_insecure = true,
            "network.host" => request.allow_host_network = true,
            other => match other.split_once('=').map_or((other, None), |(what, name)| (what, Some(name))) {
                ("device", name) => {
                    request.allow_devices.allow(name).map_err(|e| usage(&e.to_string()))?;
                }
                _ => return Err(usage("expected security.insecure, network.host, device or device=NAME")),
            },
        }
    }
    if !args.device_folders.is_empty() {
        request.device_folders.clone_from(&args.device_folders);
    }
    request.build_args = values::build_args(&args.build_args, &environment)?;
    if let Some(epoch) = environment("SOURCE_DATE_EPOCH") {
        request.build_args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert(epoch);
    }
    request.secrets = values::secrets(&args.secrets, &environment)?;
    request.ssh = values::agents(&args.ssh, &environment)?;
    request.labels = values::map("label", &args.labels)?;
    request.annotations = values::annotations(&args.annotations)?;
    request.extra_hosts = values::hosts(&args.hosts)?;
    request.epoch = values::epoch(args.source_date_epoch.as_deref())?;
    request.target.clone_from(&args.target);
    request.no_cache = args.no_cache;
    request.no_cache_filter.clone_from(&args.no_cache_filter);
    request.pull = args.pull;
    request.check_outputs().map_err(|error| match error.kind() {
        ErrorKind::Invalid => Failure::usage(error.message()),
        _ => error.into(),
    })?;
    Ok((request, unpacked))
}

/// Finds the context and the Dockerfile. A context on standard input is unpacked in `scratch`, until the folder is
/// dropped.
fn dockerfile_and_context(
    args: &BuildArgs,
    scratch: &Path,
) -> Result<(BuildRequest, Option<StreamContext>), Failure> {
    let file = args.file.as_deref().filter(|f| !matches!(*f, "-" | "")).map(Path::new);
    let text_on_stdin = args.file.as_deref() == Some("-");
    if args.context == "-" {
        if text_on_stdin {
            return Err(Failure::usage("the context and the Dockerfile cannot both be standard input"));
        }
        std::fs::create_dir_all(scratch).map_err(|e| Error::io("cannot make the folder", scratch, e))?;
        let cannot = |e| Error::io("cannot read the context", "standard input", e);
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
        let stdin = tokio::fs::File::from_std(stdin.into());
        // This is a thread for blocking work.
        let context = tokio::runtime::Handle::current().block_on(read_context(stdin, scratch))?;
        let request = match &context {
            StreamContext::Dockerfile(text) => match file {
                None => BuildRequest::new(text.as_str(), BuildContext::Empty),
                Some(_) => {
                    return Err(Failure::usage(
                        "standard input is a Dockerfile, not an archive that --file could name a file of",
                    ));
                }
            },
            StreamContext::Files { folder, .. } => {
                BuildRequest::from_remote(BuildContext::Folder(folder.path().to_owned()), file)
            }
        };
        return Ok((request, Some(context)));
    }
    let context = BuildContext::parse(&args.context)?;
    let request = match (context, text_on_stdin) {
        (BuildContext::Folder(folder), false) => BuildRequest::from_folder(folder, file)?,
        (BuildContext::Folder(folder), true) if !folder.is_dir() => {
            return Err(Error::new(ErrorKind::NotFound, "the build context is not a folder")
                .with_context("path", folder.display())
                .into());
        }
        (context, false) => BuildRequest::from_remote(context, file),
        (context, true) => {
            let mut bytes = Vec::new();
            let cannot = |e| Error::io("cannot read the Dockerfile", "standard input", e);
            std::io::stdin()
                .lock()
                .take(hyper_sdk::dockerfile::MAX_FILE_SIZE + 1)
                .read_to_end(&mut bytes)
                .map_err(cannot)?;
            BuildRequest::new(hyper_sdk::dockerfile::decode(bytes, "standard input")?, context)
        }
    };
    Ok((request, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use hyper_sdk::media_type::Compression;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: BuildArgs,
    }

    fn parse(arguments: &[&str]) -> Result<BuildRequest, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
        let context = folder.path().to_str().unwrap();
        let only =
            Only::try_parse_from([&["build"], arguments, &[context]].concat()).map_err(|e| e.to_string())?;
        let told = |failure| match failure {
            Failure::Usage(message) => message,
            Failure::Work { error, .. } => error.to_string(),
            other => format!("{other:?}"),
        };
        only.args.refused.check().map_err(told)?;
        uses_stdout(&only.args).map_err(told)?;
        let environment = |name: &str| (name == "FROM_ENV").then(|| "value".to_owned());
        request(&only.args, folder.path(), environment).map(|(request, _)| request).map_err(told)
    }

    #[test]
    fn without_flags_the_image_goes_into_the_store() {
        let request = parse(&[]).unwrap();
        assert_eq!(request.outputs, [Output::store()]);
        assert_eq!(request.dockerfile.as_deref(), Some("FROM scratch\n"));
        assert_eq!(request.network, Network::Host);
    }

    #[test]
    fn flags_reach_the_request() {
        let request = parse(&[
            "-t",
            "a:1",
            "-t",
            "localhost:5000/b",
            "--build-arg",
            "A=1",
            "--build-arg",
            "FROM_ENV",
            "--label",
            "k=v",
            "--target",
            "t",
            "--platform",
            "linux/arm64",
            "--no-cache",
            "--network",
            "none",
            "--add-host",
            "h:1.2.3.4",
            "--allow",
            "security.insecure",
            "--allow=device=vendor.example/gpu=1",
            "--cdi-config-dir=/cdi",
            "--source-date-epoch",
            "5",
            "--build-context",
            "Base=docker-image://x",
            "-o",
            "type=oci,dest=a.tar,compression=zstd,compression-level=3",
            "--no-cache-filter",
            "a,b",
            "--pull=true",
            "--push=false",
        ])
        .unwrap();
        assert_eq!(request.tags.len(), 2);
        assert_eq!(request.build_args["FROM_ENV"], "value");
        assert_eq!(request.labels["k"], "v");
        assert_eq!(request.target.as_deref(), Some("t"));
        assert_eq!(request.platform.unwrap().to_string(), "linux/arm64");
        assert!(request.no_cache && request.pull && request.allow_insecure);
        assert!(request.allow_devices.names.contains_key("vendor.example/gpu=1"));
        assert_eq!(request.device_folders, [PathBuf::from("/cdi")]);
        assert_eq!(request.no_cache_filter, ["a", "b"]);
        assert_eq!(request.network, Network::None);
        assert!(request.named_contexts.contains_key("base"));
        assert_eq!((&request.outputs[0].image.compression, request.outputs.len()), (&Compression::Zstd, 1));
    }

    #[test]
    fn the_help_names_every_form_of_a_context_and_every_field_of_an_output() {
        use clap::CommandFactory;
        let command = Only::command();
        let help = |id: &str| {
            let argument = command.get_arguments().find(|argument| argument.get_id() == id).unwrap();
            argument.get_long_help().or(argument.get_help()).unwrap().to_string()
        };
        for (id, words) in [
            ("context", &["folder", "git", "archive", "`-`", "Dockerfile"][..]),
            (
                "build_contexts",
                &["folder", "git", "archive", "docker-image://", "oci-layout://", "target:STAGE"],
            ),
        ] {
            let help = help(id);
            words.iter().for_each(|word| assert!(help.contains(word), "{id}: {word}: {help}"));
        }
        let help = help("outputs");
        let refusal = Output::parse("type=image,what=x").unwrap_err().to_string();
        let (_, fields) = refusal.split_once("known are type, ").unwrap();
        let (fields, _) = fields.split_once(" and ").unwrap();
        let types = "image registry oci docker tar local cacheonly".split(' ').map(str::to_owned);
        for word in types.chain(fields.split(", ").map(|field| format!("{field}="))) {
            assert!(help.contains(&word), "{word}: {help}");
        }
    }

    #[test]
    fn push_and_load_are_outputs() {
        assert_eq!(parse(&["--push", "-t", "a"]).unwrap().outputs, [Output::push()]);
        assert_eq!(parse(&["--load", "-o", "out"]).unwrap().outputs.len(), 2);
    }

    #[test]
    fn what_is_wrong_or_not_supported_is_named() {
        for (arguments, text) in [
            (&["--push"][..], "needs a name"),
            (&["--cache-from", "type=gha"], "--cache-from is not supported yet"),
            (&["--ssh", "default"], "SSH_AUTH_SOCK"),
            (&["--ssh", "a=/nowhere/at/all"], "/nowhere/at/all"),
            (&["--sbom=true"], "--sbom is not supported yet"),
            (&["--platform", "linux/amd64,linux/arm64"], "several platforms is not supported yet"),
            (&["--allow", "device=a,as=b"], "`as=b`"),
            (&["--allow", "devices"], "--allow `devices`: expected security.insecure"),
            (&["-o", "-", "-o", "type=oci,dest=-"], "only one output"),
            (&["-o", "-", "-o", "type=docker"], "only one output"),
            (&["-o", "type=docker,dest=a", "--annotation", "index:a=b"], "an index are not for type=docker"),
            (&["-t", "a", "--annotation", "manifest[plan9/386]:a=b"], "for a platform that is not built"),
            (&["-o", "type=oci,oci-mediatypes=false", "--annotation", "a=b"], "annotations"),
            (&["-o", "type=oci,source-date-epoch=5", "--source-date-epoch", "now"], "source-date-epoch"),
            (&["--build-context", "x"], "expected NAME=CONTEXT"),
            (&["--build-context", "x=ftp://a/b"], "`ftp://`"),
            (&["--network", "bridge"], "bridge"),
            (&["--elephant"], "--elephant"),
            (&["-t", "UPPER"], "UPPER"),
        ] {
            let message = parse(arguments).err().unwrap_or_else(|| panic!("{arguments:?} passed"));
            assert!(message.contains(text), "{arguments:?}: {message}");
        }
    }

    #[test]
    fn contexts_that_are_no_folder_are_named() {
        for (context, text) in [
            ("ftp://x/y", "`ftp://`"),
            ("https://x/y.git?elephant=1", "elephant"),
            ("/nowhere/at/all", "no such build context"),
        ] {
            let only = Only::try_parse_from(["build", context]).unwrap();
            let failure = request(&only.args, Path::new("/nowhere"), |_| None).unwrap_err();
            let Failure::Work { error, .. } = failure else { panic!("{failure:?}") };
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
