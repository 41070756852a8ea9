//! Outputs of a build: names, forms of the image, and where they are written.

use crate::support::{Place, Registry, find, skip, succeed, told, tree};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing but files, so that no sandbox is needed.
const FILES: &str = "FROM scratch\nCOPY f /\n";

pub(crate) fn place() -> Place {
    let place = Place::new();
    place.write("context/f", "content\n");
    place.write("Dockerfile", FILES);
    place
}

/// Waits for a program, and ends it when it hangs.
fn bounded(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            panic!("it hangs: {}", told(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn build(place: &Place, flags: &[&str]) -> Output {
    let arguments = [&["build", "--progress=plain", "-f", "Dockerfile"], flags, &["context"]].concat();
    let mut command = place.hyper(&arguments);
    bounded(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

pub(crate) fn built(place: &Place, flags: &[&str]) -> String {
    let output = build(place, flags);
    assert!(output.status.success(), "{flags:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What a build that is refused says; it must end with this status.
pub(crate) fn refused(place: &Place, status: i32, flags: &[&str]) -> String {
    let output = build(place, flags);
    assert_eq!(output.status.code(), Some(status), "{flags:?}: {}", told(&output));
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The manifests that the index of a layout names.
pub(crate) fn entries(layout: &Path) -> Vec<Value> {
    json(&layout.join("index.json"))["manifests"].as_array().unwrap().clone()
}

pub(crate) fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

pub(crate) fn manifest(layout: &Path) -> Value {
    json(&blob(layout, &entries(layout)[0]))
}

fn names(layout: &Path) -> Vec<String> {
    let name = |entry: &Value| entry["annotations"]["io.containerd.image.name"].as_str().map(str::to_owned);
    entries(layout).iter().filter_map(name).collect()
}

fn layer_types(layout: &Path) -> Vec<String> {
    let of = |layer: &Value| layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    manifest(layout)["layers"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn every_output_has_its_own_names() {
    let (place, registry) = (place(), Registry::start());
    let host = &registry.host;
    built(
        &place,
        &[
            "-t=tagged:1",
            &format!("-o=type=image,name={host}/a:1,push=true"),
            &format!("-o=type=oci,tar=false,dest=named,name={host}/b:1"),
            "-o=type=oci,tar=false,dest=tagged",
            "-o=type=docker,tar=false,dest=docker",
            "--metadata-file=said",
        ],
    );
    assert_eq!(names(&place.join("named")), [format!("{host}/b:1")]);
    assert_eq!(names(&place.join("tagged")), ["docker.io/library/tagged:1"]);
    assert_eq!(json(&place.join("docker/manifest.json"))[0]["RepoTags"], serde_json::json!(["tagged:1"]));
    // What is for a file is in no registry and in no store.
    let kept = place.ok(&["images"]);
    assert!(
        kept.contains(&format!("{host}/a:1")) && !kept.contains("/b:1") && !kept.contains("tagged"),
        "{kept}"
    );
    let fresh = Place::new();
    fresh.ok(&["pull", &format!("{host}/a:1")]);
    for name in ["b:1", "tagged:1", "library/tagged:1"] {
        let output = fresh.hyper(&["pull", &format!("{host}/{name}")]).output().unwrap();
        assert!(!output.status.success(), "{name} was pushed: {}", told(&output));
    }
    let said = json(&place.join("said"));
    assert_eq!(said["image.name"], format!("{host}/a:1,{host}/b:1,docker.io/library/tagged:1"));
}

#[test]
fn two_pushes_do_not_share_their_names() {
    let place = place();
    let (one, two) = (Registry::start(), Registry::start());
    built(
        &place,
        &[
            &format!("-o=type=registry,name={}/x:1", one.host),
            &format!("-o=type=image,push=true,name={}/y:2", two.host),
            "-o=type=image,name=kept:3",
        ],
    );
    let fresh = Place::new();
    let has = |name: String| fresh.hyper(&["pull", &name]).output().unwrap().status.success();
    assert!(has(format!("{}/x:1", one.host)) && has(format!("{}/y:2", two.host)));
    assert!(!has(format!("{}/y:2", one.host)) && !has(format!("{}/x:1", two.host)));
    assert!(place.ok(&["images"]).contains("kept:3"));
    // A name of another output is none of the one that is pushed.
    let told = refused(&place, 2, &["-o=type=image,push=true", "-o=type=oci,dest=o,name=b:1"]);
    assert!(told.contains("needs a name to be pushed"), "{told}");
    let told = build(&place, &["-t=unused:1", "-o=type=cacheonly", "-o=type=image,name=own:1"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("the names of the request are not used"), "{told}");
}

#[test]
fn an_image_is_pushed_by_its_digest() {
    let (place, registry) = (place(), Registry::start());
    let name = format!("{}/app", registry.host);
    let digest = built(
        &place,
        &[
            &format!(
                "-o=type=image,name={name},push-by-digest=true,name-canonical=true,push=true,registry.insecure=true"
            ),
            "--metadata-file=said",
        ],
    );
    let digest = digest.trim();
    let fresh = Place::new();
    fresh.ok(&["pull", &format!("{name}@{digest}")]);
    assert!(!fresh.hyper(&["pull", &name]).output().unwrap().status.success(), "there is no tag");
    let names = json(&place.join("said"))["image.name"].as_str().unwrap().to_owned();
    assert_eq!(names, format!("{name},{name}@{digest}"));
    let told = refused(&place, 2, &[&format!("-o=type=registry,name={name}:1,push-by-digest=true")]);
    assert!(told.contains("has one: leave the tag out"), "{told}");

    built(&place, &["-o=type=image,dangling-name-prefix=nameless/x,unpack=true", "--metadata-file=said"]);
    let names = json(&place.join("said"))["image.name"].as_str().unwrap().to_owned();
    assert_eq!(names, format!("docker.io/nameless/x@{digest}"));
    assert!(place.ok(&["inspect", &names]).contains(digest));
}

#[test]
fn layers_are_compressed_as_each_output_asks() {
    let place = place();
    built(&place, &["-t=base:1", "-o=type=oci,tar=false,dest=base"]);
    place.write("context/g", "more\n");
    place.write("Dockerfile", "FROM base\nCOPY g /\n");
    let base = format!("--build-context=base=oci-layout://{}", place.join("base").display());
    let outputs = [
        base.as_str(),
        "-o=type=oci,tar=false,dest=new,compression=zstd",
        "-o=type=oci,tar=false,dest=all,compression=zstd,force-compression=true",
        "-o=type=oci,tar=false,dest=none,compression=uncompressed,force-compression=true",
        "-o=type=oci,tar=false,dest=plain",
        "-o=type=local,dest=files",
    ];
    let first = build(&place, &outputs);
    assert!(first.status.success(), "{}", told(&first));
    let types = |name: &str| layer_types(&place.join(name));
    assert_eq!(types("new"), ["tar+gzip", "tar+zstd"].map(str::to_owned));
    assert_eq!(types("all"), ["tar+zstd", "tar+zstd"].map(str::to_owned));
    assert_eq!(types("none"), ["tar", "tar"].map(str::to_owned));
    assert_eq!(types("plain"), ["tar+gzip", "tar+gzip"].map(str::to_owned));
    // The files are the same, and so are the ids of the layers.
    let config = |name: &str| {
        let layout = place.join(name);
        json(&blob(&layout, &manifest(&layout)["config"]))["rootfs"]["diff_ids"].clone()
    };
    assert_eq!(config("all"), config("plain"));
    for name in ["all", "none"] {
        // Another builder can read it.
        let fresh = Place::new();
        fresh.write("context/x", "");
        fresh.write("Dockerfile", "FROM made\n");
        let made = format!("--build-context=made=oci-layout://{}", place.join(name).display());
        built(&fresh, &[&made, "-o=out"]);
        assert_eq!(tree(&fresh.join("out")), tree(&place.join("files")));
    }
    let recompressed =
        |output: &Output| String::from_utf8_lossy(&output.stderr).matches("recompress ").count();
    assert!(recompressed(&first) > 0, "{}", told(&first));
    assert_eq!(recompressed(&build(&place, &outputs)), 0, "recompressed layers are kept");
}

#[test]
fn an_image_can_have_the_media_types_of_docker() {
    let (place, registry) = (place(), Registry::start());
    let name = format!("{}/app:1", registry.host);
    built(
        &place,
        &[
            "-o=type=oci,tar=false,dest=o,oci-mediatypes=false",
            &format!("-o=type=image,push=true,oci-mediatypes=0,name={name}"),
        ],
    );
    let layout = place.join("o");
    let docker = "application/vnd.docker.";
    assert_eq!(entries(&layout)[0]["mediaType"], format!("{docker}distribution.manifest.v2+json"));
    let manifest = manifest(&layout);
    assert_eq!(manifest["mediaType"], format!("{docker}distribution.manifest.v2+json"));
    assert_eq!(manifest["config"]["mediaType"], format!("{docker}container.image.v1+json"));
    assert_eq!(manifest["layers"][0]["mediaType"], format!("{docker}image.rootfs.diff.tar.gzip"));
    let fresh = Place::new();
    fresh.ok(&["pull", &name]);
    assert!(fresh.ok(&["inspect", "--raw", &name]).contains("vnd.docker.distribution.manifest.v2"));
    let told = refused(&place, 2, &["-o=type=oci,dest=x,oci-mediatypes=false,compression=zstd"]);
    assert!(told.contains("zstd"), "{told}");
}

#[test]
fn annotations_are_of_one_output() {
    let place = place();
    let flags = [
        "-t=a:1",
        "--annotation=all=1",
        "--annotation=manifest-descriptor:entry=2",
        "-o=type=oci,tar=false,dest=with,annotation.Own.Key=3,annotation-manifest-descriptor.near=4",
        "-o=type=oci,tar=false,dest=without",
    ];
    built(&place, &flags);
    let (with, without) = (place.join("with"), place.join("without"));
    assert_eq!(manifest(&with)["annotations"], serde_json::json!({"all": "1", "Own.Key": "3"}));
    assert_eq!(manifest(&without)["annotations"], serde_json::json!({"all": "1"}));
    let entry = &entries(&with)[0]["annotations"];
    assert_eq!((&entry["entry"], &entry["near"]), (&"2".into(), &"4".into()));
    assert_eq!(entry["org.opencontainers.image.ref.name"], "1");
    assert!(entries(&without)[0]["annotations"].get("near").is_none());
    for (output, name) in
        [("attestation-inline=true", "attestation-inline=true"), ("oci-artifact=true", "oci-artifact=true")]
    {
        let told = refused(&place, 1, &[&format!("-o=type=oci,dest=x,{output}")]);
        assert!(told.contains(name), "{output}: {told}");
    }
}

#[test]
fn the_time_of_an_output_is_that_of_the_image() {
    let place = place();
    built(&place, &["-o=type=oci,tar=false,dest=o,source-date-epoch=1000000000,rewrite-timestamp=true"]);
    let layout = place.join("o");
    let config = json(&blob(&layout, &manifest(&layout)["config"]));
    assert_eq!(config["created"], "2001-09-09T01:46:40Z");
    let told = refused(&place, 1, &["-o=type=oci,dest=a,source-date-epoch=1", "-o=type=tar,dest=b"]);
    assert!(told.contains("different `source-date-epoch`"), "{told}");
}

#[test]
fn files_can_go_into_a_folder_of_their_platform() {
    let place = place();
    built(&place, &["--platform=linux/arm/v7", "-o=type=local,dest=out,platform-split=true"]);
    assert_eq!(std::fs::read_to_string(place.join("out/linux_arm_v7/f")).unwrap(), "content\n");
    built(&place, &["-o=type=local,dest=flat,platform-split=false"]);
    assert!(place.join("flat/f").is_file());
}

#[test]
fn archives_without_a_destination_go_to_standard_output() {
    let place = place();
    for (kind, member) in [("oci", "index.json"), ("docker", "manifest.json"), ("tar", "f")] {
        for output in [format!("type={kind}"), format!("type={kind},dest=-"), format!("type={kind},dest=")] {
            let output = build(&place, &["-o", &output]);
            assert!(output.status.success(), "{kind}: {}", told(&output));
            let mut archive = tar::Archive::new(output.stdout.as_slice());
            let paths: Vec<_> = archive
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().display().to_string())
                .collect();
            assert!(paths.iter().any(|path| path.trim_start_matches("./") == member), "{kind}: {paths:?}");
        }
    }
    let told = refused(&place, 2, &["-o=type=oci", "-o=type=docker"]);
    assert!(told.contains("only one output can go to standard output"), "{told}");
    for flag in ["--metadata-file=/dev/stdout", "--iidfile=/dev/stdout"] {
        let told = refused(&place, 2, &["-o=type=oci", flag]);
        assert!(told.contains("an archive goes to standard output"), "{told}");
    }
}

#[test]
fn files_alone_have_no_digest() {
    let place = place();
    for output in ["-o=out", "-o=type=tar,dest=files.tar", "-o=type=cacheonly"] {
        assert_eq!(built(&place, &[output, "--metadata-file=said"]), "", "{output}");
        let said = std::fs::read_to_string(place.join("said")).unwrap();
        assert!(!said.contains("containerimage"), "{output}: {said}");
        let told = refused(&place, 2, &[output, "--iidfile=id"]);
        assert!(told.contains("--iidfile needs an output that is an image"), "{output}: {told}");
        assert!(!told.contains("COPY") && !place.join("id").exists(), "it was not built: {told}");
        // An image among the outputs has one.
        let digest = built(&place, &[output, "-o=type=oci,tar=false,dest=layout", "--iidfile=id"]);
        assert_eq!(std::fs::read_to_string(place.join("id")).unwrap(), digest.trim());
        assert!(digest.starts_with("sha256:"), "{output}: {digest}");
        std::fs::remove_file(place.join("id")).unwrap();
    }
}

#[test]
fn a_terminal_gets_no_archive() {
    if find("script").is_none() {
        skip!("there is no `script` to make a terminal with");
    }
    let place = place();
    for (output, told) in [
        ("type=oci", "name a file with dest=FILE"),
        ("type=docker", "docker load"),
        ("-", "not written to a terminal"),
    ] {
        let program = place.hyper(&["build", "-q", "-f", "Dockerfile", "-o", output, "context"]);
        let line: Vec<String> = std::iter::once(program.get_program())
            .chain(program.get_args())
            .map(|word| word.to_str().unwrap().to_owned())
            .collect();
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line.join(" "), "/dev/null"]).current_dir(place.join("."));
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = bounded(command.spawn().unwrap());
        assert_eq!(output.status.code(), Some(2), "{}", crate::support::told(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains(told), "{}", crate::support::told(&output));
    }
}

/// Every place that a result is written to, as flags with `PATH` in the place of the path.
const PLACES: [&str; 6] = [
    "-o=type=tar,dest=PATH",
    "-o=type=oci,dest=PATH",
    "-o=type=docker,dest=PATH",
    "--iidfile=PATH",
    "--metadata-file=PATH",
    "-o=type=oci,tar=false,dest=PATH",
];

#[test]
fn a_pipe_without_a_reader_is_an_error_before_the_build() {
    let place = place();
    succeed(Command::new("mkfifo").arg(place.join("pipe")));
    for flag in PLACES {
        let told = refused(&place, 2, &[&flag.replace("PATH", "pipe")]);
        assert!(told.contains("pipe"), "{flag}: {told}");
        assert!(!told.contains("COPY"), "it was not built: {told}");
    }
    let told = refused(&place, 2, &["-o=type=local,dest=pipe"]);
    assert!(told.contains("is not a folder"), "{told}");
    // A layout that has a pipe in the place of a file.
    std::fs::create_dir(place.join("layout")).unwrap();
    succeed(Command::new("mkfifo").arg(place.join("layout/index.json")));
    let told = refused(&place, 1, &["-o=type=oci,tar=false,dest=layout"]);
    assert!(told.contains("a pipe") && told.contains("layout/index.json"), "{told}");
}

#[test]
fn a_pipe_that_is_read_gets_the_result() {
    let place = place();
    let pipe = place.join("pipe");
    succeed(Command::new("mkfifo").arg(&pipe));
    for flag in &PLACES[..5] {
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || std::fs::read(pipe).unwrap())
        };
        let digest = built(&place, &[&flag.replace("PATH", "pipe")]);
        let read = reader.join().unwrap();
        match *flag {
            "--iidfile=PATH" => assert_eq!(String::from_utf8(read).unwrap(), digest.trim()),
            "--metadata-file=PATH" => {
                let said: Value = serde_json::from_slice(&read).unwrap();
                assert_eq!(said["containerimage.digest"], digest.trim());
            }
            _ => assert!(tar::Archive::new(read.as_slice()).entries().unwrap().count() > 0, "{flag}"),
        }
    }
    let kept = std::fs::symlink_metadata(&pipe).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kept), "the pipe is not replaced");
}

#[test]
fn devices_and_open_files_are_written_in_place() {
    let place = place();
    for flag in &PLACES[..5] {
        built(&place, &[&flag.replace("PATH", "/dev/null")]);
        let told = refused(&place, 1, &[&flag.replace("PATH", "/dev/full")]);
        assert!(told.contains("/dev/full"), "{flag}: {told}");
        let told = refused(&place, 2, &[&flag.replace("PATH", "context")]);
        assert!(told.contains("is a folder"), "{flag}: {told}");
    }
    assert!(refused(&place, 2, &["-o=type=oci,tar=false,dest=/dev/null"]).contains("not a folder"));
    // One after the other, and none over the other.
    let arguments = ["build", "-q", "-f", "Dockerfile", "--metadata-file=/dev/stdout", "context"];
    let file = std::fs::File::create(place.join("said")).unwrap();
    assert!(place.hyper(&arguments).stdout(file).status().unwrap().success());
    let text = std::fs::read_to_string(place.join("said")).unwrap();
    let (said, digest) = text.trim().rsplit_once('\n').unwrap();
    let said: Value = serde_json::from_str(said).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(said["containerimage.digest"], digest);
    // A file appears whole, and one that was there is replaced.
    place.write(
        "id",
        "a much longer text than a digest, which must be gone when the digest is written\n"
            .repeat(9)
            .as_str(),
    );
    let digest = built(&place, &["--iidfile=id"]);
    assert_eq!(std::fs::read_to_string(place.join("id")).unwrap(), digest.trim());
}

/// Attributes that look like those of an overlay are not part of the image, and do not prevent an output.
#[test]
fn attributes_like_those_of_overlay_do_not_prevent_an_output() {
    if crate::support::busybox().is_none() || find("cc").is_none() {
        skip!("there is no static busybox or no C compiler");
    }
    let place = Place::new();
    let source = place.write(
        "set.c",
        "#include <sys/xattr.h>\n#include <string.h>\nint main(int argc, char **argv) {\n\
         for (int i = 1; i + 2 < argc; i += 3) setxattr(argv[i], argv[i + 1], argv[i + 2], strlen(argv[i + 2]), 0);\n\
         return 0;\n}\n",
    );
    std::fs::create_dir_all(place.join("context")).unwrap();
    succeed(Command::new("cc").arg("-static").arg("-o").arg(place.join("context/set")).arg(&source));
    let tar = place.join("out.tar");
    for security in ["", "--security=insecure"] {
        let dockerfile = format!(
            "FROM base\nCOPY set /set\nRUN mkdir -p /d && echo below > /d/below\n\
             RUN {security} echo text > /f && mkdir /e && echo e > /e/e && for space in user trusted; do \
             for name in redirect metacopy opaque whiteout; do \
             /set /f $space.overlay.$name y /d $space.overlay.$name y /e $space.overlay.$name y; done; done\n\
             RUN ls /d /e && cat /d/below\n"
        );
        let output = format!("type=tar,dest={}", tar.display());
        let flags: &[&str] =
            &["--no-cache", "--allow=security.insecure", "-o", &output, "-o", "type=oci,dest=out.oci"];
        let built = place.built(&dockerfile, flags);
        assert_eq!(built.log(), "/d:\nbelow\n\n/e:\ne\nbelow\n", "{security}");
        let listing = succeed(Command::new("tar").args(["--xattrs", "-tvvf"]).arg(&tar));
        assert!(
            listing.contains("d/below") && listing.contains("e/e") && !listing.contains("overlay"),
            "{listing}"
        );
        // As others unpack the layers.
        let copy = format!("FROM oci-layout://{}\nRUN cat /d/below /e/e\n", "x");
        let _ = copy;
        std::fs::remove_file(&tar).unwrap();
    }
}
