//! The commands `webhook`: how far the webhooks of a store are, and what makes them begin again.

use crate::config::Config;
use crate::events_command::log_of;
use crate::open_store;
use crate::standard_io::print;
use crate::store_args::MetadataArgs;
use crate::webhook::{self, Webhook};
use crate::webhook_config;
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::store::{EventConsumer, EventCursor, EventStart, SharedEventLog};
use hyper_sdk::{Error, ErrorKind, Result};
use serde_json::json;

/// Shows the webhooks of a store.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Lists the webhooks, how many events they have taken, how many were given up and how many wait, and why the last request failed
    Ls(LsArgs),
    /// Sends events again: a webhook begins anew at a place; a server may deliver to it meanwhile, also after `rm`
    Replay(ReplayArgs),
    /// Sends one request to a webhook of the configuration that is about nothing, and says what it has answered
    Test(TestArgs),
    /// Forgets a webhook that is not in the configuration any more, with its place
    Rm(RmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// How the webhooks are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// The name of the webhook
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to begin: `oldest`, `now` or the id of an event, which is the last that is not sent again
    #[arg(long, value_name = "PLACE", required_unless_present = "from")]
    since: Option<EventStart>,
    /// The id of the first event that is sent again, such as one that was given up
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    from: Option<EventCursor>,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// The name of the webhook
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// The name of the webhook
    #[arg(value_name = "NAME")]
    name: String,
}

/// The form of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: an object for each webhook, one a line
    Json,
}

fn unknown(name: &str) -> Error {
    let name = name.escape_debug();
    Error::new(
        ErrorKind::NotFound,
        format!("no webhook has the name `{name}`: `hyperregistry webhook ls` lists them"),
    )
}

fn load(store: MetadataArgs) -> Result<Config> {
    let config = store.load()?;
    config.check()?;
    Ok(config)
}

fn is_configured(config: &Config, name: &str) -> bool {
    config.webhook.iter().any(|webhook| webhook.name == name)
}

/// Where a replay begins.
fn start(since: Option<EventStart>, from: Option<EventCursor>) -> Result<EventStart> {
    match from {
        None => Ok(since.unwrap_or_default()),
        Some(event) => match event.after().checked_sub(1) {
            Some(before) => Ok(EventStart::After(EventCursor::new(event.log(), before))),
            None => {
                Err(Error::invalid("`--from` needs the id of an event, and the first one has the number 1"))
            }
        },
    }
}

/// Lets a webhook begin at a place, also one of the configuration that was removed.
async fn replay(log: &SharedEventLog, config: &Config, name: &str, start: &EventStart) -> Result<()> {
    if log.reset(name, start).await? {
        return Ok(());
    }
    if !is_configured(config, name) {
        return Err(unknown(name));
    }
    log.begin(name).await?;
    log.reset(name, start).await.map(drop)
}

async fn remove(log: &SharedEventLog, config: &Config, name: &str) -> Result<()> {
    let refuse = |why: &str| {
        let message =
            format!("{why}, or use `hyperregistry webhook replay --since now` to go on without what waits");
        Err(Error::new(ErrorKind::Conflict, message).with_context("webhook", name.escape_debug()))
    };
    let consumers = log.consumers().await?;
    let Some(consumer) = consumers.iter().find(|consumer| consumer.name == name) else {
        return Err(unknown(name));
    };
    if is_configured(config, name) {
        return refuse(
            "the configuration still has the webhook: take its table out, send the servers SIGHUP",
        );
    }
    if consumer.holder.is_some() {
        return refuse(
            "a server has the webhook: take its table out of the configuration of all servers, send them SIGHUP",
        );
    }
    log.forget(name).await.map(drop)
}

impl WebhookCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<()> {
        let runtime = hyper_sdk::runtime::start()?;
        match self {
            Self::Ls(args) => {
                let config = load(args.store)?;
                let consumers = runtime.block_on(async {
                    match open_store::unchanged(&config).await? {
                        Some(meta) => log_of(Some(&meta))?.consumers().await,
                        None => Ok(Vec::new()),
                    }
                })?;
                let lines = consumers.iter().map(|consumer| args.format.line(consumer));
                print(&lines.collect::<String>())
            }
            Self::Replay(args) => {
                let config = load(args.store)?;
                let start = start(args.since, args.from)?;
                runtime.block_on(async {
                    let meta = open_store::metadata(&config).await?;
                    replay(&log_of(Some(&meta))?, &config, &args.name, &start).await
                })
            }
            Self::Test(args) => {
                let config = load(args.store)?;
                let found = config.webhook.iter().find(|webhook| webhook.name == args.name);
                let found = found.cloned().ok_or_else(|| {
                    Error::new(
                        ErrorKind::NotFound,
                        "the configuration has no webhook of this name: use --config",
                    )
                    .with_context("webhook", args.name.escape_debug())
                })?;
                let all: Vec<Webhook> = webhook_config::webhooks(std::slice::from_ref(&found))?;
                let source = config.registry().event_source();
                for webhook in &all {
                    print(&format!("{}\n", runtime.block_on(webhook::test(webhook, &source))?))?;
                }
                Ok(())
            }
            Self::Rm(args) => {
                let config = load(args.store)?;
                runtime.block_on(async {
                    let meta = open_store::metadata(&config).await?;
                    remove(&log_of(Some(&meta))?, &config, &args.name).await
                })
            }
        }
    }
}

impl Format {
    fn line(self, consumer: &EventConsumer) -> String {
        let EventConsumer { name, place, taken, skipped, given_up, last_given_up, failure, last, .. } =
            consumer;
        let waiting = last.saturating_sub(place.after());
        match self {
            Self::Json => format!(
                "{}\n",
                json!({
                    "name": name,
                    "place": place.to_string(),
                    "taken": taken,
                    "skipped": skipped,
                    "given_up": given_up,
                    "last_given_up": last_given_up.as_ref().map(ToString::to_string),
                    "waiting": waiting,
                    "failure": failure.as_ref().map(|failure| &failure.why),
                    "tried_seconds": failure.as_ref().map(|failure| failure.tried),
                })
            ),
            Self::Text => {
                let failure = failure.as_ref().map(|failure| {
                    let (why, tried) = (failure.why.escape_debug(), shown(failure.tried));
                    format!("  failed for {tried}: {why}")
                });
                let skipped = (*skipped > 0).then(|| format!(", {skipped} skipped"));
                let gone = last_given_up.as_ref().map(|id| format!(", {given_up} given up (the last {id})"));
                let (failure, skipped, gone) =
                    (failure.unwrap_or_default(), skipped.unwrap_or_default(), gone.unwrap_or_default());
                format!("{name}  at {place}, {taken} taken{skipped}{gone}, {waiting} waiting{failure}\n")
            }
        }
    }
}

/// Seconds, in the largest unit that is not 0.
fn shown(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}
