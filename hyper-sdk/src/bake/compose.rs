//! The build sections of compose files: each service with `build` is a target, and `default` is the group of all.

use super::BakeInput;
use super::entries::{self, Fields, Secret, Ssh};
use super::fault::{Fault, Outcome};
use super::interpolation::expand;
use super::paths;
use super::resolve::is_name;
use super::target::{Group, Target, once};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The variables of compose files.
pub(super) struct Environment<'a> {
    input: &'a BakeInput<'a>,
    dotenv: BTreeMap<String, String>,
}

impl<'a> Environment<'a> {
    /// Reads the file `.env`.
    pub(super) fn new(input: &'a BakeInput<'a>) -> Outcome<Self> {
        let mut environment = Self { input, dotenv: BTreeMap::new() };
        for (number, line) in input.dotenv.as_deref().unwrap_or_default().lines().enumerate() {
            let entry = dotenv_line(line, &|name| environment.get(name));
            let entry = entry.map_err(|why| Fault::new(format!(".env, line {}: {why}", number + 1)))?;
            environment.dotenv.extend(entry);
        }
        Ok(environment)
    }

    fn get(&self, name: &str) -> Option<String> {
        let given = self.input.variables.get(name).cloned().or_else(|| (self.input.variable)(name));
        given.or_else(|| self.dotenv.get(name).cloned())
    }
}

/// A line `NAME=VALUE`; `None` for an empty line and a comment.
fn dotenv_line(
    line: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(String, String)>, String> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let Some((name, value)) = line.split_once(['=', ':']) else {
        // The name alone takes the value of the environment.
        return Ok(lookup(line).map(|value| (line.to_owned(), value)));
    };
    let (name, value) = (name.trim(), value.trim());
    let value = if let Some(quoted) = value.strip_prefix('\'') {
        quoted.split_once('\'').ok_or("a `'` is not closed")?.0.to_owned()
    } else if let Some(quoted) = value.strip_prefix('"') {
        let end = quoted.rfind('"').ok_or("a `\"` is not closed")?;
        expand(&quoted[..end].replace("\\n", "\n").replace("\\\"", "\""), lookup)?
    } else {
        expand(value.split(" #").next().unwrap_or_default().trim_end(), lookup)?
    };
    Ok(Some((name.to_owned(), value)))
}

/// Reads a file.
pub(super) fn parse(text: &str, name: &str) -> Outcome<Value> {
    let document: Value =
        serde_saphyr::from_str(text).map_err(|e| Fault::new(format!("{name} cannot be used: {e}")))?;
    match document {
        Value::Object(_) => Ok(document),
        Value::Null => Err(Fault::new(format!("{name} is empty"))),
        _ => Err(Fault::new(format!("{name} cannot be used: a compose file is a map"))),
    }
}

/// The groups and targets of files, each with its name.
pub(super) fn read(
    files: Vec<(&str, Value)>,
    environment: &Environment<'_>,
) -> Outcome<(Vec<Group>, Vec<Target>)> {
    let (mut services, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    for (name, document) in files {
        let about = |why: String| Fault::new(format!("{name} cannot be used: {why}"));
        let mut document = document;
        interpolate(&mut document, environment, "").map_err(about)?;
        if document.get("include").is_some() {
            return Err(Fault::unsupported(format!("{name}: `include` is not supported")));
        }
        for (service, value) in object(document.get("services"), "services").map_err(about)? {
            let value = normal_service(&service, value).map_err(about)?;
            merge(services.entry(service).or_insert_with(|| Value::Object(Map::new())), value);
        }
        for (secret, value) in object(document.get("secrets"), "secrets").map_err(about)? {
            merge(secrets.entry(secret).or_insert_with(|| Value::Object(Map::new())), value);
        }
    }
    let mut group = Group { name: "default".to_owned(), ..Group::default() };
    let mut targets = Vec::new();
    for name in services.keys() {
        let service = extended(name, &services, 0)?;
        let Some(build) = service.get("build").filter(|build| !build.is_null()) else { continue };
        let target = target(name, &service, build, &secrets, environment);
        let target = target.map_err(|why| Fault::new(format!("the service `{name}`: {why}")))?;
        group.targets.push(target.name.clone());
        targets.push(target);
    }
    Ok((vec![group], targets))
}

/// The most services that extend each other.
const MAX_EXTENDS: usize = 50;

/// A service with what it extends.
fn extended(name: &str, services: &BTreeMap<String, Value>, depth: usize) -> Outcome<Value> {
    let service = services.get(name).ok_or_else(|| format!("there is no service `{name}`"))?;
    let (file, base) = match service.get("extends") {
        None | Some(Value::Null) => return Ok(service.clone()),
        Some(Value::String(base)) => (None, Some(base.as_str())),
        Some(extends) => {
            (extends.get("file").and_then(Value::as_str), extends.get("service").and_then(Value::as_str))
        }
    };
    if let Some(file) = file {
        let message = format!(
            "the service `{name}` extends a service of `{file}`: only those of the same files are supported"
        );
        return Err(Fault::unsupported(message));
    }
    if depth == MAX_EXTENDS {
        return Err(format!(
            "the service `{name}` extends itself, or through more than {MAX_EXTENDS} others"
        )
        .into());
    }
    let base = base.ok_or_else(|| format!("the service `{name}`: `extends` names no service"))?;
    let mut all = extended(base, services, depth + 1)?;
    merge(&mut all, service.clone());
    Ok(all)
}

/// Replaces the variables of all texts.
fn interpolate(value: &mut Value, environment: &Environment<'_>, at: &str) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains('$') => {
            *text = expand(text, &|name| environment.get(name)).map_err(|why| format!("{at}: {why}"))?;
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| interpolate(item, environment, at))?,
        Value::Object(entries) => {
            for (key, value) in entries.iter_mut() {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                interpolate(value, environment, &at)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn object(value: Option<&Value>, what: &str) -> Result<Vec<(String, Value)>, String> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Object(entries)) => Ok(entries.clone().into_iter().collect()),
        Some(_) => Err(format!("`{what}` is not a map")),
    }
}

/// The fields of a build section that may be lists of `KEY=VALUE`, and the marks between key and value.
const PAIRS: &[(&str, &[char])] = &[
    ("args", &['=']),
    ("labels", &['=']),
    ("additional_contexts", &['=']),
    ("ssh", &['=']),
    ("extra_hosts", &['=', ':']),
];

/// A service in its long form, in which files can be merged.
fn normal_service(name: &str, service: Value) -> Result<Value, String> {
    let Value::Object(mut service) = service else {
        return match service {
            Value::Null => Ok(Value::Object(Map::new())),
            _ => Err(format!("the service `{name}` is not a map")),
        };
    };
    if let Some(environment) = service.get_mut("environment") {
        *environment = pairs(environment.take(), &['='])?;
    }
    if let Some(build) = service.get_mut("build") {
        *build = match build.take() {
            Value::String(context) => {
                Value::Object([("context".to_owned(), Value::from(context))].into_iter().collect())
            }
            Value::Object(mut build) => {
                for (field, marks) in PAIRS {
                    if let Some(value) = build.get_mut(*field) {
                        let all = pairs(value.take(), marks);
                        *value = all.map_err(|why| format!("`{field}` of the service `{name}`: {why}"))?;
                    }
                }
                Value::Object(build)
            }
            Value::Null => Value::Null,
            _ => return Err(format!("`build` of the service `{name}` is neither a folder nor a map")),
        };
    }
    Ok(Value::Object(service))
}

/// A list of pairs as a map. A key without a value has null.
fn pairs(value: Value, marks: &[char]) -> Result<Value, String> {
    let Value::Array(items) = value else { return Ok(value) };
    let mut all = Map::new();
    for item in items {
        let text = scalar(&item)?.ok_or("an item is null")?;
        match text.split_once(marks) {
            Some((key, value)) => all.insert(key.to_owned(), Value::from(value)),
            None => all.insert(text, Value::Null),
        };
    }
    Ok(Value::Object(all))
}

/// Merges a later value into an earlier one: maps by key, lists by appending.
fn merge(own: &mut Value, other: Value) {
    match (own, other) {
        (Value::Object(own), Value::Object(other)) => {
            for (key, value) in other {
                match own.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => drop(own.insert(key, value)),
                }
            }
        }
        (Value::Array(own), Value::Array(other)) => {
            for item in other {
                if !own.contains(&item) {
                    own.push(item);
                }
            }
        }
        (own, other) => *own = other,
    }
}

/// The text of a scalar; `None` for null.
fn scalar(value: &Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Bool(bool) => Ok(Some(bool.to_string())),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => Err("expected a text".to_owned()),
    }
}

/// The fields of a map.
struct Section<'a>(&'a Value);

impl Section<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn text(&self, field: &str) -> Result<Option<String>, String> {
        let text = self.get(field).map(scalar).transpose().map_err(|why| format!("`{field}`: {why}"))?;
        Ok(text.flatten().filter(|text| !text.is_empty()))
    }

    fn truth(&self, field: &str) -> Result<Option<bool>, String> {
        let text = self.text(field)?;
        text.map(|text| entries::bool(&text).ok_or_else(|| format!("`{field}`: expected true or false")))
            .transpose()
    }

    fn texts(&self, field: &str) -> Result<Vec<String>, String> {
        let items = match self.get(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(format!("`{field}` is not a list")),
        };
        let texts: Result<Vec<_>, _> = items.iter().map(scalar).collect();
        Ok(texts.map_err(|why| format!("`{field}`: {why}"))?.into_iter().flatten().collect())
    }

    /// A map of texts, of which some may be null. A list in it becomes a text with commas.
    fn map(&self, field: &str) -> Result<BTreeMap<String, Option<String>>, String> {
        let entries = match self.get(field) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(entries)) => entries,
            Some(_) => return Err(format!("`{field}` is neither a map nor a list")),
        };
        let one = |(key, value): (&String, &Value)| match value {
            Value::Array(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(scalar).collect();
                Ok((key.clone(), Some(items?.into_iter().flatten().collect::<Vec<_>>().join(","))))
            }
            value => Ok((key.clone(), scalar(value)?)),
        };
        entries.iter().map(one).collect::<Result<_, String>>().map_err(|why| format!("`{field}`: {why}"))
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

fn each<T>(texts: &[String], read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    texts.iter().filter(|text| !text.is_empty()).map(|text| read(text)).collect()
}

fn target(
    service_name: &str,
    service: &Value,
    build: &Value,
    all_secrets: &BTreeMap<String, Value>,
    environment: &Environment<'_>,
) -> Result<Target, String> {
    let name = service_name.replace('.', "_");
    if !is_name(&name) {
        return Err("its name has other characters than letters, digits, `_`, `-` and `.`".to_owned());
    }
    let (section, own) = (Section(build), Section(service));
    let variables = own.map("environment")?;
    let mut args = BTreeMap::new();
    for (key, value) in section.map("args")? {
        let given = || variables.get(&key).cloned().flatten().or_else(|| environment.get(&key));
        if let Some(value) = value.or_else(given) {
            args.insert(key, value);
        }
    }
    let mut ssh: Vec<Ssh> = Vec::new();
    for (id, path) in section.map("ssh")? {
        ssh.push(Ssh { id, paths: path.into_iter().filter(|path| !path.is_empty()).collect() });
    }
    let mut target = Target {
        name,
        context: section.text("context")?.map(|context| local(&context)),
        contexts: contexts(section.map("additional_contexts")?),
        dockerfile: section.text("dockerfile")?,
        dockerfile_inline: section.text("dockerfile_inline")?,
        args,
        labels: section.map("labels")?.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect(),
        tags: some(section.texts("tags")?),
        cache_from: some(each(&section.texts("cache_from")?, entries::caches)?.concat()),
        cache_to: some(each(&section.texts("cache_to")?, entries::caches)?.concat()),
        target: section.text("target")?,
        secret: some(secrets(&section, all_secrets)?),
        ssh: some(ssh),
        platforms: some(section.texts("platforms")?),
        attest: some(attestations(&section)?),
        pull: section.truth("pull")?.filter(|pull| *pull),
        no_cache: section.truth("no_cache")?.filter(|no_cache| *no_cache),
        network: section.text("network")?,
        shm_size: section.text("shm_size")?.map(|size| shm_size(&size)).transpose()?,
        ulimits: some(ulimits(&section)?),
        extra_hosts: section
            .map("extra_hosts")?
            .into_iter()
            .map(|(k, v)| (k, v.unwrap_or_default()))
            .collect(),
        ..Target::default()
    };
    if let Some(extension) = section.get("x-bake") {
        extend(&mut target, &Section(extension))?;
    }
    if target.tags.is_none() {
        target.tags = own.text("image")?.map(|image| vec![image]);
    }
    Ok(target)
}

/// A folder in its shortest form; an address as it is.
fn local(context: &str) -> String {
    match context.contains("://") || paths::is_remote(context) {
        true => context.to_owned(),
        false => paths::clean(context),
    }
}

/// Named contexts, where another service is another target.
fn contexts(all: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    let one = |(name, context): (String, Option<String>)| {
        let context = context.unwrap_or_default();
        let other = context.strip_prefix("service:").or_else(|| context.strip_prefix("target:"));
        match other {
            Some(other) => (name, format!("target:{}", other.replace('.', "_"))),
            None => (name, context),
        }
    };
    all.into_iter().map(one).collect()
}

fn secrets(section: &Section<'_>, all: &BTreeMap<String, Value>) -> Result<Vec<Secret>, String> {
    let items = match section.get("secrets") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err("`secrets` is not a list".to_owned()),
    };
    let mut secrets = Vec::new();
    for item in items {
        let id = match item {
            Value::String(id) => id.clone(),
            item => Section(item).text("source")?.ok_or("a secret has no `source`")?,
        };
        let empty = Value::Null;
        let declared = Section(all.get(&id).unwrap_or(&empty));
        if declared.truth("external")? == Some(true) {
            return Err(format!("the secret `{id}` is external, which is not supported"));
        }
        let (src, env) = (declared.text("file")?, declared.text("environment")?);
        secrets.push(Secret {
            id,
            src: src.map(|path| local(&path)).unwrap_or_default(),
            env: env.unwrap_or_default(),
        });
    }
    Ok(secrets)
}

/// `provenance` and `sbom`: whether there is one, or its fields.
fn attestations(section: &Section<'_>) -> Result<Vec<Fields>, String> {
    let mut all = Vec::new();
    for kind in ["sbom", "provenance"] {
        if let Some(text) = section.text(kind)? {
            let text = match entries::bool(&text) {
                Some(on) => format!("type={kind},disabled={}", !on),
                None => format!("type={kind},{text}"),
            };
            all.push(entries::attestation(&text)?);
        }
    }
    Ok(all)
}

fn ulimits(section: &Section<'_>) -> Result<Vec<String>, String> {
    let entries = match section.get("ulimits") {
        None => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err("`ulimits` is not a map".to_owned()),
    };
    let one = |(name, value): (&String, &Value)| {
        let (soft, hard) = match value {
            Value::Object(_) => {
                let part =
                    |field| Section(value).text(field)?.ok_or(format!("the limit `{name}` has no `{field}`"));
                (part("soft")?, part("hard")?)
            }
            value => {
                let limit = scalar(value)?.ok_or(format!("the limit `{name}` is null"))?;
                (limit.clone(), limit)
            }
        };
        Ok(format!("{name}={soft}:{hard}"))
    };
    entries.iter().map(one).collect()
}

/// A size in the form in which it is shown: `128MiB`.
fn shm_size(text: &str) -> Result<String, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1024.0 * 1024.0,
        "g" => 1024.0 * 1024.0 * 1024.0,
        "t" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("`shm_size`: `{text}` is no size")),
    };
    let number: f64 = digits.trim().parse().map_err(|_| format!("`shm_size`: `{text}` is no size"))?;
    let mut size = number * unit;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while size >= 1024.0
        && let Some(next) = units.next()
    {
        (size, unit) = (size / 1024.0, next);
    }
    let rounded: f64 = format!("{size:.3e}").parse().unwrap_or(size);
    Ok(format!("{rounded}{unit}"))
}

/// What `x-bake` adds to a build section.
fn extend(target: &mut Target, extension: &Section<'_>) -> Result<(), String> {
    // A text is a list of words.
    let words = |field: &str| match extension.get(field) {
        Some(Value::String(text)) => Ok(text.split_whitespace().map(str::to_owned).collect()),
        _ => extension.texts(field),
    };
    let add = |list: &mut Option<Vec<String>>, more: Vec<String>| {
        if !more.is_empty() {
            let list = list.get_or_insert_default();
            list.extend(more);
            once(list);
        }
    };
    add(&mut target.tags, words("tags")?);
    add(&mut target.platforms, words("platforms")?);
    add(&mut target.no_cache_filter, words("no-cache-filter")?);
    let mut other = Target {
        cache_from: some(each(&words("cache-from")?, entries::caches)?.concat()),
        secret: some(each(&words("secret")?, entries::secret)?),
        ssh: some(each(&words("ssh")?, |text| Ok(entries::ssh(text)))?),
        output: some(each(&words("output")?, entries::output)?),
        pull: extension.truth("pull")?,
        no_cache: extension.truth("no-cache")?,
        ..Target::default()
    };
    if let Some(more) = some(each(&words("cache-to")?, entries::caches)?.concat()) {
        let mut all = target.cache_to.take().unwrap_or_default();
        all.extend(more);
        other.cache_to = Some(all);
    }
    target.merge(&other);
    if let Some(ssh) = &mut target.ssh {
        ssh.sort_by(|a, b| (&a.id, &a.paths).cmp(&(&b.id, &b.paths)));
    }
    for (name, context) in contexts(extension.map("contexts")?) {
        target.contexts.entry(name).or_insert(context);
    }
    Ok(())
}
