//! The configuration of a container (OCI runtime specification 1.0 and later).

use crate::exec::command::{CAPABILITIES, Command};
use crate::exec::limits::{Ulimit, last_of_each};
use crate::exec::seccomp;
use crate::exec::spec::{ExecSpec, Network, Security};
use crate::exec::{HostOption, MountSource, UlimitKind};
use crate::sandbox::{Context, sys};
use crate::{Error, Result};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// The version of the specification; nothing here is newer.
const VERSION: &str = "1.0.2";

/// The capabilities, by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The devices that every step may open: kind, major and minor number.
const DEVICES: &[(&str, u32, Option<u32>)] = &[
    ("c", 1, Some(3)),
    ("c", 1, Some(5)),
    ("c", 1, Some(7)),
    ("c", 1, Some(8)),
    ("c", 1, Some(9)),
    ("c", 5, Some(0)),
    ("c", 5, Some(2)),
    ("c", 136, None),
];

/// The configuration of the container of a step, whose stage is at `mount_point`.
pub(super) fn config(
    spec: &ExecSpec,
    command: &Command,
    mount_point: &Path,
    group: Option<&str>,
    context: Context,
) -> Result<Value> {
    let path = |name: &str| text(mount_point.join(name));
    let insecure = spec.security == Security::Insecure;
    let mut namespaces =
        vec![json!({ "type": "mount" }), json!({ "type": "pid", "path": path("runtime/processes")? })];
    // A kernel without such namespaces has no names of groups to hide.
    if Path::new("/proc/self/ns/cgroup").exists() {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "rootfsPropagation": "rprivate",
    });
    if let Some(group) = group {
        linux["cgroupsPath"] = json!(group);
    }
    if !context.user_namespace {
        linux["resources"] = json!({ "devices": devices(spec) });
    }
    if !insecure {
        linux["seccomp"] = seccomp::section(spec.network == Network::Host)?;
    }
    Ok(json!({
        "ociVersion": VERSION,
        "root": { "path": path("root")?, "readonly": false },
        "process": process(spec, command, insecure)?,
        // Everything is mounted in the tree. A runtime leaves `/dev` as it is when it is told to mount one there.
        "mounts": [{
            "destination": "/dev", "type": "bind", "source": path("runtime/dev")?, "options": ["rbind"],
        }],
        "linux": linux,
    }))
}

fn text(path: std::path::PathBuf) -> Result<String> {
    path.into_os_string().into_string().map_err(|path| {
        Error::unsupported("a runtime cannot be told the path of the state folder, which is no text")
            .with_context("path", path.display())
    })
}

fn process(spec: &ExecSpec, command: &Command, insecure: bool) -> Result<Value> {
    let (args, env, user) = command.parts();
    let have = sys::effective_capabilities();
    let names: Vec<String> = (0..)
        .zip(NAMES)
        .filter(|(number, _)| have >> number & 1 == 1 && (insecure || CAPABILITIES.contains(number)))
        .map(|(_, name)| format!("CAP_{name}"))
        .collect();
    let none: &[String] = &[];
    // Privileges of a user who is not root pass to its programs by the ambient set alone.
    let inherited = if insecure { names.as_slice() } else { none };
    Ok(json!({
        "terminal": false,
        "user": {
            "uid": user.uid, "gid": user.gid, "additionalGids": user.groups, "umask": 0o022,
        },
        "args": texts(args)?,
        "env": texts(env)?,
        "cwd": spec.cwd,
        "noNewPrivileges": false,
        "capabilities": {
            "bounding": names, "effective": names, "permitted": names,
            "inheritable": inherited, "ambient": inherited,
        },
        "rlimits": limits(&spec.limits.ulimits),
    }))
}

fn texts(list: &[CString]) -> Result<Vec<&str>> {
    let wrong = |e| Error::internal("a text of a command is none").with_source(e);
    list.iter().map(|one| one.to_str().map_err(wrong)).collect()
}

/// The limits that are asked for. That of open files is always said, because runtimes raise their own.
fn limits(ulimits: &[Ulimit]) -> Vec<Value> {
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let mut all: Vec<Value> = last_of_each(ulimits)
        .map(|limit| {
            let name = format!("RLIMIT_{}", limit.kind.name().to_ascii_uppercase());
            json!({ "type": name, "soft": number(limit.soft), "hard": number(limit.hard) })
        })
        .collect();
    if ulimits.iter().all(|limit| limit.kind != UlimitKind::Nofile) {
        let now = getrlimit(Resource::Nofile);
        all.push(json!({
            "type": "RLIMIT_NOFILE", "soft": number(now.current), "hard": number(now.maximum),
        }));
    }
    all
}

/// Which devices the control group of the step may open. Nodes may be made.
fn devices(spec: &ExecSpec) -> Vec<Value> {
    if spec.security == Security::Insecure {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut all = vec![
        json!({ "allow": false, "access": "rwm" }),
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    let allow = |kind: &str, major: u32, minor: Option<u32>| {
        let mut rule = json!({ "allow": true, "type": kind, "major": major, "access": "rw" });
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    all.extend(DEVICES.iter().map(|(kind, major, minor)| allow(kind, *major, *minor)));
    for mount in &spec.mounts {
        let MountSource::HostPath { path, options } = &mount.source else { continue };
        let Ok(stat) = std::fs::metadata(path) else { continue };
        let kind = match stat.file_type() {
            kind if kind.is_block_device() => "b",
            kind if kind.is_char_device() => "c",
            _ => continue,
        };
        if !options.contains(&HostOption::NoDevices) {
            let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
            all.push(allow(kind, major, Some(minor)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_that_are_asked_for_and_that_of_open_files() {
        let limit = |kind, soft, hard| Ulimit { kind, soft, hard };
        let all =
            limits(&[limit(UlimitKind::Core, Some(1), None), limit(UlimitKind::Core, Some(0), Some(5))]);
        assert_eq!(all[0], json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 5 }));
        assert_eq!((all.len(), &all[1]["type"]), (2, &json!("RLIMIT_NOFILE")));
        let given = limits(&[limit(UlimitKind::Nofile, Some(7), None)]);
        assert_eq!(given, [json!({ "type": "RLIMIT_NOFILE", "soft": 7, "hard": u64::MAX })]);
    }

    #[test]
    fn a_step_may_open_the_usual_devices_and_those_that_a_mount_brings() {
        let mut spec = ExecSpec::new(["true"]);
        let usual = devices(&spec);
        assert_eq!(usual[0], json!({ "allow": false, "access": "rwm" }));
        let mut grant = |options| {
            let source = MountSource::HostPath { path: "/dev/full".into(), options };
            spec.mounts = vec![crate::exec::ExecMount { target: "/dev/mine".into(), source }];
            devices(&spec)
        };
        assert_eq!(grant(vec![HostOption::NoDevices]), usual);
        let more = grant(Vec::new());
        let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 7, "access": "rw" });
        assert_eq!((more.len(), more.last()), (usual.len() + 1, Some(&rule)));
        spec.security = Security::Insecure;
        assert_eq!(devices(&spec), [json!({ "allow": true, "access": "rwm" })]);
    }

    #[test]
    fn capabilities_have_their_numbers() {
        for (number, name) in
            [(0, "CHOWN"), (8, "SETPCAP"), (18, "SYS_CHROOT"), (27, "MKNOD"), (31, "SETFCAP")]
        {
            assert_eq!(NAMES[number], name);
        }
        assert_eq!(NAMES[40], "CHECKPOINT_RESTORE");
    }
}
