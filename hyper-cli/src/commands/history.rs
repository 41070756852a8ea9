//! `hyperbuild history`.

use crate::args::Format;
use crate::console::Console;
use crate::failure::Failure;
use crate::terminal::{duration, print, print_json, print_line, table};
use clap::{Args, Subcommand};
use hyper_sdk::clock::rfc3339;
use hyper_sdk::session::{BuildRecord, History, RecordOutcome, Session};
use hyper_sdk::{Error, ErrorKind};
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::time::Duration;

/// Shows the builds of this state folder: their steps, times, results and logs
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the builds, the newest first
    Ls,
    /// Shows a build: its steps with their times, its result, its error
    Inspect(Chosen),
    /// Prints the log of a build: what its steps wrote, whole
    Logs {
        #[command(flatten)]
        chosen: Chosen,
        /// Prints the lines of this step alone, by its number in `inspect`
        #[arg(long, value_name = "NUMBER")]
        step: Option<u64>,
    },
    /// Removes records of builds, with their logs
    Rm {
        /// The builds, by their ids or the beginnings of them
        #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// Removes all records, but for those of builds that run
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
struct Chosen {
    /// The build, by its id or the beginning of it; the newest without
    #[arg(value_name = "ID")]
    id: Option<String>,
}

pub(crate) fn run(args: HistoryArgs, session: &Session, console: &Console) -> Result<(), Failure> {
    let history = session.history()?;
    match args.action {
        Action::Ls => list(&history, console),
        Action::Inspect(chosen) => {
            let record = get(&history, chosen.id.as_deref())?;
            match console.format {
                Format::Json => print_json(&record)?,
                Format::Text | Format::Sarif => print(&text(&record))?,
            }
            Ok(())
        }
        Action::Logs { chosen, step } => logs(&history, &get(&history, chosen.id.as_deref())?, step),
        Action::Rm { ids, all } => {
            let mut records = Vec::new();
            for id in &ids {
                match history.get(Some(id)) {
                    Ok(record) => records.push(record),
                    // Its record may be gone before what says why its steps ran.
                    Err(e) if e.kind() == ErrorKind::NotFound && remove_stray(&history, Some(id))? => {}
                    Err(e) => return Err(with_hint(e)),
                }
            }
            if all {
                records = history.list()?;
                records.retain(|record| record.outcome != RecordOutcome::Running);
            }
            for record in records {
                history.remove(&record)?;
                print_line(&record.id)?;
            }
            if all {
                remove_stray(&history, None)?;
            }
            Ok(())
        }
    }
}

/// Removes what builds without a record have left, and says whether there were any.
fn remove_stray(history: &History, id: Option<&str>) -> Result<bool, Failure> {
    let removed = history.remove_stray(id)?;
    for id in &removed {
        print_line(id)?;
    }
    Ok(!removed.is_empty())
}

fn get(history: &History, id: Option<&str>) -> Result<BuildRecord, Failure> {
    history.get(id).map_err(with_hint)
}

/// The error of looking for a record.
fn with_hint(error: Error) -> Failure {
    let is_missing = error.kind() == ErrorKind::NotFound;
    let failure = Failure::from(error);
    match is_missing {
        true => failure.with_hint(format!("`{} history ls` lists them", crate::program::name())),
        false => failure,
    }
}

fn list(history: &History, console: &Console) -> Result<(), Failure> {
    let records = history.list()?;
    if console.format == Format::Json {
        return Ok(print_json(&records)?);
    }
    if console.quiet {
        return Ok(print(&records.iter().map(|record| format!("{}\n", record.id)).collect::<String>())?);
    }
    let mut rows = vec![["ID", "NAME", "STATUS", "BEGAN", "TOOK"].map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(|record| {
        let cells =
            [&record.id, &record.name, outcome(record.outcome), &began(record), &took(record.milliseconds)];
        cells.map(str::to_owned).to_vec()
    }));
    Ok(print(&table(&rows))?)
}

/// The word for an outcome.
fn outcome(outcome: RecordOutcome) -> &'static str {
    match outcome {
        RecordOutcome::Running => "running",
        RecordOutcome::Done => "done",
        RecordOutcome::Cached => "cached",
        RecordOutcome::Failed => "failed",
        RecordOutcome::Cancelled => "cancelled",
        RecordOutcome::Interrupted => "interrupted",
    }
}

fn began(record: &BuildRecord) -> String {
    rfc3339((record.started / 1_000_000) as i64)
}

fn took(milliseconds: Option<u64>) -> String {
    milliseconds.map_or_else(|| "-".to_owned(), |ms| duration(Duration::from_millis(ms)))
}

/// A record for people.
fn text(record: &BuildRecord) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{label:<12} {value}");
        }
    };
    line("Id:", &record.id);
    line("Name:", &record.name);
    line("Status:", outcome(record.outcome));
    line("Began:", &began(record));
    line("Took:", &took(record.milliseconds));
    line("Context:", &record.context);
    line("Dockerfile:", &record.dockerfile);
    line("Target:", record.target.as_deref().unwrap_or_default());
    line("Platform:", record.platform.as_deref().unwrap_or_default());
    line("Arguments:", &record.build_args.join(" "));
    line("Image:", record.image.as_ref().map(|digest| digest.as_str()).unwrap_or_default());
    for name in &record.names {
        line("Names:", name);
    }
    for output in &record.outputs {
        line("Output:", output);
    }
    for warning in &record.warnings {
        line("Warning:", warning);
    }
    line("Error:", record.error.as_deref().unwrap_or_default());
    let mut rows = vec![["STEP", "STATUS", "TOOK", "NAME"].map(str::to_owned).to_vec()];
    rows.extend(record.steps.iter().map(|step| {
        let name = step.name.lines().next().unwrap_or_default();
        let cells = [&step.number.to_string(), outcome(step.outcome), &took(step.milliseconds), name];
        cells.map(str::to_owned).to_vec()
    }));
    if rows.len() > 1 {
        out.push('\n');
        out.push_str(&table(&rows));
    }
    out
}

/// Prints the log, or the lines of a step.
fn logs(history: &History, record: &BuildRecord, step: Option<u64>) -> Result<(), Failure> {
    let path = history.log(record).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("the log of the build `{}` was removed", record.id))
    })?;
    let mut log =
        BufReader::new(std::fs::File::open(&path).map_err(|e| Error::io("cannot read the log", &path, e))?);
    let mut out = io::stdout().lock();
    let own = step.map(|number| format!("#{number} "));
    let mut line = Vec::new();
    let written = loop {
        line.clear();
        match log.read_until(b'\n', &mut line) {
            Ok(0) => break out.flush(),
            Ok(_) => {}
            Err(e) => return Err(Error::io("cannot read the log", &path, e).into()),
        }
        if own.as_ref().is_none_or(|own| line.starts_with(own.as_bytes()))
            && let Err(e) = out.write_all(&line)
        {
            break Err(e);
        }
    };
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::from(e).into()),
        _ => Ok(()),
    }
}
