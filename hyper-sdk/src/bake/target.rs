//! Targets and groups.

use super::entries::{self, Fields, Secret, Ssh};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// A group of targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The names of its targets and groups.
    pub targets: Vec<String>,
}

/// What to build. `None` is what no definition says, and so does not override what is inherited.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The targets whose attributes it has, unless it says otherwise.
    pub inherits: Vec<String>,
    /// Annotations of the image, as `KEY=VALUE` or `PLACE:KEY=VALUE`.
    pub annotations: Option<Vec<String>>,
    /// Attestations; the field `type` says which.
    pub attest: Option<Vec<Fields>>,
    /// The build context.
    pub context: Option<String>,
    /// Named contexts; `target:NAME` is the result of another target.
    pub contexts: BTreeMap<String, String>,
    /// The Dockerfile, a path in the context.
    pub dockerfile: Option<String>,
    /// The text of the Dockerfile.
    pub dockerfile_inline: Option<String>,
    /// Values of ARG.
    pub args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Names of the image.
    pub tags: Option<Vec<String>>,
    /// Where results of earlier builds come from.
    pub cache_from: Option<Vec<Fields>>,
    /// Where results are kept for later builds.
    pub cache_to: Option<Vec<Fields>>,
    /// The stage to build.
    pub target: Option<String>,
    /// Secrets.
    pub secret: Option<Vec<Secret>>,
    /// Agents and keys for ssh.
    pub ssh: Option<Vec<Ssh>>,
    /// Platforms to build for.
    pub platforms: Option<Vec<String>>,
    /// What to make.
    pub output: Option<Vec<Fields>>,
    /// Whether registries are asked for base images.
    pub pull: Option<bool>,
    /// Whether every step runs.
    pub no_cache: Option<bool>,
    /// The network of steps.
    pub network: Option<String>,
    /// The stages whose steps always run.
    pub no_cache_filter: Option<Vec<String>>,
    /// The size of `/dev/shm`.
    pub shm_size: Option<String>,
    /// Limits of processes.
    pub ulimits: Option<Vec<String>>,
    /// Limits of resources.
    pub resources: Option<Fields>,
    /// What to do with the Dockerfile.
    pub call: Option<String>,
    /// Permissions that the build needs.
    pub entitlements: Option<Vec<String>>,
    /// Lines of `/etc/hosts`.
    pub extra_hosts: BTreeMap<String, String>,
    /// Policies of sources.
    pub policy: Option<Vec<Fields>>,
    /// Whether it is built only because another target needs it.
    pub linked: bool,
}

/// Replaces what another target says.
fn replace<T: Clone>(own: &mut Option<T>, other: &Option<T>) {
    if other.is_some() {
        own.clone_from(other);
    }
}

/// Appends what another target says.
fn append<T: Clone>(own: &mut Option<Vec<T>>, other: &Option<Vec<T>>) {
    if let Some(other) = other {
        own.get_or_insert_default().extend(other.iter().cloned());
    }
}

impl Target {
    /// Takes over what another target says: most attributes are replaced, maps and some lists are merged.
    pub(super) fn merge(&mut self, other: &Self) {
        replace(&mut self.context, &other.context);
        replace(&mut self.dockerfile, &other.dockerfile);
        replace(&mut self.dockerfile_inline, &other.dockerfile_inline);
        for (own, other) in [
            (&mut self.args, &other.args),
            (&mut self.contexts, &other.contexts),
            (&mut self.labels, &other.labels),
            (&mut self.extra_hosts, &other.extra_hosts),
        ] {
            own.extend(other.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        replace(&mut self.tags, &other.tags);
        replace(&mut self.target, &other.target);
        replace(&mut self.call, &other.call);
        append(&mut self.annotations, &other.annotations);
        append(&mut self.attest, &other.attest);
        append(&mut self.policy, &other.policy);
        append(&mut self.secret, &other.secret);
        append(&mut self.ssh, &other.ssh);
        replace(&mut self.platforms, &other.platforms);
        append(&mut self.cache_from, &other.cache_from);
        replace(&mut self.cache_to, &other.cache_to);
        replace(&mut self.output, &other.output);
        replace(&mut self.pull, &other.pull);
        replace(&mut self.no_cache, &other.no_cache);
        replace(&mut self.network, &other.network);
        append(&mut self.no_cache_filter, &other.no_cache_filter);
        replace(&mut self.shm_size, &other.shm_size);
        append(&mut self.ulimits, &other.ulimits);
        if let Some(other) = &other.resources {
            self.resources.get_or_insert_default().extend(other.clone());
        }
        replace(&mut self.description, &other.description);
        append(&mut self.entitlements, &other.entitlements);
        self.inherits.extend(other.inherits.iter().cloned());
        self.remove_repeats();
    }

    /// Items with a key appear once.
    fn remove_repeats(&mut self) {
        if let Some(attest) = &mut self.attest {
            entries::last_by_key(attest, |item| &item["type"]);
        }
        if let Some(secrets) = &mut self.secret {
            entries::last_by_key(secrets, |secret| &secret.id);
        }
        if let Some(ssh) = &mut self.ssh {
            entries::last_by_key(ssh, |ssh| &ssh.id);
        }
        if let Some(caches) = &mut self.cache_from {
            entries::without_repeats(caches);
        }
    }

    /// Brings the target into the form that is shown and built.
    pub(super) fn normalize(&mut self) {
        self.remove_repeats();
        for list in [&mut self.cache_to, &mut self.output] {
            list.iter_mut().for_each(entries::without_repeats);
        }
        if self.network.as_deref() == Some("host") {
            self.entitlements.get_or_insert_default().push("network.host".to_owned());
        }
        for list in [
            &mut self.annotations,
            &mut self.tags,
            &mut self.platforms,
            &mut self.no_cache_filter,
            &mut self.ulimits,
            &mut self.entitlements,
        ] {
            list.iter_mut().for_each(once);
        }
        self.contexts.retain(|_, context| !context.is_empty());
    }
}

/// Keeps the first of equal texts, and none that is empty.
pub(super) fn once(texts: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    texts.retain(|text| !text.is_empty() && seen.insert(text.clone()));
}

/// The text as a definition in HCL has it.
fn escape(text: &str) -> String {
    text.replace("${", "$${").replace("%{", "%%{")
}

fn escaped(map: &BTreeMap<String, String>) -> BTreeMap<&String, String> {
    map.iter().map(|(key, value)| (key, escape(value))).collect()
}

/// Attestations, whose `disabled` is a bool.
fn attestations(all: &[Fields]) -> Vec<serde_json::Value> {
    let field = |(key, value): (&String, &String)| match key.as_str() {
        "disabled" => (key.clone(), true.into()),
        _ => (key.clone(), value.as_str().into()),
    };
    all.iter().map(|one| serde_json::Value::Object(one.iter().map(field).collect())).collect()
}

/// Caches without what gives access to them: a plan is printed where others can read it.
fn without_secrets(all: &[Fields]) -> Vec<Fields> {
    let mut shown = all.to_owned();
    let is_shown = |key: &str, value: &str| match key.trim().to_ascii_lowercase().as_str() {
        "secret_access_key" | "session_token" => false,
        // A build refuses a password in it.
        "endpoint_url" => !value.contains('@'),
        _ => true,
    };
    shown.iter_mut().for_each(|cache| cache.retain(|key, value| is_shown(key, value)));
    shown
}

/// Limits, of which some are numbers.
fn resources(all: &Fields) -> serde_json::Value {
    let field = |(key, value): (&String, &String)| match value.parse::<i64>() {
        Ok(number) if entries::RESOURCES.contains(&(key, true)) => (key.clone(), number.into()),
        _ => (key.clone(), value.as_str().into()),
    };
    serde_json::Value::Object(all.iter().map(field).collect())
}

/// Policies, in the form in which buildx shows them.
fn policies(all: &[Fields]) -> Vec<serde_json::Value> {
    let one = |policy: &Fields| {
        let truth = |key: &str| policy.get(key).and_then(|value| entries::bool(value));
        let files: Option<Vec<_>> =
            policy.get("filename").map(|name| vec![serde_json::json!({ "Filename": name, "Data": null })]);
        serde_json::json!({
            "Files": files,
            "Reset": truth("reset").unwrap_or(false),
            "Disabled": truth("disabled").unwrap_or(false),
            "Strict": truth("strict"),
            "LogLevel": policy.get("log-level"),
        })
    };
    all.iter().map(one).collect()
}

impl Serialize for Target {
    /// Writes what the target says, as a definition in JSON has it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        macro_rules! entry {
            ($name:literal, $value:expr) => {
                if let Some(value) = $value {
                    map.serialize_entry($name, &value)?;
                }
            };
        }
        fn some<T>(list: &Option<Vec<T>>) -> Option<&Vec<T>> {
            list.as_ref().filter(|list| !list.is_empty())
        }
        fn full(map: &BTreeMap<String, String>) -> Option<&BTreeMap<String, String>> {
            Some(map).filter(|map| !map.is_empty())
        }
        let escape_all = |list: &Vec<String>| list.iter().map(|text| escape(text)).collect::<Vec<_>>();
        entry!("description", self.description.as_ref().filter(|text| !text.is_empty()));
        entry!("inherits", Some(&self.inherits).filter(|list| !list.is_empty()));
        entry!("annotations", some(&self.annotations).map(escape_all));
        entry!("attest", some(&self.attest).map(|all| attestations(all)));
        entry!("context", &self.context);
        entry!("contexts", full(&self.contexts));
        entry!("dockerfile", &self.dockerfile);
        entry!("dockerfile-inline", self.dockerfile_inline.as_deref().map(escape));
        entry!("args", full(&self.args).map(escaped));
        entry!("labels", full(&self.labels).map(escaped));
        entry!("tags", some(&self.tags));
        entry!("cache-from", some(&self.cache_from).map(|all| without_secrets(all)));
        entry!("cache-to", some(&self.cache_to).map(|all| without_secrets(all)));
        entry!("target", &self.target);
        entry!("secret", some(&self.secret));
        entry!("ssh", some(&self.ssh));
        entry!("platforms", some(&self.platforms));
        entry!("output", some(&self.output));
        entry!("pull", self.pull);
        entry!("no-cache", self.no_cache);
        entry!("network", &self.network);
        entry!("no-cache-filter", some(&self.no_cache_filter));
        entry!("shm-size", &self.shm_size);
        entry!("ulimits", some(&self.ulimits));
        entry!("resources", self.resources.as_ref().map(resources));
        entry!("call", &self.call);
        entry!("entitlements", some(&self.entitlements));
        entry!("extra-hosts", full(&self.extra_hosts).map(escaped));
        entry!("policy", some(&self.policy).map(|all| policies(all)));
        map.end()
    }
}
