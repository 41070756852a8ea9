//! Images go to the tools of others and come back as they were.

use crate::support::{Place, Registry, busybox, find, is_root, missing, skip, succeed, tool, tree};
use hyper_sdk::Digest;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const DOCKERFILE: &str = "FROM base\n\
    COPY --chown=3:4 file /data/file\n\
    RUN mkdir -p /data/deep && echo made > /data/deep/made && ln -s ../file /data/deep/link\n\
    ENV GREETING=hello\n\
    CMD [\"/bin/sh\", \"-c\", \"echo $GREETING from $(cat /data/deep/made /data/file)\"]\n";

/// What the image says when it is run.
const SAID: &str = "hello from made content";

/// An image in a registry, and where it is in the local store.
struct Published {
    place: Place,
    registry: Registry,
    name: String,
    digest: String,
}

fn publish() -> Published {
    let (place, registry) = (Place::new(), Registry::start());
    place.write("context/file", "content\n");
    let name = format!("{}/team/app:1", registry.host);
    let digest = place.built(DOCKERFILE, &["-t", &name]).digest;
    assert_eq!(place.ok(&["push", &name]), digest, "what is pushed is what was built");
    Published { place, registry, name, digest }
}

impl Published {
    /// Pulls a name into a new state folder and compares digest and files with those of the image that was built.
    fn comes_back(&self, name: &str) {
        let name = format!("{}/{name}", self.registry.host);
        let other = Place::new();
        assert_eq!(other.ok(&["pull", &name]), self.digest, "{name}");
        let files = |place: &Place, image: &str| {
            let folder = place.join("files");
            place.built(&format!("FROM {image}\n"), &["-o", folder.to_str().unwrap()]);
            let _ = std::fs::remove_file(place.join("Dockerfile"));
            tree(&folder)
        };
        let (built, pulled) = (files(&self.place, &self.name), files(&other, &name));
        assert!(built.len() > 10, "the image has files");
        assert_eq!(built, pulled, "{name}");
    }
}

/// An image layout's blob by its digest.
fn blob(layout: &Path, digest: &Value) -> Vec<u8> {
    let digest: Digest = digest.as_str().unwrap().parse().unwrap();
    let bytes = std::fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(Digest::sha256(&bytes), digest);
    bytes
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// The digest of the only manifest of a layout, whose blobs are all there and as their digests say.
fn manifest_of(layout: &Path) -> (String, Value) {
    let index = json(&std::fs::read(layout.join("index.json")).unwrap());
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    let digest = &index["manifests"][0]["digest"];
    let manifest = json(&blob(layout, digest));
    blob(layout, &manifest["config"]["digest"]);
    for layer in manifest["layers"].as_array().unwrap() {
        blob(layout, &layer["digest"]);
    }
    (digest.as_str().unwrap().to_owned(), manifest)
}

/// A signature policy that takes everything.
fn policy(place: &Place) -> String {
    let file = place.write("policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    format!("--signature-policy={}", file.display())
}

fn skopeo(place: &Place) -> Command {
    let mut command = tool("skopeo", &place.join("home"));
    command.args(["--insecure-policy", "--tmpdir"]).arg(place.join("home"));
    command
}

/// Podman and buildah, with storage of their own.
fn containers(name: &str, place: &Place) -> Command {
    let home = place.join(name);
    let mut command = tool(name, &home);
    command.arg("--root").arg(home.join("root")).arg("--runroot").arg(home.join("runroot"));
    command.arg("--storage-driver=vfs");
    if name == "podman" {
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime=runc"]);
    }
    command
}

#[test]
fn skopeo_pulls_and_pushes_an_image() {
    if busybox().is_none() || missing(&["skopeo"]).is_some() {
        skip!("there is no skopeo or no static busybox");
    }
    let image = publish();
    let layout = image.place.join("layout");
    let copy = |arguments: &[&str]| {
        succeed(
            skopeo(&image.place)
                .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
                .args(arguments),
        )
    };
    let source = format!("docker://{}", image.name);
    let here = format!("oci:{}:x", layout.display());
    copy(&[&source, &here]);
    assert_eq!(manifest_of(&layout).0, image.digest);

    copy(&[&here, &format!("docker://{}/back/skopeo:1", image.registry.host)]);
    image.comes_back("back/skopeo:1");
    let tags = succeed(
        skopeo(&image.place)
            .args(["list-tags", "--tls-verify=false"])
            .arg(format!("docker://{}/back/skopeo", image.registry.host)),
    );
    assert_eq!(json(tags.as_bytes())["Tags"], serde_json::json!(["1"]));
}

#[test]
fn skopeo_reads_archives() {
    if busybox().is_none() || missing(&["skopeo"]).is_some() {
        skip!("there is no skopeo or no static busybox");
    }
    let place = Place::new();
    place.write("context/file", "content\n");
    let (docker, oci) = (place.join("docker.tar"), place.join("oci.tar"));
    let built = place.built(
        DOCKERFILE,
        &[
            "-t",
            "archived:1",
            "-o",
            &format!("type=docker,dest={}", docker.display()),
            "-o",
            &format!("type=oci,dest={}", oci.display()),
        ],
    );
    let copied = |from: &str, to: &str| {
        let layout = place.join(to);
        succeed(skopeo(&place).args(["copy", from]).arg(format!("oci:{}:x", layout.display())));
        (layout.clone(), manifest_of(&layout))
    };
    let (_, (digest, of_oci)) = copied(&format!("oci-archive:{}", oci.display()), "from-oci");
    assert_eq!(digest, built.digest);
    // This archive has no manifest, so the same config is what proves the same image.
    let (layout, (_, of_docker)) =
        copied(&format!("docker-archive:{}:archived:1", docker.display()), "from-docker");
    let rootfs = |layout: &Path, manifest: &Value| {
        let config = json(&blob(layout, &manifest["config"]["digest"]));
        (config["rootfs"].clone(), config["config"].clone())
    };
    assert_eq!(rootfs(&layout, &of_docker), rootfs(&place.join("from-oci"), &of_oci));
}

/// Pulls, pushes under another name, and pulls that with the program.
fn there_and_back(name: &str) -> Option<Published> {
    let image = publish();
    let policy = policy(&image.place);
    let run = |arguments: &[&str]| succeed(containers(name, &image.place).args(arguments));
    run(&["pull", &policy, "--tls-verify=false", &image.name]);
    let config = run(&["images", "--no-trunc", "--quiet"]);
    let layout = image.place.join("own");
    image.place.built(
        &format!("FROM {}\n", image.name),
        &["-t", "x:1", "-o", &format!("type=oci,tar=false,dest={}", layout.display())],
    );
    let pushed = format!("{}/back/{name}:1", image.registry.host);
    run(&["push", &policy, "--tls-verify=false", &image.name, &format!("docker://{pushed}")]);
    let raw = succeed(skopeo(&image.place).args([
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{pushed}"),
    ]));
    let manifest = json(raw.as_bytes());
    assert_eq!(manifest["config"]["digest"].as_str().unwrap(), config, "the config is the id of the image");
    image.comes_back(&format!("back/{name}:1"));
    Some(image)
}

#[test]
fn buildah_pulls_and_pushes_an_image() {
    if busybox().is_none() || !is_root() || missing(&["buildah", "skopeo"]).is_some() {
        skip!("this takes root, buildah, skopeo and a static busybox");
    }
    there_and_back("buildah");
}

#[test]
fn podman_pulls_runs_and_pushes_an_image() {
    if busybox().is_none() || !is_root() || missing(&["podman", "skopeo", "runc"]).is_some() {
        skip!("this takes root, podman, skopeo, runc and a static busybox");
    }
    let image = there_and_back("podman").unwrap();
    let said = succeed(
        containers("podman", &image.place)
            .args(["run", "--rm", "--network=host"])
            .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=32768:32768"])
            .arg(&image.name),
    );
    assert_eq!(said, SAID);
}

#[test]
fn a_real_registry_takes_an_image() {
    if busybox().is_none() || find("docker-registry").is_none() {
        skip!("there is no docker-registry or no static busybox");
    }
    let place = Place::new();
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let config = place.write(
        "registry.yml",
        &format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            place.join("registry").display()
        ),
    );
    let mut server = tool("docker-registry", &place.join("home"))
        .arg("serve")
        .arg(config)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let up = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    crate::support::wait_for("the registry listens", up);
    let name = format!("127.0.0.1:{port}/team/app:1");
    let outcome = std::panic::catch_unwind(|| {
        place.write("context/file", "content\n");
        let digest = place.built(DOCKERFILE, &["-t", &name, "--push"]).digest;
        assert_eq!(Place::new().ok(&["pull", &name]), digest);
        let both = ["--platform=linux/amd64,linux/arm64", "-t", &name, "--push"];
        let index = place.built("FROM scratch\nCOPY file /\n", &both).digest;
        assert_eq!(Place::new().ok(&["pull", "--all-platforms", &name]), index);
    });
    server.kill().unwrap();
    server.wait().unwrap();
    outcome.unwrap();
}
