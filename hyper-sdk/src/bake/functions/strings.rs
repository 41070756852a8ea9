//! Functions of texts.

use super::{Arguments, Outcome, Table, Value};
use std::sync::Arc;

pub(super) const TABLE: Table = &[
    ("basename", |a| one(a, |text| base_name(text).to_owned())),
    ("byteslen", |a| a.exactly(1).and_then(|()| Ok(Value::count(a.text(0)?.len())))),
    ("chomp", |a| one(a, |text| text.trim_end_matches(['\r', '\n']).to_owned())),
    ("dirname", |a| one(a, dir_name)),
    ("homedir", |a| {
        a.exactly(0)?;
        Ok(Value::string(a.world.home.ok_or("there is no home folder")?))
    }),
    ("indent", indent),
    ("join", join),
    ("lower", |a| one(a, str::to_lowercase)),
    ("replace", replace),
    ("reverse", |a| one(a, |text| text.chars().rev().collect())),
    ("sanitize", |a| one(a, sanitize)),
    ("split", split),
    ("strlen", |a| a.exactly(1).and_then(|()| Ok(Value::count(a.text(0)?.chars().count())))),
    ("substr", substring),
    ("title", |a| one(a, title)),
    ("trim", |a| two(a, |text, set| text.trim_matches(|c| set.contains(c)).to_owned())),
    ("trimprefix", |a| two(a, |text, part| text.strip_prefix(part).unwrap_or(text).to_owned())),
    ("trimspace", |a| one(a, |text| text.trim().to_owned())),
    ("trimsuffix", |a| two(a, |text, part| text.strip_suffix(part).unwrap_or(text).to_owned())),
    ("upper", |a| one(a, str::to_uppercase)),
];

fn one(a: &Arguments<'_>, f: impl Fn(&str) -> String) -> Outcome<Value> {
    a.exactly(1)?;
    Ok(Value::string(f(&a.text(0)?)))
}

fn two(a: &Arguments<'_>, f: impl Fn(&str, &str) -> String) -> Outcome<Value> {
    a.exactly(2)?;
    Ok(Value::string(f(&a.text(0)?, &a.text(1)?)))
}

/// The last part of a path.
fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// A path without its last part, in its shortest form.
fn dir_name(path: &str) -> String {
    let folder = path.rfind('/').map_or("", |at| &path[..=at]);
    super::super::paths::clean(folder)
}

/// Only characters that names of targets may have.
fn sanitize(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

fn title(text: &str) -> String {
    let mut previous = ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let starts = !(previous.is_alphanumeric() || previous == '_');
        previous = c;
        if starts {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

fn indent(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let (spaces, text) = (a.size(0)?, a.text(1)?);
    a.spend(spaces.saturating_mul(text.matches('\n').count()))?;
    Ok(Value::string(text.replace('\n', &format!("\n{}", " ".repeat(spaces)))))
}

fn join(a: &Arguments<'_>) -> Outcome<Value> {
    a.count(2, usize::MAX)?;
    let separator = a.text(0)?;
    let mut all: Vec<Arc<str>> = Vec::new();
    for index in 1..a.values.len() {
        all.extend(a.texts(index)?);
    }
    a.spend(separator.len().saturating_mul(all.len()))?;
    Ok(Value::string(all.join(&*separator)))
}

fn replace(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(3)?;
    let (text, from, to) = (a.text(0)?, a.text(1)?, a.text(2)?);
    a.spend(to.len().saturating_mul(text.matches(&*from).count()))?;
    Ok(Value::string(text.replace(&*from, &to)))
}

fn split(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(2)?;
    let (separator, text) = (a.text(0)?, a.text(1)?);
    a.spend(32 * text.len())?;
    let parts = match &*separator {
        "" => text.chars().map(|c| Value::string(c.to_string())).collect(),
        separator => text.split(separator).map(Value::string).collect(),
    };
    Ok(Value::list(parts))
}

fn substring(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(3)?;
    let (text, offset, length) = (a.text(0)?, a.whole(1)?, a.whole(2)?);
    let characters: Vec<char> = text.chars().collect();
    let count = characters.len() as i128;
    let start = if offset < 0 { (count + offset).max(0) } else { offset.min(count) };
    let end = if length < 0 { count } else { start.saturating_add(length).min(count) };
    let index = |at: i128| usize::try_from(at).unwrap_or_default();
    Ok(Value::string(characters[index(start)..index(end)].iter().collect::<String>()))
}
