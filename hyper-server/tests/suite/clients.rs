//! The client matrix: each client logs in, pushes and pulls in each way to log in, over TLS with an authority that it is given.
//! Beside that, everybody pulls what is open, and nobody what is not.
//!
//! A client that is not installed is skipped, and says so; what a client has no means for is in its `cannot`. Programs that
//! no package of the distribution has are looked for in the folder of the variable `HYPER_TEST_CLIENTS`, too.

use super::clients_daemons::{Containerd, Docker};
use super::clients_site::{Home, Said, Site, Way, Who, find};
use super::clients_tools::{Cosign, Crane, Helm, Oras, Podman, Regctl, Skopeo};
use std::path::PathBuf;

/// A client of registries.
pub(super) trait Client {
    /// Why the client cannot log in in a way at all.
    fn cannot(&self, _way: Way) -> Option<&'static str> {
        None
    }

    /// Logs in with the password that the home has; `None` for a client that has no such command.
    fn login(&self, home: &Home<'_>) -> Option<Said>;

    /// Pushes to a repository. Returns what was said, and what was pushed.
    fn push(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>);

    /// Pulls from a repository what was pushed there. Returns what was said, and what was pulled, if it was.
    fn pull(&self, home: &Home<'_>, repository: &str) -> (Said, Vec<u8>);

    /// The errors of the client for one whom the registry does not know, or does not let in.
    fn refusals(&self) -> &'static [&'static str];
}

/// Tries a client in all ways.
fn try_all(name: &str, client: &dyn Client) {
    for way in Way::ALL {
        if let Some(why) = client.cannot(way) {
            println!("{name}, {way:?}: not possible: {why}");
            continue;
        }
        let began = std::time::Instant::now();
        try_one(name, client, way);
        println!("{name}, {way:?}: works ({:.1} s)", began.elapsed().as_secs_f32());
    }
}

fn try_one(name: &str, client: &dyn Client, way: Way) {
    let site = Site::start(way);
    let (open, closed) = (format!("open/{name}"), format!("closed/{name}"));
    let log_in = |home: &Home<'_>| home.login.and_then(|_| client.login(home));

    // A wrong certificate ends the handshake. A wrong password is stored by some clients, and refused later.
    let refusals = match way {
        // A client that was still writing may see the end of the connection before the alert.
        Way::Certificate => &["remote error: tls: ", "broken pipe", "connection reset by peer"],
        _ => client.refusals(),
    };
    let stranger = site.home(Who::Stranger);
    match log_in(&stranger) {
        Some(said) if !said.ok => said.refused(refusals),
        _ => client.push(&stranger, &closed).0.refused(refusals),
    }

    let alice = site.home(Who::Alice);
    if let Some(said) = log_in(&alice) {
        said.expect();
    }
    let mut pushed = Vec::new();
    for repository in [&closed, &open] {
        let (said, content) = client.push(&alice, repository);
        said.expect();
        let (said, pulled) = client.pull(&alice, repository);
        said.expect();
        assert!(
            !content.is_empty() && pulled == content,
            "{name}, {way:?}: {repository} came back different"
        );
        pushed = content;
    }

    let nobody = site.home(Who::Nobody);
    let (said, pulled) = client.pull(&nobody, &open);
    if way.is_open() {
        said.expect();
        assert_eq!(pulled, pushed, "{name}, {way:?}: {open} came back different");
    } else {
        said.refused(client.refusals());
    }
    client.pull(&nobody, &closed).0.refused(client.refusals());
    // Not where it is already: some clients push nothing then.
    client.push(&nobody, &format!("{open}/other")).0.refused(client.refusals());
}

/// The clients that whoever sets `HYPER_TEST_CLIENTS` has built.
const BUILT: [&str; 5] = ["crane", "regctl", "oras", "helm", "cosign"];

/// Finds the programs of a client, or says which is missing.
fn installed<const N: usize>(programs: [&str; N]) -> Option<[PathBuf; N]> {
    for program in programs {
        if find(program).is_none() {
            let expected = BUILT.contains(&program) && std::env::var_os("HYPER_TEST_CLIENTS").is_some();
            assert!(!expected, "{program} is not in the folder of HYPER_TEST_CLIENTS");
            println!("SKIPPED: {program} is not installed");
            return None;
        }
    }
    Some(programs.map(|program| find(program).unwrap()))
}

/// What stores images as root does, without the privileges that an ordinary user may or may not have.
fn is_root(name: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        println!("SKIPPED: {name} is tried as root, and the tests run as an ordinary user already");
    }
    root
}

#[test]
fn skopeo() {
    if let Some([program]) = installed(["skopeo"]) {
        try_all("skopeo", &Skopeo(program));
    }
}

#[test]
fn podman() {
    if let Some([program]) = installed(["podman"]).filter(|_| is_root("podman")) {
        try_all("podman", &Podman(program));
    }
}

#[test]
fn buildah() {
    if let Some([program]) = installed(["buildah"]).filter(|_| is_root("buildah")) {
        try_all("buildah", &Podman(program));
    }
}

#[test]
fn crane() {
    if let Some([program]) = installed(["crane"]) {
        try_all("crane", &Crane(program));
    }
}

#[test]
fn regctl() {
    if let Some([program]) = installed(["regctl"]) {
        try_all("regctl", &Regctl(program));
    }
}

#[test]
fn oras() {
    if let Some([program]) = installed(["oras"]) {
        try_all("oras", &Oras(program));
    }
}

#[test]
fn helm() {
    if let Some([program]) = installed(["helm"]) {
        try_all("helm", &Helm(program));
    }
}

#[test]
fn cosign() {
    if let Some([program]) = installed(["cosign"]) {
        try_all("cosign", &Cosign(program));
    }
}

#[test]
fn docker() {
    let Some([program, daemon]) = installed(["docker", "dockerd"]).filter(|_| is_root("docker")) else {
        return;
    };
    match Docker::start(program, &daemon) {
        Ok(docker) => try_all("docker", &docker),
        Err(log) => println!("SKIPPED: dockerd does not start here\n{log}"),
    }
}

#[test]
fn containerd() {
    let Some([program, daemon]) = installed(["ctr", "containerd"]).filter(|_| is_root("containerd")) else {
        return;
    };
    match Containerd::start(program, &daemon) {
        Ok(containerd) => try_all("containerd", &containerd),
        Err(log) => println!("SKIPPED: containerd does not start here\n{log}"),
    }
}
