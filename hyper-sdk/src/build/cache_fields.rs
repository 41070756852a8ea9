//! The attributes of a cache that machines share, before they have a meaning.

use crate::dockerfile::{COMMAS, is_secret_field, parse_bool, place_of_field};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// The attributes of a cache as they were written.
pub(super) struct Fields {
    pub(super) kind: String,
    pub(super) values: BTreeMap<String, String>,
    /// The numbers of fields that may be parts of secrets, by their keys: those that follow one.
    pub(super) unshown: BTreeMap<String, usize>,
}

impl Fields {
    /// Reads `KEY=VALUE` fields, one of which is the type.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for another form, a key that is given twice, and without a type.
    pub(super) fn read(fields: &[String]) -> Result<Self> {
        let (mut values, mut unshown) = (BTreeMap::new(), BTreeMap::new());
        let mut is_after_secret = false;
        for (index, field) in fields.iter().enumerate() {
            let Some((key, value)) = field.split_once('=') else {
                let place = place_of_field(&fields[..index], field);
                return Err(Error::invalid(format!("{place} is not KEY=VALUE: {COMMAS}")));
            };
            let key = key.trim().to_ascii_lowercase();
            if is_after_secret {
                unshown.insert(key.clone(), index + 1);
            }
            is_after_secret |= is_secret_field(&key);
            if values.insert(key.clone(), value.to_owned()).is_some() {
                return Err(Error::invalid(match unshown.get(&key) {
                    Some(number) => format!("the key of field {number} is given twice: {COMMAS}"),
                    None => format!("`{key}` is given twice"),
                }));
            }
        }
        match values.remove("type") {
            Some(kind) => Ok(Self { kind, values, unshown }),
            None => Err(Error::invalid("`type` is missing: registry, local or s3")),
        }
    }

    /// Refuses attributes that the type does not take. `others` have a meaning for the `other` kind.
    pub(super) fn check(&self, known: &[&[&str]], others: &[&str], other: &str) -> Result<()> {
        let is_known = |key: &str| known.iter().any(|some| some.contains(&key));
        let Some((key, value)) = self.values.iter().find(|(key, _)| !is_known(key)) else { return Ok(()) };
        let kind = &self.kind;
        if others.contains(&key.as_str()) {
            return Err(Error::invalid(format!("`{key}` is for {other}")));
        }
        let known: Vec<&str> = known.concat();
        let hint = match known.is_empty() {
            true => "it takes none".to_owned(),
            false => format!("known are {}", known.join(", ")),
        };
        if let Some(number) = self.unshown.get(key) {
            return Err(Error::invalid(format!(
                "the key of field {number} is not an attribute of type={kind}: {hint}; {COMMAS}"
            )));
        }
        // A key that is misspelt may have a secret all the same.
        let shown = match ["key", "secret", "token", "pass"].iter().any(|part| key.contains(part)) {
            true => key.clone(),
            false => format!("{key}={value}"),
        };
        Err(Error::invalid(format!("`{shown}` is not an attribute of type={kind}: {hint}")))
    }

    /// A value that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// A value that the type cannot do without.
    pub(super) fn needed(&self, key: &str, what: &str) -> Result<&str> {
        self.text(key).ok_or_else(|| Error::invalid(format!("type={} needs {key}={what}", self.kind)))
    }

    /// A value that is true or false.
    pub(super) fn switch(&self, key: &str) -> Result<Option<bool>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(text) => parse_bool(text)
                .map(Some)
                .ok_or_else(|| Error::invalid(format!("`{key}` is true or false, not `{text}`"))),
        }
    }
}
