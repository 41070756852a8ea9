//! The image of the server in `deploy/container`: built by `hyperbuild`, run with few rights, and used. `HYPER_STATIC_PROGRAM`
//! says where `cargo xtask static` has put the programs.

use crate::static_program;
use crate::support::{Place, base, told};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The root of the repository.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// An image of the server in a store of podman, and a volume.
struct Image {
    place: Place,
}

impl Image {
    fn new() -> Option<Self> {
        let program = static_program::program()?;
        let place = Place::new();
        let contexts = [
            format!("--build-context=program={}", program.parent().unwrap().display()),
            format!("--build-context=certificates={}", place.join("certificates").display()),
        ];
        place.write("certificates/ca-certificates.crt", "certificates\n");
        place.write("certificates/other.crt", "another\n");
        let folder = repository().join("deploy/container");
        let folder = folder.to_str().unwrap();
        place.ok(&[
            "build",
            "-q",
            &contexts[0],
            &contexts[1],
            "-o",
            "type=oci,dest=image.tar",
            "-t",
            "localhost/server:1",
            folder,
        ]);
        let image = Self { place };
        let loaded = image.podman(&["load", "-q", "-i", image.place.join("image.tar").to_str().unwrap()]);
        assert!(loaded.status.success(), "{}", told(&loaded));
        Some(image)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "5", "300", "podman", "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--root"])
            .arg(self.place.join("store"))
            .arg("--runroot")
            .arg(self.place.join("runroot"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn podman(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the server as `compose.yaml` does, on a port of the host.
    fn start(&self, name: &str, port: u16) -> Server<'_> {
        let listen = format!("HYPERREGISTRY_LISTEN=127.0.0.1:{port}");
        let child = self
            .command(&["run", "--rm", "--name", name, "--runtime=runc", "--network=host"])
            .args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=32768:32768"])
            .args([
                "--read-only",
                "--cap-drop=ALL",
                "--security-opt=no-new-privileges",
                "-v",
                "data:/data",
                "-e",
            ])
            .args([&listen, "localhost/server:1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { image: self, name: name.to_owned(), child };
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.podman(&["exec", name, "/hyperregistry", "status"]);
            if status.status.success() {
                return server;
            }
            assert!(Instant::now() < end, "the server is not ready: {}", told(&status));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A running container.
struct Server<'a> {
    image: &'a Image,
    name: String,
    child: Child,
}

impl Server<'_> {
    /// Stops it as an orchestrator does, and returns whether the server ended by itself and well.
    fn stop(mut self) -> bool {
        let stopped = self.image.podman(&["stop", "-t", "30", &self.name]);
        assert!(stopped.status.success(), "{}", told(&stopped));
        self.child.wait().unwrap().success()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.image.podman(&["rm", "-f", "-t", "1", &self.name]);
            let _ = self.child.wait();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_image_of_the_server_runs_without_rights_and_keeps_its_data() {
    let Some(image) = Image::new() else { return };
    let format =
        "--format={{.Config.User}} {{.Config.Volumes}} {{.Config.ExposedPorts}} {{.Config.Entrypoint}}";
    let config = image.podman(&["inspect", format, "localhost/server:1"]);
    let config = told(&config);
    for part in ["65532:65532", "/data", "5000/tcp", "/hyperregistry"] {
        assert!(config.contains(part), "{part}: {config}");
    }
    let port = free_port();
    let host = format!("127.0.0.1:{port}");
    let server = image.start("first", port);
    let process = image.podman(&["top", "first", "huser", "args"]);
    assert!(
        told(&process).contains("65532") && told(&process).contains("/hyperregistry serve"),
        "{}",
        told(&process)
    );
    let name = format!("{host}/team/app:1");
    image.place.write("app/Dockerfile", "FROM base\nRUN echo built > /built\n");
    let context = format!("--build-context=base=oci-layout://{}", base().display());
    image.place.ok(&["build", "-q", "-t", &name, &context, "app"]);
    image.place.ok(&["push", "--plain-http", &name]);
    assert!(server.stop(), "the server did not end well");

    // Another container with the same volume.
    let server = image.start("second", port);
    let pulled = image.podman(&["pull", "-q", "--tls-verify=false", &name]);
    assert!(pulled.status.success(), "{}", told(&pulled));
    let options = ["run", "--rm", "--runtime=runc", "--network=none", "--ulimit=nofile=1024:1024"];
    let read =
        image.podman(&[&options[..], &["--ulimit=nproc=32768:32768", &name, "cat", "/built"]].concat());
    assert!(told(&read).contains("built"), "{}", told(&read));
    // The folder is the server's alone.
    let volume = image.podman(&["volume", "inspect", "--format={{.Mountpoint}}", "data"]);
    let folder = PathBuf::from(String::from_utf8(volume.stdout).unwrap().trim()).join("registry");
    let metadata = std::fs::metadata(folder).unwrap();
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (65532, 0o700));
    assert!(server.stop(), "the server did not end well");
}

#[test]
fn the_image_of_the_server_has_the_program_and_the_certificates_alone() {
    let Some(image) = Image::new() else { return };
    let options = ["create", "--name", "files", "--network=host", "localhost/server:1"];
    let created = image.podman(&options);
    assert!(created.status.success(), "{}", told(&created));
    let exported = image.podman(&["export", "-o", image.place.join("files.tar").to_str().unwrap(), "files"]);
    assert!(exported.status.success(), "{}", told(&exported));
    let files = Command::new("tar").arg("tf").arg(image.place.join("files.tar")).output().unwrap();
    let files = String::from_utf8(files.stdout).unwrap();
    let mut files: Vec<&str> = files.lines().filter(|path| !path.ends_with('/')).collect();
    files.sort_unstable();
    // Podman adds the places of its mounts.
    files.retain(|path| {
        !["etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab", "run/.containerenv"].contains(path)
    });
    assert_eq!(files, ["etc/ssl/certs/ca-certificates.crt", "hyperregistry"]);
    assert!(image.podman(&["rm", "files"]).status.success());
}

#[test]
fn the_compose_file_builds_the_image_and_names_variables_that_exist() {
    let place = Place::new();
    let folder = repository().join("deploy/container");
    let file = folder.join("compose.yaml");
    let plan = place.ok(&["bake", "-f", file.to_str().unwrap(), "--print"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let target = &plan["target"]["registry"];
    assert!(target["contexts"]["program"].as_str().unwrap().ends_with("target/static"), "{plan}");
    assert_eq!(target["tags"][0], "hyperregistry", "{plan}");
    let reference = std::fs::read_to_string(repository().join("docs/reference/hyperregistry.md")).unwrap();
    for name in ["compose.yaml", "Dockerfile"] {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let variables: Vec<&str> = words.filter(|word| word.starts_with("HYPERREGISTRY_")).collect();
        assert!(!variables.is_empty(), "{name}");
        for variable in variables {
            assert!(reference.contains(&format!("| `{variable}` |")), "{name}: {variable}");
        }
    }
}
