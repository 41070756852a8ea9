//! `hyperbuild prune`.

use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json, size, table};
use clap::Args;
use hyper_sdk::clock::rfc3339;
use hyper_sdk::dockerfile::parse_size;
use hyper_sdk::session::Session;
use hyper_sdk::space::{Filter, PruneOptions, SpaceKind};
use std::io::{IsTerminal as _, Write as _};

/// Removes what nothing uses from the state folder, least recently used first
///
/// That is the cache of builds (layers, unpacked layers, base images, cache mounts, sources, indexes) and images without
/// a name. Images with a name stay, and so does what a running build may use. Without limits all of it goes.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Removes only what matches; may be repeated, and then all have to match
    ///
    /// `until=24h` or `unused-for=24h` (not used for so long), `until=TIME` (RFC 3339, or seconds since 1970), `type=KIND`
    /// (`untagged`, `layer`, `base`, `snapshot`, `cache-mount`, `source`, `index`, `log`, or a name of docker buildx such
    /// as `exec.cachemount`), `id=ID`, `description=TEXT`, `inuse`, `shared`, `private`. `KEY!=VALUE` turns it round.
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,
    /// Keeps so much of the cache in any case
    #[arg(long, value_name = "SIZE", alias = "keep-storage", value_parser = parse_size)]
    reserved_space: Option<u64>,
    /// Removes only as much as needed for the cache to take no more than this
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_used_space: Option<u64>,
    /// Removes only as much as needed for so much of the disk to be free
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    min_free_space: Option<u64>,
    /// Removes logs too
    #[arg(short, long)]
    all: bool,
    /// Removes nothing, and shows what would go
    #[arg(long)]
    dry_run: bool,
    /// Does not ask
    #[arg(short, long)]
    force: bool,
    /// Shows every item
    #[arg(long)]
    verbose: bool,
}

pub(crate) async fn run(args: PruneArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let asks = !args.force && !args.dry_run && std::io::stdin().is_terminal();
    if asks && !confirmed()? {
        return Ok(());
    }
    let options = PruneOptions {
        filters: args.filter,
        all: args.all,
        dry_run: args.dry_run,
        reserved: args.reserved_space,
        max_used: args.max_used_space,
        min_free: args.min_free_space,
    };
    let pruned = session.prune(&options).await?;
    if console.format == Format::Json {
        print_json(&pruned)?;
        return Ok(());
    }
    if (args.verbose || args.dry_run) && !console.quiet && !pruned.removed.is_empty() {
        let mut rows = vec![["KIND", "SIZE", "LAST USE", "DESCRIPTION", "ID"].map(str::to_owned).to_vec()];
        rows.extend(pruned.removed.iter().map(|item| {
            let (description, id) = (item.description.clone(), item.id.clone());
            let kind = kind_of(item.kind, item.variant.as_deref());
            vec![kind, size(item.size), when(item.used), description, id]
        }));
        print(&table(&rows))?;
    }
    let verb = if args.dry_run { "would be freed" } else { "freed" };
    print(&format!("{} {verb}: {} items\n", size(pruned.freed), pruned.removed.len()))?;
    if pruned.in_use > 0 && !console.quiet {
        console.message(&format!("{} items stay while other work is running", pruned.in_use));
    }
    for warning in &pruned.warnings {
        console.warn(warning);
    }
    Ok(())
}

/// The kind of an item, with its variant.
pub(super) fn kind_of(kind: SpaceKind, variant: Option<&str>) -> String {
    variant.map_or_else(|| kind.to_string(), |variant| format!("{kind} ({variant})"))
}

/// The time of a last use.
pub(super) fn when(used: Option<i64>) -> String {
    used.map_or_else(|| "-".to_owned(), rfc3339)
}

fn confirmed() -> hyper_sdk::Result<bool> {
    let mut error = std::io::stderr();
    write!(error, "This removes the cache of builds and images without a name. Go on? [y/N] ")?;
    error.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
