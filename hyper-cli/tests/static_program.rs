//! The program that `cargo xtask static` builds, in images without a C library. `HYPER_STATIC_PROGRAM` says where it is.

use crate::support::{Place, Registry, base, busybox, is_root, missing, told};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program of the builder, where it has been built as one file and podman can run it; the server lies beside it. `None`,
/// with a word why, elsewhere.
pub(crate) fn program() -> Option<PathBuf> {
    let Some(program) = std::env::var_os("HYPER_STATIC_PROGRAM").map(PathBuf::from) else {
        println!("SKIPPED: HYPER_STATIC_PROGRAM names no program that `cargo xtask static` has built");
        return None;
    };
    if let Some(tool) = missing(&["podman", "runc"]) {
        println!("SKIPPED: there is no {tool}");
        return None;
    }
    if busybox().is_none() || !is_root() {
        println!("SKIPPED: this takes root, and a static busybox");
        return None;
    }
    Some(program)
}

/// A root file system that has the program alone, and a context.
struct Image {
    place: Place,
}

impl Image {
    /// `None`, with a word why, where it cannot be run.
    fn new() -> Option<Self> {
        let program = program()?;
        let place = Place::new();
        place.write("root/state/.keep", "");
        std::fs::set_permissions(place.join("root/state"), Permissions::from_mode(0o1777)).unwrap();
        std::fs::set_permissions(place.join(""), Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(program, place.join("root/hyperbuild")).unwrap();
        place.write("context/f", "data\n");
        Some(Self { place })
    }

    /// Runs the program as the only one in a container with podman's default profile.
    fn run(&self, options: &[&str], arguments: &[&str]) -> Output {
        let bind = |from: &Path, to: &str| format!("{}:{to}:ro", from.display());
        Command::new("timeout")
            .args(["-k", "5", "300", "podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--root"])
            .arg(self.place.join("store"))
            .arg("--runroot")
            .arg(self.place.join("runroot"))
            .args(["run", "--rm", "--runtime=runc", "--network=host"])
            .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=32768:32768", "-v"])
            .arg(bind(base(), "/base"))
            .arg("-v")
            .arg(bind(&self.place.join("context"), "/context"))
            .args(options)
            .arg("--rootfs")
            .arg(self.place.join("root"))
            .arg("/hyperbuild")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

#[test]
fn an_image_of_the_program_alone_builds_the_image_of_the_machine() {
    let Some(image) = Image::new() else { return };
    let dockerfile = "FROM base\nCOPY --chown=7:8 f /f\nRUN cat /f; id -u; echo x > /x && chown 5:6 /x\n";
    image.place.write("context/Dockerfile", dockerfile);
    let build = [
        "build",
        "--progress=plain",
        "--source-date-epoch=1700000000",
        "--build-context=base=oci-layout:///base",
        "-t=app:1",
        "/context",
    ];
    let outside = Place::new();
    outside.write("context/f", "data\n");
    outside.write("context/Dockerfile", dockerfile);
    let digest = outside.built(dockerfile, &["--source-date-epoch=1700000000"]).digest;
    // As root and as a user that the image has no name for; the context has its Dockerfile.
    for (user, state) in [("--user=0", "/state/root"), ("--user=1000", "/state/user")] {
        let output = image.run(&[user], &[&["--root", state][..], &build].concat());
        let text = told(&output);
        assert!(output.status.success() && text.contains(&digest), "{user}: {text}");
    }
}

#[test]
fn an_image_of_the_program_alone_finds_hosts_by_name() {
    let Some(image) = Image::new() else { return };
    let registry = Registry::start();
    let port = registry.host.rsplit(':').next().unwrap();
    let pushed = format!("{}/app:1", registry.host);
    image.place.write("one/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    image.place.ok(&["build", "-q", "-t", &pushed, "one"]);
    image.place.ok(&["push", "--plain-http", &pushed]);
    // Modules of a C library that is not there, or is another one, are not asked.
    image.place.write(
        "root/etc/nsswitch.conf",
        "hosts: mymachines resolve missing\npasswd: systemd\ngroup: systemd\n",
    );
    let name = format!("registry.test:{port}/app:1");
    let output = image.run(
        &["--add-host=registry.test:127.0.0.1"],
        &["--root", "/state/own", "pull", "--plain-http", &name],
    );
    assert!(output.status.success(), "{}", told(&output));
}
