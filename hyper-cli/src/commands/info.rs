//! `hyperbuild info`.

use super::build::IsolationMode;
use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json};
use clap::Args;
use hyper_sdk::sandbox::Rung;
use hyper_sdk::session::Session;
use serde_json::json;
use std::fmt::Write as _;

/// Shows how builds work on this machine: owners, snapshots, the isolation of steps, and why nothing better is used
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// Isolation of RUN steps, as for `build`
    #[arg(long, value_enum, value_name = "MODE", default_value_t = IsolationMode::Default)]
    isolation: IsolationMode,
}

pub(crate) async fn run(args: InfoArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let builder = session.local_builder().await?;
    let rungs = builder.describe(args.isolation.into()).await?;
    let (version, root) = (env!("CARGO_PKG_VERSION"), session.path());
    match console.format {
        Format::Json => print_json(&json!({
            "version": version,
            "root": root,
            "parts": rungs,
        }))?,
        Format::Text | Format::Sarif => {
            let mut out =
                format!("{:<18} {version}\n{:<18} {}\n", "version:", "state folder:", root.display());
            for rung in &rungs {
                out.push_str(&text(rung));
            }
            print(&out)?;
        }
    }
    Ok(())
}

/// A part for people: what is used, and below it why nothing better is.
fn text(rung: &Rung) -> String {
    let mut out = format!("{:<18} {}\n", format!("{}:", rung.part), rung.used);
    for reason in &rung.reasons {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<18} because {reason}", "");
    }
    out
}
