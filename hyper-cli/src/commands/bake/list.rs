//! `hyperbuild bake --list`.

use crate::args::Format;
use crate::failure::Failure;
use crate::terminal::{self, print_json, table};
use hyper_sdk::bake::BakeConfig;
use hyper_sdk::dockerfile::csv_fields;
use serde_json::{Map, Value};

/// Prints the targets or the variables of the files. `what` is `targets`, `variables`, or `type=WHAT,format=table|json`.
pub(super) fn print(what: &str, config: &BakeConfig, format: Format) -> Result<(), Failure> {
    let wrong = |why: &str| Failure::usage(format!("--list `{what}`: {why}"));
    let (mut kind, mut is_json) = (what.to_owned(), format == Format::Json);
    if what.contains('=') {
        kind.clear();
        for field in csv_fields(what).map_err(|why| wrong(&why))? {
            match field.split_once('=') {
                Some(("type", value)) => value.clone_into(&mut kind),
                Some(("format", "json")) => is_json = true,
                Some(("format", "table")) => is_json = false,
                _ => return Err(wrong("expected type=targets|variables and format=table|json")),
            }
        }
    }
    match kind.as_str() {
        "targets" => targets(config, is_json),
        "variables" => variables(config, is_json),
        _ => Err(wrong("expected targets or variables")),
    }
}

fn show(rows: Vec<Vec<String>>) -> Result<(), Failure> {
    Ok(terminal::print(&table(&rows))?)
}

fn targets(config: &BakeConfig, is_json: bool) -> Result<(), Failure> {
    let mut all: Vec<(&str, String, bool)> = Vec::new();
    for target in config.targets() {
        let description = target.description.clone().unwrap_or_default();
        all.push((&target.name, description, false));
    }
    for group in config.groups() {
        let mut members = group.targets.clone();
        members.sort();
        let members = members.join(", ");
        let shown = match group.description.as_str() {
            "" => members,
            description => format!("{description} ({members})"),
        };
        all.push((&group.name, shown, true));
    }
    // A name that begins with `_` is private.
    all.retain(|(name, ..)| !name.starts_with('_'));
    all.sort();
    if is_json {
        let one = |(name, description, is_group): &(&str, String, bool)| {
            let mut fields = Map::from_iter([("name".to_owned(), Value::from(*name))]);
            if !description.is_empty() {
                fields.insert("description".to_owned(), description.as_str().into());
            }
            if *is_group {
                fields.insert("group".to_owned(), true.into());
            }
            Value::Object(fields)
        };
        return Ok(print_json(&all.iter().map(one).collect::<Vec<_>>())?);
    }
    let header = vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()];
    let rows = all.into_iter().map(|(name, shown, _)| vec![name.to_owned(), shown]);
    show(std::iter::once(header).chain(rows).collect())
}

fn variables(config: &BakeConfig, is_json: bool) -> Result<(), Failure> {
    if is_json {
        return Ok(print_json(&config.variables())?);
    }
    let header = ["VARIABLE", "TYPE", "VALUE", "DESCRIPTION"].map(str::to_owned).to_vec();
    let rows = config.variables().iter().map(|variable| {
        let value = variable.value.clone().unwrap_or_else(|| "<null>".to_owned());
        vec![variable.name.clone(), variable.kind.clone(), value, variable.description.clone()]
    });
    show(std::iter::once(header).chain(rows).collect())
}
