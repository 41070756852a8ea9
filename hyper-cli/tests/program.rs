//! The program as its users meet it: exit status, standard output and standard error, in an empty environment.

use std::path::Path;
use std::process::{Command, Output, Stdio};

struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("context")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn dockerfile(&self, text: &str) {
        std::fs::write(self.path("context/Dockerfile"), text).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hyperbuild"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HYPER_ROOT", self.path("state"))
            .env("DOCKER_CONFIG", self.path("docker"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stderr)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn blobs(layout: &Path) -> usize {
    std::fs::read_dir(layout.join("blobs/sha256")).unwrap().count()
}

#[test]
fn an_image_is_built_shown_renamed_and_removed() {
    let world = World::new();
    world.dockerfile("FROM scratch\nCOPY Dockerfile /\nLABEL a=b\nCMD [\"/x\"]\n");
    let digest = world.ok(&["build", "-t", "app:1", "--progress", "plain", "context"]);
    let digest = digest.trim();
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert!(world.ok(&["images", "--digests"]).contains(&format!("app:1   {digest}")));
    let shown = world.ok(&["inspect", "app:1"]);
    assert!(shown.contains("Label:       a=b") && shown.contains("[\"/x\"]"), "{shown}");
    world.ok(&["tag", "app:1", "localhost:5000/other:2"]);
    world.ok(&["rm", "app:1"]);
    assert_eq!(world.ok(&["images", "-q"]).trim(), digest);
    assert!(world.fails(1, &["inspect", "app:1"]).contains("hint: `hyperbuild images`"));
    // The raw manifest is what the digest is of.
    let raw = world.run(&["inspect", "--raw", "localhost:5000/other:2"]).stdout;
    assert_eq!(hyper_sdk::Digest::sha256(&raw).as_str(), digest);
}

#[test]
fn outputs_are_written_to_their_destinations() {
    let world = World::new();
    world.dockerfile("FROM scratch\nCOPY Dockerfile /here/\n");
    let built =
        world.run(&["build", "-o", "type=oci,dest=l,tar=false", "-o", "out", "--iidfile", "id", "context"]);
    assert!(built.status.success(), "{}", text(&built.stderr));
    assert_eq!(blobs(&world.path("l")), 3);
    assert!(world.path("out/here/Dockerfile").exists());
    assert_eq!(std::fs::read_to_string(world.path("id")).unwrap(), text(&built.stdout).trim());
    let tar = world.run(&["build", "-q", "-o", "-", "context"]).stdout;
    assert_eq!(&tar[257..262], b"ustar");
}

#[test]
fn equal_inputs_give_equal_digests_in_new_state_folders() {
    let build = || {
        let world = World::new();
        world.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
        world.ok(&["build", "-q", "--source-date-epoch", "1000", "context"])
    };
    assert_eq!(build(), build());
}

#[test]
fn errors_have_their_place_and_exit_status() {
    let world = World::new();
    world.dockerfile("FROM scratch\nCOPPY a b\n");
    let told = world.fails(1, &["build", "--cache-from", "type=gha", "context"]);
    assert!(told.contains("--cache-from: type=gha is not supported yet"), "{told}");
    world.fails(2, &["build", "--elephant", "context"]);
    world.fails(2, &["build", "--push", "context"]);
    world.fails(1, &["build", "nowhere"]);
    assert!(!world.path("state").exists(), "a call that is refused leaves nothing behind");
    let told = world.fails(1, &["build", "context"]);
    assert!(told.contains("context/Dockerfile:2:1") && told.contains("did you mean `COPY`?"), "{told}");
}

#[test]
fn invalid_values_of_flags_are_usage_errors() {
    let world = World::new();
    // The build itself would fail, too, but does not start.
    world.dockerfile("FROM scratch\nCOPY nothing /\n");
    std::fs::write(world.path("file"), "").unwrap();
    for (flag, value, part) in [
        ("--platform", "foo", "expected OS[(VERSION)]/ARCH"),
        ("--build-context", "x=ftp://a/b", "`ftp://`"),
        ("--build-context", "x=oci-layout://", "oci-layout://FOLDER"),
        ("--build-context", "x=docker-image://UP", "`UP`"),
        ("--build-context", "x=nowhere", "no folder nowhere"),
        ("--build-context", "x=target:", "target:STAGE"),
        ("--annotation", "indx:a=b", "known are manifest, manifest-descriptor, index"),
        ("--secret", "id=a,src=nowhere", "file of the secret `a`"),
        ("--ssh", "a=/nowhere/at/all", "/nowhere/at/all"),
        ("--allow", "everything", "expected security.insecure"),
        ("--allow", "device=a,as=b", "device=NAME,alias=OTHER"),
        ("--call", "check,format=xml", "text, json or sarif"),
        ("--output", "type=elephant", "image, registry, oci, docker, tar, local or cacheonly"),
        ("--output", "type=oci,dest=a,color=red", "known are type"),
        ("--output", "type=image,compression-level=99", "1 to 12"),
        ("--output", "type=tar,dest=context", "is a folder: name a file"),
        ("--output", "type=oci,dest=nowhere/a.tar", "no folder nowhere"),
        ("--output", "type=docker,dest=file/a.tar", "no folder file"),
        ("--output", "type=oci,tar=false,dest=file", "file is not a folder"),
        ("--output", "file/out", "file is not a folder"),
        ("--iidfile", "context", "is a folder: name a file"),
        ("--metadata-file", "nowhere/m.json", "no folder nowhere"),
    ] {
        let told = world.fails(2, &["build", flag, value, "context"]);
        assert!(told.contains(flag) && told.contains(part), "{flag} {value}: {told}");
        assert!(!told.contains("nothing"), "{flag} {value}: {told}");
    }
    let told = world.fails(2, &["serve", "--listen", "here"]);
    assert!(told.contains("--listen") && told.contains("127.0.0.1:5000"), "{told}");
    assert!(!world.path("state").exists(), "a call that is refused leaves nothing behind");
    // Outputs are read for a check, too, and nothing is written.
    world.fails(2, &["build", "--check", "--output", "type=elephant", "context"]);
    world.dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    for method in ["check", "outline", "targets"] {
        world.ok(&["build", "--call", method, "--output", "out", "--iidfile", "id", "--file", "", "context"]);
    }
    assert!(!world.path("out").exists() && !world.path("id").exists());
    // What is well said and not there is a failure.
    world.fails(1, &["build", "--file", "nowhere", "context"]);
    world.fails(1, &["build", "--target", "nowhere", "context"]);
}

#[test]
fn completions_and_help_are_printed() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(world.ok(&["completions", shell]).contains("hyperbuild"), "{shell}");
    }
    let help = world.ok(&["build", "--help"]);
    assert!(help.contains("--build-arg"));
    assert_eq!(world.ok(&["help", "build"]), help);
}

#[test]
fn the_reference_has_only_commands_of_the_program() {
    let page = World::new().ok(&["reference"]);
    assert!(page.contains("## hyperbuild build") && !page.contains("hyperbuild help"), "{page}");
}

#[test]
fn the_quickstart_runs_through() {
    if !Path::new("/bin/sh").exists() {
        eprintln!("SKIPPED: there is no /bin/sh to make a base image of");
        return;
    }
    let world = World::new();
    let story = world.ok(&["quickstart", "--progress", "plain", "--format", "json"]);
    for step in ["base image", "registry", "build", "push", "pull", "compare", "build again"] {
        assert!(story.contains(&format!("\"{step}\"")), "{step}: {story}");
    }
}
