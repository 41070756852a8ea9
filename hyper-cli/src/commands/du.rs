//! `hyperbuild du`.

use super::prune::{kind_of, when};
use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json, size, table};
use clap::Args;
use hyper_sdk::session::Session;

/// Shows what in the state folder uses how much of the disk
///
/// Bytes that several things use count for the first of them. Unpacked layers that builds with other options made have rows
/// of their own, such as `snapshot (copy)` for those of `--isolation none`. RECLAIMABLE is what `prune --all` would free now: what has
/// no name, and no running build uses.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// Shows every item with its last use
    #[arg(long)]
    verbose: bool,
}

pub(crate) async fn run(args: DuArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let mut usage = session.disk_usage().await?;
    if console.format == Format::Json {
        if !args.verbose {
            usage.items.clear();
        }
        print_json(&usage)?;
        return Ok(());
    }
    let row = |cells: [String; 5]| cells.to_vec();
    let mut rows = vec![row(["KIND", "ITEMS", "SIZE", "SHARED", "RECLAIMABLE"].map(str::to_owned))];
    for kind in usage.kinds.iter().filter(|kind| kind.items > 0) {
        let bytes = [kind.size, kind.shared, kind.reclaimable].map(size);
        let [all, shared, reclaimable] = bytes;
        let name = kind_of(kind.kind, kind.variant.as_deref());
        rows.push(row([name, kind.items.to_string(), all, shared, reclaimable]));
    }
    let total = [size(usage.total), String::new(), size(usage.reclaimable)];
    let [all, shared, reclaimable] = total;
    rows.push(row(["total".to_owned(), String::new(), all, shared, reclaimable]));
    print(&table(&rows))?;
    if args.verbose {
        let mut rows = vec![row(["KIND", "SIZE", "LAST USE", "DESCRIPTION", "ID"].map(str::to_owned))];
        for item in &usage.items {
            let mut description = item.description.clone();
            for (is, word) in [(item.in_use, "in use"), (item.shared, "shared")] {
                if is {
                    description.push_str(&format!(" ({word})"));
                }
            }
            let (kind, id) = (kind_of(item.kind, item.variant.as_deref()), item.id.clone());
            rows.push(row([kind, size(item.size), when(item.used), description, id]));
        }
        print(&format!("\n{}", table(&rows)))?;
    }
    for warning in &usage.warnings {
        console.warn(warning);
    }
    Ok(())
}
