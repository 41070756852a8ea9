//! The commands `events` and `tag history`: what a store has recorded of its changes.

use crate::open_store;
use crate::standard_io::print;
use crate::store_args::MetadataArgs;
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::reference::{RepositoryName, Tag};
use hyper_sdk::store::meta::{MetaBackend as _, SqlMeta};
use hyper_sdk::store::{Event, EventStart, SharedEventLog, cloud_event};
use hyper_sdk::{Error, ErrorKind, Result};
use std::time::Duration;

/// How many events are read together.
const PAGE: usize = 500;
/// How often `--follow` asks for more.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// Where to begin: `oldest`, `now` or the id of an event, which is the last that is not printed
    #[arg(long, value_name = "PLACE", default_value = "oldest")]
    since: EventStart,
    /// Wait for more events, until the command is interrupted
    #[arg(long)]
    follow: bool,
    /// How the events are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Shows what a tag has named.
#[derive(Debug, Subcommand)]
pub(crate) enum TagCommand {
    /// Prints what a tag has named, since when, and who changed it, the newest first
    History(HistoryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// The tag, as `NAME:TAG`
    #[arg(value_name = "NAME:TAG", value_parser = parse_tagged)]
    tag: (RepositoryName, Tag),
    /// How the entries are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The form of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: one line an event
    Text,
    /// For programs: a CloudEvent a line
    Json,
}

fn parse_tagged(text: &str) -> Result<(RepositoryName, Tag)> {
    let (name, tag) = text.rsplit_once(':').ok_or_else(|| Error::invalid("write `NAME:TAG`"))?;
    Ok((RepositoryName::parse(name)?, Tag::parse(tag)?))
}

/// The log of the store; `None` when there is no store.
pub(crate) fn log_of(meta: Option<&SqlMeta>) -> Result<SharedEventLog> {
    let missing = || Error::new(ErrorKind::NotFound, "there is no store: --data names another folder");
    let log = meta.ok_or_else(missing)?.event_log();
    log.ok_or_else(|| Error::unsupported("the store has no events"))
}

impl EventsArgs {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        let config = self.store.load()?;
        config.check()?;
        let source = config.registry().event_source();
        hyper_sdk::runtime::start()?.block_on(async {
            // What another process writes later is seen where this one has the store open.
            let meta = match self.follow {
                true => Some(open_store::metadata(&config).await?),
                false => open_store::unchanged(&config).await?,
            };
            let log = log_of(meta.as_ref())?;
            let mut start = self.since;
            loop {
                let page = log.read(&start, PAGE).await?;
                let name = page.next.log();
                let lines = page.events.iter().map(|event| self.format.line(event, name, &source));
                print(&lines.collect::<String>())?;
                if page.next.after() >= page.last {
                    if !self.follow {
                        return Ok(());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                start = EventStart::After(page.next);
            }
        })
    }
}

impl TagCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        let Self::History(args) = self;
        let config = args.store.load()?;
        config.check()?;
        let (repository, tag) = args.tag;
        let source = config.registry().event_source();
        hyper_sdk::runtime::start()?.block_on(async {
            let meta = open_store::unchanged(&config).await?;
            let log = log_of(meta.as_ref())?;
            let name = log.read(&EventStart::Now, 0).await?.next;
            let mut before = None;
            loop {
                let found = log.tag_history(&repository, &tag, before, PAGE).await?;
                let lines = found.items.iter().map(|event| args.format.line(event, name.log(), &source));
                print(&lines.collect::<String>())?;
                before = found.items.last().map(|event| event.sequence);
                if !found.more || before.is_none() {
                    return Ok(());
                }
            }
        })
    }
}

impl Format {
    fn line(self, event: &Event, log: &str, source: &str) -> String {
        match self {
            Self::Json => format!("{}\n", cloud_event(event, log, source)),
            Self::Text => text(event, log),
        }
    }
}

/// A line for people. Who made the change is what a client or a configuration has said, so it is escaped.
fn text(event: &Event, log: &str) -> String {
    let mut line = format!(
        "{log}-{}  {}  {:18}  {}",
        event.sequence,
        rfc3339(event.at),
        event.kind.name(),
        event.repository
    );
    if let Some(tag) = &event.tag {
        line.push_str(&format!(":{tag}"));
    }
    if let Some(digest) = &event.digest {
        line.push_str(&format!("  {digest}"));
    }
    if let Some(former) = &event.former {
        line.push_str(&format!("  before {former}"));
    }
    let who = event.by.actor.as_ref().or(event.by.origin.as_ref());
    if let Some(who) = who {
        line.push_str(&format!("  by {}", who.escape_debug()));
    }
    if let Some(address) = &event.by.address {
        line.push_str(&format!("  from {}", address.escape_debug()));
    }
    line.push('\n');
    line
}
