//! What targets may do: files outside of the working folder, the network of this machine and steps without isolation need
//! `--allow`. What the caller names with `--set` is allowed.

use crate::failure::Failure;
use hyper_sdk::bake::{BakePlan, Fields, Target};
use hyper_sdk::{Error, Result};
use std::path::{Component, Path, PathBuf};

/// What the caller permits.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    /// Permissions of the build itself.
    build: Vec<String>,
    /// Values that came with `--set`.
    set: Vec<String>,
    reads_all: bool,
    writes_all: bool,
}

impl Permissions {
    /// Reads `--allow`. `sets` are the changes of the caller.
    pub(super) fn parse(allow: &[String], sets: &[String]) -> Result<Self, Failure> {
        let mut all = Self::default();
        for text in allow {
            let (kind, value) = text.split_once('=').map_or((text.as_str(), None), |(k, v)| (k, Some(v)));
            let (reads, writes) = (matches!(kind, "fs" | "fs.read"), matches!(kind, "fs" | "fs.write"));
            match (kind, value) {
                ("fs" | "fs.read" | "fs.write", Some("*")) => {
                    all.reads_all |= reads;
                    all.writes_all |= writes;
                }
                ("fs" | "fs.read" | "fs.write", Some(path)) if !path.is_empty() => {
                    let path = real(Path::new(path))?;
                    all.read.extend(reads.then(|| path.clone()));
                    all.write.extend(writes.then_some(path));
                }
                ("network.host" | "security.insecure", None) | ("device", _) => all.build.push(text.clone()),
                ("ssh", _) => {}
                _ => {
                    let expected = "expected security.insecure, network.host, device=NAME, fs=DIR, fs.read=DIR or fs.write=DIR";
                    return Err(Failure::usage(format!("--allow `{text}`: {expected}")));
                }
            }
        }
        let here = real(Path::new("."))?;
        all.read.push(here.clone());
        all.write.push(here);
        all.set.extend(sets.iter().filter_map(|set| Some(set.split_once('=')?.1.to_owned())));
        Ok(all)
    }

    /// Fails for a plan that needs more.
    pub(super) fn check(&self, plan: &BakePlan) -> Result<(), Failure> {
        for (name, target) in &plan.targets {
            for wanted in target.entitlements.iter().flatten() {
                let whole_kind = wanted.split('=').next().unwrap_or_default();
                let is_set = self.set.contains(wanted);
                if !is_set && !self.build.iter().any(|allowed| allowed == wanted || allowed == whole_kind) {
                    return Err(refused(name, wanted));
                }
            }
            for path in read(target) {
                if !self.reads_all && !self.covers(&self.read, &path)? {
                    return Err(refused(name, &format!("fs.read={path}")));
                }
            }
            for path in written(target) {
                if !self.writes_all && !self.covers(&self.write, &path)? {
                    return Err(refused(name, &format!("fs.write={path}")));
                }
            }
        }
        Ok(())
    }

    fn covers(&self, allowed: &[PathBuf], path: &str) -> Result<bool> {
        if self.set.iter().any(|set| set.split([',', '=']).any(|part| part == path)) {
            return Ok(true);
        }
        let path = real(Path::new(path))?;
        Ok(allowed.iter().any(|folder| path.starts_with(folder)))
    }
}

fn refused(target: &str, wanted: &str) -> Failure {
    let error = Error::invalid(format!("the target `{target}` needs a permission: {wanted}"));
    Failure::from(error).with_hint(format!("permit it with --allow {wanted}"))
}

/// Where a path leads, when links are followed. What does not exist yet is taken as it is written.
fn real(path: &Path) -> Result<PathBuf> {
    let mut path = std::path::absolute(path).map_err(|e| Error::io("cannot find the folder", path, e))?;
    let mut missing = Vec::new();
    loop {
        match path.canonicalize() {
            Ok(found) => {
                let mut found = found;
                for part in missing.iter().rev() {
                    match Path::new(part).components().next() {
                        Some(Component::ParentDir) => drop(found.pop()),
                        _ => found.push(part),
                    }
                }
                return Ok(found);
            }
            Err(e) => match (path.file_name().map(std::ffi::OsStr::to_owned), path.parent()) {
                (Some(name), Some(parent)) => {
                    missing.push(name);
                    path = parent.to_owned();
                }
                _ if path.ends_with("..") => {
                    missing.push("..".into());
                    path.pop();
                }
                _ => return Err(Error::io("cannot find the folder", &path, e)),
            },
        }
    }
}

fn is_local(text: &str) -> bool {
    !text.contains("://") && !text.starts_with("target:") && !text.starts_with("git@") && !text.is_empty()
}

fn field<'a>(fields: impl Iterator<Item = &'a Fields>, kind: Option<&'a str>, key: &'a str) -> Vec<String> {
    let of_kind = fields.filter(|one| kind.is_none_or(|kind| one.get("type").is_some_and(|own| own == kind)));
    of_kind.filter_map(|one| one.get(key).cloned()).collect()
}

/// The files that a target reads.
fn read(target: &Target) -> Vec<String> {
    let mut paths: Vec<String> = target.context.iter().chain(target.contexts.values()).cloned().collect();
    for layout in target.contexts.values().filter_map(|context| context.strip_prefix("oci-layout://")) {
        paths.push(layout.split(['@', ':']).next().unwrap_or_default().to_owned());
    }
    let local = target.context.as_deref().filter(|context| is_local(context));
    if let (Some(context), Some(file)) = (local, &target.dockerfile) {
        paths.push(match file.strip_prefix("cwd://") {
            Some(file) => file.to_owned(),
            None if file.starts_with('/') => file.clone(),
            None => format!("{context}/{file}"),
        });
    }
    paths.extend(target.secret.iter().flatten().map(|secret| secret.src.clone()));
    paths.extend(target.ssh.iter().flatten().flat_map(|ssh| ssh.paths.clone()));
    paths.extend(field(target.cache_from.iter().flatten(), Some("local"), "src"));
    paths
        .iter()
        .map(|path| path.trim_start_matches("cwd://").to_owned())
        .filter(|path| is_local(path))
        .collect()
}

/// The files that a target writes.
fn written(target: &Target) -> Vec<String> {
    let mut paths = field(target.output.iter().flatten(), None, "dest");
    paths.extend(field(target.cache_to.iter().flatten(), Some("local"), "dest"));
    paths.retain(|path| path != "-" && !path.is_empty());
    paths
}
