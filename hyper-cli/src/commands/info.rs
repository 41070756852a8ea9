//! `hyperbuild info`.

use super::build::IsolationMode;
use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::session;
use crate::terminal::{print, print_json};
use clap::Args;
use hyper_sdk::exec::OciRuntime;
use hyper_sdk::sandbox::Rung;
use hyper_sdk::session::Session;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;
use std::path::PathBuf;

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
    let executors = executors().await;
    let (version, root) = (env!("CARGO_PKG_VERSION"), session.path());
    match console.format {
        Format::Json => print_json(&json!({
            "version": version,
            "root": root,
            "parts": rungs,
            "executors": executors,
        }))?,
        Format::Text | Format::Sarif => {
            let mut out =
                format!("{:<18} {version}\n{:<18} {}\n", "version:", "state folder:", root.display());
            for rung in &rungs {
                out.push_str(&text(rung));
            }
            for executor in &executors {
                let Executor { name, version, path, error } = executor;
                let what = match (version, path, error) {
                    (Some(version), Some(path), _) => format!("{version} ({})", path.display()),
                    (_, _, Some(error)) => format!("{name}: {error}"),
                    _ => name.clone(),
                };
                out.push_str(&format!("{:<18} {what}\n", "executor:"));
            }
            print(&out)?;
        }
    }
    Ok(())
}

/// What can make the containers of steps here.
#[derive(Serialize)]
struct Executor {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The executors that `--executor` knows by name and that this machine has.
async fn executors() -> Vec<Executor> {
    let mut all = vec![Executor { name: "native".to_owned(), version: None, path: None, error: None }];
    for name in ["runc", "crun"] {
        let Some(path) = session::find_runtime(name) else { continue };
        let (version, error) = match OciRuntime::version_of(&path).await {
            Ok(version) => (Some(version), None),
            Err(error) => (None, Some(error.message().to_owned())),
        };
        all.push(Executor { name: name.to_owned(), version, path: Some(path), error });
    }
    all
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
