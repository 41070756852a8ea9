//! `hyperbuild du`.

use super::prune::when;
use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json, size, table};
use clap::Args;
use hyper_sdk::session::Session;

/// Shows what in the state folder uses how much of the disk
///
/// Bytes that several things use count for the first of them. RECLAIMABLE is what `prune --all` would free now: what has
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
        rows.push(row([kind.kind.to_string(), kind.items.to_string(), all, shared, reclaimable]));
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
            let (kind, id) = (item.kind.to_string(), item.id.clone());
            rows.push(row([kind, size(item.size), when(item.used), description, id]));
        }
        print(&format!("\n{}", table(&rows)))?;
    }
    Ok(())
}
