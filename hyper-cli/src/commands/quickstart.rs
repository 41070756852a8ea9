//! `hyperbuild quickstart`: everything once, on this machine alone.

use crate::app::Format;
use crate::backends::{Session, TransportArgs};
use crate::failure::Failure;
use crate::host_tools;
use crate::render::{Mode, Renderer};
use crate::terminal::{duration, print, print_json, size, tell};
use clap::Args;
use futures::TryStreamExt as _;
use hyper_sdk::build::{BuildContext, BuildOutput, BuildRequest, NamedContext, Output};
use hyper_sdk::client::{
    LocalImage, LocalTarget, PullOptions, PushOptions, RemoteImage, SharedClient, pull, push,
};
use hyper_sdk::digest::Hasher;
use hyper_sdk::oci::Descriptor;
use hyper_sdk::progress::Progress;
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::store::{SharedStore, local_repository};
use hyper_sdk::{Digest, Error, ErrorKind, Reference, RepositoryName, Result, private_folder};
use hyper_server::{RegistryOptions, Server, ServerOptions};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// What the example's commands call, besides `sh`.
const TOOLS: &[&str] = &["cat", "mkdir", "sha256sum", "sort", "uniq", "wc"];

/// Makes a base image of the tools of this machine, builds two stages on it that do not need each other, so that they
/// run at once, and joins them.
const DOCKERFILE: &str = r#"FROM scratch AS host
COPY --from=tools . /
ENV PATH=/bin LD_LIBRARY_PATH=/lib/hyper

FROM host AS numbers
WORKDIR /data
RUN i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $((i * 7919 % 1009)); done > raw
RUN sort -n raw | uniq > numbers

FROM host AS words
ARG GREETING="hello from the build"
COPY words.txt /data/
RUN sort /data/words.txt > /data/sorted && echo "$GREETING" > /data/greeting

FROM host
COPY --from=numbers /data/numbers /app/
COPY --from=words /data/sorted /data/greeting /app/
RUN cd /app && wc -l < numbers > count && sha256sum numbers sorted greeting > SUMS && sha256sum -c SUMS
LABEL org.opencontainers.image.title="quickstart"
CMD ["cat", "/app/greeting"]
"#;

const WORDS: &str = "registry\nlayer\nmanifest\ndigest\nsandbox\nstage\n";

/// Shows a build, a push, a pull and a cached build on this machine, without a download
///
/// Makes a base image of this machine's own tools, builds a Dockerfile of three stages on it, starts a registry on the
/// loopback interface, pushes the image, pulls it into a second store, compares every byte, and builds again from the
/// cache. Everything happens in a temporary folder that is removed at the end.
#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// How progress is shown on standard error
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Auto)]
    progress: Mode,
    /// Keeps the temporary folder and prints its path
    #[arg(long)]
    keep: bool,
}

/// What was done, and how long it took.
#[derive(Debug, Serialize)]
struct Step {
    what: String,
    detail: String,
    milliseconds: f64,
}

#[derive(Debug, Default)]
struct Story {
    steps: Vec<Step>,
}

impl Story {
    fn tell(&mut self, since: Instant, what: &str, detail: String) {
        let milliseconds = since.elapsed().as_secs_f64() * 1000.0;
        self.steps.push(Step { what: what.to_owned(), detail, milliseconds });
    }
}

pub(crate) async fn run(args: QuickstartArgs, session: &Session) -> Result<(), Failure> {
    let mut folder = private_folder::temporary("hyper-quickstart-", None)?;
    folder.disable_cleanup(args.keep);
    let mode = if session.quiet { Mode::Quiet } else { args.progress };
    let renderer = Renderer::start(mode, session.color, None)?;
    let began = Instant::now();
    let outcome = story(folder.path(), session, renderer.progress()).await;
    renderer.finish(outcome.is_err()).await?;
    let kept = folder.path().display().to_string();
    if args.keep {
        tell(&format!("kept: {kept}"));
    } else {
        folder.close().map_err(|e| Error::io("cannot remove the temporary folder", &kept, e))?;
    }
    let story = outcome?;
    match session.format {
        Format::Json => print_json(&story.steps)?,
        Format::Text | Format::Sarif if session.quiet => {}
        Format::Text | Format::Sarif => print(&summary(&story, began.elapsed()))?,
    }
    Ok(())
}

async fn story(work: &Path, session: &Session, progress: &Progress) -> Result<Story> {
    let mut story = Story::default();
    let builder_session = session.with_root(work.join("state"));

    let since = Instant::now();
    let tools = work.join("tools");
    let host = host_tools::copy_tools(&tools, TOOLS)?;
    story.tell(since, "base image", format!("{} of {}", size(host.size), host.made_of));

    let since = Instant::now();
    let registry_store = session.with_root(work.join("registry")).store().await?;
    let options = RegistryOptions { metrics: false, access_log: false, ..RegistryOptions::default() };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(registry_store, address, options, ServerOptions::default()).await?;
    story.tell(since, "registry", format!("{} (a store of its own)", server.url()));

    let name = Reference::parse(&format!("{}/quickstart/app:1", server.address()))?;
    let since = Instant::now();
    let first = build(work, &tools, &name, &builder_session, progress).await?;
    let image = image_of(&first)?;
    let ran = first.steps.iter().filter(|s| !s.cached).count();
    story.tell(since, "build", format!("{ran} steps run, {}", image.digest));

    let since = Instant::now();
    let (store, repository) = (builder_session.store().await?, local_repository(&name)?);
    let client =
        session.client(&RegistryHost::parse(&server.address().to_string())?, &TransportArgs::default())?;
    let options = PushOptions { progress: progress.clone(), ..PushOptions::default() };
    let built = LocalImage::new(&store, &repository, &name.manifest());
    push(&built, &RemoteImage::named(&client, &name), &options).await?;
    story.tell(since, "push", format!("{name}"));

    let since = Instant::now();
    let second_store = session.with_root(work.join("second")).store().await?;
    pull_into(&second_store, &client, &name, progress).await?;
    story.tell(since, "pull", "into an empty second store".to_owned());

    let since = Instant::now();
    let (blobs, bytes) = compare(&store, &second_store, &repository, &image).await?;
    story.tell(since, "compare", format!("{blobs} blobs, {} equal byte by byte", size(bytes)));

    let since = Instant::now();
    let again = build(work, &tools, &name, &builder_session, progress).await?;
    if let Some(step) = again.steps.iter().find(|s| !s.cached) {
        return Err(Error::internal("the second build ran a step that had not changed")
            .with_step(hyper_sdk::FailedStep::new(&step.name, None)));
    }
    if image_of(&again)?.digest != image.digest {
        return Err(Error::internal("the second build gave another digest"));
    }
    story.tell(since, "build again", format!("{} steps, all from the cache, same digest", again.steps.len()));

    server.stop().await?;
    Ok(story)
}

async fn build(
    work: &Path,
    tools: &Path,
    name: &Reference,
    session: &Session,
    progress: &Progress,
) -> Result<BuildOutput> {
    let context = work.join("context");
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).map_err(|e| Error::io("cannot write the example", path, e))
    };
    if !context.exists() {
        std::fs::create_dir(&context).map_err(|e| Error::io("cannot make the example", &context, e))?;
        write(&context.join("words.txt"), WORDS)?;
        write(&context.join("Dockerfile"), DOCKERFILE)?;
    }
    let mut request = BuildRequest::new(DOCKERFILE, BuildContext::Folder(context.clone()));
    request.dockerfile_name = context.join("Dockerfile");
    request.named_contexts.insert("tools".to_owned(), NamedContext::Folder(tools.to_owned()));
    request.tags = vec![name.clone()];
    request.outputs = vec![Output::store()];
    session.builder(TransportArgs::default()).await?.build(request, progress).await
}

fn image_of(output: &BuildOutput) -> Result<Descriptor> {
    output.image.clone().ok_or_else(|| Error::internal("the build made no image"))
}

async fn pull_into(
    store: &SharedStore,
    client: &SharedClient,
    name: &Reference,
    progress: &Progress,
) -> Result<()> {
    let options = PullOptions { progress: progress.clone(), ..PullOptions::default() };
    pull(&RemoteImage::named(client, name), &LocalTarget::named(store, name)?, &options).await?;
    Ok(())
}

/// Compares manifest, config and layers of an image in two stores byte by byte, and each with its digest. Returns how
/// many blobs and bytes that were.
async fn compare(
    one: &SharedStore,
    other: &SharedStore,
    repository: &RepositoryName,
    image: &Descriptor,
) -> Result<(usize, u64)> {
    let reference = image.digest.clone().into();
    let manifest = one.get_manifest(repository, &reference).await?;
    if other.get_manifest(repository, &reference).await?.bytes() != manifest.bytes() {
        return Err(differs(&image.digest));
    }
    let parts = manifest.image().ok_or_else(|| Error::internal("the build made an index"))?;
    let mut bytes = manifest.bytes().len() as u64;
    let mut blobs = 1;
    for blob in std::iter::once(&parts.config).chain(&parts.layers) {
        compare_blob(one, other, repository, &blob.digest).await?;
        bytes += blob.size;
        blobs += 1;
    }
    Ok((blobs, bytes))
}

async fn compare_blob(
    one: &SharedStore,
    other: &SharedStore,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<()> {
    let mut streams = [
        one.get_blob(repository, digest, None).await?.stream,
        other.get_blob(repository, digest, None).await?.stream,
    ];
    let mut contents = [Vec::new(), Vec::new()];
    for (stream, content) in streams.iter_mut().zip(&mut contents) {
        while let Some(chunk) = stream.try_next().await? {
            content.extend_from_slice(&chunk);
        }
    }
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&contents[0]);
    if contents[0] != contents[1] || hasher.finish() != *digest {
        return Err(differs(digest));
    }
    Ok(())
}

fn differs(digest: &Digest) -> Error {
    Error::new(ErrorKind::DigestInvalid, "what was pulled is not what was built")
        .with_context("digest", digest)
}

fn summary(story: &Story, whole: Duration) -> String {
    let mut out = String::from("\n");
    for step in &story.steps {
        let took = duration(Duration::from_secs_f64(step.milliseconds / 1000.0));
        out.push_str(&format!("  {took:>9}  {:<12} {}\n", step.what, step.detail));
    }
    out.push_str(&format!("  {:>9}  in all; the temporary folder is removed\n", duration(whole)));
    out
}
