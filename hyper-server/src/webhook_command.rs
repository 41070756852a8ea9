//! The commands `webhook`: how far the webhooks of a store are, and what makes them begin again.

use crate::config::Config;
use crate::events_command::log_of;
use crate::open_store;
use crate::standard_io::print;
use crate::store_args::MetadataArgs;
use crate::webhook::{self, Webhook};
use crate::webhook_config;
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::store::{EventConsumer, EventStart};
use hyper_sdk::{Error, ErrorKind, Result};
use serde_json::json;

/// Shows the webhooks of a store.
#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Lists the webhooks, how many events they have taken and how many wait for them, and why the last request failed
    Ls(LsArgs),
    /// Sends events again: a webhook begins anew at a place; a server may deliver to it meanwhile
    Replay(ReplayArgs),
    /// Sends one request to a webhook of the configuration that is about nothing, and says what it has answered
    Test(TestArgs),
    /// Forgets the place of a webhook, which then begins with the next event that happens
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
    #[arg(long, value_name = "PLACE")]
    since: EventStart,
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
                let was_there = runtime.block_on(async {
                    let meta = open_store::metadata(&config).await?;
                    log_of(Some(&meta))?.reset(&args.name, &args.since).await
                })?;
                if was_there { Ok(()) } else { Err(unknown(&args.name)) }
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
                let was_there = runtime.block_on(async {
                    let meta = open_store::metadata(&config).await?;
                    log_of(Some(&meta))?.forget(&args.name).await
                })?;
                if was_there { Ok(()) } else { Err(unknown(&args.name)) }
            }
        }
    }
}

impl Format {
    fn line(self, consumer: &EventConsumer) -> String {
        let EventConsumer { name, place, taken, skipped, failure, last, .. } = consumer;
        let waiting = last.saturating_sub(place.after());
        match self {
            Self::Json => format!(
                "{}\n",
                json!({
                    "name": name,
                    "place": place.to_string(),
                    "taken": taken,
                    "skipped": skipped,
                    "waiting": waiting,
                    "failure": failure,
                })
            ),
            Self::Text => {
                let failure = failure.as_ref().map(|why| format!("  failed: {}", why.escape_debug()));
                let skipped = (*skipped > 0).then(|| format!(", {skipped} skipped"));
                let (failure, skipped) = (failure.unwrap_or_default(), skipped.unwrap_or_default());
                format!("{name}  at {place}, {taken} taken{skipped}, {waiting} waiting{failure}\n")
            }
        }
    }
}
