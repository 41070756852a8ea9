//! `--set TARGET.KEY=VALUE`: what a caller changes in the targets whose names match.

use super::entries::{self, Fields};
use super::fault::{Fault, Outcome};
use super::paths;
use super::target::Target;
use std::collections::BTreeMap;

/// A change of an attribute.
#[derive(Clone, Debug, Default)]
struct Change {
    value: String,
    values: Vec<String>,
    append: bool,
}

/// The changes of each target, by attribute.
#[derive(Debug, Default)]
pub(super) struct Overrides(BTreeMap<String, BTreeMap<String, Change>>);

/// The attributes that are lists.
const LISTS: &[&str] = &[
    "output",
    "cache-to",
    "cache-from",
    "tags",
    "platform",
    "secrets",
    "ssh",
    "attest",
    "entitlements",
    "annotations",
    "policy",
    "no-cache-filter",
    "ulimits",
];

/// The attributes that have entries: `KEY.NAME`.
const NAMED: &[&str] = &["args", "contexts", "labels", "extra-hosts", "secret", "resources"];

/// The other attributes.
const SINGLE: &[&str] =
    &["context", "dockerfile", "target", "call", "no-cache", "shm-size", "network", "pull", "push", "load"];

impl Overrides {
    /// Reads the changes. `variable` is the environment, for `args.NAME` without a value.
    pub(super) fn parse(
        texts: &[String],
        targets: &[Target],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Outcome<Self> {
        let mut all = Self::default();
        for text in texts {
            all.add(text, targets, variable).map_err(|fault| {
                // Its value may be a secret.
                let key = text.split('=').next().unwrap_or_default();
                let message = format!("the change of `{key}`: {}", fault.message);
                Fault { message, ..fault }
            })?;
        }
        Ok(all)
    }

    fn add(
        &mut self,
        text: &str,
        targets: &[Target],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Outcome<()> {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        let (key, append) = key.strip_suffix('+').map_or((key, false), |key| (key, true));
        let (pattern, key) = key.split_once('.').ok_or("expected TARGET.KEY=VALUE")?;
        let (attribute, name) = key.split_once('.').map_or((key, None), |(key, name)| (key, Some(name)));
        let is_list = LISTS.contains(&attribute);
        if NAMED.contains(&attribute) != name.is_some() || name == Some("") {
            if NAMED.contains(&attribute) {
                return Err(format!("`{attribute}` needs a name: TARGET.{attribute}.NAME=VALUE").into());
            }
            return Err(unknown(key));
        }
        if !is_list && !NAMED.contains(&attribute) && !SINGLE.contains(&attribute) {
            return Err(unknown(attribute));
        }
        if append && !is_list {
            return Err(format!("`{attribute}` is no list, and nothing can be appended to it").into());
        }
        // A wrong pattern is an error also where there is nothing to set.
        let matching = expand(pattern, targets)?;
        let value = match (value, attribute, name) {
            (Some(value), ..) => value.to_owned(),
            (None, "args", Some(name)) => match variable(name) {
                Some(value) => value,
                None => return Ok(()),
            },
            _ => return Err("expected TARGET.KEY=VALUE".into()),
        };
        for target in matching {
            let change = self.0.entry(target).or_default().entry(key.to_owned()).or_default();
            if is_list {
                change.append = append;
                change.values.push(value.clone());
            } else {
                change.value.clone_from(&value);
            }
        }
        Ok(())
    }

    /// Changes a target.
    pub(super) fn apply(&self, target: &mut Target) -> Outcome<()> {
        let Some(changes) = self.0.get(&target.name) else { return Ok(()) };
        // What changes outputs goes last.
        let is_last = |key: &str| matches!(key, "push" | "load" | "secret");
        let word = |key: &String| key.split('.').next().unwrap_or_default().to_owned();
        let (last, first): (Vec<_>, Vec<_>) = changes.iter().partition(|(key, _)| is_last(&word(key)));
        for (key, change) in first.into_iter().chain(last) {
            apply(target, key, change).map_err(|fault| {
                let message = format!("the change of `{}.{key}`: {}", target.name, fault.message);
                Fault { message, ..fault }
            })?;
        }
        Ok(())
    }
}

fn unknown(key: &str) -> Fault {
    let names = LISTS.iter().chain(NAMED).chain(SINGLE).copied();
    let fault = Fault::new(format!("`{key}` cannot be set"));
    match crate::dockerfile::suggestion(key, names) {
        Some(other) => fault.with_help(format!("did you mean `{other}`?")),
        None => fault,
    }
}

/// The targets that a name or pattern means.
fn expand(pattern: &str, targets: &[Target]) -> Outcome<Vec<String>> {
    if targets.iter().any(|target| target.name == pattern) {
        return Ok(vec![pattern.to_owned()]);
    }
    let mut names = Vec::new();
    for target in targets {
        if paths::matches(pattern, &target.name).ok_or_else(|| format!("`{pattern}` is a wrong pattern"))? {
            names.push(target.name.clone());
        }
    }
    match names.is_empty() {
        true => Err(format!("no target matches `{pattern}`").into()),
        false => Ok(names),
    }
}

fn set<T>(own: &mut Option<Vec<T>>, new: Vec<T>, append: bool) {
    match own {
        Some(own) if append => own.extend(new),
        own => *own = Some(new),
    }
}

/// Reads each text that is not empty.
fn each<T>(change: &Change, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    change.values.iter().filter(|text| !text.is_empty()).map(|text| read(text)).collect()
}

fn truth(value: &str) -> Result<bool, String> {
    entries::bool(value).ok_or_else(|| format!("`{value}`: expected true or false"))
}

fn apply(target: &mut Target, key: &str, change: &Change) -> Outcome<()> {
    let (attribute, name) = key.split_once('.').map_or((key, ""), |(key, name)| (key, name));
    let (value, append) = (&change.value, change.append);
    let caches = || -> Result<Vec<Fields>, String> { Ok(each(change, entries::caches)?.concat()) };
    match attribute {
        "context" => target.context = Some(value.clone()),
        "dockerfile" => target.dockerfile = Some(value.clone()),
        "target" => target.target = Some(value.clone()),
        "call" => target.call = Some(value.clone()),
        "shm-size" => target.shm_size = Some(value.clone()),
        "network" => target.network = Some(value.clone()),
        "no-cache" => target.no_cache = Some(truth(value)?),
        "pull" => target.pull = Some(truth(value)?),
        "push" => push(target.output.get_or_insert_default(), truth(value)?),
        "load" if truth(value)? => load(target.output.get_or_insert_default()),
        "load" => {}
        "args" => drop(target.args.insert(name.to_owned(), value.clone())),
        "contexts" => drop(target.contexts.insert(name.to_owned(), value.clone())),
        "labels" => drop(target.labels.insert(name.to_owned(), value.clone())),
        "extra-hosts" => drop(target.extra_hosts.insert(name.to_owned(), value.clone())),
        "resources" => {
            entries::resource(name, value)?;
            target.resources.get_or_insert_default().insert(name.to_owned(), value.clone());
        }
        "secret" => {
            let new = entries::secret(value)?;
            if !new.id.is_empty() && new.id != name {
                return Err(format!("the id `{}` is another one", new.id).into());
            }
            let mut declared = target.secret.iter_mut().flatten();
            let own = declared.find(|secret| secret.id == name);
            let own = own.ok_or("the target has no such secret: declare it first")?;
            (own.src, own.env) = (new.src, new.env);
        }
        "tags" => set(&mut target.tags, change.values.clone(), append),
        "platform" => set(&mut target.platforms, change.values.clone(), append),
        "no-cache-filter" => set(&mut target.no_cache_filter, change.values.clone(), append),
        "ulimits" => set(&mut target.ulimits, change.values.clone(), append),
        "entitlements" => set(&mut target.entitlements, change.values.clone(), true),
        "annotations" => set(&mut target.annotations, change.values.clone(), true),
        "cache-from" => set(&mut target.cache_from, caches()?, append),
        "cache-to" => set(&mut target.cache_to, caches()?, append),
        "output" => set(&mut target.output, each(change, entries::output)?, append),
        "attest" => set(&mut target.attest, each(change, entries::attestation)?, true),
        "policy" => set(&mut target.policy, each(change, entries::policy)?, append),
        "secrets" => set(&mut target.secret, each(change, entries::secret)?, append),
        "ssh" => set(&mut target.ssh, each(change, |text| Ok(entries::ssh(text)))?, append),
        _ => return Err(unknown(attribute)),
    }
    Ok(())
}

fn kind(output: &Fields) -> &str {
    output.get("type").map_or("", String::as_str)
}

/// Turns pushing on or off. It is turned on for images alone, or when there is no other output.
fn push(outputs: &mut Vec<Fields>, on: bool) {
    if !on {
        outputs.retain(|output| kind(output) != "registry");
    }
    for output in outputs.iter_mut().filter(|output| kind(output) == "image") {
        output.insert("push".to_owned(), on.to_string());
    }
    if on && outputs.iter().all(|output| kind(output) == "docker") {
        let fields = [("type", "image"), ("push", "true")];
        outputs.push(fields.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
}

/// Adds an output that keeps the image, unless there is one, or an output that is no image.
fn load(outputs: &mut Vec<Fields>) {
    for output in outputs.iter() {
        match kind(output) {
            "docker" if output.contains_key("dest") => {}
            "image" | "registry" | "oci" => {}
            _ => return,
        }
    }
    outputs.push([("type".to_owned(), "docker".to_owned())].into());
}
