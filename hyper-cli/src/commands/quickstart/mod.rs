//! `hyperbuild quickstart`: each main feature once, on this machine alone.

mod compare;

use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::host_tools;
use crate::render::{Mode, Renderer};
use crate::terminal::{duration, message, print, print_json, size};
use clap::Args;
use hyper_sdk::build::{BuildContext, BuildOutput, BuildRequest, NamedContext};
use hyper_sdk::client::{PullOptions, PushOptions};
use hyper_sdk::oci::Descriptor;
use hyper_sdk::progress::Progress;
use hyper_sdk::session::Session;
use hyper_sdk::store::local_repository;
use hyper_sdk::{Error, Reference, Result, private_folder};
use hyper_server::{RegistryOptions, Server, ServerOptions};
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// The tools that the example runs, besides `sh`.
const TOOLS: &[&str] = &["cat", "mkdir", "sha256sum", "sort", "uniq", "wc"];

/// A base image of the tools of this machine, two stages on it that are independent and so run at once, and a stage that
/// joins them.
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

/// A step, and how long it took.
#[derive(Debug, Serialize)]
struct Step {
    what: String,
    detail: String,
    milliseconds: f64,
}

#[derive(Debug, Default)]
struct QuickstartReport {
    steps: Vec<Step>,
}

impl QuickstartReport {
    fn add(&mut self, since: Instant, what: &str, detail: String) {
        let milliseconds = since.elapsed().as_secs_f64() * 1000.0;
        self.steps.push(Step { what: what.to_owned(), detail, milliseconds });
    }
}

pub(crate) async fn run(args: QuickstartArgs, console: &Console) -> Result<(), Failure> {
    let mut folder = private_folder::temporary("hyper-quickstart-", None)?;
    if args.keep {
        folder.stay();
    }
    let mode = if console.quiet { Mode::Quiet } else { args.progress };
    let renderer = Renderer::start(mode, console.color, None)?;
    let began = Instant::now();
    let outcome = run_all(folder.path(), renderer.progress()).await;
    renderer.finish(outcome.is_err()).await?;
    let kept = folder.path().display().to_string();
    if args.keep {
        message(&format!("kept: {kept}"));
    } else {
        folder.close()?;
    }
    let report = outcome?;
    match console.format {
        Format::Json => print_json(&report.steps)?,
        Format::Text | Format::Sarif if console.quiet => {}
        Format::Text | Format::Sarif => print(&summary(&report, began.elapsed()))?,
    }
    Ok(())
}

async fn run_all(work: &Path, progress: &Progress) -> Result<QuickstartReport> {
    let mut report = QuickstartReport::default();
    let open = |name: &str| Session::builder(work.join(name)).progress(progress.clone()).open();
    let (session, registry, second) = (open("state")?, open("registry")?, open("second")?);

    let since = Instant::now();
    let tools = work.join("tools");
    let host = host_tools::copy_tools(&tools, TOOLS)?;
    report.add(since, "base image", format!("{} of {}", size(host.size), host.made_of));

    let since = Instant::now();
    let options = RegistryOptions { metrics: false, access_log: false, ..RegistryOptions::default() };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(registry.store().await?, address, options, ServerOptions::default()).await?;
    report.add(since, "registry", format!("{} (a store of its own)", server.url()));

    let name = Reference::parse(&format!("{}/quickstart/app:1", server.address()))?;
    let since = Instant::now();
    let first = build(work, &tools, &name, &session, progress).await?;
    let image = image_of(&first)?;
    let ran = first.steps.iter().filter(|s| !s.cached).count();
    report.add(since, "build", format!("{ran} steps run, {}", image.digest));

    let since = Instant::now();
    let options = PushOptions { progress: progress.clone(), ..PushOptions::default() };
    session.push(&name, &name, &options).await?;
    report.add(since, "push", format!("{name}"));

    let since = Instant::now();
    let options = PullOptions { progress: progress.clone(), ..PullOptions::default() };
    second.pull(&name, &name, &options).await?;
    report.add(since, "pull", "into an empty second store".to_owned());

    let since = Instant::now();
    let stores = (session.store().await?, second.store().await?);
    let (blobs, bytes) = compare::images(&stores.0, &stores.1, &local_repository(&name)?, &image).await?;
    report.add(since, "compare", format!("{blobs} blobs, {} equal byte by byte", size(bytes)));

    let since = Instant::now();
    let again = build(work, &tools, &name, &session, progress).await?;
    if let Some(step) = again.steps.iter().find(|s| !s.cached) {
        return Err(Error::internal("the second build ran a step that had not changed")
            .with_step(hyper_sdk::FailedStep::new(&step.name, None)));
    }
    if image_of(&again)?.digest != image.digest {
        return Err(Error::internal("the second build gave another digest"));
    }
    report.add(since, "build again", format!("{} steps, all from the cache, same digest", again.steps.len()));

    server.stop().await?;
    Ok(report)
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
    session.build(request, progress).await
}

fn image_of(output: &BuildOutput) -> Result<Descriptor> {
    output.image.clone().ok_or_else(|| Error::internal("the build made no image"))
}

fn summary(report: &QuickstartReport, whole: Duration) -> String {
    let mut out = String::from("\n");
    for step in &report.steps {
        let took = duration(Duration::from_secs_f64(step.milliseconds / 1000.0));
        out.push_str(&format!("  {took:>9}  {:<12} {}\n", step.what, step.detail));
    }
    out.push_str(&format!("  {:>9}  in all; the temporary folder is removed\n", duration(whole)));
    out
}
