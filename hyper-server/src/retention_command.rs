//! The commands `hyperregistry retention`: delete old tags of a store once, or say what becomes of them. Servers of the store
//! may run meanwhile.

use crate::auth::{AnonymousAccess, Authorizer, PolicyFile};
use crate::config::Config;
use crate::open_store::{self, Opened};
use crate::options::Retention;
use crate::standard_io::print;
use crate::store_args::{self, StoreArgs};
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::store::{RetainOptions, RetentionObserver, TagDecision, TagReason};
use hyper_sdk::{Error, ErrorKind, RepositoryName, Result, Tag};
use serde_json::{Value, json};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Subcommand)]
pub(crate) enum RetentionCommand {
    /// Deletes the tags that no rule keeps, once; a server may use the store meanwhile
    Run(RunArgs),
    /// Says of the tags of a repository which rule decides, why a tag stays or goes, and when it goes
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Delete nothing, and say which tags would go and why
    #[arg(long)]
    dry_run: bool,
    /// How the tags are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The repository, or one of its tags
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: String,
    #[command(flatten)]
    store: StoreArgs,
    /// How the tags are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: an object for each tag, one a line
    Json,
}

impl Format {
    /// Prints a decision. Who reads no more has seen enough.
    fn print(self, decision: &TagDecision) {
        let line = match self {
            Self::Text => decision.to_string(),
            Self::Json => as_json(decision).to_string(),
        };
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

impl RetentionCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Run(args) => args.run(),
            Self::Explain(args) => args.run(),
        }
    }
}

/// The configuration, with what a run needs of it.
fn prepare(args: StoreArgs) -> Result<(Config, RetainOptions)> {
    let config = args.load()?;
    config.check()?;
    let rules = Arc::new(config.retention.rules()?);
    if rules.as_slice().is_empty() {
        return Err(Error::invalid(
            "the configuration has no rule for tags, so all of them stay: write [[retention.rule]] into the file that \
             --config names",
        ));
    }
    let authorizer: Arc<dyn Authorizer> = match &config.auth.policy {
        Some(path) => Arc::new(PolicyFile::open(path)?),
        None => Arc::new(AnonymousAccess::default()),
    };
    store_args::check_store(&config)?;
    let options = Retention::options(rules, authorizer, None, Arc::new(|_| {}));
    Ok((config, options))
}

impl RunArgs {
    fn run(self) -> Result<()> {
        let (config, options) = prepare(self.store)?;
        if config.read_only {
            return Err(Error::invalid(
                "the configuration key `read-only` forbids a deletion: use a file without it",
            ));
        }
        let format = self.format;
        let observer: RetentionObserver = Arc::new(move |decision| {
            if decision.goes() || matches!(decision.reason, TagReason::Changed | TagReason::Unconfirmed) {
                format.print(decision);
            }
        });
        let options = RetainOptions { dry_run: self.dry_run, observer: Some(observer), ..options };
        let retained = hyper_sdk::runtime::start()?.block_on(async {
            let Opened { store, .. } = open_store::open(&config, None).await?;
            store.retain(options).await
        })?;
        if format == Format::Json {
            let counts = json!({
                "dry-run": self.dry_run,
                "repositories": retained.repositories,
                "tags": retained.tags,
                "removed": retained.removed,
                "changed": retained.changed,
            });
            return print(&format!("{}\n", json!({ "summary": counts })));
        }
        let verb = if self.dry_run { "would delete" } else { "deleted" };
        let (removed, tags, repositories) = (retained.removed, retained.tags, retained.repositories);
        print(&format!("{verb} {removed} of {tags} tags in {repositories} repositories with rules\n"))
    }
}

impl ExplainArgs {
    fn run(self) -> Result<()> {
        let (repository, tag) = match self.repository.split_once(':') {
            Some((repository, tag)) => (repository, Some(Tag::parse(tag)?)),
            None => (&*self.repository, None),
        };
        let repository = RepositoryName::parse(repository)?;
        let (config, options) = prepare(self.store)?;
        let (format, wanted, seen) = (self.format, tag.clone(), Arc::new(AtomicU64::new(0)));
        let counted = seen.clone();
        let observer: RetentionObserver = Arc::new(move |decision| {
            if wanted.as_ref().is_none_or(|tag| decision.record.tag == *tag) {
                counted.fetch_add(1, Ordering::Relaxed);
                format.print(decision);
            }
        });
        let options = RetainOptions {
            dry_run: true,
            repository: Some(repository.clone()),
            observer: Some(observer),
            ..options
        };
        hyper_sdk::runtime::start()?.block_on(async {
            let Opened { store, .. } = open_store::open(&config, None).await?;
            store.retain(options).await
        })?;
        match tag.filter(|_| seen.load(Ordering::Relaxed) == 0) {
            Some(tag) => Err(Error::new(ErrorKind::NotFound, "the repository does not have this tag")
                .with_context("repository", repository)
                .with_context("tag", tag)),
            None => Ok(()),
        }
    }
}

fn as_json(decision: &TagDecision) -> Value {
    let record = &decision.record;
    json!({
        "repository": decision.repository,
        "tag": record.tag,
        "digest": record.digest,
        "pushed": rfc3339(record.pushed_at),
        "pulled": record.pulled_at.map(rfc3339),
        "goes": decision.goes(),
        "goes-at": decision.goes_at().map(rfc3339),
        "rule": decision.rule.map(|rule| rule + 1),
        "why": decision.reason.name(),
        "reason": decision.reason.to_string(),
    })
}
