//! `hyperbuild build --dry-run`: the plan of a build.

use crate::args::Format;
use crate::terminal::{print, print_json, table};
use hyper_sdk::Result;
use hyper_sdk::build::BuildPlan;
use hyper_sdk::solve::StepState;

/// Prints a plan.
pub(super) fn report(plan: &BuildPlan, format: Format) -> Result<()> {
    match format {
        Format::Json => print_json(plan),
        Format::Text | Format::Sarif => print(&text(plan)),
    }
}

fn text(plan: &BuildPlan) -> String {
    let shown = |state: StepState| match state {
        StepState::Source => "source",
        StepState::Fetch => "fetch",
        StepState::Cached => "cached",
        StepState::Run => "run",
        StepState::Open => "open",
    };
    let mut rows = vec![["STATE", "KEY", "STEP"].map(str::to_owned).to_vec()];
    for step in &plan.steps {
        let key = step.keys.first().map_or_else(|| "-".to_owned(), |key| key.short().to_owned());
        let name = step.name.lines().next().unwrap_or_default().to_owned();
        rows.push(vec![shown(step.state).to_owned(), key, name]);
    }
    let count = |state: StepState| plan.steps.iter().filter(|step| step.state == state).count();
    let (cached, run, open) = (count(StepState::Cached), count(StepState::Run), count(StepState::Open));
    let mut text = table(&rows);
    text.push_str(&format!("{cached} cached, {run} to run, {open} that depend on these\n"));
    for name in &plan.names {
        text.push_str(&format!("name: {name}\n"));
    }
    text
}
