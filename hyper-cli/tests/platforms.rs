//! Builds for several platforms: one graph, one index.

use crate::outputs::{blob, build, built, entries, json, refused};
use crate::support::{Place, Registry, Who, busybox, is_root, missing, skip, succeed, told, tool};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const ALL: &str = "linux/amd64,linux/arm64,linux/arm/v7";

/// The platform of this machine builds, and each platform gets a file of its own.
const CROSS: &str = "FROM --platform=$BUILDPLATFORM base AS build\n\
    RUN echo shared > /shared\n\
    ARG TARGETARCH TARGETVARIANT\n\
    RUN cat /shared > /out; echo $TARGETARCH$TARGETVARIANT >> /out\n\
    FROM scratch\n\
    COPY --from=build /out /out\n";

/// The manifest of an image or an index in a layout.
fn read(layout: &Path, descriptor: &Value) -> Value {
    json(&blob(layout, descriptor))
}

/// The index of a layout of several platforms, with its descriptor.
fn index_of(layout: &Path) -> (Value, Value) {
    let mut all = entries(layout);
    assert_eq!(all.len(), 1, "{all:?}");
    let descriptor = all.remove(0);
    assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert!(descriptor.get("platform").is_none(), "{descriptor}");
    (read(layout, &descriptor), descriptor)
}

/// The platform of a descriptor or a config, as text.
fn platform(of: &Value) -> String {
    let parts = ["os", "architecture", "variant"].map(|name| of[name].as_str());
    parts.into_iter().flatten().collect::<Vec<_>>().join("/")
}

/// The digests of the manifests of an index, by platform. Each config says the same platform.
fn images(layout: &Path, index: &Value) -> BTreeMap<String, String> {
    let entries = index["manifests"].as_array().unwrap().iter();
    let one = |entry: &Value| {
        let config = read(layout, &read(layout, entry)["config"]);
        assert_eq!(platform(&config), platform(&entry["platform"]));
        (platform(&entry["platform"]), entry["digest"].as_str().unwrap().to_owned())
    };
    entries.map(one).collect()
}

/// A place with one file in its context, which needs no sandbox.
fn files(who: Who) -> Place {
    let place = Place::of(who);
    place.write("context/f", "content\n");
    place.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY f /\n");
    place
}

#[test]
fn what_platforms_share_runs_once_and_each_has_the_image_of_a_build_of_its_own() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let layout = place.join("layout");
    let to = format!("type=oci,tar=false,dest={}", layout.display());
    let made = place.built(CROSS, &["--platform", ALL, "-o", &to, "--source-date-epoch=9"]);
    let steps: Vec<String> = made.outcomes().into_keys().filter(|name| name.contains("RUN")).collect();
    let (shared, own): (Vec<&String>, Vec<&String>) =
        steps.iter().partition(|name| name.contains("echo shared"));
    assert_eq!(shared, ["[build 2/3] RUN echo shared > /shared"]);
    assert_eq!(own.len(), 3);
    for name in ["linux/amd64", "linux/arm64", "linux/arm/v7"] {
        assert!(own.iter().any(|step| step.starts_with(&format!("[{name} build 3/3] "))), "{own:?}");
    }
    let (index, descriptor) = index_of(&layout);
    assert_eq!(descriptor["digest"], made.digest.as_str());
    let order: Vec<String> =
        index["manifests"].as_array().unwrap().iter().map(|entry| platform(&entry["platform"])).collect();
    assert_eq!(order.join(","), ALL);
    let images = images(&layout, &index);
    // A builder that knows nothing of the first one makes the same images, one by one, and the same index.
    let fresh = Place::new();
    for (name, digest) in &images {
        assert_eq!(&fresh.built(CROSS, &["--platform", name, "--source-date-epoch=9"]).digest, digest);
    }
    let other = Place::new();
    assert_eq!(other.built(CROSS, &["--platform", ALL, "--source-date-epoch=9"]).digest, made.digest);
    // Everything is in the cache now, and files are written for each platform.
    let out = place.join("out");
    let to = format!("type=local,dest={}", out.display());
    let again = place.built(CROSS, &["--platform", ALL, "-o", &to, "--source-date-epoch=9"]);
    assert!(again.outcomes().iter().filter(|(name, _)| name.contains("RUN")).all(|(_, is)| is == "cached"));
    for (folder, text) in [("linux_amd64", "amd64"), ("linux_arm64", "arm64"), ("linux_arm_v7", "armv7")] {
        let file = std::fs::read_to_string(out.join(folder).join("out")).unwrap();
        assert_eq!(file, format!("shared\n{text}\n"));
    }
}

#[test]
fn files_of_several_platforms_are_in_folders_of_their_own() {
    let place = files(Who::Me);
    let both = "--platform=linux/amd64,linux/arm64";
    place.write("out/linux_arm64/old", "");
    place.write("out/older", "");
    built(&place, &[both, "-o=type=local,dest=out,mode=delete", "-o=type=tar,dest=out.tar"]);
    for folder in ["linux_amd64", "linux_arm64"] {
        assert_eq!(std::fs::read_to_string(place.join("out").join(folder).join("f")).unwrap(), "content\n");
    }
    assert!(!place.join("out/linux_arm64/old").exists() && !place.join("out/older").exists());
    let listed = succeed(Command::new("tar").arg("-tf").arg(place.join("out.tar")));
    let names: Vec<&str> = listed.lines().map(|name| name.trim_end_matches('/')).collect();
    assert_eq!(names, ["linux_amd64", "linux_amd64/f", "linux_arm64", "linux_arm64/f"]);
    // The archive is in the order of its names, and not in that of the request.
    for (platforms, first, second) in [
        ("linux/arm64,linux/amd64", "linux_amd64", "linux_arm64"),
        ("linux/amd64,linux/386", "linux_386", "linux_amd64"),
    ] {
        built(&place, &["--platform", platforms, "-o=type=tar,dest=ordered.tar"]);
        let listed = succeed(Command::new("tar").arg("-tf").arg(place.join("ordered.tar")));
        let names: Vec<&str> = listed.lines().map(|name| name.trim_end_matches('/')).collect();
        assert_eq!(names, [first, &format!("{first}/f"), second, &format!("{second}/f")], "{platforms}");
    }
    // Folders are named after what was asked for, also when a stage has a platform of its own.
    built(&place, &[both, "-t=multi:1"]);
    place.write("Dockerfile", "FROM --platform=linux/amd64 multi:1\nCOPY f /g\n");
    built(&place, &[both, "-o=named"]);
    for folder in ["linux_amd64", "linux_arm64"] {
        assert!(place.join("named").join(folder).join("g").is_file(), "{folder}");
    }
    // One platform has no folder unless it is asked for.
    built(&place, &["--platform=linux/arm64", "-o=one"]);
    assert!(place.join("one/f").is_file());
    let told = refused(&place, 2, &[both, "-o=type=local,dest=out,platform-split=false"]);
    assert!(told.contains("`platform-split=false` writes the files of one platform"), "{told}");
}

#[test]
fn an_index_is_pushed_pulled_and_inspected() {
    for who in [Who::Me, Who::Id(64321)] {
        if matches!(who, Who::Id(_)) && !is_root() {
            continue;
        }
        let (place, registry) = (files(who), Registry::start());
        let name = format!("{}/app:1", registry.host);
        let flags = ["--platform=linux/arm64/v8", "--platform", "linux/amd64,arm64", "--push", "-t", &name];
        let files = ["--iidfile=iid", "--metadata-file=said"];
        let digest = built(&place, &[&flags[..], &files[..]].concat()).trim().to_owned();
        assert_eq!(std::fs::read_to_string(place.join("iid")).unwrap(), digest);
        let said = json(&place.join("said"));
        assert_eq!(said["containerimage.digest"], digest.as_str());
        let descriptor = &said["containerimage.descriptor"];
        assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.index.v1+json");
        assert!(said.get("containerimage.config.digest").is_none(), "{said}");
        let shown = place.ok(&["images"]);
        assert!(shown.contains("linux/amd64,linux/arm64"), "{shown}");
        let fresh = Place::new();
        fresh.ok(&["pull", "--all-platforms", &name]);
        let shown = fresh.ok(&["inspect", &name]);
        assert!(
            shown.contains(&digest) && shown.contains("linux/arm64") && shown.contains("linux/amd64"),
            "{shown}"
        );
        let config: Value =
            serde_json::from_str(&fresh.ok(&["inspect", "--format=json", "--platform=linux/arm64", &name]))
                .unwrap();
        assert_eq!(config["config"]["config"]["Labels"]["arch"], "arm64", "{config}");
        if missing(&["skopeo"]).is_some() {
            println!("SKIPPED: there is no skopeo");
            continue;
        }
        let mut skopeo = tool("skopeo", &place.join("home"));
        skopeo.args(["inspect", "--raw", "--tls-verify=false"]).arg(format!("docker://{name}"));
        let raw: Value = serde_json::from_str(&succeed(&mut skopeo)).unwrap();
        let listed: Vec<String> =
            raw["manifests"].as_array().unwrap().iter().map(|entry| platform(&entry["platform"])).collect();
        assert_eq!(listed, ["linux/arm64", "linux/amd64"]);
    }
}

#[test]
fn each_platform_has_its_own_base_and_its_own_named_contexts() {
    let place = files(Who::Me);
    let both = "--platform=linux/amd64,linux/arm64";
    built(&place, &[both, "-t=multi:1"]);
    place.write("here/g", "for all\n");
    place.write("arm/g", "for arm64\n");
    place.write("Dockerfile", "FROM multi:1\nCOPY --from=more g /\n");
    let contexts = ["--build-context=more=here", "--build-context=more::linux/arm64=arm"];
    built(&place, &[&[both, "-o=out", "-o=type=oci,tar=false,dest=layout"], &contexts[..]].concat());
    for (folder, text) in [("linux_amd64", "for all\n"), ("linux_arm64", "for arm64\n")] {
        assert_eq!(std::fs::read_to_string(place.join("out").join(folder).join("g")).unwrap(), text);
    }
    let layout = place.join("layout");
    for entry in index_of(&layout).0["manifests"].as_array().unwrap() {
        let config = read(&layout, &read(&layout, entry)["config"]);
        assert_eq!(config["config"]["Labels"]["arch"], entry["platform"]["architecture"]);
    }
    // A base that one platform does not have is named, with the platform.
    let told = refused(&place, 1, &["--platform=linux/amd64,linux/s390x", "--build-context=more=here"]);
    assert!(told.contains("`multi:1` cannot be resolved"), "{told}");
}

#[test]
fn annotations_are_for_all_platforms_or_for_one() {
    let place = files(Who::Me);
    let flags = [
        "--platform=linux/amd64,linux/arm64",
        "--annotation=a=all",
        "--annotation=manifest[linux/arm64]:a=one",
        "--annotation=index:b=index",
        "--annotation=manifest-descriptor[linux/amd64]:c=entry",
        "--annotation=index-descriptor:d=top",
        "-o=type=oci,tar=false,dest=layout",
    ];
    built(&place, &flags);
    let layout = place.join("layout");
    let (index, descriptor) = index_of(&layout);
    assert_eq!(descriptor["annotations"]["d"], "top");
    assert_eq!(index["annotations"], serde_json::json!({"b": "index"}));
    let [amd64, arm64] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
    assert_eq!(amd64["annotations"], serde_json::json!({"c": "entry"}));
    assert!(arm64.get("annotations").is_none(), "{arm64}");
    assert_eq!(read(&layout, amd64)["annotations"], serde_json::json!({"a": "all"}));
    assert_eq!(read(&layout, arm64)["annotations"], serde_json::json!({"a": "one"}));
    built(
        &place,
        &["--platform=linux/amd64,linux/arm64", "-o=type=oci,tar=false,dest=docker,oci-mediatypes=false"],
    );
    let docker = entries(&place.join("docker")).remove(0);
    assert_eq!(docker["mediaType"], "application/vnd.docker.distribution.manifest.list.v2+json");
}

#[test]
fn a_name_that_was_pulled_is_updated_for_all_platforms() {
    let (place, registry, other) = (files(Who::Me), Registry::start(), files(Who::Me));
    let name = format!("{}/base:1", registry.host);
    let both = "--platform=linux/amd64,linux/arm64";
    built(&other, &[both, "--push", "-t", &name]);
    place.ok(&["pull", "--all-platforms", &name]);
    other.write("context/f", "new content\n");
    let new = built(&other, &[both, "--push", "-t", &name]).trim().to_owned();
    place.write("Dockerfile", &format!("FROM {name}\nCOPY f /g\n"));
    built(&place, &[both, "--pull", "-o=out"]);
    for folder in ["linux_amd64", "linux_arm64"] {
        let file = std::fs::read_to_string(place.join("out").join(folder).join("f")).unwrap();
        assert_eq!(file, "new content\n", "{folder}");
    }
    let shown = place.ok(&["inspect", &name]);
    assert!(shown.contains(&new), "{shown}");
}

#[test]
fn wrong_requests_for_several_platforms_are_named() {
    let place = files(Who::Me);
    let both = "--platform=linux/amd64,linux/arm64";
    for (flags, status, why) in [
        (&["--platform=linux/amd64,foo"][..], 2, "--platform: `foo` is not a platform"),
        (&[both, "-o=type=docker,dest=a.tar"], 2, "use type=oci"),
        (&[both, "--build-arg=BUILDKIT_MULTI_PLATFORM=0"], 2, "asks for no index"),
        (&[both, "--annotation=manifest[linux/s390x]:a=b"], 2, "the build is for linux/amd64, linux/arm64"),
    ] {
        let told = refused(&place, status, flags);
        assert!(told.contains(why), "{flags:?}: {told}");
    }
    // One platform by several names is one.
    let one = build(&place, &["--platform=linux/arm64/v8,arm64", "-o=type=docker,dest=a.tar"]);
    assert!(one.status.success(), "{}", told(&one));
}

#[test]
fn checks_plans_and_bake_take_several_platforms() {
    let place = files(Who::Me);
    let both = "--platform=linux/amd64,linux/arm64";
    let plan = built(&place, &[both, "--dry-run"]);
    assert_eq!(plan.matches("COPY f /").count(), 1, "{plan}");
    assert!(built(&place, &[both, "--check"]).contains("no problems found"));
    assert!(built(&place, &[both, "--call=outline"]).contains("TARGET"));
    place.write(
        "docker-bake.hcl",
        "group \"default\" { targets = [\"base\", \"app\"] }\n\
         target \"base\" {\n context = \"context\"\n dockerfile = \"../Dockerfile\"\n platforms = [\"linux/amd64\", \"linux/arm64\"]\n\
         tags = [\"of-bake:1\"]\n}\n\
         target \"app\" {\n context = \"context\"\n dockerfile-inline = \"FROM up\\nCOPY f /g\\n\"\n\
         contexts = { up = \"target:base\" }\n platforms = [\"linux/arm64\", \"linux/amd64\"]\n output = [\"type=local,dest=baked\"]\n}\n",
    );
    place.ok(&["bake", "--allow=fs=*"]);
    assert!(place.ok(&["images"]).contains("linux/amd64,linux/arm64"));
    for folder in ["linux_amd64", "linux_arm64"] {
        for file in ["f", "g"] {
            assert!(place.join("baked").join(folder).join(file).is_file(), "{folder}/{file}");
        }
    }
    // A target for one platform serves all platforms of those who need it.
    place.write(
        "docker-bake.hcl",
        "target \"base\" {\n context = \"context\"\n dockerfile-inline = \"FROM scratch\\nCOPY f /\\n\"\n}\n\
         target \"default\" {\n context = \"context\"\n dockerfile-inline = \"FROM scratch\\nCOPY --from=up f /h\\n\"\n\
         contexts = { up = \"target:base\" }\n platforms = [\"linux/arm64\", \"linux/amd64\"]\n output = [\"type=local,dest=one\"]\n}\n",
    );
    place.ok(&["bake", "--allow=fs=*"]);
    for folder in ["linux_amd64", "linux_arm64"] {
        assert!(place.join("one").join(folder).join("h").is_file(), "{folder}");
    }
}

/// A program for 64-bit ARM that writes a line.
fn program_for_arm64() -> Vec<u8> {
    let code = [
        0xd280_0020_u32, // mov x0, #1
        0x1000_00e1,     // adr x1, the text
        0xd280_0122,     // mov x2, #9
        0xd280_0808,     // mov x8, #64: write
        0xd400_0001,     // svc #0
        0xd280_0000,     // mov x0, #0
        0xd280_0ba8,     // mov x8, #93: exit
        0xd400_0001,     // svc #0
    ];
    let text = b"emulated\n";
    let (at, start) = (0x40_0000_u64, 120_u64);
    let length = start + 4 * code.len() as u64 + text.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    for word in [at + start, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    for word in [0, at, at, length, length, 0x1_0000] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(code.iter().flat_map(|instruction| instruction.to_le_bytes()));
    bytes.extend(text);
    bytes
}

/// A place with an image for 64-bit ARM, and a Dockerfile whose last step runs its program.
fn foreign(who: Who) -> Place {
    let place = Place::of(who);
    let program = place.write("context/program", "");
    std::fs::write(&program, program_for_arm64()).unwrap();
    succeed(Command::new("chmod").arg("755").arg(&program));
    place.write("context/f", "f\n");
    place.write("Dockerfile", "FROM scratch\nCOPY program /\n");
    built(&place, &["--platform=linux/arm64", "-t=arm:1"]);
    place.write("Dockerfile", "FROM arm:1\nRUN [\"/program\"]\nCOPY f /\n");
    place
}

#[test]
fn a_foreign_step_without_an_emulator_is_refused_before_anything_runs() {
    let place = foreign(Who::Me);
    if Command::new(place.join("context/program")).output().is_ok() {
        skip!("this machine runs programs for 64-bit ARM");
    }
    let told = refused(&place, 1, &["--platform=linux/arm64", "-o=type=cacheonly"]);
    for part in
        ["linux/arm64", "RUN [\"/program\"]", "Dockerfile:2", "qemu-user-static", "--platform=$BUILDPLATFORM"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("COPY f"), "{told}");
    // Whether a step is in the cache may depend on the files that an earlier one makes: then it is refused after that one, or
    // at once when it is not to come from the cache.
    place.write("Dockerfile", "FROM arm:1\nCOPY f /\nRUN [\"/program\"]\n");
    for (flag, copies) in [("--no-cache", false), ("--source-date-epoch=9", true)] {
        let told = refused(&place, 1, &["--platform=linux/arm64", "-o=type=cacheonly", flag]);
        assert!(told.contains("Dockerfile:3") && told.contains("qemu-user-static"), "{told}");
        assert_eq!(told.contains("COPY f"), copies, "{told}");
    }
    // What does not run is not refused, and neither is a step of this machine beside it.
    place.write("Dockerfile", "FROM arm:1\nCOPY f /\n");
    built(&place, &["--platform=linux/arm64", "-o=type=cacheonly"]);
}

#[test]
fn a_foreign_step_whose_result_is_in_the_cache_is_not_refused() {
    let Some(busybox) = busybox() else { skip!("there is no static busybox") };
    let place = Place::new();
    std::fs::create_dir_all(place.join("context")).unwrap();
    std::fs::copy(busybox, place.join("context/busybox")).unwrap();
    // Every platform has the same files, so that the step has the same keys.
    place.built("FROM scratch\nCOPY busybox /\n", &["--platform", ALL, "-t=same:1"]);
    let text = "FROM --platform=$BUILDPLATFORM base AS make\nARG N\nRUN echo $N; echo text > /out\n\
        FROM same:1\nCOPY --from=make /out /\nRUN [\"/busybox\", \"true\"]\n";
    let build = |platform: &str, number: &str| {
        let number = format!("N={number}");
        let flags =
            ["--platform", platform, "--build-arg", &number, "-o=type=cacheonly", "--source-date-epoch=9"];
        place.built(text, &flags).outcomes()
    };
    let host = if cfg!(target_arch = "x86_64") { "linux/amd64" } else { "linux/arm64" };
    let foreign = if cfg!(target_arch = "x86_64") { "linux/arm64" } else { "linux/amd64" };
    build(host, "1");
    // Before the first stage has run, nobody knows that it makes the same file.
    let outcomes = build(foreign, "2");
    let of = |part: &str| outcomes.iter().find(|(name, _)| name.contains(part)).map(|(_, is)| is.as_str());
    assert_eq!((of("echo $N"), of("busybox")), (Some("done"), Some("cached")), "{outcomes:?}");
}

#[test]
fn a_foreign_step_runs_with_an_emulator_that_the_kernel_knows() {
    const USER: u32 = 64322;
    const EMULATOR: &str = "/usr/bin/qemu-aarch64-static";
    if !Path::new(EMULATOR).exists() {
        skip!("there is no {EMULATOR}");
    }
    if let Some(tool) = missing(&["unshare"]) {
        skip!("there is no {tool}");
    }
    let place = foreign(if is_root() { Who::Id(USER) } else { Who::Me });
    // The list of emulators of a user namespace is its own: nothing on the machine changes.
    let script = format!(
        "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 99\n\
         printf '%s' ':arm64:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00\
         :\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:{EMULATOR}:F' \
         > /proc/sys/fs/binfmt_misc/register || exit 99\n\
         $HIDE\n\
         exec unshare --user --map-user={USER} --map-group={USER} -- \"$@\"\n"
    );
    // Where the list cannot be seen, a program is tried.
    for hide in ["", "mount -t tmpfs none /proc/sys/fs/binfmt_misc || exit 99"] {
        let hyper = place.hyper(&[
            "build",
            "--progress=plain",
            "--no-cache",
            "--platform=linux/arm64",
            "-f=Dockerfile",
            "-o=type=cacheonly",
            "context",
        ]);
        let words: Vec<_> = std::iter::once(hyper.get_program()).chain(hyper.get_args()).collect();
        // The user is changed outside of the namespace.
        let program = words.iter().position(|word| *word == "--").map_or(0, |at| at + 1);
        let (change, program) = words.split_at(program);
        let unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"];
        let script = script.replace("$HIDE", hide);
        let all =
            change.iter().copied().chain(unshare.map(AsRef::as_ref)).chain([script.as_ref(), "sh".as_ref()]);
        let all: Vec<_> = all.chain(program.iter().copied()).collect();
        let mut command = Command::new(all[0]);
        command.args(&all[1..]).current_dir(hyper.get_current_dir().unwrap());
        command.env_clear().envs(hyper.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        let said = told(&output);
        if output.status.code() == Some(99) || said.contains("unshare: ") {
            skip!("a user namespace has no list of emulators of its own here: {said}");
        }
        assert!(output.status.success() && said.contains("emulated"), "{said}");
    }
}
