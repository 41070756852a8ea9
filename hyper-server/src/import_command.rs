//! `hyperregistry import`: imports images from a folder or a running registry into a store.

use crate::auth::PolicyFile;
use crate::config::Config;
use crate::open_store::{self, Opened};
#[cfg(feature = "import-registry")]
use crate::registry_args::RegistryArgs;
use crate::standard_io::{chain, print};
use crate::store_args::StoreArgs;
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::import::{
    DistributionTree, ExistingTags, ImportEvent, ImportObserver, ImportOptions, ImportSource, ImportTarget,
    Imported, OciFolder, TagOutcome, ZotTree, import,
};
use hyper_sdk::reference::RepositoryName;
use hyper_sdk::store::meta::MetaBackend;
use hyper_sdk::store::{ChangeContext, TagChange, TagGuard};
use hyper_sdk::{Error, ErrorKind, RepositoryPattern, Result};
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the progress is shown.
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Imports an OCI image layout from a folder
    Oci(OciArgs),
    /// Imports the storage folder of Distribution (docker-registry, `registry:2`), in place
    ///
    /// All tags and all manifests come, also manifests without a tag. Images of schema 1 are reported and left out.
    Distribution(TreeArgs),
    /// Imports the storage folder of zot, in place
    Zot(TreeArgs),
    /// Imports from a running registry: tags, what they need, and referrers
    #[cfg(feature = "import-registry")]
    Registry(Box<RunningArgs>),
}

#[derive(Debug, Args)]
pub(crate) struct OciArgs {
    /// Folder with `oci-layout` and `index.json`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Repository to import into [default: the one that each image of the layout names]
    #[arg(long, value_name = "NAME")]
    repository: Option<RepositoryName>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Storage folder of the other registry
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    common: CommonArgs,
}

#[cfg(feature = "import-registry")]
#[derive(Debug, Args)]
pub(crate) struct RunningArgs {
    /// The registry: `HOST[:PORT]` or its URL; `http://` means plain HTTP, `https://` TLS; without either it is TLS, and at this
    /// machine what the registry speaks
    #[arg(value_name = "URL")]
    registry: String,
    /// Repository to import, for a registry that does not list them; repeatable [default: all that the registry lists]
    #[arg(long, value_name = "NAME")]
    repository: Vec<RepositoryName>,
    /// Folder of the `config.json` with the credentials of registries [default: ~/.docker]
    #[arg(long, value_name = "DIR", env = "DOCKER_CONFIG")]
    docker_config: Option<PathBuf>,
    #[command(flatten)]
    access: RegistryArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct CommonArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Import only repositories that match this pattern, such as `team/*` or `team/**`; repeatable [default: all]
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Leave tags of the store as they are that name another image than in the source [default: they move]
    #[arg(long)]
    keep_tags: bool,
    /// Import an index of which the source lacks some images, without these [default: it fails]
    #[arg(long)]
    sparse: bool,
    /// Write nothing, and say what would be imported; the bytes of blobs are not read
    #[arg(long)]
    dry_run: bool,
    /// Images to import at once
    #[arg(long, value_name = "NUMBER", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each tag and manifest that is new, and for each problem
    #[default]
    Text,
    /// A JSON object on a line for each tag, manifest and problem, and one of the sums
    Json,
}

/// Runs an import. Returns whether everything was imported.
pub(crate) fn run(command: ImportCommand) -> Result<bool> {
    hyper_sdk::runtime::start()?.block_on(async {
        let (source, common): (Arc<dyn ImportSource>, CommonArgs) = match command {
            ImportCommand::Oci(args) => {
                (Arc::new(OciFolder::open(args.folder, args.repository).await?), args.common)
            }
            ImportCommand::Distribution(args) => {
                (Arc::new(DistributionTree::open(args.folder).await?), args.common)
            }
            ImportCommand::Zot(args) => (Arc::new(ZotTree::open(args.folder).await?), args.common),
            #[cfg(feature = "import-registry")]
            ImportCommand::Registry(args) => running(*args).await?,
        };
        ChangeContext::of_origin("import").scope(run_from(source, common)).await
    })
}

/// A running registry that answers, with the credentials of the flags or of the user's `config.json`.
#[cfg(feature = "import-registry")]
async fn running(args: RunningArgs) -> Result<(Arc<dyn ImportSource>, CommonArgs)> {
    use hyper_sdk::client::keychain::{DockerConfig, SharedKeychain};
    use hyper_sdk::client::{RegistryClient as _, SharedClient};
    use hyper_sdk::import::RegistrySource;

    let in_home = || std::env::home_dir().map(|home| home.join(".docker"));
    let keychain = args.docker_config.or_else(in_home).map(|folder| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let config = DockerConfig::new(folder.join("config.json"));
        Arc::new(config.helper_folders(std::env::split_paths(&path))) as SharedKeychain
    });
    let client = args.access.client(&args.registry, keychain)?;
    client.ping().await?;
    let client: SharedClient = Arc::new(client);
    Ok((Arc::new(RegistrySource::new(client, args.repository)), args.common))
}

async fn run_from(source: Arc<dyn ImportSource>, args: CommonArgs) -> Result<bool> {
    let config = args.store.load()?;
    config.check()?;
    if config.read_only && !args.dry_run {
        return Err(Error::invalid(
            "the configuration key `read-only` forbids an import: use a file without it",
        ));
    }
    let only = args
        .only
        .iter()
        .map(|text| {
            RepositoryPattern::parse(text).map_err(|why| {
                Error::invalid(format!("the pattern `{}` is invalid: {why}", text.escape_debug()))
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let output = Arc::new(Output::new(args.format, args.dry_run));
    let mut options = ImportOptions::default();
    if !only.is_empty() {
        options.only = Some(Arc::new(move |name| only.iter().any(|pattern| pattern.matches(name))));
    }
    options.existing_tags = if args.keep_tags { ExistingTags::Keep } else { ExistingTags::Move };
    options.guard = immutable_tags(&config)?;
    options.sparse = args.sparse;
    options.parallel = usize::from(args.parallel);
    options.observer = Some(output.clone().observer());
    let target = if args.dry_run {
        let meta = open_store::unchanged(&config).await?;
        ImportTarget::DryRun(meta.map(|meta| Arc::new(meta) as Arc<dyn MetaBackend>))
    } else {
        let Opened { store, .. } = open_store::open(&config, None).await?;
        ImportTarget::Store(store)
    };
    let imported = import(source, target, options).await;
    output.clear();
    let imported = imported?;
    print(&sums(&imported, args.format, args.dry_run))?;
    Ok(imported.failed == 0)
}

/// The rule that keeps the immutable tags of the policy in the configuration.
fn immutable_tags(config: &Config) -> Result<Option<hyper_sdk::import::TagRules>> {
    let Some(path) = config.auth.policy.as_deref() else { return Ok(None) };
    let policy = PolicyFile::open(path)?.policy();
    Ok(Some(Arc::new(move |repository: &RepositoryName| {
        let (policy, repository) = (policy.clone(), repository.clone());
        let guard = TagGuard::new(move |tag, change| {
            if change != TagChange::Move || policy.immutable_tag(repository.as_str(), tag.as_str()).is_none()
            {
                return Ok(());
            }
            Err(Error::new(
                ErrorKind::Denied,
                "the tag is immutable in the store, and names another image there",
            ))
        });
        Some(guard.without_deletions())
    })))
}

/// Prints the steps of an import.
struct Output {
    format: Format,
    dry_run: bool,
    shows_progress: bool,
    images: AtomicU64,
    bytes: AtomicU64,
    shown: Mutex<Option<Instant>>,
}

impl Output {
    fn new(format: Format, dry_run: bool) -> Self {
        Self {
            format,
            dry_run,
            shows_progress: std::io::stderr().is_terminal(),
            images: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            shown: Mutex::default(),
        }
    }

    fn observer(self: Arc<Self>) -> ImportObserver {
        Arc::new(move |event| {
            match event {
                ImportEvent::Copied { bytes } => drop(self.bytes.fetch_add(*bytes, Ordering::Relaxed)),
                ImportEvent::Tag { .. } | ImportEvent::Manifest { .. } => {
                    self.images.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
            if let Some(line) = self.line(event) {
                self.clear();
                // Who reads no more has seen enough.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            self.show();
        })
    }

    /// The line for a step; `None` for one that changed nothing.
    fn line(&self, event: &ImportEvent<'_>) -> Option<String> {
        let is_text = self.format == Format::Text;
        let (would, verb) = if self.dry_run { ("would ", "") } else { ("", "d") };
        Some(match event {
            ImportEvent::Tag { outcome: TagOutcome::Unchanged, .. } if is_text => return None,
            ImportEvent::Tag { repository, tag, digest, outcome } if is_text => match outcome {
                TagOutcome::Moved(from) => {
                    format!("{would}move{verb} {repository}:{tag} from {from} to {digest}")
                }
                TagOutcome::Kept(at) => format!("kept {repository}:{tag} at {at}: the source has {digest}"),
                _ => format!("{would}create{verb} {repository}:{tag} {digest}"),
            },
            ImportEvent::Tag { repository, tag, digest, outcome } => {
                let (what, before) = match outcome {
                    TagOutcome::Created => ("created", None),
                    TagOutcome::Moved(from) => ("moved", Some(from)),
                    TagOutcome::Kept(at) => ("kept", Some(at)),
                    TagOutcome::Unchanged => ("unchanged", None),
                };
                json!({
                    "repository": repository.as_str(), "tag": tag.as_str(), "digest": digest.as_str(),
                    "outcome": what, "store": before.map(|digest| digest.as_str()),
                })
                .to_string()
            }
            ImportEvent::Manifest { repository, digest } if is_text => {
                format!("{would}create{verb} {repository}@{digest}")
            }
            ImportEvent::Manifest { repository, digest } => {
                json!({ "repository": repository.as_str(), "digest": digest.as_str(), "outcome": "created" })
                    .to_string()
            }
            ImportEvent::LeftOut { name, reason } if is_text => format!("left out {}: {reason}", plain(name)),
            ImportEvent::LeftOut { name, reason } => {
                json!({ "left_out": name, "reason": reason }).to_string()
            }
            ImportEvent::Failed { name, error } if is_text => {
                format!("failed {}: {}", plain(name), plain(&chain(error)))
            }
            ImportEvent::Failed { name, error } => {
                json!({ "failed": name, "kind": error.kind().name(), "error": chain(error) }).to_string()
            }
            _ => return None,
        })
    }

    /// Shows the progress on a terminal.
    fn show(&self) {
        if !self.shows_progress {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.is_some_and(|at| at.elapsed() < TICK) {
            return;
        }
        *shown = Some(Instant::now());
        let images = self.images.load(Ordering::Relaxed);
        let mib = self.bytes.load(Ordering::Relaxed) >> 20;
        let _ = write!(std::io::stderr(), "\r\x1b[K{images} images, {mib} MiB copied");
    }

    /// Takes the progress away.
    fn clear(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shows_progress && shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// A text of the source for a terminal: names of files may have line breaks and escapes, which would forge lines.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { plain.extend(c.escape_default()) } else { plain.push(c) }
    }
    plain
}

fn sums(done: &Imported, format: Format, dry_run: bool) -> String {
    if format == Format::Json {
        let sums = json!({
            "repositories": done.repositories, "skipped": done.skipped,
            "tags_created": done.tags_created, "tags_moved": done.tags_moved, "tags_kept": done.tags_kept,
            "tags_unchanged": done.tags_unchanged,
            "manifests": done.manifests, "manifests_present": done.manifests_present,
            "blobs": done.blobs, "bytes": done.bytes, "blobs_linked": done.blobs_linked,
            "left_out": done.left_out, "failed": done.failed, "dry_run": dry_run,
        });
        return format!("{sums}\n");
    }
    let would = if dry_run { "would be " } else { "" };
    format!(
        "{} repositories: {} tags {would}created, {} moved, {} kept, {} unchanged; {} manifests and {} blobs ({} bytes) \
         {would}copied, {} blobs {would}linked; {} left out, {} failed\n",
        done.repositories,
        done.tags_created,
        done.tags_moved,
        done.tags_kept,
        done.tags_unchanged,
        done.manifests,
        done.blobs,
        done.bytes,
        done.blobs_linked,
        done.left_out,
        done.failed,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_forges_no_line() {
        assert_eq!(plain("x\ncreated evil:1 \x1b[31m é"), "x\\ncreated evil:1 \\u{1b}[31m é");
    }
}
