//! The request that the arguments of `hyperbuild build` make.

use super::arguments::BuildArgs;
use crate::failure::Failure;
use crate::flags::{self, wrong};
use hyper_sdk::build::{BuildContext, BuildRequest, Output, OutputKind, text};
use hyper_sdk::client::Engine;
use hyper_sdk::session::Session;
use hyper_sdk::source::{ContextInput, read_context};
use hyper_sdk::{Error, ErrorKind};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

/// The request, and the context from standard input, whose files are removed when it is dropped.
type RequestAndContext = (BuildRequest, Option<ContextInput>);

/// The outputs that `--output`, `--push` and `--load` ask for. `engine` is where `--load` also loads the image.
pub(super) fn outputs(
    args: &BuildArgs,
    session: &Session,
    engine: Option<&Engine>,
) -> Result<Vec<Output>, Failure> {
    let parse = |text: &String| session.parse_output(text).map_err(flags::of_value("output", text));
    let mut outputs = args.outputs.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if args.push {
        outputs.push(Output::push());
    }
    if args.load || outputs.is_empty() {
        outputs.push(Output::store());
    }
    outputs.extend(engine.map(|engine| OutputKind::Load(engine.clone()).into()));
    Ok(outputs)
}

/// Makes the request. Reads the Dockerfile, the secrets and a context on standard input.
pub(super) fn request(
    args: &BuildArgs,
    session: &Session,
    engine: Option<&Engine>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<RequestAndContext, Failure> {
    let (mut request, unpacked) = dockerfile_and_context(args, session)?;
    complete(&mut request, args, session, engine, variable)?;
    Ok((request, unpacked))
}

/// Adds everything but the Dockerfile and its context. Reads secrets.
pub(in crate::commands) fn complete(
    request: &mut BuildRequest,
    args: &BuildArgs,
    session: &Session,
    engine: Option<&Engine>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(), Failure> {
    request.outputs = outputs(args, session, engine)?;
    request.tags.clone_from(&args.tags);
    if let Some(name) = request.tags.iter().find(|t| t.digest().is_some()) {
        return Err(Failure::usage(format!("--tag `{name}`: a name cannot have a digest")));
    }
    request.named_contexts =
        text::named_contexts(&args.build_contexts, &session.schemes()).map_err(wrong("build-context"))?;
    request.platforms = text::platforms(&args.platforms).map_err(wrong("platform:"))?;
    if engine.is_some() && request.platforms.len() > 1 {
        return Err(Failure::usage(
            "--load: an engine takes the image of one platform: leave it out to keep the index in the local store",
        ));
    }
    request.network = args.network.into();
    request.isolation = args.isolation.into();
    *request.limits = args.limits.limits()?;
    for allowed in &args.allow {
        request.allow(allowed).map_err(wrong("allow"))?;
    }
    if !args.device_folders.is_empty() {
        request.device_folders.clone_from(&args.device_folders);
    }
    request.build_args = text::build_args(&args.build_args, &variable).map_err(wrong("build-arg"))?;
    request.secrets = text::secrets(&args.secrets, &variable).map_err(wrong("secret:"))?;
    request.ssh = text::agents(&args.ssh, &variable).map_err(wrong("ssh"))?;
    request.labels = text::labels(&args.labels).map_err(wrong("label"))?;
    request.annotations = text::annotations(&args.annotations).map_err(wrong("annotation"))?;
    request.extra_hosts = text::hosts(&args.hosts).map_err(wrong("add-host"))?;
    if let Some(epoch) = &args.source_date_epoch {
        request.epoch = epoch.parse().map_err(wrong("source-date-epoch"))?;
    }
    request.cache_from = text::cache_from(&args.caches.cache_from).map_err(wrong("cache-from:"))?;
    request.cache_to = text::cache_to(&args.caches.cache_to).map_err(wrong("cache-to:"))?;
    request.target.clone_from(&args.target);
    request.no_cache = args.no_cache;
    request.no_cache_filter.clone_from(&args.no_cache_filter);
    request.pull = args.pull;
    request.check_outputs().map_err(|error| match error.kind() {
        ErrorKind::Invalid => Failure::usage(error.message()),
        _ => error.into(),
    })
}

/// Finds the context and the Dockerfile, each of which may be standard input.
fn dockerfile_and_context(args: &BuildArgs, session: &Session) -> Result<RequestAndContext, Failure> {
    let file = args.file.as_deref().filter(|f| !matches!(*f, "-" | "")).map(Path::new);
    let text_on_stdin = args.file.as_deref() == Some("-");
    if args.context == "-" {
        if text_on_stdin {
            return Err(Failure::usage("the context and the Dockerfile cannot both be standard input"));
        }
        let cannot = |e| Error::io("cannot read the context", "standard input", e);
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(cannot)?;
        let stdin = tokio::fs::File::from_std(stdin.into());
        // This is a thread for blocking work.
        let stream = tokio::runtime::Handle::current().block_on(read_context(stdin, &session.scratch()?))?;
        let request = BuildRequest::from_stream(&stream, file).map_err(|_| {
            Failure::usage(
                "standard input is a Dockerfile, not an archive with a file that --file could name",
            )
        })?;
        return Ok((request, Some(stream)));
    }
    let context = BuildContext::parse(&args.context)?;
    if !text_on_stdin {
        return Ok((BuildRequest::from_context(context, file)?, None));
    }
    // With an empty text for now: a missing context is reported before standard input is read.
    let mut request = BuildRequest::from_text("", context)?;
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(hyper_sdk::dockerfile::MAX_FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("cannot read the Dockerfile", "standard input", e))?;
    request.dockerfile = Some(hyper_sdk::dockerfile::decode(bytes, "standard input")?);
    Ok((request, None))
}
