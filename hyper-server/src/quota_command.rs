//! The commands `hyperregistry quota`: what namespaces use of their quotas, and whether that is counted right. Servers of the
//! store may run meanwhile.

use crate::open_store;
use crate::quota_config;
use crate::standard_io::print;
use crate::store_args::MetadataArgs;
use clap::{Args, Subcommand, ValueEnum};
use hyper_sdk::store::meta::MetaBackend as _;
use hyper_sdk::store::{QuotaCheck, QuotaCounts, QuotaResource, QuotaUse};
use hyper_sdk::{Error, Result};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::process::ExitCode;

/// Something is counted wrong.
const DIFFERS: u8 = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Shows what the namespaces with a quota use, and their limits by the configuration file
    Ls(LsArgs),
    /// Counts again what namespaces use, and compares that with what is recorded; ends with status 3 if it differs
    ///
    /// Servers may use the store meanwhile, and wait for nothing. A namespace that is being counted is compared as far as it is.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// How the namespaces are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    store: MetadataArgs,
    /// Count those anew that are counted wrong; pushes go on, below a limit that holds for what is counted so far
    #[arg(long)]
    repair: bool,
    /// How the namespaces are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: an object for each namespace, one a line
    Json,
}

impl QuotaCommand {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Ls(args) => args.run().map(|()| ExitCode::SUCCESS),
            Self::Check(args) => args.run(),
        }
    }
}

impl LsArgs {
    fn run(self) -> Result<()> {
        let config = self.store.load()?;
        config.check()?;
        let uses = hyper_sdk::runtime::start()?.block_on(async {
            let Some(meta) = open_store::unchanged(&config).await? else { return Ok(Vec::new()) };
            meta.set_quotas(quota_config::rules(&config.quota)?)?;
            meta.quota_use().await
        })?;
        print(&match self.format {
            Format::Text => table(&uses),
            Format::Json => uses.iter().map(|one| format!("{}\n", use_as_json(one))).collect(),
        })
    }
}

impl CheckArgs {
    fn run(self) -> Result<ExitCode> {
        let config = self.store.load()?;
        config.check()?;
        if self.repair && config.read_only {
            return Err(Error::invalid("the configuration key `read-only` forbids `--repair`"));
        }
        let checks = hyper_sdk::runtime::start()?.block_on(async {
            let meta = match self.repair {
                true => Some(open_store::metadata(&config).await?),
                false => open_store::unchanged(&config).await?,
            };
            match meta {
                Some(meta) => meta.check_quotas(self.repair).await,
                None => Ok(Vec::new()),
            }
        })?;
        let wrong = checks.iter().filter(|check| !check.is_right()).count();
        print(&match self.format {
            Format::Text => {
                let verb = if self.repair { "were counted anew" } else { "are counted wrong" };
                let lines = checks.iter().filter(|check| !check.is_right()).map(difference);
                format!("{}{wrong} of {} namespaces {verb}\n", lines.collect::<String>(), checks.len())
            }
            Format::Json => checks.iter().map(|check| format!("{}\n", check_as_json(check))).collect(),
        })?;
        Ok(if wrong == 0 || self.repair { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
    }
}

/// A line for each namespace and resource that is used or limited.
fn table(uses: &[QuotaUse]) -> String {
    let mut rows = vec![["NAMESPACE", "RESOURCE", "USED", "LIMIT", "USE"].map(str::to_owned)];
    for one in uses {
        for resource in QuotaResource::ALL {
            let used = one.used.map(|used| used.of(resource));
            let limit = one.limits.of(resource);
            let text =
                |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            let per_cent = match (one.counting, percentage(used, limit)) {
                (Some(done), _) => format!("counting, {done}%"),
                (None, Some(of)) => format!("{of}%"),
                (None, None) => "-".to_owned(),
            };
            rows.push([one.namespace.to_string(), resource.to_string(), text(used), text(limit), per_cent]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3].map(width);
    let mut out = String::new();
    for [namespace, resource, used, limit, of] in &rows {
        let [first, second, third, fourth] = widths;
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{namespace:first$}  {resource:second$}  {used:>third$}  {limit:>fourth$}  {of:>5}"
        );
    }
    out
}

/// How many hundredths of a limit are used, rounded down.
fn percentage(used: Option<u64>, limit: Option<u64>) -> Option<u128> {
    let (used, limit) = (u128::from(used?), u128::from(limit?));
    Some((used * 100).checked_div(limit).unwrap_or(100))
}

fn counts_as_json(counts: QuotaCounts) -> Value {
    let all = QuotaResource::ALL.map(|resource| (resource.name().to_owned(), json!(counts.of(resource))));
    Value::Object(all.into_iter().collect())
}

fn use_as_json(one: &QuotaUse) -> Value {
    let per = |value: &dyn Fn(QuotaResource) -> Value| {
        let all = QuotaResource::ALL.map(|resource| (resource.name().to_owned(), value(resource)));
        Value::Object(all.into_iter().collect::<Map<_, _>>())
    };
    json!({
        "namespace": one.namespace.to_string(),
        "used": one.used.map(counts_as_json),
        "counting": one.counting,
        "limit": per(&|resource| json!(one.limits.of(resource))),
        "per-cent": per(&|resource| {
            let used = one.used.map(|used| used.of(resource));
            json!(percentage(used, one.limits.of(resource)).and_then(|of| u64::try_from(of).ok()))
        }),
    })
}

fn difference(check: &QuotaCheck) -> String {
    let differing = QuotaResource::ALL.into_iter().filter_map(|resource| {
        let (recorded, found) = (check.recorded.of(resource), check.found.of(resource));
        (recorded != found).then(|| format!("{recorded} {resource} recorded and {found} found"))
    });
    let rows =
        (check.wrong_rows > 0).then(|| format!("{} blobs and manifests counted wrong", check.wrong_rows));
    let all: Vec<String> = differing.chain(rows).collect();
    format!("{}: {}\n", check.namespace, all.join(", "))
}

fn check_as_json(check: &QuotaCheck) -> Value {
    json!({
        "namespace": check.namespace.to_string(),
        "right": check.is_right(),
        "recorded": counts_as_json(check.recorded),
        "found": counts_as_json(check.found),
        "wrong-rows": check.wrong_rows,
    })
}
