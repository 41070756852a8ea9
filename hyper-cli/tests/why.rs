//! `hyperbuild why`: what of a key changed.

use crate::support::{Place, Who, busybox, is_root, marker, processes, skip, told, wait_for};
use hyper_sdk::Digest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn why(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&place.ok(&[&["why", "--format=json"], arguments].concat())).unwrap()
}

/// The steps of the newest build by the beginnings of their texts: the outcome, and the reasons.
fn steps(place: &Place) -> BTreeMap<String, (String, Vec<Value>)> {
    let why = why(place, &[]);
    let steps = why["steps"].as_array().unwrap().iter();
    steps
        .map(|step| {
            let name = step["name"].as_str().unwrap().split_once("] ").unwrap().1.to_owned();
            let reasons = step["reasons"].as_array().unwrap().clone();
            (name, (step["outcome"].as_str().unwrap().to_owned(), reasons))
        })
        .collect()
}

/// The one reason of a step that ran.
fn reason(place: &Place, step: &str) -> Value {
    let mut steps = steps(place);
    let (outcome, mut reasons) = steps.remove(step).unwrap_or_else(|| panic!("{step}: {steps:?}"));
    assert_eq!((outcome.as_str(), reasons.len()), ("done", 1), "{step}: {reasons:?}");
    reasons.remove(0)
}

fn kind(reason: &Value) -> &str {
    reason["reason"].as_str().unwrap()
}

/// Files only, so that no step needs a sandbox.
const COPIES: &str = "FROM scratch AS first\nCOPY . /src/\nFROM scratch\nCOPY --from=first /src/a /b\n";

#[test]
fn the_files_of_a_copy_and_the_step_of_an_input_are_named() {
    let place = Place::new();
    let output = place.hyper(&["why"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("there is no record of a build that has ended yet"), "{}", told(&output));
    place.write("context/dir/a", "a\n");
    place.write("context/empty", "");
    place.write("context/gone", "x\n");
    let file = "FROM scratch AS first\nCOPY . /src/\nFROM scratch\nCOPY --from=first /src/dir/a /\n";
    place.built(file, &[]);
    assert_eq!(kind(&reason(&place, "COPY . /src/")), "new");
    place.built(file, &[]);
    let cached = steps(&place);
    assert!(
        cached.values().all(|(outcome, reasons)| outcome == "cached" && reasons.is_empty()),
        "{cached:?}"
    );
    assert!(place.ok(&["why"]).contains("cached: the build "), "{}", place.ok(&["why"]));
    // Nothing is recorded for a build that ran nothing.
    let records = std::fs::read_dir(place.join("state/history")).unwrap().flatten();
    assert_eq!(records.filter(|entry| entry.path().extension().is_some_and(|e| e == "steps")).count(), 1);

    place.write("context/dir/a", "other\n");
    place.write("context/new", "y\n");
    std::fs::remove_file(place.join("context/gone")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.join("context/empty"), mode).unwrap();
    place.built(file, &[]);
    let text = place.ok(&["why", "first:1"]);
    for part in
        ["4 files changed:", "dir/a (content)", "empty (mode 0644 → 0755)", "gone (removed)", "new (added)"]
    {
        assert!(text.contains(part), "{text}");
    }
    let copied = reason(&place, "COPY --from=first /src/dir/a /");
    assert_eq!((kind(&copied), copied["step"].as_str().unwrap()), ("input", "[first 1/1] COPY . /src/"));
    // Where the selected files are the same, the step is cached, and so it is after a change back.
    place.write("context/new", "z\n");
    place.built(file, &[]);
    assert_eq!(steps(&place)["COPY --from=first /src/dir/a /"].0, "cached");
    let output = place.hyper(&["why", "RUN"]).output().unwrap();
    assert!(told(&output).contains("has no step `RUN`") && told(&output).contains("[first 1/1] COPY"));
    let output = place.hyper(&["why", "1"]).output().unwrap();
    assert!(told(&output).contains("give the stage and the number"), "{}", told(&output));
}

#[test]
fn an_older_result_that_was_used_since_is_what_a_step_is_compared_with() {
    let place = Place::new();
    let build = |content: &str| {
        place.write("context/a", content);
        place.built(COPIES, &[]);
    };
    build("one");
    build("two");
    build("one");
    assert!(steps(&place).values().all(|(outcome, _)| outcome == "cached"));
    // As it was in the newest build, but for this file.
    place.write("context/b", "b");
    place.built(COPIES, &[]);
    let files = reason(&place, "COPY . /src/");
    assert_eq!(files["changes"].as_array().unwrap().len(), 1, "{files}");
    assert_eq!(
        (&files["changes"][0]["path"], &files["changes"][0]["change"]),
        (&"b".into(), &"added".into())
    );
}

#[test]
fn options_that_skip_the_cache_another_platform_and_a_lost_result_are_named() {
    let place = Place::new();
    place.write("context/a", "a");
    place.built(COPIES, &[]);
    place.built(COPIES, &["--no-cache"]);
    assert_eq!(kind(&reason(&place, "COPY . /src/")), "no_cache");
    place.built(COPIES, &["--no-cache-filter=first"]);
    assert_eq!(kind(&reason(&place, "COPY . /src/")), "no_cache_filter");
    std::fs::remove_dir_all(place.join("state/cache")).unwrap();
    place.built(COPIES, &[]);
    assert_eq!(kind(&reason(&place, "COPY . /src/")), "gone");
    let text = place.ok(&["why", "COPY . "]);
    assert!(text.contains("no usable result was in the cache. Secrets and the content"), "{text}");
    // An edited instruction at its place.
    place.built(&COPIES.replace(" /b", " /c"), &[]);
    let edited = reason(&place, "COPY --from=first /src/a /c");
    assert_eq!(kind(&edited), "instruction");
    assert_eq!(edited["from"], "COPY --from=first /src/a /b");
    let file = "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH/\n";
    place.built(file, &["--platform=linux/amd64"]);
    place.built(file, &["--platform=linux/arm64"]);
    let (_, reasons) = steps(&place).remove("COPY a /$TARGETARCH/").unwrap();
    assert_eq!((kind(&reasons[0]), &reasons[0]["to"]), ("platform", &"linux/arm64".into()));
    assert_eq!(reasons[1]["part"], "destination", "{reasons:?}");
    // What a clean-up removed is not guessed at.
    place.ok(&["prune", "--all", "--force"]);
    place.built(file, &["--platform=linux/arm64"]);
    assert_eq!(kind(&reason(&place, "COPY a /$TARGETARCH/")), "not_recorded");
    // Where the platform is another one, but no part that depends on it, it is no reason.
    let place = Place::new();
    for (content, platform) in [("a", "linux/amd64"), ("b", "linux/arm64")] {
        place.write("context/a", content);
        place.built("FROM scratch\nCOPY a /x\n", &["--platform", platform]);
    }
    assert_eq!(kind(&reason(&place, "COPY a /x")), "files");
}

#[test]
fn arguments_variables_texts_and_base_images_of_commands_are_named() {
    if busybox().is_none() {
        skip!("a static busybox is needed");
    }
    let place = Place::new();
    let file = |env: &str, user: &str, text: &str| {
        format!("FROM base\nARG LEVEL=1\nENV {env}\nUSER {user}\nRUN true {text}\nRUN true last\n")
    };
    place.built(&file("A=1", "0", "x"), &[]);
    let only = |step: &str| reason(&place, step);
    place.built(&file("A=1", "0", "x"), &["--build-arg=LEVEL=2"]);
    let argument = only("RUN true x");
    assert_eq!(
        (kind(&argument), &argument["name"], &argument["change"]),
        ("argument", &"LEVEL".into(), &"changed".into())
    );
    place.built(&file("A=2", "0", "x"), &["--build-arg=LEVEL=2"]);
    assert_eq!(only("RUN true x")["part"]["variable"], "A");
    place.built(&file("A=2 B=1", "0", "x"), &["--build-arg=LEVEL=2"]);
    assert_eq!(
        (only("RUN true x")["part"]["variable"].clone(), only("RUN true x")["change"].clone()),
        ("B".into(), "added".into())
    );
    place.built(&file("A=2 B=1", "1", "x"), &["--build-arg=LEVEL=2"]);
    assert_eq!(only("RUN true x")["part"], "user");
    place.built(&file("A=2 B=1", "1", "y"), &["--build-arg=LEVEL=2"]);
    assert_eq!(
        (kind(&only("RUN true y")), &only("RUN true y")["from"]),
        ("instruction", &"RUN true x".into())
    );
    place.built(&file("A=2 B=1", "1", "y"), &["--build-arg=LEVEL=2", "--network=none"]);
    assert_eq!(only("RUN true y")["part"], "network");
    // A secret is no part of a key.
    let secret = "FROM base\nRUN --mount=type=secret,id=s true\n";
    place.write("one", "first-secret");
    place.write("two", "second-secret");
    place.built(secret, &["--secret=id=s,src=one"]);
    place.built(secret, &["--secret=id=s,src=two"]);
    assert!(steps(&place).values().all(|(outcome, _)| outcome == "cached"));
    // The base image is another one.
    let layout = |content: &str| {
        let file = place.write("base/Dockerfile", &format!("FROM base\nCOPY --chmod=644 a /{content}\n"));
        place.write("context/a", content);
        let base = format!("--build-context=base=oci-layout://{}", crate::support::base().display());
        let output = format!("-otype=oci,tar=false,dest={}", place.join(content).display());
        place.ok(&[
            "build",
            "-q",
            "-t",
            "moved:latest",
            &base,
            &output,
            "-f",
            file.to_str().unwrap(),
            "context",
        ]);
        format!("--build-context=moved=oci-layout://{}", place.join(content).display())
    };
    let (before, after) = (layout("before"), layout("after"));
    place.built("FROM moved\nRUN true\n", &[&before]);
    place.built("FROM moved\nRUN true\n", &[&after]);
    let image = only("RUN true");
    assert_eq!(kind(&image), "image");
    assert!(
        image["from"].as_str().unwrap().starts_with("sha256:") && image["from"] != image["to"],
        "{image}"
    );
    assert!(place.ok(&["why", "RUN"]).contains("the base image changed: sha256:"));
}

#[test]
fn mounts_and_failed_steps_are_told_by_what_they_are_made_of() {
    if busybox().is_none() {
        skip!("a static busybox is needed");
    }
    let place = Place::new();
    place.write("context/a", "one");
    let file = "FROM base\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/m grep -q one /m/a\n";
    let step = &file[10..file.len() - 1];
    place.built(file, &[]);
    place.write("context/b", "b");
    place.built(file, &[]);
    let files = reason(&place, step);
    assert_eq!((kind(&files), &files["mount"]), ("mounted_files", &2.into()));
    place.write("context/a", "two");
    let output = place.build(file, &[]).output().unwrap();
    assert!(!output.status.success(), "{}", told(&output));
    let (outcome, reasons) = steps(&place).remove(step).unwrap();
    assert_eq!((outcome.as_str(), kind(&reasons[0])), ("failed", "mounted_files"));
    assert!(place.ok(&["why"]).contains("failed: files of its mount 2 changed"));
}

/// The bytes of all files below a folder that have a text in them.
fn having(folder: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(having(&path, text));
        } else if std::fs::read(&path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path);
        }
    }
    found
}

#[test]
fn no_value_and_no_hash_that_can_be_guessed_is_recorded() {
    if busybox().is_none() {
        skip!("a static busybox is needed");
    }
    let place = Place::new();
    for name in ["hidden-value", "plain"] {
        place.write(&format!("context/{name}/x"), "x");
        place.write(&format!("context/{name}/empty"), "");
    }
    let file = "FROM base AS one\nARG V\nENV E=of-$V\nWORKDIR /w/$V\nCOPY $V /to/$V/\nCOPY --chown=7:8 $V/x /$V-x\n\
                COPY $V/empty /$V-empty\nRUN --mount=type=tmpfs,target=/t/$V true\nFROM base\nARG V\n\
                COPY --from=one /to/$V /$V/\nCOPY <<document /d/$V\ntext of $V\ndocument\n";
    for value in ["hidden-value", "plain", "hidden-value"] {
        place.built(file, &[&format!("--build-arg=V={value}"), "--no-cache"]);
    }
    place.built(file, &["--build-arg=V=plain"]);
    let folder = place.join("state/history");
    assert!(having(&folder, "WORKDIR /w/$V").len() >= 4);
    let guessed = ["hidden-value", "of-hidden-value", "/w/hidden-value", "/to/hidden-value/"];
    for value in guessed {
        assert_eq!(having(&folder, value), Vec::<std::path::PathBuf>::new(), "{value}");
        assert_eq!(having(&folder, Digest::sha256(value).hex()), Vec::<std::path::PathBuf>::new(), "{value}");
        assert_eq!(having(&place.join("state/cache"), value), Vec::<std::path::PathBuf>::new(), "{value}");
    }
    let mode = |name: &str| folder.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("steps.key"), 0o600);
    let records =
        std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let records: Vec<String> = records.filter(|name| name.ends_with(".steps")).collect();
    assert!(records.len() >= 3 && records.iter().all(|name| mode(name) == 0o600), "{records:?}");
    // The survey knows them, and they go with their record.
    assert!(place.ok(&["du", "--verbose"]).contains("why the steps of a build ran"));
    place.ok(&["history", "rm", "--all"]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "the key alone is left");
}

#[test]
fn paths_that_a_variable_may_be_in_are_hashed_wherever_it_stands() {
    let place = Place::new();
    place.write("context/hidden-a/app-hidden-b-1.whl", "x");
    place.write("context/hidden-a/x/file", "x");
    place.write("context/hidden-a/x/empty", "");
    std::os::unix::fs::symlink("hidden-a", place.join("context/link")).unwrap();
    let file = "FROM scratch\nARG DIR\nARG NAME\nARG LINKED\nARG SRC=s\nCOPY hid*/app-$NAME*.whl /\n\
                COPY --parents $DIR/x /dst/\nCOPY $LINKED/x /linked/\nCOPY $SRC /s/\nADD --chmod=600 [\"$DIR/x\", \"/\"]\n";
    let arguments = ["--build-arg=DIR=hidden-a", "--build-arg=NAME=hidden-b", "--build-arg=LINKED=link/x/.."];
    place.write("context/s/one", "1");
    place.built(file, &arguments);
    place.write("context/s/one", "2");
    place.write("context/s/two", "2");
    place.built(file, &arguments);
    let history = place.join("state/history");
    for value in ["hidden-a", "hidden-b", "link/x"] {
        assert_eq!(having(&history, value), Vec::<std::path::PathBuf>::new(), "{value}");
    }
    let steps = std::fs::read_dir(&history).unwrap().flatten().map(|entry| entry.path());
    let mut lists = 0;
    for path in steps.filter(|path| path.extension().is_some_and(|e| e == "steps")) {
        for line in std::fs::read_to_string(path).unwrap().lines().skip(1) {
            let line: Value = serde_json::from_str(line).unwrap();
            for file in line["files"]["files"].as_array().into_iter().flatten() {
                let path = file[0].as_str().unwrap();
                assert!(path.len() == 16 && path.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
                lists += 1;
            }
        }
    }
    assert!(lists > 8, "{lists}");
    let hidden = reason(&place, "COPY $SRC /s/");
    let (added, changed) = (&hidden["added"], &hidden["changed"]);
    assert_eq!((kind(&hidden), added, changed), ("hidden_files", &1.into(), &1.into()), "{hidden}");
    // When the value is another one, that is the reason.
    place.write("context/t/one", "3");
    place.built(file, &[&arguments[..], &["--build-arg=SRC=t"]].concat());
    assert_eq!(reason(&place, "COPY $SRC /s/")["part"], "sources");
}

#[test]
fn a_step_is_compared_by_the_files_of_when_its_key_was_made() {
    if busybox().is_none() {
        skip!("a static busybox is needed");
    }
    let place = Place::new();
    let marker = marker();
    place.write("context/a", "one");
    let run = format!(
        "RUN --mount=type=bind,target=/m i=0; until test -e /m/go || test $i = 30; do i=$((i+1)); sleep 0.05; done; : {marker}"
    );
    let file = format!("FROM base\n{run}\n");
    let child = place.build(&file, &[]).spawn().unwrap();
    wait_for("the step runs", || !processes(&format!("sleep 0.05; done; : {marker}")).is_empty());
    place.write("context/a", "two");
    place.write("context/go", "");
    assert!(child.wait_with_output().unwrap().status.success());
    place.built(&file, &[]);
    assert_eq!(kind(&reason(&place, &run)), "mounted_files");
}

#[test]
fn a_result_that_was_made_without_a_record_is_not_compared_with_an_older_one() {
    let place = Place::new();
    place.write("context/a", "one");
    place.built(COPIES, &[]);
    place.write("context/a", "two");
    // Bake makes no records.
    let target = "target \"default\" {\n  dockerfile = \"../Dockerfile\"\n  context = \"context\"\n}\n";
    place.write("docker-bake.hcl", target);
    place.ok(&["bake"]);
    place.built(COPIES, &[]);
    assert!(steps(&place).values().all(|(outcome, _)| outcome == "cached"));
    let cached = why(&place, &[]);
    assert_eq!(cached["steps"][0]["origin"], Value::Null);
    place.write("context/a", "one!");
    place.built(COPIES, &[]);
    assert_eq!(kind(&reason(&place, "COPY . /src/")), "not_recorded");
    assert_eq!(why(&place, &[])["steps"][0]["compared_with"], cached["build"]);
}

#[test]
fn what_builds_without_a_record_left_can_be_removed() {
    let place = Place::new();
    place.write("context/a", "a");
    let history = place.join("state/history");
    let strays = ["orphanone", "orphantwo", "orphanthree"];
    place.built(COPIES, &[]);
    for id in strays {
        std::fs::write(history.join(format!("{id}.steps")), "{}\n").unwrap();
    }
    let refused = place.hyper(&["history", "rm", "orphanx"]).output().unwrap();
    assert!(told(&refused).contains("there is no record of a build `orphanx`"), "{}", told(&refused));
    assert_eq!(place.ok(&["history", "rm", "orphano"]), "orphanone");
    let left =
        || std::fs::read_dir(&history).unwrap().flatten().filter(|f| f.path().extension().is_some()).count();
    // A record, its steps, the key, and two more.
    assert_eq!(left(), 5);
    assert_eq!(place.ok(&["history", "rm", "--all"]).lines().count(), 3);
    assert_eq!(std::fs::read_dir(&history).unwrap().count(), 1, "the key alone is left");
}

#[test]
fn a_build_whose_steps_cannot_be_recorded_is_in_the_history() {
    let place = Place::new();
    place.write("context/a", "a");
    std::fs::create_dir_all(place.join("state/history/steps.key")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(place.join("state"), mode.clone()).unwrap();
    std::fs::set_permissions(place.join("state/history"), mode).unwrap();
    let output = place.build(COPIES, &[]).output().unwrap();
    let text = told(&output);
    assert!(output.status.success() && text.contains("cannot say why steps of this build ran"), "{text}");
    assert!(!text.contains("the history does not have this build"), "{text}");
    assert_eq!(kind(&reason(&place, "COPY . /src/")), "not_recorded");
}

#[test]
fn a_killed_build_tells_only_what_it_recorded() {
    if busybox().is_none() {
        skip!("a static busybox is needed");
    }
    let place = Place::new();
    let marker = marker();
    let file = format!("FROM base\nRUN true first\nRUN sleep {marker}\n");
    let mut child = place.build(&file, &[]).spawn().unwrap();
    wait_for("the step runs", || !processes(&marker).is_empty());
    let id = place.ok(&["history", "ls", "-q"]);
    let recorded = || why(&place, &["--build", &id])["steps"].as_array().unwrap().len();
    wait_for("the first step is recorded", || recorded() == 1);
    let running = why(&place, &["--build", &id]);
    assert_eq!(running["outcome"], "running");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the step is gone", || processes(&marker).is_empty());
    let output = place.hyper(&["why"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let killed = why(&place, &["--build", &id]);
    assert_eq!(killed["outcome"], "interrupted");
    for told in [running, killed] {
        let steps = told["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 1, "{told}");
        assert_eq!(
            (&steps[0]["name"], &steps[0]["outcome"]),
            (&"[stage-0 2/3] RUN true first".into(), &"done".into())
        );
    }
    let text = place.ok(&["why", "--build", &id]);
    assert!(text.contains("which was interrupted") && !text.contains("cached"), "{text}");
    // Its first step has a result, which the next build has from it.
    place.built(&file.replace("sleep", "true"), &[]);
    let why = why(&place, &["RUN true first"]);
    assert_eq!(
        (&why["steps"][0]["outcome"], &why["steps"][0]["origin"]["build"]),
        (&"cached".into(), &id.into())
    );
}

#[test]
fn an_ordinary_user_is_told_too() {
    if !is_root() {
        skip!("root is needed to be another user");
    }
    let place = Place::of(Who::Id(54_321));
    place.write("context/a", "a");
    let file = place.write("Dockerfile", COPIES);
    let build = || place.ok(&["build", "-q", "-f", file.to_str().unwrap(), "context"]);
    build();
    place.write("context/a", "b");
    build();
    assert_eq!(reason(&place, "COPY . /src/")["changes"][0]["content"], true);
}
