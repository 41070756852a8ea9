//! `hyperbuild why`.

use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{print, print_json};
use clap::Args;
use hyper_sdk::ErrorKind;
use hyper_sdk::session::{Reason, RecordOutcome, Session, StepWhy, Why};
use std::fmt::Write as _;

/// Shows why steps of a build ran instead of coming from the cache
///
/// Each step that ran is compared with its result in the newest earlier build of the same context, Dockerfile and target: which
/// argument, variable, file, input or base image changed. Values are never kept, so that none is shown.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The step: its number, STAGE:NUMBER, or the beginning of its instruction; all steps without
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// The build, by its id or the beginning of it; the newest that has ended without
    #[arg(long, value_name = "ID")]
    build: Option<String>,
}

pub(crate) fn run(args: &WhyArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let mut why = session.why(args.build.as_deref()).map_err(|error| {
        let is_missing = error.kind() == ErrorKind::NotFound;
        let failure = Failure::from(error);
        match is_missing {
            true => failure.with_hint(format!("`{} history ls` lists the builds", crate::program::name())),
            false => failure,
        }
    })?;
    if let Some(step) = &args.step {
        why.steps = vec![why.step(step)?.clone()];
    }
    match console.format {
        Format::Json => print_json(&why)?,
        Format::Text | Format::Sarif => print(&text(&why))?,
    }
    Ok(())
}

/// The answer for people.
fn text(why: &Why) -> String {
    let mut out = String::new();
    let state = match why.outcome {
        RecordOutcome::Running => ", which is running: the other steps have not ended",
        RecordOutcome::Interrupted => ", which was interrupted: how the other steps ended is not recorded",
        RecordOutcome::Failed => ", which failed",
        RecordOutcome::Cancelled => ", which was cancelled",
        RecordOutcome::Done | RecordOutcome::Cached => "",
    };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "build {} of {}{state}", why.build, why.name);
    for step in &why.steps {
        let _ = writeln!(out, "{}", step.name.lines().next().unwrap_or_default());
        for line in lines(step) {
            let _ = writeln!(out, "  {line}");
        }
    }
    if why.steps.is_empty() {
        out.push_str("no step is recorded\n");
    }
    out
}

fn lines(step: &StepWhy) -> Vec<String> {
    let word = match step.outcome {
        RecordOutcome::Done => "ran",
        RecordOutcome::Failed => "failed",
        RecordOutcome::Cached => {
            return vec![match &step.origin {
                Some(origin) => format!("cached: the build {} made its result", origin.build),
                None => "cached".to_owned(),
            }];
        }
        RecordOutcome::Running | RecordOutcome::Cancelled | RecordOutcome::Interrupted => {
            return vec!["did not come to its end".to_owned()];
        }
    };
    let line = |reason: &Reason| match reason {
        Reason::NoCache => format!("{word}: the build was made with --no-cache"),
        Reason::NoCacheFilter => format!("{word}: its stage was built with --no-cache-filter"),
        reason => format!("{word}: {reason}"),
    };
    step.reasons.iter().map(line).collect()
}
