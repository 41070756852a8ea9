//! Attributes of outputs: times that are kept, images that are only pushed, folders that are emptied, parts of an image
//! that have annotations, folders of a platform.

use crate::outputs::{blob, build, built, entries, json, manifest, place, refused};
use crate::support::{Place, Registry, base, busybox, is_root, skip, succeed, told, tree};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// When the files of the context were changed.
const CHANGED: u64 = 1_234_567_890;

fn age(path: &Path, seconds: u64) {
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
}

/// The times in the layers of a layout that are not compressed, by path.
fn times(layout: &Path) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    for layer in manifest(layout)["layers"].as_array().unwrap() {
        let mut archive = tar::Archive::new(std::fs::File::open(blob(layout, layer)).unwrap());
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            times.insert(name, entry.header().mtime().unwrap());
        }
    }
    times
}

#[test]
fn files_keep_their_times_in_the_image_where_that_is_asked_for() {
    let place = place();
    age(&place.join("context/f"), CHANGED);
    let kept = "-o=type=oci,tar=false,dest=kept,compression=uncompressed,rewrite-timestamp=false";
    let usual = "-o=type=oci,tar=false,dest=usual,compression=uncompressed";
    let zipped = "-o=type=oci,tar=false,dest=zipped,rewrite-timestamp=false";
    // Once with what a build that holds times to the epoch left in the cache, and once without.
    built(&place, &["--source-date-epoch=1", usual]);
    let mut first = String::new();
    for more in [&[][..], &["--no-cache"], &[]] {
        let made = built(&place, &[&["--source-date-epoch=1", kept, usual, zipped], more].concat());
        assert_eq!(times(&place.join("kept"))["f"], CHANGED);
        assert_eq!(times(&place.join("usual"))["f"], 1);
        assert!(first.is_empty() || first == made, "the same files give the same image");
        first = made;
    }
    for name in ["kept", "usual", "zipped"] {
        let layout = place.join(name);
        let config = json(&blob(&layout, &manifest(&layout)["config"]));
        assert_eq!(config["created"], "1970-01-01T00:00:01Z", "{name}");
        assert_eq!(config["history"].as_array().unwrap().len(), 1);
    }
    let ids = |name: &str| {
        let layout = place.join(name);
        json(&blob(&layout, &manifest(&layout)["config"]))["rootfs"]["diff_ids"].clone()
    };
    assert_eq!(ids("kept"), ids("zipped"));
    assert_ne!(ids("kept"), ids("usual"));
    // What the config says of the layers is true: another builder reads them.
    for name in ["kept", "zipped"] {
        let fresh = Place::new();
        fresh.write("context/x", "");
        fresh.write("Dockerfile", "FROM made\n");
        let made = format!("--build-context=made=oci-layout://{}", place.join(name).display());
        built(&fresh, &[&made, "-o=out"]);
        let file = std::fs::metadata(fresh.join("out/f")).unwrap();
        assert_eq!(file.mtime(), i64::try_from(CHANGED).unwrap());
    }
    // The same content with another time is another image, and a cached layer has the time that its file has now.
    age(&place.join("context/f"), CHANGED + 5);
    assert_ne!(built(&place, &["--source-date-epoch=1", kept, usual]), first);
    assert_eq!(times(&place.join("kept"))["f"], CHANGED + 5);
    let told = refused(&place, 1, &["-o=type=tar,dest=x,rewrite-timestamp=false"]);
    assert!(told.contains("`rewrite-timestamp` has no meaning for type=tar"), "{told}");
}

#[test]
fn what_steps_write_keeps_its_time_and_layers_of_base_images_stay() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = place();
    let dockerfile = "FROM base\nCOPY f /f\nRUN touch -d @1700000000 /made && ln /made /second && rm /etc/group\n\
                      FROM base\nCOPY --from=0 /made /copy\nWORKDIR /new\n";
    place.write("Dockerfile", dockerfile);
    let context = format!("--build-context=base=oci-layout://{}", base().display());
    let below = manifest(base())["layers"][0]["digest"].clone();
    for (target, paths) in [("0", ["made", "second"]), ("1", ["copy", "copy"])] {
        for more in [&["--no-cache"][..], &[]] {
            let _ = std::fs::remove_dir_all(place.join("kept"));
            let output = "-o=type=oci,tar=false,dest=kept,compression=uncompressed,rewrite-timestamp=false";
            let flags = [context.as_str(), "--source-date-epoch=5", "--target", target, output];
            built(&place, &[&flags[..], more].concat());
            let layout = place.join("kept");
            assert_eq!(manifest(&layout)["layers"][0]["digest"], below, "the layer of the base is as it was");
            let mut layers = manifest(&layout)["layers"].as_array().unwrap().clone();
            layers.remove(0);
            let mut seen = BTreeMap::new();
            for layer in layers {
                let mut archive = tar::Archive::new(std::fs::File::open(blob(&layout, &layer)).unwrap());
                for entry in archive.entries().unwrap() {
                    let entry = entry.unwrap();
                    let name = entry.path().unwrap().display().to_string();
                    seen.insert(name.trim_end_matches('/').to_owned(), entry.header().mtime().unwrap());
                }
            }
            for path in paths {
                assert_eq!(seen[path], 1_700_000_000, "{target} {more:?}: {seen:?}");
            }
            if target == "1" {
                assert!(seen["new"] > 1_700_000_000, "a folder is as old as its making: {seen:?}");
            }
        }
    }
}

#[test]
fn an_image_can_be_pushed_and_not_kept() {
    let (place, registry) = (place(), Registry::start());
    let name = format!("{}/a/app:1", registry.host);
    let output = format!("-o=type=image,name={name},push=true,store=false");
    let digest = built(&place, &[&output, "--metadata-file=said"]);
    assert_eq!(json(&place.join("said"))["image.name"], name);
    assert!(!place.ok(&["images"]).contains("app"), "the store has no such name");
    let fresh = Place::new();
    fresh.ok(&["pull", &name]);
    assert!(fresh.ok(&["inspect", &name]).contains(digest.trim()));
    // Neither kept nor pushed it has no name.
    built(&place, &["-o=type=image,name=kept:1,store=false", "--metadata-file=said"]);
    assert!(json(&place.join("said")).get("image.name").is_none());
    assert!(!place.ok(&["images"]).contains("kept"));
    built(&place, &["-o=type=image,name=kept:1,store=true"]);
    assert!(place.ok(&["images"]).contains("kept:1"));
    let told = refused(&place, 2, &["-o=type=image,store=false,dangling-name-prefix=a/b"]);
    assert!(told.contains("keeps none there"), "{told}");
}

/// Things that were in a folder before the build.
fn clutter(place: &Place, folder: &str) {
    place.write(&format!("{folder}/stale"), "old");
    place.write(&format!("{folder}/deep/er/stale"), "old");
    place.write(&format!("{folder}/d/stale"), "old");
    place.write(&format!("{folder}/.hidden"), "old");
    // A folder where the image has a file.
    place.write(&format!("{folder}/f/stale"), "old");
    place.write("precious/file", "mine");
    for name in ["link", "d/link"] {
        symlink(place.join("precious"), place.join(folder).join(name)).unwrap();
    }
    succeed(Command::new("mkfifo").arg(place.join(folder).join("pipe")));
    let locked = place.join(folder).join("deep/er");
    std::fs::set_permissions(locked, std::fs::Permissions::from_mode(0o000)).unwrap();
}

#[test]
fn a_folder_is_emptied_of_what_is_not_in_the_result() {
    let place = place();
    place.write("context/d/g", "g");
    place.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    built(&place, &["--source-date-epoch=7", "-o=clean"]);
    clutter(&place, "out");
    built(&place, &["--source-date-epoch=7", "-o=type=local,dest=out,mode=copy"]);
    assert!(
        ["stale", "d/stale", "link", "pipe"].iter().all(|name| place
            .join("out")
            .join(name)
            .symlink_metadata()
            .is_ok())
    );
    // A build that fails takes nothing away.
    place.write("other/Dockerfile", "FROM scratch\nCOPY none /\n");
    let delete = "-o=type=local,dest=out,mode=delete";
    let failed = place.hyper(&["build", "-f", "other/Dockerfile", delete, "context"]).output().unwrap();
    assert!(!failed.status.success() && place.join("out/stale").exists(), "{}", told(&failed));
    built(&place, &["--source-date-epoch=7", delete]);
    assert_eq!(tree(&place.join("out")), tree(&place.join("clean")));
    let changed = |path: &str| place.join(path).metadata().unwrap().mtime();
    assert_eq!(
        changed("out/d"),
        changed("clean/d"),
        "a folder that lost something has the time of the image"
    );
    assert_eq!(std::fs::read_to_string(place.join("precious/file")).unwrap(), "mine");
    // A folder that is a link was named by its user.
    clutter(&place, "real");
    symlink("real", place.join("named")).unwrap();
    built(&place, &["--source-date-epoch=7", "-o=type=local,dest=named,mode=delete"]);
    assert_eq!(tree(&place.join("real")), tree(&place.join("clean")));
    assert!(place.join("named").is_symlink());
    assert_eq!(std::fs::read_to_string(place.join("precious/file")).unwrap(), "mine");
    // One that is not there is made.
    built(&place, &["--source-date-epoch=7", "-o=type=local,dest=new/folder,mode=delete"]);
    assert_eq!(tree(&place.join("new/folder")), tree(&place.join("clean")));
}

#[test]
fn a_folder_of_platforms_is_emptied_too_and_no_link_in_it_is_followed() {
    let place = place();
    place.write("out/linux_s390x/f", "old");
    place.write("precious/file", "mine");
    symlink(place.join("precious"), place.join("out/linux_arm_v7")).unwrap();
    let flags = ["--platform=linux/arm/v7", "-o=type=local,dest=out,platform-split=true,mode=delete"];
    built(&place, &flags);
    let names: Vec<_> = tree(&place.join("out")).into_keys().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["linux_arm_v7", "linux_arm_v7/f"]);
    assert!(!place.join("out/linux_arm_v7").is_symlink());
    assert_eq!(std::fs::read_dir(place.join("precious")).unwrap().count(), 1);
}

#[test]
fn a_folder_that_holds_something_else_is_not_emptied() {
    let place = place();
    place.write("named/x", "");
    std::fs::create_dir_all(place.join("home")).unwrap();
    for (dest, more, why) in [
        ("context", &[][..], "holds the build context"),
        (".", &[], ""),
        ("named", &["--build-context=a=named"], "holds a build context"),
        ("state", &[], "holds the state folder"),
        ("out", &["-o=type=oci,dest=out/image.tar"], "holds another output"),
    ] {
        std::fs::create_dir_all(place.join("out")).unwrap();
        let before = tree(&place.join("context"));
        let output = build(&place, &[&[&*format!("-o=type=local,dest={dest},mode=delete")], more].concat());
        assert!(!output.status.success(), "{dest}");
        let told = told(&output);
        assert!(told.contains("`mode=delete` would empty") && told.contains(why), "{dest}: {told}");
        assert_eq!(tree(&place.join("context")), before);
    }
    let told = refused(&place, 2, &["-o=type=local,dest=home,mode=delete"]);
    assert!(told.contains("holds your home folder"), "{told}");
}

#[test]
fn what_is_mounted_in_a_folder_is_not_emptied() {
    if !is_root() || !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success()) {
        skip!("only root can mount in a name space of its own");
    }
    let place = place();
    place.write("context/d/g", "g");
    place.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    for mounted in ["out/m", "out/deep/m", "out/d"] {
        let _ = std::fs::remove_dir_all(place.join("out"));
        std::fs::create_dir_all(place.join(mounted)).unwrap();
        let program = place.hyper(&[
            "build",
            "-q",
            "-f",
            "Dockerfile",
            "-o=type=local,dest=out,mode=delete",
            "context",
        ]);
        let script = format!(
            "mount -t tmpfs none {mounted} && echo mine > {mounted}/file && {{ \"$@\"; echo status $?; cat {mounted}/file; }}"
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
        command.current_dir(place.join("."));
        for (name, value) in program.get_envs() {
            command.env(name, value.unwrap());
        }
        let output = command.output().unwrap();
        let said = told(&output);
        assert!(said.contains("status 1\nmine\n"), "{mounted}: {said}");
        assert!(said.contains("another file system is mounted"), "{mounted}: {said}");
    }
}

#[test]
fn annotations_of_an_index_make_one() {
    let (place, registry) = (place(), Registry::start());
    let name = format!("{}/app:1", registry.host);
    let attributes = "annotation-index.a=1,annotation-index-descriptor.b=2,annotation-manifest-descriptor.c=3,\
                      annotation-manifest[linux/arm64].d=4,annotation.e=5,annotation[linux/arm64].e=own";
    let digest = built(
        &place,
        &[
            "--platform=linux/arm64",
            "--annotation=index,manifest:flag=6",
            "--annotation=manifest-descriptor[linux/arm64]:near=7",
            "--annotation=index:a=of the flag",
            &format!("-o=type=oci,tar=false,dest=o,name=app:1,{attributes}"),
            &format!("-o=type=image,push=true,name={name},{attributes}"),
            "--metadata-file=said",
        ],
    );
    let layout = place.join("o");
    let entry = &entries(&layout)[0];
    let index_type = "application/vnd.oci.image.index.v1+json";
    assert_eq!((&entry["mediaType"], &entry["digest"]), (&json!(index_type), &json!(digest.trim())));
    assert_eq!((&entry["annotations"]["b"], entry.get("platform")), (&json!("2"), None));
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1");
    let index = json(&blob(&layout, entry));
    assert_eq!(index["annotations"], json!({"a": "1", "flag": "6"}));
    let [child] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
    assert_eq!(child["annotations"], json!({"c": "3", "near": "7"}));
    assert_eq!(child["platform"], json!({"architecture": "arm64", "os": "linux"}));
    assert_eq!(json(&blob(&layout, child))["annotations"], json!({"d": "4", "e": "own", "flag": "6"}));
    let said = json(&place.join("said"));
    assert_eq!(said["containerimage.descriptor"]["mediaType"], index_type);
    // The store and the registry have the same, and so has who pulls it.
    assert!(place.ok(&["images"]).contains(&name));
    let fresh = Place::new();
    fresh.ok(&["pull", "--all-platforms", &name]);
    let raw: Value = serde_json::from_str(&fresh.ok(&["inspect", "--raw", &name])).unwrap();
    assert_eq!(raw, index);
    fresh.write("Dockerfile", &format!("FROM --platform=linux/arm64 {name}\n"));
    std::fs::create_dir(fresh.join("context")).unwrap();
    built(&fresh, &["--platform=linux/arm64", "-o=out"]);
    assert_eq!(std::fs::read_to_string(fresh.join("out/f")).unwrap(), "content\n");
}

#[test]
fn annotations_without_a_place_are_errors() {
    let place = place();
    for (status, flags, why) in [
        (2, &["-o=type=docker,dest=x,annotation-index.a=b"][..], "use type=oci"),
        (
            2,
            &["-o=type=oci,dest=x", "--annotation=manifest[linux/s390x]:a=b"],
            "`manifest[linux/s390x]` is for a platform",
        ),
        (2, &["-o=type=oci,dest=x,annotation[linux/s390x].a=b"], "not built"),
        (2, &["-o=type=oci,dest=x,annotation-index[linux/amd64].a=b"], "for all of them"),
        (2, &["-o=type=oci,dest=x,oci-mediatypes=false", "--annotation=index:a=b"], "no annotations"),
        (2, &["-o=type=oci,dest=x", "--annotation=layer:a=b"], "`layer` is not a place"),
    ] {
        let told = refused(&place, status, &[&["--platform=linux/amd64"], flags].concat());
        assert!(told.contains(why), "{flags:?}: {told}");
        assert!(!place.join("x").exists());
    }
}

#[test]
fn a_tar_can_have_a_folder_of_its_platform() {
    let place = place();
    place.write("context/d/g", "g");
    std::fs::hard_link(place.join("context/d/g"), place.join("context/h")).unwrap();
    place.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    let flags = ["--platform=linux/arm/v7", "--source-date-epoch=9"];
    built(&place, &[&flags[..], &["-o=type=tar,dest=split.tar,platform-split=true", "-o=flat"]].concat());
    let mut archive = tar::Archive::new(std::fs::File::open(place.join("split.tar")).unwrap());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        assert!(entry.header().mtime().unwrap() <= 9);
        names.push(entry.path().unwrap().display().to_string());
    }
    let folder = "linux_arm_v7/";
    assert_eq!(names, ["", "d/", "d/g", "f", "h"].map(|name| format!("{folder}{name}")));
    std::fs::create_dir(place.join("x")).unwrap();
    succeed(Command::new("tar").arg("-xf").arg(place.join("split.tar")).arg("-C").arg(place.join("x")));
    assert_eq!(tree(&place.join("x").join(folder)), tree(&place.join("flat")));
    // Standard output, and none of it without being asked.
    for (output, name) in [("type=tar,platform-split=true", "linux_arm_v7/f"), ("type=tar", "f")] {
        let output = build(&place, &["--platform=linux/arm/v7", "-o", output]);
        assert!(output.status.success(), "{}", told(&output));
        let mut archive = tar::Archive::new(output.stdout.as_slice());
        let paths = archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
        let paths: Vec<_> = paths.collect();
        assert!(paths.iter().any(|path| path == name), "{paths:?}");
    }
}

#[test]
fn estargz_layers_have_a_table_and_the_same_files() {
    let place = place();
    let flags = |dest: &str| format!("-o=type=oci,tar=false,dest={dest},compression=estargz,name=e:1");
    built(&place, &[&flags("one"), "-o=type=oci,tar=false,dest=plain,name=e:1"]);
    built(&place, &["--no-cache", &flags("two")]);
    assert_eq!(tree(&place.join("one")), tree(&place.join("two")));
    let layer = |layout: &str| manifest(&place.join(layout))["layers"][0].clone();
    let (one, plain) = (layer("one"), layer("plain"));
    assert_eq!(one["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert!(one["annotations"]["containerd.io/snapshot/stargz/toc.digest"].is_string(), "{one}");
    assert!(plain.get("annotations").is_none(), "{plain}");
    let bytes = std::fs::read(blob(&place.join("one"), &one)).unwrap();
    assert_eq!(&bytes[bytes.len() - 19..bytes.len() - 13], b"STARGZ");
    // The config has the diff ID of what is in the blob: the image can be built on, and its files are the same.
    let context = format!("e=oci-layout://{}", place.join("one").display());
    place.write("Dockerfile", "FROM e\nCOPY f /second\n");
    built(&place, &["--build-context", &context, "-o=files"]);
    let files: Vec<_> = tree(&place.join("files")).into_keys().collect();
    assert_eq!(files, [PathBuf::from("f"), PathBuf::from("second")]);
    // Layers of a base become eStargz when they are forced to, once.
    place.write("Dockerfile", "FROM e\nLABEL a=b\n");
    let context = format!("e=oci-layout://{}", place.join("plain").display());
    let forced = "-o=type=oci,tar=false,dest=forced,compression=estargz,force-compression=true";
    built(
        &place,
        &["--build-context", &context, forced, "-o=type=oci,tar=false,dest=kept,compression=estargz"],
    );
    assert_eq!(layer("forced"), one);
    assert_eq!(layer("kept"), plain);
}
