//! The commands `hyperregistry undelete`: what was deleted lately comes back, is listed, or goes for good. Servers of the store
//! may run meanwhile.

use crate::auth::{AnonymousAccess, Authorizer, PolicyFile};
use crate::config::Config;
use crate::open_store::{self, Opened};
use crate::standard_io::print;
use crate::store_args::{self, MetadataArgs, StoreArgs};
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::reference::ManifestReference;
use hyper_sdk::store::meta::{Deletion, MetaBackend as _};
use hyper_sdk::store::{TagChange, TagGuard, Undelete};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Result, Tag};
use serde_json::json;
use std::sync::Arc;

/// How many entries are read together.
const PAGE: usize = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum UndeleteCommand {
    /// Lists what was deleted and can be undeleted: manifests, and tags with the manifest that they had
    Ls(LsArgs),
    /// Brings back a tag with the manifest that it had last, or a manifest without its tags; an index with its entries
    Run(RunArgs),
    /// Ends the window of a deleted manifest, so that nobody can undelete it; `gc` then frees its space
    ///
    /// Blobs can be read by their digests until garbage collection has removed them, a day after they were pushed at the earliest:
    /// delete them, too, when they are secret.
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The repository [default: all]
    #[arg(value_name = "REPOSITORY")]
    repository: Option<RepositoryName>,
    #[command(flatten)]
    store: MetadataArgs,
    /// How the entries are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The tag or the manifest
    #[arg(value_name = "REPOSITORY:TAG|REPOSITORY@DIGEST", value_parser = parse_deleted)]
    deleted: (RepositoryName, ManifestReference),
    #[command(flatten)]
    store: StoreArgs,
    /// Take the tag from the manifest that it names by now, unless the policy makes it immutable
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// The manifest
    #[arg(value_name = "REPOSITORY@DIGEST", value_parser = parse_deleted)]
    deleted: (RepositoryName, ManifestReference),
    #[command(flatten)]
    store: StoreArgs,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: an object for each entry, one a line
    Json,
}

fn parse_deleted(text: &str) -> Result<(RepositoryName, ManifestReference)> {
    if let Some((name, digest)) = text.split_once('@') {
        return Ok((RepositoryName::parse(name)?, Digest::parse(digest)?.into()));
    }
    let (name, tag) = text
        .rsplit_once(':')
        .ok_or_else(|| Error::invalid("write `REPOSITORY:TAG` or `REPOSITORY@DIGEST`"))?;
    Ok((RepositoryName::parse(name)?, Tag::parse(tag)?.into()))
}

impl UndeleteCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Ls(args) => args.run(),
            Self::Run(args) => args.run(),
            Self::Purge(args) => args.run(),
        }
    }
}

/// The configuration of a store that exists and may be written.
fn prepare(args: StoreArgs) -> Result<Config> {
    let config = args.load()?;
    config.check()?;
    if config.read_only {
        return Err(Error::invalid("the configuration key `read-only` forbids this: use a file without it"));
    }
    store_args::check_store(&config)?;
    Ok(config)
}

impl LsArgs {
    fn run(self) -> Result<()> {
        let Self { repository, store, format } = self;
        let config = store.load()?;
        config.check()?;
        hyper_sdk::runtime::start()?.block_on(async {
            let Some(meta) = open_store::unchanged(&config).await? else { return Ok(()) };
            let mut after = 0;
            loop {
                let page = meta.deletions(repository.as_ref(), after, PAGE).await?;
                print(&page.items.iter().map(|one| format.line(one)).collect::<String>())?;
                match page.items.last().filter(|_| page.more) {
                    Some(last) => after = last.number,
                    None => return Ok(()),
                }
            }
        })
    }
}

impl Format {
    fn line(self, one: &Deletion) -> String {
        let (repository, digest) = (&one.repository, &one.digest);
        let (deleted, until) = (rfc3339(one.deleted_at), rfc3339(one.kept_until));
        let tag = match &one.reference {
            ManifestReference::Tag(tag) => Some(tag),
            ManifestReference::Digest(_) => None,
        };
        match (self, tag) {
            (Self::Json, tag) => {
                let json = json!({
                    "repository": repository, "tag": tag, "digest": digest, "deleted": deleted, "kept-until": until,
                });
                format!("{json}\n")
            }
            (Self::Text, Some(tag)) => {
                format!("{repository}:{tag}  {digest}  deleted {deleted}, kept until {until}\n")
            }
            (Self::Text, None) => format!("{repository}@{digest}  deleted {deleted}, kept until {until}\n"),
        }
    }
}

impl RunArgs {
    fn run(self) -> Result<()> {
        let config = prepare(self.store)?;
        let (repository, reference) = self.deleted;
        let authorizer: Arc<dyn Authorizer> = match &config.auth.policy {
            Some(path) => Arc::new(PolicyFile::open(path)?),
            None => Arc::new(AnonymousAccess::default()),
        };
        let name = repository.clone();
        let guard = TagGuard::new(move |tag, change| match change {
            TagChange::Create => Ok(()),
            _ => match authorizer.keeps_tag(&name, tag) {
                None => Ok(()),
                Some(why) => Err(Error::new(ErrorKind::Denied, format!("the tag `{tag}` stays: {why}"))),
            },
        });
        let undelete = Undelete {
            replaces: self.force,
            sparse: config.sparse,
            guard: Some(guard),
            ..Undelete::new(reference.clone())
        };
        let hinted = |e: Error| match (e.kind(), &reference) {
            (ErrorKind::Conflict, ManifestReference::Tag(tag)) if !self.force => {
                Error::new(ErrorKind::Conflict, format!("{}: --force takes it from there", e.message()))
                    .with_context("repository", &repository)
                    .with_context("tag", tag)
            }
            _ => e,
        };
        let descriptor = hyper_sdk::runtime::start()?.block_on(async {
            let Opened { store, .. } = open_store::open(&config, None).await?;
            store.undelete(&repository, undelete).await.map_err(hinted)
        })?;
        print(&format!("{repository}@{} is there again\n", descriptor.digest))
    }
}

impl PurgeArgs {
    fn run(self) -> Result<()> {
        let (repository, reference) = self.deleted;
        let ManifestReference::Digest(digest) = reference else {
            return Err(Error::invalid("only a manifest can be purged: write `REPOSITORY@DIGEST`"));
        };
        let config = prepare(self.store)?;
        hyper_sdk::runtime::start()?.block_on(async {
            let Opened { store, .. } = open_store::open(&config, None).await?;
            store.purge_deleted(&repository, &digest).await
        })
    }
}
