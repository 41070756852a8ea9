//! Devices of the host for RUN `--device`, as the Container Device Interface (CDI, version 1.0 and before) describes
//! them.
//!
//! ```text
//! FOLDER/*.{json,yaml,yml} ─ load ─► Devices ─ find ("vendor.com/class=name") ─► edits: variables, mounts, groups
//! ```
//!
//! # Invariants
//! - A device of a later folder replaces one of the same name in an earlier folder. Two of one name in one folder are a
//!   conflict, and neither can be used.
//! - A specification that cannot be read affects only its own devices; a request for one of them reports the reason.
//! - A device that needs something that the sandbox does not support (hooks, network devices, Intel RDT) is an error
//!   that names it.

use super::{ExecMount, HostOption, MountSource};
use crate::small_file::{self, Kinds};
use crate::{Error, ErrorKind, MissingInput, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The annotation that permits a device in every build.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";
/// The annotation with another name for a group of devices.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// The largest specification that is read.
const MAX_SIZE: u64 = 4 << 20;

/// Which devices a Dockerfile may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DevicePermissions {
    /// Every device of the host.
    pub all: bool,
    /// The permitted devices by the name that RUN `--device` uses. A value, if present, is the actual device name.
    pub names: BTreeMap<String, Option<String>>,
}

impl DevicePermissions {
    /// Adds what `device` or `device=NAME[,alias=OTHER]` permits; `text` is the part after `device=`, if any.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for another form.
    pub fn allow(&mut self, text: Option<&str>) -> Result<()> {
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            self.all = true;
            return Ok(());
        };
        let (name, alias) = match text.split_once(',') {
            None => (text, None),
            Some((name, option)) => match option.strip_prefix("alias=") {
                Some(alias) if !alias.is_empty() && !alias.contains(',') => (name, Some(alias)),
                _ => {
                    return Err(Error::invalid(format!(
                        "`{option}` is not an option of a permitted device: write `device=NAME,alias=OTHER`"
                    )));
                }
            },
        };
        match alias {
            Some(alias) => self.names.insert(alias.to_owned(), Some(name.to_owned())),
            None => self.names.insert(name.to_owned(), None),
        };
        Ok(())
    }
}

/// The environment, mounts and groups that the devices of a command need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeviceEdits {
    /// Environment variables; they override those of the command.
    pub env: Vec<(String, String)>,
    /// Nodes, files and folders of the host.
    pub mounts: Vec<ExecMount>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// The devices that the host offers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Devices {
    known: BTreeMap<String, Device>,
    errors: Vec<String>,
}

#[derive(Clone, Debug)]
struct Device {
    specification: Arc<Shared>,
    annotations: BTreeMap<String, String>,
    edits: Edits,
    conflict: Option<PathBuf>,
}

/// What the devices of one specification share.
#[derive(Debug)]
struct Shared {
    folder: usize,
    path: PathBuf,
    edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Specification {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<HostMount>,
    #[serde(alias = "additionalGIDs")]
    additional_gids: Vec<u32>,
    hooks: Vec<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: String,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HostMount {
    host_path: PathBuf,
    container_path: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    options: Vec<String>,
}

impl Devices {
    /// Reads the specifications in some folders; a missing folder has none.
    pub(crate) fn load(folders: &[PathBuf]) -> Self {
        let mut devices = Self::default();
        for (number, folder) in folders.iter().enumerate() {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                let extension = path.extension().and_then(|e| e.to_str());
                let yaml = match extension {
                    Some("json") => false,
                    Some("yaml" | "yml") => true,
                    _ => continue,
                };
                if let Err(why) = read(&path).and_then(|text| devices.add(number, &path, &text, yaml)) {
                    devices.errors.push(format!("{}: {why}", path.display()));
                }
            }
        }
        devices
    }

    fn add(&mut self, folder: usize, path: &Path, text: &str, yaml: bool) -> Result<(), String> {
        let specification: Specification = if yaml {
            serde_saphyr::from_str(text).map_err(|e| e.to_string())?
        } else {
            serde_json::from_str(text).map_err(|e| e.to_string())?
        };
        let version = &specification.cdi_version;
        if !["0.", "1."].iter().any(|major| version.trim_start_matches('v').starts_with(major)) {
            return Err(format!("version `{version}` of CDI is not supported"));
        }
        let kind = &specification.kind;
        if vendor(kind).is_none() {
            return Err(format!("`{kind}` is not a kind of device: it needs the form VENDOR/CLASS"));
        }
        let edits = specification.container_edits;
        let shared = Arc::new(Shared { folder, path: path.to_owned(), edits });
        for device in specification.devices {
            let mut annotations = specification.annotations.clone();
            annotations.extend(device.annotations);
            let new = Device {
                specification: Arc::clone(&shared),
                annotations,
                edits: device.container_edits,
                conflict: None,
            };
            match self.known.entry(format!("{kind}={}", device.name)) {
                std::collections::btree_map::Entry::Occupied(mut known)
                    if known.get().specification.folder == folder =>
                {
                    known.get_mut().conflict = Some(path.to_owned());
                }
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.insert(new);
                }
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(new);
                }
            }
        }
        Ok(())
    }

    /// The devices that a name means, by their full names: `VENDOR/CLASS=NAME` for one, `VENDOR/CLASS` for the first of
    /// a kind, `VENDOR/CLASS=*` for all of it, or a class that devices are annotated with.
    fn find(&self, name: &str) -> Vec<&str> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let mut found: Vec<&str> = Vec::new();
        if vendor(kind).is_some() {
            let prefix = format!("{kind}=");
            let of_kind = self.known.keys().map(String::as_str).filter(|known| known.starts_with(&prefix));
            match device {
                "" => found.extend(of_kind.take(1)),
                "*" => found.extend(of_kind),
                _ => found.extend(of_kind.filter(|known| *known == name)),
            }
        }
        if found.is_empty() {
            let class = |device: &Device| device.annotations.get(CLASS).is_some_and(|class| class == name);
            found.extend(self.known.iter().filter(|(_, d)| class(d)).map(|(known, _)| known.as_str()));
        }
        found
    }

    /// The full names of the permitted devices of a request; empty for an optional device that does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a required device that does not exist, [`ErrorKind::Denied`] for one that is not
    /// permitted.
    pub(crate) fn grant(
        &self,
        name: &str,
        required: bool,
        permissions: &DevicePermissions,
    ) -> Result<Vec<String>> {
        let alias = permissions.names.get(name).and_then(Option::as_deref);
        let found = self.find(alias.unwrap_or(name));
        if found.is_empty() && required {
            return Err(self.missing(name));
        }
        let permitted: BTreeSet<&str> =
            // A device that was permitted with an alias is permitted under that alias only.
            permissions.names.iter().filter(|(_, of)| of.is_none()).flat_map(|(name, _)| self.find(name)).collect();
        for device in &found {
            let automatic =
                self.known.get(*device).and_then(|device| device.annotations.get(AUTO_ALLOW)).is_some_and(
                    |value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"),
                );
            if !permissions.all && alias.is_none() && !automatic && !permitted.contains(device) {
                let message = format!("RUN --device={name} needs the permission `device={device}`");
                let missing = MissingInput::Permission(format!("device={device}"));
                return Err(Error::new(ErrorKind::Denied, message).with_missing(missing));
            }
        }
        Ok(found.into_iter().map(str::to_owned).collect())
    }

    fn missing(&self, name: &str) -> Error {
        let mut message = format!("no device `{name}` is described on this machine");
        if !self.known.is_empty() {
            let known: Vec<&str> = self.known.keys().map(String::as_str).take(8).collect();
            message.push_str(&format!("; there are {}", known.join(", ")));
        }
        if let Some(error) = self.errors.first() {
            message.push_str(&format!("; a description cannot be used: {error}"));
        }
        Error::new(ErrorKind::NotFound, message)
    }

    /// What the named devices add to a command; `names` are full names.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] and [`ErrorKind::Invalid`] for edits that are not supported here;
    /// [`ErrorKind::Conflict`] for a device that is described twice.
    pub(crate) fn edits(&self, names: &[String]) -> Result<DeviceEdits> {
        let mut all = DeviceEdits::default();
        let mut seen = BTreeSet::new();
        let mut shared_seen: BTreeSet<&Path> = BTreeSet::new();
        for name in names {
            let Some(device) = self.known.get(name).filter(|_| seen.insert(name)) else { continue };
            let path = &device.specification.path;
            if let Some(other) = &device.conflict {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "the device `{name}` is described in both {} and {}",
                        path.display(),
                        other.display()
                    ),
                ));
            }
            let with_device =
                |e: Error| e.with_context("device", name).with_context("description", path.display());
            if shared_seen.insert(path) {
                add_edits(&mut all, &device.specification.edits).map_err(with_device)?;
            }
            add_edits(&mut all, &device.edits).map_err(with_device)?;
        }
        Ok(all)
    }
}

/// The vendor of a kind such as `vendor.com/class`.
fn vendor(kind: &str) -> Option<&str> {
    let (vendor, class) = kind.split_once('/')?;
    let word = |text: &str, more: &[char]| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
    };
    (word(vendor, &['-', '_', '.']) && word(class, &['-', '_', '.'])).then_some(vendor)
}

fn read(path: &Path) -> Result<String, String> {
    small_file::read_text(path, "the description", MAX_SIZE, Kinds::Files).map_err(|e| e.message().to_owned())
}

fn add_edits(all: &mut DeviceEdits, edits: &Edits) -> Result<()> {
    let refused = [
        ("hooks", !edits.hooks.is_empty()),
        ("netDevices", !edits.net_devices.is_empty()),
        ("intelRdt", edits.intel_rdt.is_some()),
    ];
    if let Some((what, _)) = refused.iter().find(|(_, asked)| *asked) {
        return Err(Error::unsupported(format!("`{what}` of a device is not supported")));
    }
    for pair in &edits.env {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            Error::invalid(format!("`{pair}` is not an environment variable: it needs the form NAME=VALUE"))
        })?;
        all.env.push((name.to_owned(), value.to_owned()));
    }
    for node in &edits.device_nodes {
        all.mounts.push(node.mount()?);
    }
    for mount in &edits.mounts {
        all.mounts.push(mount.mount()?);
    }
    all.groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
    Ok(())
}

fn absolute(path: &str) -> Result<String> {
    if path.starts_with('/') && !path.trim_matches('/').is_empty() {
        return Ok(path.to_owned());
    }
    Err(Error::invalid(format!("`{path}` is not a path for a device: it must be absolute")))
}

impl Node {
    /// The node of the host is mounted as it is; a description that changes it is refused.
    fn mount(&self) -> Result<ExecMount> {
        let target = absolute(&self.path)?;
        let path = self.host_path.clone().unwrap_or_else(|| PathBuf::from(&self.path));
        let stat =
            std::fs::metadata(&path).map_err(|e| Error::io("the host does not have the device", &path, e))?;
        let kind = if stat.file_type().is_block_device() {
            "b"
        } else if stat.file_type().is_char_device() {
            "c"
        } else if stat.file_type().is_fifo() {
            "p"
        } else {
            return Err(Error::invalid("this is not a device").with_context("path", path.display()));
        };
        let device = stat.rdev();
        let differs = [
            (
                "type",
                self.kind.as_deref().is_some_and(|wanted| wanted != kind && !(wanted == "u" && kind == "c")),
            ),
            ("major", self.major.is_some_and(|n| n != rustix::fs::major(device))),
            ("minor", self.minor.is_some_and(|n| n != rustix::fs::minor(device))),
            ("fileMode", self.file_mode.is_some_and(|mode| mode & 0o777 != stat.mode() & 0o777)),
            ("uid", self.uid.is_some_and(|uid| uid != stat.uid())),
            ("gid", self.gid.is_some_and(|gid| gid != stat.gid())),
            (
                "permissions",
                self.permissions.as_deref().is_some_and(|p| !(p.contains('r') && p.contains('w'))),
            ),
        ];
        if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
            let message = format!(
                "`{what}` of a device node must be that of the host's node: a different one is not supported"
            );
            return Err(Error::unsupported(message).with_context("path", path.display()));
        }
        Ok(ExecMount { target, source: MountSource::HostPath { path, options: Vec::new() } })
    }
}

impl HostMount {
    fn mount(&self) -> Result<ExecMount> {
        if let Some(kind) = self.kind.as_deref().filter(|kind| !matches!(*kind, "" | "bind" | "none")) {
            return Err(Error::unsupported(format!(
                "a mount of the type `{kind}` of a device is not supported"
            )));
        }
        let mut options = Vec::new();
        for option in &self.options {
            match option.as_str() {
                "ro" => options.push(HostOption::ReadOnly),
                "nosuid" => options.push(HostOption::NoSetUserId),
                "nodev" => options.push(HostOption::NoDevices),
                "noexec" => options.push(HostOption::NoExecution),
                // Every mount of a step has these options already.
                "rw" | "bind" | "rbind" | "private" | "rprivate" | "slave" | "rslave" => {}
                other => {
                    return Err(Error::unsupported(format!(
                        "the option `{other}` of a mount of a device is not supported"
                    )));
                }
            }
        }
        let path = self.host_path.clone();
        Ok(ExecMount {
            target: absolute(&self.container_path)?,
            source: MountSource::HostPath { path, options },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(files: &[(&str, &str)]) -> Devices {
        let place = tempfile::tempdir().unwrap();
        let folders = ["first", "second"].map(|name| place.path().join(name));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
        }
        for (name, text) in files {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        Devices::load(&folders)
    }

    const KIND: &str = "cdiVersion: \"0.6.0\"\nkind: vendor.example/gpu\n";

    fn granted(devices: &Devices, name: &str) -> Vec<String> {
        devices.grant(name, false, &DevicePermissions { all: true, ..Default::default() }).unwrap()
    }

    #[test]
    fn names_kinds_and_classes_find_devices() {
        let text = format!(
            "{KIND}devices:\n- name: a\n- name: b\n  annotations:\n    {CLASS}: fast\n- name: c\n  annotations: {{{CLASS}: fast}}\n"
        );
        let devices = devices(&[("first/gpu.yaml", &text), ("first/readme.txt", "no")]);
        let full =
            |names: &[&str]| names.iter().map(|n| format!("vendor.example/gpu={n}")).collect::<Vec<_>>();
        assert_eq!(granted(&devices, "vendor.example/gpu"), full(&["a"]));
        assert_eq!(granted(&devices, "vendor.example/gpu=b"), full(&["b"]));
        assert_eq!(granted(&devices, "vendor.example/gpu=*"), full(&["a", "b", "c"]));
        assert_eq!(granted(&devices, "fast"), full(&["b", "c"]));
        assert!(granted(&devices, "vendor.example/gpu=z").is_empty());
        let error = devices.grant("slow", true, &DevicePermissions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("vendor.example/gpu=a"), "{error}");
    }

    #[test]
    fn a_device_needs_a_permission_or_an_annotation() {
        let text =
            format!("{KIND}devices:\n- name: a\n- name: b\n  annotations:\n    {AUTO_ALLOW}: \"true\"\n");
        let devices = devices(&[("first/gpu.yml", &text)]);
        let grant = |name: &str, allowed: &[Option<&str>]| {
            let mut permissions = DevicePermissions::default();
            for text in allowed {
                permissions.allow(*text).unwrap();
            }
            devices.grant(name, true, &permissions).map_err(|e| e.kind())
        };
        let (a, b) = ("vendor.example/gpu=a", "vendor.example/gpu=b");
        assert_eq!(grant(a, &[]), Err(ErrorKind::Denied));
        assert_eq!(grant(b, &[]), Ok(vec![b.to_owned()]));
        assert_eq!(grant(a, &[Some(b)]), Err(ErrorKind::Denied));
        assert_eq!(grant(a, &[Some(a)]), Ok(vec![a.to_owned()]));
        assert_eq!(grant(a, &[None]), Ok(vec![a.to_owned()]));
        assert_eq!(grant("card", &[Some("vendor.example/gpu=a,alias=card")]), Ok(vec![a.to_owned()]));
        let alias = format!("{a},alias={b}");
        assert_eq!(grant("vendor.example/gpu=*", &[Some(&alias)]), Err(ErrorKind::Denied), "{alias}");
        assert!(DevicePermissions::default().allow(Some("x,as=y")).is_err());
    }

    #[test]
    fn later_folders_win_and_duplicates_conflict() {
        let one = |value: &str| {
            format!("{KIND}devices:\n- name: a\n  containerEdits:\n    env: [\"WHICH={value}\"]\n")
        };
        let name = ["vendor.example/gpu=a".to_owned()];
        let found = devices(&[("first/a.yaml", &one("first")), ("second/a.yaml", &one("second"))]);
        assert_eq!(found.edits(&name).unwrap().env, [("WHICH".to_owned(), "second".to_owned())]);
        let found = devices(&[("first/a.yaml", &one("1")), ("first/b.yaml", &one("2"))]);
        let error = found.edits(&name).unwrap_err();
        assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains("b.yaml"), "{error}");
    }

    #[test]
    fn shared_edits_come_once_and_before_those_of_the_devices() {
        let text = r#"{"cdiVersion": "0.8.0", "kind": "vendor.example/gpu",
            "containerEdits": {"env": ["ALL=1"], "additionalGids": [0, 44],
                "mounts": [{"hostPath": "/usr", "containerPath": "/host/usr", "options": ["ro", "nosuid", "bind"]}]},
            "devices": [
                {"name": "a", "containerEdits": {"deviceNodes": [{"path": "/dev/card0", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3}]}},
                {"name": "b", "containerEdits": {"env": ["B=x=y"]}}]}"#;
        let found = devices(&[("first/gpu.json", text)]);
        let names = ["a", "b", "a"].map(|n| format!("vendor.example/gpu={n}"));
        let edits = found.edits(&names).unwrap();
        assert_eq!(edits.env, [("ALL".into(), "1".into()), ("B".into(), "x=y".into())]);
        assert_eq!(edits.groups, [44]);
        let targets: Vec<&str> = edits.mounts.iter().map(|m| m.target.as_str()).collect();
        assert_eq!(targets, ["/host/usr", "/dev/card0"]);
        let options = vec![HostOption::ReadOnly, HostOption::NoSetUserId];
        assert_eq!(edits.mounts[0].source, MountSource::HostPath { path: "/usr".into(), options });
    }

    #[test]
    fn unsupported_edits_are_named() {
        let name = ["vendor.example/gpu=a".to_owned()];
        for (edit, expected) in [
            (r#""hooks": [{"hookName": "createContainer", "path": "/x"}]"#, "`hooks`"),
            (r#""netDevices": [{}]"#, "`netDevices`"),
            (r#""intelRdt": {}"#, "`intelRdt`"),
            (r#""env": ["NAME"]"#, "`NAME`"),
            (r#""deviceNodes": [{"path": "/dev/null", "minor": 4}]"#, "`minor`"),
            (r#""deviceNodes": [{"path": "/dev/null", "permissions": "r"}]"#, "`permissions`"),
            (r#""deviceNodes": [{"path": "/dev/none"}]"#, "does not have the device"),
            (r#""deviceNodes": [{"path": "dev/null", "hostPath": "/dev/null"}]"#, "absolute"),
            (r#""deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]"#, "not a device"),
            (r#""mounts": [{"hostPath": "/", "containerPath": "/x", "type": "tmpfs"}]"#, "`tmpfs`"),
            (r#""mounts": [{"hostPath": "/", "containerPath": "/x", "options": ["shared"]}]"#, "`shared`"),
        ] {
            let text = format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "vendor.example/gpu", "devices": [{{"name": "a", "containerEdits": {{{edit}}}}}]}}"#
            );
            let error = devices(&[("first/x.json", &text)]).edits(&name).unwrap_err();
            assert!(error.to_string().contains(expected), "{edit}: {error}");
        }
    }

    #[test]
    fn a_request_reports_the_broken_specification_of_its_device() {
        for (text, expected) in [
            ("cdiVersion: 0.6.0\nkind: gpu\ndevices: []\n", "VENDOR/CLASS"),
            ("cdiVersion: 7.0.0\nkind: a.b/c\ndevices: []\n", "`7.0.0`"),
            ("kind: [", "x.yaml"),
            ("cdiVersion: 0.6.0\nkind: a.b/c\ndevices: []\nextra: 1\n", "extra"),
        ] {
            let found = devices(&[("second/x.yaml", text)]);
            let error = found.grant("a.b/c=1", true, &DevicePermissions::default()).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }
}
