//! The attributes of a target whose items have fields: caches, outputs, attestations, secrets, keys, policies, limits.
//!
//! An item is written as a text such as `type=registry,ref=NAME`, or as an object.

use super::value::Value;
use crate::dockerfile::{COMMAS, csv_fields, csv_fields_with_secrets, is_secret_field, place_of_field};
use serde::Serialize;
use std::collections::BTreeMap;

/// Items with fields.
pub type Fields = BTreeMap<String, String>;

/// A secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// The id that steps ask for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The file with the secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// The environment variable with the secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub env: String,
}

/// An agent, or keys, for ssh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ssh {
    /// The id that steps ask for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The socket of the agent, or the files of keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

fn key_value(field: &str) -> Result<(&str, &str), String> {
    field.split_once('=').ok_or_else(|| format!("`{field}` has no value: expected KEY=VALUE"))
}

fn with_type(fields: Fields, text: &str) -> Result<Fields, String> {
    match fields.get("type").is_some_and(|kind| !kind.is_empty()) {
        true => Ok(fields),
        // A cache may have keys of an account in it.
        false if fields.keys().any(|key| is_secret_field(key)) => {
            Err(format!("the item with {} fields, one of them a secret, has no `type`", fields.len()))
        }
        false => Err(format!("`{text}` has no `type`")),
    }
}

/// Caches. A text without `=` is a list of images.
pub(super) fn caches(text: &str) -> Result<Vec<Fields>, String> {
    let fields = csv_fields_with_secrets(text)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if !text.contains('=') {
        let image = |name: String| {
            [("type".to_owned(), "registry".to_owned()), ("ref".to_owned(), name)].into_iter().collect()
        };
        return Ok(fields.into_iter().map(image).collect());
    }
    let mut cache = Fields::new();
    for (index, field) in fields.iter().enumerate() {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            format!("{} has no value: expected KEY=VALUE; {COMMAS}", place_of_field(&fields[..index], field))
        })?;
        cache.insert(key.to_lowercase(), value.to_owned());
    }
    Ok(vec![with_type(cache, text)?])
}

/// An output. A text alone is a folder, and `-` a tar archive on standard output.
pub(super) fn output(text: &str) -> Result<Fields, String> {
    let fields = csv_fields(text)?;
    let mut output = Fields::new();
    if fields.len() == 1 && fields[0] == text && !text.starts_with("type=") {
        let kind = if text == "-" { "tar" } else { "local" };
        output.insert("type".to_owned(), kind.to_owned());
        output.insert("dest".to_owned(), text.to_owned());
        return Ok(output);
    }
    for field in &fields {
        let (key, value) = key_value(field)?;
        output.insert(key.trim().to_lowercase(), value.to_owned());
    }
    with_type(output, text).map(without_empty_destination)
}

fn without_empty_destination(mut output: Fields) -> Fields {
    if output.get("dest").is_some_and(String::is_empty) {
        output.remove("dest");
    }
    output
}

/// An attestation.
pub(super) fn attestation(text: &str) -> Result<Fields, String> {
    let mut attestation = Fields::new();
    for field in csv_fields(text)? {
        let (key, value) = key_value(&field)?;
        match key.trim().to_lowercase().as_str() {
            "type" => attestation.insert("type".to_owned(), value.to_owned()),
            "disabled" => attestation.insert("disabled".to_owned(), value.to_owned()),
            _ => attestation.insert(key.to_owned(), value.to_owned()),
        };
    }
    normal_attestation(with_type(attestation, text)?)
}

/// With `disabled` only where it holds.
fn normal_attestation(mut attestation: Fields) -> Result<Fields, String> {
    if let Some(disabled) = attestation.remove("disabled")
        && bool(&disabled).ok_or_else(|| format!("`disabled={disabled}`: expected true or false"))?
    {
        attestation.insert("disabled".to_owned(), "true".to_owned());
    }
    Ok(attestation)
}

/// A secret.
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    let mut secret = Secret::default();
    let mut kind = None;
    for field in csv_fields(text)? {
        let (key, value) = key_value(&field)?;
        match key.to_lowercase().as_str() {
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            "id" => value.clone_into(&mut secret.id),
            "src" | "source" => value.clone_into(&mut secret.src),
            "env" => value.clone_into(&mut secret.env),
            _ => return Err(format!("`{field}` is not known: expected id=ID,src=FILE or id=ID,env=NAME")),
        }
    }
    if kind.as_deref() == Some("env") && secret.env.is_empty() {
        secret.env = std::mem::take(&mut secret.src);
    }
    Ok(secret)
}

/// An agent, or keys.
pub(super) fn ssh(text: &str) -> Ssh {
    let (id, paths) = text.split_once('=').map_or((text, None), |(id, paths)| (id, Some(paths)));
    let paths = paths.map(|paths| paths.split(',').map(str::to_owned).collect());
    Ssh { id: id.to_owned(), paths: paths.unwrap_or_default() }
}

/// A policy.
pub(super) fn policy(text: &str) -> Result<Fields, String> {
    let fields = csv_fields(text)?;
    let pairs = fields.iter().map(|field| key_value(field));
    let pairs: Vec<_> =
        pairs.map(|pair| pair.map(|(k, v)| (k.to_lowercase(), v.to_owned()))).collect::<Result<_, _>>()?;
    normal_policy(pairs.into_iter().collect())
}

fn normal_policy(fields: Fields) -> Result<Fields, String> {
    for (key, value) in &fields {
        let right = match key.as_str() {
            "filename" => !value.is_empty(),
            "reset" | "disabled" | "strict" => bool(value).is_some(),
            "log-level" => true,
            _ => false,
        };
        if !right {
            return Err(format!("`{key}={value}` is no part of a policy"));
        }
    }
    Ok(fields)
}

/// The limits of resources that a target may set, and whether each is a number.
pub(super) const RESOURCES: [(&str, bool); 7] = [
    ("memory", false),
    ("memory-swap", false),
    ("cpu-shares", true),
    ("cpu-period", true),
    ("cpu-quota", true),
    ("cpuset-cpus", false),
    ("cpuset-mems", false),
];

/// Checks a limit of resources.
pub(super) fn resource(key: &str, value: &str) -> Result<(), String> {
    match RESOURCES.iter().find(|(name, _)| *name == key) {
        None => Err(format!("`{key}` is not a limit of resources")),
        Some((_, true)) if value.parse::<i64>().is_err() => Err(format!("`{key}`: expected a number")),
        Some(_) => Ok(()),
    }
}

/// The truth that a text of a flag has.
pub(super) fn bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads the items of a list: a text or an object each. Empty texts and null do not count.
fn items<T>(
    list: &Value,
    of_text: impl Fn(&str) -> Result<Vec<T>, String>,
    of_fields: impl Fn(&BTreeMap<String, Value>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut all = Vec::new();
    for item in list.items()?.iter() {
        match item {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => all.extend(of_text(text)?),
            item => all.push(of_fields(item.entries()?)?),
        }
    }
    Ok(all)
}

/// The fields of an object; null does not count.
fn fields(entries: &BTreeMap<String, Value>) -> Result<Fields, String> {
    let present = entries.iter().filter(|(_, value)| !value.is_null());
    present.map(|(key, value)| Ok((key.clone(), value.to_text()?.to_string()))).collect()
}

fn typed(entries: &BTreeMap<String, Value>) -> Result<Fields, String> {
    with_type(fields(entries)?, "{…}")
}

/// Caches of a value.
pub(super) fn caches_of(value: &Value) -> Result<Vec<Fields>, String> {
    items(value, caches, typed)
}

/// Outputs of a value.
pub(super) fn outputs_of(value: &Value) -> Result<Vec<Fields>, String> {
    items(value, |text| Ok(vec![output(text)?]), |entries| Ok(without_empty_destination(typed(entries)?)))
}

/// Attestations of a value.
pub(super) fn attestations_of(value: &Value) -> Result<Vec<Fields>, String> {
    items(value, |text| Ok(vec![attestation(text)?]), |entries| normal_attestation(typed(entries)?))
}

/// Policies of a value.
pub(super) fn policies_of(value: &Value) -> Result<Vec<Fields>, String> {
    items(value, |text| Ok(vec![policy(text)?]), |entries| normal_policy(fields(entries)?))
}

/// Secrets of a value.
pub(super) fn secrets_of(value: &Value) -> Result<Vec<Secret>, String> {
    let of_fields = |entries: &BTreeMap<String, Value>| {
        let mut fields = fields(entries)?;
        let mut take = |key: &str| fields.remove(key).unwrap_or_default();
        Ok(Secret { id: take("id"), src: take("src"), env: take("env") })
    };
    items(value, |text| Ok(vec![secret(text)?]), of_fields)
}

/// Agents and keys of a value.
pub(super) fn ssh_of(value: &Value) -> Result<Vec<Ssh>, String> {
    let of_fields = |entries: &BTreeMap<String, Value>| {
        let present = |key: &str| entries.get(key).filter(|value| !value.is_null());
        let id = present("id").map(Value::to_text).transpose()?;
        let paths = match present("paths") {
            Some(paths) => paths.items()?.iter().map(|path| Ok(path.to_text()?.to_string())).collect(),
            None => Ok(Vec::new()),
        };
        Ok(Ssh { id: id.map(|id| id.to_string()).unwrap_or_default(), paths: paths.map_err(|e: String| e)? })
    };
    items(value, |text| Ok(vec![ssh(text)]), of_fields)
}

/// Limits of resources of a value.
pub(super) fn resources_of(value: &Value) -> Result<Fields, String> {
    let fields = fields(value.entries()?)?;
    fields.iter().try_for_each(|(key, value)| resource(key, value))?;
    Ok(fields)
}

/// Items with fields as a value that other attributes can refer to.
pub(super) fn to_value(items: &[Fields]) -> Value {
    let entry = |(key, value): (&String, &String)| (key.clone(), Value::string(value.as_str()));
    Value::list(items.iter().map(|item| Value::map(item.iter().map(entry).collect())).collect())
}

/// Removes items that are there twice. As in other programs that read these files, the last item takes the place of the one
/// that is removed.
pub(super) fn without_repeats<T: PartialEq>(items: &mut Vec<T>) {
    for index in (0..items.len().saturating_sub(1)).rev() {
        if let Some(other) = (index + 1..items.len()).find(|other| items[index] == items[*other]) {
            items.swap_remove(other);
        }
    }
}

/// Lets a later item with the same key take the place of an earlier one.
pub(super) fn last_by_key<T, K: PartialEq>(items: &mut Vec<T>, key: impl Fn(&T) -> &K) {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        match kept.iter().position(|other| key(other) == key(&item)) {
            Some(index) => kept[index] = item,
            None => kept.push(item),
        }
    }
    *items = kept;
}
