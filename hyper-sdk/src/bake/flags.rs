//! A target as flags of `docker buildx build`, which the command `build` takes, too.

use super::entries::{Fields, Secret, Ssh};
use super::paths;
use super::target::Target;

/// The flags that say what a target says, without the build context, `dockerfile-inline` and contexts that are other targets.
///
/// Each flag is one text, `--NAME=VALUE`. What a builder does not support, it refuses by the name of its flag.
pub fn build_flags(target: &Target) -> Vec<String> {
    let mut flags = Flags::default();
    if let Some(file) = dockerfile(target) {
        flags.add("file", file);
    }
    flags.all("tag", target.tags.iter().flatten().cloned());
    flags.pairs("build-arg", &target.args);
    flags.pairs("label", &target.labels);
    flags.pairs("add-host", &target.extra_hosts);
    flags.all("annotation", target.annotations.iter().flatten().cloned());
    flags.all("attest", target.attest.iter().flatten().map(csv));
    for (name, context) in &target.contexts {
        if !context.starts_with("target:") {
            flags.add("build-context", format!("{name}={}", context.trim_start_matches("cwd://")));
        }
    }
    flags.all("cache-from", target.cache_from.iter().flatten().map(csv));
    flags.all("cache-to", target.cache_to.iter().flatten().map(csv));
    flags.all("secret", target.secret.iter().flatten().map(secret));
    flags.all("ssh", target.ssh.iter().flatten().map(ssh));
    for output in target.output.iter().flatten() {
        match is_load(output) {
            true => flags.0.push("--load".to_owned()),
            false => flags.add("output", csv(output)),
        }
    }
    if let Some(platforms) = target.platforms.as_ref().filter(|platforms| !platforms.is_empty()) {
        // `local` is the platform without the flag.
        if platforms.as_slice() != ["local"] {
            flags.add("platform", platforms.join(","));
        }
    }
    flags.all("no-cache-filter", target.no_cache_filter.iter().flatten().cloned());
    flags.all("ulimit", target.ulimits.iter().flatten().cloned());
    flags.all("allow", target.entitlements.iter().flatten().cloned());
    flags.all("policy", target.policy.iter().flatten().map(csv));
    for (key, value) in target.resources.iter().flatten() {
        flags.add("resource", format!("{key}={value}"));
    }
    let single = [
        ("target", &target.target),
        ("network", &target.network),
        ("shm-size", &target.shm_size),
        ("call", &target.call),
    ];
    for (name, value) in single {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            flags.add(name, value.clone());
        }
    }
    for (name, value) in [("pull", target.pull), ("no-cache", target.no_cache)] {
        if let Some(value) = value {
            flags.add(name, value.to_string());
        }
    }
    flags.0
}

/// The path of the Dockerfile; `None` for the default one of the context.
fn dockerfile(target: &Target) -> Option<String> {
    let file = target.dockerfile.as_deref().filter(|file| *file != "Dockerfile")?;
    if let Some(file) = file.strip_prefix("cwd://") {
        return Some(paths::clean(file));
    }
    let context = target.context.as_deref().unwrap_or(".");
    if paths::is_remote(context) || paths::is_remote(file) || file.starts_with('/') {
        return Some(file.to_owned());
    }
    Some(paths::clean(&format!("{context}/{file}")))
}

/// Whether an output is an image in the local store. The one of Docker stands for it, when it has no file.
fn is_load(output: &Fields) -> bool {
    output.get("type").is_some_and(|kind| kind == "docker") && output.len() == 1
}

#[derive(Default)]
struct Flags(Vec<String>);

impl Flags {
    fn add(&mut self, name: &str, value: String) {
        self.0.push(format!("--{name}={value}"));
    }

    fn all(&mut self, name: &str, values: impl Iterator<Item = String>) {
        values.for_each(|value| self.add(name, value));
    }

    fn pairs(&mut self, name: &str, pairs: &Fields) {
        self.all(name, pairs.iter().map(|(key, value)| format!("{key}={value}")));
    }
}

/// A field of CSV.
fn field(key: &str, value: &str) -> String {
    let text = format!("{key}={value}");
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// Fields as CSV, the type first.
fn csv(fields: &Fields) -> String {
    let first = fields.get_key_value("type").into_iter();
    let rest = fields.iter().filter(|(key, _)| *key != "type");
    first.chain(rest).map(|(key, value)| field(key, value)).collect::<Vec<_>>().join(",")
}

fn secret(secret: &Secret) -> String {
    let fields = [("id", &secret.id), ("src", &secret.src), ("env", &secret.env)];
    let given = fields.iter().filter(|(_, value)| !value.is_empty());
    given.map(|(key, value)| field(key, value)).collect::<Vec<_>>().join(",")
}

fn ssh(ssh: &Ssh) -> String {
    match ssh.paths.is_empty() {
        true => ssh.id.clone(),
        false => format!("{}={}", ssh.id, ssh.paths.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_target_becomes_flags() {
        let target = Target {
            context: Some("app".into()),
            dockerfile: Some("../Dockerfile.app".into()),
            tags: Some(vec!["a:1".into()]),
            args: fields(&[("A", "-x y")]),
            contexts: fields(&[("b", "target:base"), ("c", "cwd://c")]),
            output: Some(vec![
                fields(&[("type", "docker")]),
                fields(&[("type", "oci"), ("dest", "a,b.tar")]),
            ]),
            secret: Some(vec![Secret { id: "s".into(), env: "E".into(), ..Secret::default() }]),
            ssh: Some(vec![Ssh { id: "default".into(), paths: Vec::new() }]),
            platforms: Some(vec!["linux/amd64".into(), "linux/arm64".into()]),
            no_cache: Some(true),
            ..Target::default()
        };
        assert_eq!(
            build_flags(&target),
            [
                "--file=Dockerfile.app",
                "--tag=a:1",
                "--build-arg=A=-x y",
                "--build-context=c=c",
                "--secret=id=s,env=E",
                "--ssh=default",
                "--load",
                "--output=type=oci,\"dest=a,b.tar\"",
                "--platform=linux/amd64,linux/arm64",
                "--no-cache=true",
            ]
        );
        let remote = Target {
            context: Some("https://example.com/r.git".into()),
            dockerfile: Some("sub/Dockerfile".into()),
            platforms: Some(vec!["local".into()]),
            ..Target::default()
        };
        assert_eq!(build_flags(&remote), ["--file=sub/Dockerfile"]);
        assert!(
            build_flags(&Target { dockerfile: Some("Dockerfile".into()), ..Target::default() }).is_empty()
        );
    }
}
