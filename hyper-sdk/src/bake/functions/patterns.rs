//! Functions of regular expressions. Their time is linear in the text.

use super::{Arguments, Outcome, Table, Value};
use regex::{Captures, Regex, RegexBuilder};

pub(super) const TABLE: Table = &[
    ("regex", |a| {
        a.exactly(2)?;
        let (pattern, text) = (compile(a)?, a.text(1)?);
        let found = pattern.captures(&text).ok_or("the pattern matches no part of the text")?;
        Ok(result(&pattern, &found))
    }),
    ("regex_replace", |a| {
        a.exactly(3)?;
        let pattern = compile_text(&a.text(1)?)?;
        let (text, to) = (a.text(0)?, a.text(2)?);
        a.spend(to.len().saturating_mul(pattern.find_iter(&text).count()))?;
        let result = pattern.replace_all(&text, &*to).into_owned();
        a.spend(result.len())?;
        Ok(Value::string(result))
    }),
    ("regexall", |a| {
        a.exactly(2)?;
        let (pattern, text) = (compile(a)?, a.text(1)?);
        let mut all = Vec::new();
        for found in pattern.captures_iter(&text) {
            a.spend(64 * found.len())?;
            all.push(result(&pattern, &found));
        }
        Ok(Value::list(all))
    }),
];

fn compile(a: &Arguments<'_>) -> Outcome<Regex> {
    compile_text(&a.text(0)?)
}

fn compile_text(pattern: &str) -> Outcome<Regex> {
    let built = RegexBuilder::new(pattern).size_limit(1 << 20).dfa_size_limit(1 << 20).build();
    built.map_err(|e| format!("the pattern is wrong: {e}").into())
}

/// The whole match without groups, a list of the groups, or an object of the named groups.
fn result(pattern: &Regex, found: &Captures<'_>) -> Value {
    let text = |group: Option<regex::Match<'_>>| group.map_or(Value::Null, |m| Value::string(m.as_str()));
    let names: Vec<Option<&str>> = pattern.capture_names().skip(1).collect();
    if names.is_empty() {
        return text(found.get(0));
    }
    if names.iter().any(Option::is_some) {
        let groups = names.into_iter().flatten().map(|name| (name.to_owned(), text(found.name(name))));
        return Value::object(groups.collect());
    }
    Value::tuple((1..found.len()).map(|group| text(found.get(group))).collect())
}
