//! What targets may do: files outside of the working folder, the agent of ssh, the network of this machine and steps without
//! isolation need `--allow`. What the caller names with `--set` is allowed.

use super::jobs;
use crate::failure::Failure;
use hyper_sdk::bake::{BakePlan, Target};
use hyper_sdk::build::{BuildContext, CacheTarget, Destination, NamedContext, Output, OutputKind, text};
use hyper_sdk::cache::CachePlace;
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
    /// Whether targets may use the agent of ssh.
    lends_agent: bool,
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
                ("ssh", None) => all.lends_agent = true,
                _ => {
                    let expected = "expected security.insecure, network.host, device=NAME, ssh, fs=DIR, fs.read=DIR or fs.write=DIR";
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
            let files = Files::of(target).map_err(|failure| jobs::about(name, failure))?;
            if !self.lends_agent && files.agents.iter().any(|agent| !self.set.contains(agent)) {
                return Err(refused(name, "ssh"));
            }
            for path in &files.read {
                if !self.reads_all && !self.covers(&self.read, path)? {
                    return Err(refused(name, &format!("fs.read={}", path.display())));
                }
            }
            for path in &files.written {
                if !self.writes_all && !self.covers(&self.write, path)? {
                    return Err(refused(name, &format!("fs.write={}", path.display())));
                }
            }
        }
        Ok(())
    }

    fn covers(&self, allowed: &[PathBuf], path: &Path) -> Result<bool> {
        if self.set.iter().any(|set| set.split([',', '=']).any(|part| Path::new(part) == path)) {
            return Ok(true);
        }
        let path = real(path)?;
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

/// The files and agents that a target uses, as its command line is read: a text that means something else to the builder than
/// to this check would need no permission.
#[derive(Debug, Default)]
struct Files {
    read: Vec<PathBuf>,
    written: Vec<PathBuf>,
    /// The names under which steps get the agent of the caller.
    agents: Vec<String>,
}

impl Files {
    /// What cannot be parsed names no file: the build fails for it, with the name of its flag.
    ///
    /// # Errors
    /// Those of the command line.
    fn of(target: &Target) -> Result<Self, Failure> {
        let args = jobs::line(target)?;
        let mut files = Self::default();
        if let Ok(BuildContext::Folder(folder)) = BuildContext::parse(&args.context) {
            let file = args.file.map_or_else(|| folder.join("Dockerfile"), PathBuf::from);
            files.read.push(folder);
            files.read.extend(target.dockerfile_inline.is_none().then_some(file));
        }
        for context in &args.build_contexts {
            let value = context.split_once('=').map(|(_, value)| NamedContext::parse(value));
            if let Some(Ok(NamedContext::Folder(path) | NamedContext::OciLayout { path, .. })) = value {
                files.read.push(path);
            }
        }
        for secret in &args.secrets {
            let paths = text::secret_files([secret], |name| std::env::var_os(name));
            files.read.extend(paths.into_iter().flatten());
        }
        for agent in &args.ssh {
            match agent.split_once('=') {
                Some((_, socket)) if !socket.is_empty() => files.read.push(socket.into()),
                _ => files.agents.push(agent.clone()),
            }
        }
        let places = args.caches.cache_from.iter().flat_map(|cache| text::cache_from([cache]));
        files.read.extend(places.flatten().filter_map(|cache| folder_of(cache.place)));
        let outputs = args.outputs.iter().flat_map(|output| Output::parse(output));
        files.written.extend(outputs.filter_map(written));
        let caches = args.caches.cache_to.iter().flat_map(|cache| text::cache_to([cache])).flatten();
        files.written.extend(caches.filter_map(|cache| match cache.target {
            CacheTarget::Place(place) => folder_of(place),
            CacheTarget::Inline => None,
        }));
        Ok(files)
    }
}

fn folder_of(place: CachePlace) -> Option<PathBuf> {
    match place {
        CachePlace::Layout { folder, .. } => Some(folder),
        CachePlace::Registry { .. } | CachePlace::S3(_) => None,
    }
}

/// What an output writes to.
fn written(output: Output) -> Option<PathBuf> {
    match output.kind {
        OutputKind::Oci(place) | OutputKind::Docker(place) | OutputKind::Tar(place) => match place {
            Destination::File(path) | Destination::Folder(path) => Some(path),
            Destination::Stdout(_) => None,
        },
        OutputKind::Local(path) => Some(path),
        OutputKind::Image(_) | OutputKind::Load(_) | OutputKind::CacheOnly => None,
        // The exporters of other programs.
        OutputKind::Other { mut attributes, .. } => attributes.remove("dest").map(PathBuf::from),
    }
}
