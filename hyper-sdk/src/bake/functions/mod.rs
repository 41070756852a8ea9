//! The standard library of the language.

mod collections;
mod encodings;
mod format;
mod hashes;
mod networks;
mod numbers;
mod patterns;
mod sets;
mod strings;
mod times;
mod versions;

use super::budget::Budget;
use super::fault::{Fault, Outcome};
use super::number::Number;
use super::value::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What functions know about the world.
#[derive(Clone, Copy)]
pub(super) struct World<'a> {
    /// The home folder of the user.
    pub(super) home: Option<&'a str>,
    /// The time, in seconds since 1970.
    pub(super) now: i64,
    /// Makes random numbers.
    pub(super) random: &'a (dyn Fn() -> u128 + Sync),
}

/// A function of the standard library.
type Function = fn(&Arguments<'_>) -> Outcome<Value>;

/// The functions of a file of this folder, by name.
type Table = &'static [(&'static str, Function)];

const TABLES: &[Table] = &[
    collections::TABLE,
    encodings::TABLE,
    format::TABLE,
    hashes::TABLE,
    networks::TABLE,
    numbers::TABLE,
    patterns::TABLE,
    sets::TABLE,
    strings::TABLE,
    times::TABLE,
    versions::TABLE,
];

/// Functions that others know and that are not supported.
const UNSUPPORTED: &[&str] = &["bcrypt", "bytesslice", "rsadecrypt"];

/// Functions that the evaluation itself knows, because they see expressions.
const LAZY: &[&str] = &["can", "convert", "try"];

/// Whether there is a function of the name in the standard library.
pub(super) fn exists(name: &str) -> bool {
    find(name).is_some() || UNSUPPORTED.contains(&name) || LAZY.contains(&name)
}

fn find(name: &str) -> Option<Function> {
    TABLES.iter().copied().flatten().find(|(own, _)| *own == name).map(|(_, function)| *function)
}

/// Calls a function.
pub(super) fn call(name: &str, values: &[Value], world: &World<'_>, budget: &Budget) -> Outcome<Value> {
    if UNSUPPORTED.contains(&name) {
        return Err(Fault::unsupported("this function is not supported"));
    }
    let Some(function) = find(name) else {
        if LAZY.contains(&name) {
            return Err(Fault::new("the number of arguments is wrong"));
        }
        let names = TABLES.iter().copied().flatten().map(|(name, _)| *name);
        let fault = Fault::new("there is no function of this name");
        return Err(match crate::dockerfile::suggestion(name, names) {
            Some(other) => fault.with_help(format!("did you mean `{other}`?")),
            None => fault,
        });
    };
    budget.step()?;
    function(&Arguments { values, world, budget })
}

/// The arguments of a call.
pub(super) struct Arguments<'a> {
    values: &'a [Value],
    world: &'a World<'a>,
    budget: &'a Budget,
}

impl Arguments<'_> {
    /// Fails unless the number of arguments is in a range.
    fn count(&self, least: usize, most: usize) -> Outcome<()> {
        match self.values.len() {
            n if n < least || n > most => {
                let expected = match (least, most) {
                    (least, most) if least == most => least.to_string(),
                    (least, usize::MAX) => format!("at least {least}"),
                    (least, most) => format!("{least} to {most}"),
                };
                Err(format!("expected {expected} arguments, found {n}").into())
            }
            _ => Ok(()),
        }
    }

    fn exactly(&self, count: usize) -> Outcome<()> {
        self.count(count, count)
    }

    fn get(&self, index: usize) -> Outcome<&Value> {
        self.values.get(index).ok_or_else(|| format!("argument {} is missing", index + 1).into())
    }

    /// An argument that is not null.
    fn value(&self, index: usize) -> Outcome<&Value> {
        match self.get(index)? {
            Value::Null => Err(format!("argument {} is null", index + 1).into()),
            value => Ok(value),
        }
    }

    fn about<T>(index: usize, result: Result<T, String>) -> Outcome<T> {
        result.map_err(|why| format!("argument {}: {why}", index + 1).into())
    }

    fn text(&self, index: usize) -> Outcome<Arc<str>> {
        Self::about(index, self.get(index)?.to_text())
    }

    fn number(&self, index: usize) -> Outcome<Number> {
        Self::about(index, self.get(index)?.to_number())
    }

    fn whole(&self, index: usize) -> Outcome<i128> {
        let number = self.number(index)?.as_whole().ok_or_else(|| "expected a whole number".to_owned());
        Self::about(index, number)
    }

    /// A whole number from 0.
    fn size(&self, index: usize) -> Outcome<usize> {
        let number = usize::try_from(self.whole(index)?);
        Self::about(index, number.map_err(|_| "expected a number from 0".to_owned()))
    }

    fn bool(&self, index: usize) -> Outcome<bool> {
        Self::about(index, self.get(index)?.to_bool())
    }

    fn items(&self, index: usize) -> Outcome<&Arc<Vec<Value>>> {
        Self::about(index, self.get(index)?.items())
    }

    fn entries(&self, index: usize) -> Outcome<&Arc<BTreeMap<String, Value>>> {
        Self::about(index, self.get(index)?.entries())
    }

    /// The texts of a list.
    fn texts(&self, index: usize) -> Outcome<Vec<Arc<str>>> {
        let texts = self.items(index)?.iter().map(Value::to_text).collect();
        Self::about(index, texts)
    }

    /// Pays for a result before it is made.
    fn spend(&self, bytes: usize) -> Outcome<()> {
        self.budget.spend(bytes)
    }
}

#[cfg(test)]
mod tests;
