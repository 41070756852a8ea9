//! The language as its users see it: what is built from a Dockerfile, where no smaller test says it.

use crate::support::{Place, busybox, skip, told};
use serde_json::Value;

macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}

/// The config of the image that a Dockerfile makes.
fn config(place: &Place, dockerfile: &str, flags: &[&str]) -> Value {
    place.built(dockerfile, &[flags, &["-t", "it"]].concat());
    let shown: Value = serde_json::from_str(&place.ok(&["inspect", "it", "--format=json"])).unwrap();
    shown["config"].clone()
}

/// What the file `/out` of the stage `run` holds.
fn out_of(place: &Place, stages: &str, flags: &[&str]) -> String {
    let folder = place.join("out");
    let output = format!("type=local,dest={}", folder.display());
    let dockerfile = format!("{stages}\nFROM scratch\nCOPY --from=run /out /\n");
    place.built(&dockerfile, &[flags, &["-o", &output]].concat());
    std::fs::read_to_string(folder.join("out")).unwrap()
}

/// Who mistypes a name finds the right one in the message, and what else there is.
#[test]
fn errors_about_unknown_targets_and_platforms_list_the_known_ones() {
    let place = Place::new();
    let build = |flags: &[&str]| {
        let dockerfile = "FROM scratch AS build\nFROM scratch\nFROM scratch AS release\nCOPY . /\n";
        place.build(dockerfile, flags).output().unwrap()
    };
    let output = build(&["--target=relase"]);
    assert_eq!(output.status.code(), Some(1));
    for part in ["`relase`", "Dockerfile", "did you mean `release`?", "`build`, `1`, `release`"] {
        assert!(told(&output).contains(part), "{part}: {}", told(&output));
    }
    let output = build(&["--target=elephant"]);
    assert!(told(&output).contains("the stages are `build`, `1`, `release`"), "{}", told(&output));

    // An image for an unknown platform may exist: it is built, with a warning that has the name.
    for (platform, part) in [
        ("linux/amd46", "`amd46` is not the name of a known architecture: did you mean `amd64`?"),
        ("linx/arm64", "`linx` is not the name of a known system: did you mean `linux`?"),
        ("linux/elephant", "`elephant` is not the name of a known architecture"),
    ] {
        let output = build(&["--platform", platform]);
        assert!(output.status.success() && told(&output).contains(part), "{platform}: {}", told(&output));
    }
    let output = build(&["--platform=linux/arm64"]);
    assert!(output.status.success() && !told(&output).contains("not the name"), "{}", told(&output));
}

#[test]
fn every_form_of_expansion_in_every_instruction() {
    needs_busybox!();
    let place = Place::new();
    place.write("context/file.txt", "x");
    let dockerfile = "ARG BASE=ba\nFROM ${BASE}se\n\
        ARG A=one.two.one EMPTY= N=/dir\n\
        ENV PLAIN=$A BRACES=${A} DEFAULT=${NONE:-d} UNSET=${NONE-u} NULL=${EMPTY:-n} SET=${EMPTY-s} PLUS=${A:+p} MINUS=${NONE+m}\n\
        ENV SHORT=${A#*.} LONG=${A##*.} CUT=${A%.*} CUTS=${A%%.*} FIRST=${A/one/1} ALL=${A//one/1} ESCAPED=\\$A\n\
        ENV abc=hello\n\
        ENV abc=bye def=$abc\n\
        ENV ghi=$abc\n\
        LABEL label=$abc other=\"${abc} you\"\n\
        WORKDIR $N/sub\n\
        COPY ${PLAIN:+file}.txt $N/\n\
        ADD file.txt $N/added\n\
        USER ${NONE:-0}\n\
        EXPOSE ${NONE:-80}/udp\n\
        VOLUME $N/volume\n\
        STOPSIGNAL ${NONE:-SIGINT}\n\
        ONBUILD RUN echo $abc\n\
        CMD echo $abc\n";
    let config = config(&place, dockerfile, &[]);
    let config = &config["config"];
    let env: Vec<&str> = config["Env"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    for pair in [
        "PLAIN=one.two.one",
        "BRACES=one.two.one",
        "DEFAULT=d",
        "UNSET=u",
        "NULL=n",
        "SET=",
        "PLUS=p",
        "MINUS=",
        "SHORT=two.one",
        "LONG=one",
        "CUT=one.two",
        "CUTS=one",
        "FIRST=1.two.one",
        "ALL=1.two.1",
        "ESCAPED=$A",
        "abc=bye",
        "def=hello",
        "ghi=bye",
    ] {
        assert!(env.contains(&pair), "{pair}: {env:?}");
    }
    assert_eq!(config["Labels"], serde_json::json!({ "label": "bye", "other": "bye you" }));
    assert_eq!(config["WorkingDir"], "/dir/sub");
    assert_eq!(config["ExposedPorts"], serde_json::json!({ "80/udp": {} }));
    assert_eq!(config["Volumes"], serde_json::json!({ "/dir/volume": {} }));
    assert_eq!((&config["User"], &config["StopSignal"]), (&"0".into(), &"SIGINT".into()));
    // Text that a shell reads is left to it.
    assert_eq!(config["Cmd"][2], "echo $abc");
    assert_eq!(config["OnBuild"][0], "RUN echo $abc");
    let output = place.build("FROM base\nENV A=${NONE:?must be set}\n", &[]).output().unwrap();
    assert!(!output.status.success() && told(&output).contains("must be set"), "{}", told(&output));
}

#[test]
fn arguments_have_scopes_defaults_and_an_order() {
    needs_busybox!();
    let place = Place::new();
    let stages = "ARG GLOBAL=global\nARG OTHER=$GLOBAL-2 THIRD\nFROM base AS first\nARG GLOBAL\nARG LOCAL=local\n\
        ENV FIXED=env\nARG FIXED=arg\nARG BOTH=arg\nENV BOTH=env\n\
        FROM first AS run\nARG OTHER THIRD\nRUN echo \"$GLOBAL $OTHER $THIRD $LOCAL $FIXED $BOTH\" > /out";
    assert_eq!(out_of(&place, stages, &[]), "global global-2  local env env\n");
    let given = ["--build-arg", "GLOBAL=g", "--build-arg", "THIRD=t", "--build-arg", "LOCAL=l"];
    assert_eq!(out_of(&place, stages, &given), "g g-2 t l env env\n");
}

#[test]
fn the_result_has_its_platform() {
    let place = Place::new();
    place.write("context/f", "");
    let layout = place.join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    place.built("FROM scratch\nCOPY f /\n", &["--platform=linux/arm64", "-t=other", "-o", &output]);
    let (other, told) = (format!("other=oci-layout://{}", layout.display()), place.join("told"));
    let flags = ["--build-context", &other, "--metadata-file", told.to_str().unwrap()];
    place.built("FROM --platform=linux/arm64 other\nCOPY f /g\n", &flags);
    let said: Value = serde_json::from_slice(&std::fs::read(told).unwrap()).unwrap();
    assert_eq!(said["containerimage.descriptor"]["platform"]["architecture"], "arm64", "{said}");
}

#[test]
fn unused_options_are_warnings() {
    let place = Place::new();
    let text = "ARG VERSION\nFROM scratch AS final\nCOPY . /\n";
    place.write("context/f", "");
    let flags = [
        "--build-arg=VERSOIN=1",
        "--build-arg=HTTP_PROXY=x",
        "--no-cache-filter=finale",
        "-o",
        "type=cacheonly",
    ];
    let output = place.build(text, &flags).output().unwrap();
    let said = told(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("`VERSOIN`: did you mean `VERSION`?") && said.contains("did you mean `final`?"),
        "{said}"
    );
    assert!(!said.contains("HTTP_PROXY"), "{said}");
}

#[test]
fn predefined_arguments_are_set_and_proxies_are_not_recorded() {
    needs_busybox!();
    let place = Place::new();
    let stages = "FROM --platform=$BUILDPLATFORM base AS run\n\
        ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETSTAGE BUILDPLATFORM BUILDOS BUILDARCH\n\
        RUN echo \"$TARGETPLATFORM $TARGETOS $TARGETARCH [$TARGETVARIANT] $TARGETSTAGE\" > /out; \\\n\
        test \"$BUILDPLATFORM\" = \"$BUILDOS/$BUILDARCH\" && hostname >> /out";
    let flags = ["--platform=linux/s390x", "--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=named"];
    assert_eq!(out_of(&place, stages, &flags), "linux/s390x linux s390x [] default\nnamed\n");

    let text = "FROM base\nRUN test \"$HTTP_PROXY\" = \"$http_proxy\" && test -n \"$HTTP_PROXY\"\n";
    // However it is written, both are set.
    let flag = |name: &str, value: &str| format!("--build-arg={name}=http://{value}.example.com");
    assert!(!config(&place, text, &[&flag("HTTP_PROXY", "one")]).to_string().contains("one.example.com"));
    let built = place.built(text, &[&flag("http_proxy", "two")]);
    assert!(built.outcomes().iter().filter(|(n, _)| n.contains("RUN")).all(|(_, o)| o == "cached"));
}

#[test]
fn arguments_for_the_builder_take_effect_or_are_warnings() {
    needs_busybox!();
    let place = Place::new();
    let cache = |namespace: &str, command: &str| {
        let stages = format!("FROM base AS run\nRUN --mount=type=cache,id=x,target=/c {command}");
        let flag = format!("--build-arg=BUILDKIT_CACHE_MOUNT_NS={namespace}");
        out_of(&place, &stages, &["--no-cache", &flag])
    };
    assert_eq!(cache("a", "echo a > /c/f; echo > /out"), "\n");
    assert_eq!(cache("b", "ls /c > /out"), "");
    assert_eq!(cache("a", "cat /c/f > /out"), "a\n");
    let layout = place.join("of-one");
    let to = format!("type=oci,tar=false,dest={}", layout.display());
    place.built("FROM scratch\nCOPY . /\n", &["--build-arg=BUILDKIT_MULTI_PLATFORM=1", "-o", &to]);
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["mediaType"], "application/vnd.oci.image.index.v1+json", "{index}");
    let output =
        place.build("FROM scratch\n", &["--build-arg=BUILDKIT_SYNTAX=example.com/other"]).output().unwrap();
    assert!(!output.status.success() && told(&output).contains("example.com/other"), "{}", told(&output));
}

#[test]
fn onbuild_triggers_run_in_the_child() {
    needs_busybox!();
    let place = Place::new();
    place.write("context/own", "context");
    let layout = place.join("parent");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let parent = "FROM base\nONBUILD ARG WORD=default\nONBUILD COPY --from=tools /tool /tool\nONBUILD COPY own /own\n\
        ONBUILD RUN <<EOF\ncat /tool /own > /out\necho \" $WORD\" >> /out\nEOF\nONBUILD ADD <<EOF /file\n$WORD\nEOF\n";
    place.built(parent, &["-o", &output, "-t", "parent:latest"]);
    let context = format!("parent=oci-layout://{}", layout.display());
    let stages = "FROM base AS tools\nRUN echo -n tool- > /tool\nFROM parent AS run\nRUN cat /file >> /out";
    let flags = ["--build-context", context.as_str(), "--build-arg", "WORD=given"];
    assert_eq!(out_of(&place, stages, &flags), "tool-context given\ngiven\n");
}

#[test]
fn heredocs_run_as_script_or_in_the_shell_and_make_files() {
    needs_busybox!();
    let place = Place::new();
    let stages = "FROM base AS run\nARG WHO=world\n\
        RUN <<EOF\necho shell $WHO > /out\nEOF\n\
        RUN <<EOF\n#!/bin/sh -e\necho script $0 >> /out\nEOF\n\
        RUN cat <<'ONE' <<-TWO >> /out\nnot used\nONE\n\ttabs $WHO\n\tTWO\n\
        COPY <<a.txt <<\"b.txt\" /files/\nexpanded $WHO\na.txt\nkept $WHO\nb.txt\n\
        RUN cat /files/a.txt /files/b.txt >> /out";
    let seen = out_of(&place, stages, &[]);
    assert_eq!(seen, "shell world\nscript /dev/pipes/EOF\ntabs world\nexpanded world\nkept $WHO\n");
}

#[test]
fn scripts_of_every_length_run_alike() {
    needs_busybox!();
    let place = Place::new();
    // Around the longest argument that the kernel takes, and far beyond all arguments together.
    for length in [131_000, 131_071, 131_072, 300_000, 3_000_000] {
        let filler = format!("# {}\n", "x".repeat(198)).repeat(length / 201 + 1);
        let script = "echo $0 $# $- > /out; cat >> /out; printf '%s\\n' \"a  b\" >> /out\n\
                      cat <<INNER >> /out\ninner $WHO\nINNER\n(exit 3) || echo $? >> /out\n";
        let text = format!("{script}{}", &filler[..length - script.len() - 1]);
        let stages = format!("FROM base AS run\nARG WHO=world\nRUN <<EOF\n{text}\nEOF\n");
        let seen = out_of(&place, &stages, &[]);
        assert!(
            seen.starts_with("/bin/sh 0") && seen.ends_with("\na  b\ninner world\n3\n"),
            "{length}: {seen}"
        );
        assert_eq!(seen.lines().count(), 4, "{length}: {seen}");
        // One line of the shell, too.
        let line = format!("RUN echo one > /out; : {}; echo $0 >> /out", "y".repeat(length));
        assert_eq!(out_of(&place, &format!("FROM base AS run\n{line}"), &[]), "one\n/bin/sh\n", "{length}");
    }
    let exec = format!("FROM base\nRUN [\"true\", \"{}\"]\n", "z".repeat(131_072));
    let told = told(&place.build(&exec, &[]).output().unwrap());
    assert!(told.contains("argument 1") && told.contains("131071"), "{}", &told[..told.len().min(2000)]);
}

#[test]
fn the_dockerfile_is_found_by_its_usual_names_and_by_flag() {
    let place = Place::new();
    let context = place.join("context");
    std::fs::create_dir_all(&context).unwrap();
    let built = |flags: &[&str]| {
        let out = place.join("out");
        let _ = std::fs::remove_dir_all(&out);
        let output = format!("type=local,dest={}", out.display());
        let arguments = [&["build", "-o", &output], flags, &[context.to_str().unwrap()]].concat();
        let output = place.hyper(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        std::fs::read_to_string(out.join("made-by")).unwrap()
    };
    for name in ["Containerfile", "dockerfile", "Dockerfile", "deep/other"] {
        place.write(&format!("context/{name}"), &format!("FROM scratch\nADD <<EOF /made-by\n{name}\nEOF\n"));
        if name != "deep/other" {
            assert_eq!(built(&[]), format!("{name}\n"));
        }
    }
    let file = context.join("deep/other");
    assert_eq!(built(&["-f", file.to_str().unwrap()]), "deep/other\n");
    assert_eq!(built(&["--file", "deep/other"]), "deep/other\n");
}

#[test]
fn every_other_instruction_is_in_the_config() {
    needs_busybox!();
    let place = Place::new();
    let dockerfile = "FROM base\nMAINTAINER me\nSHELL [\"/bin/sh\", \"-eu\", \"-c\"]\nENTRYPOINT [\"/e\"]\nCMD a\nENTRYPOINT b\n\
        HEALTHCHECK --interval=1m30s --timeout=3s --start-period=5s --start-interval=1s --retries=2 CMD check it\n\
        EXPOSE 9000-9001/TCP 53/udp 80\nVOLUME [\"/a b\", \"/c\"]\nSTOPSIGNAL 9\nUSER 1:2\nWORKDIR /w\nWORKDIR x\nENV legacy a  b\n";
    let whole = config(&place, dockerfile, &[]);
    let config = &whole["config"];
    assert_eq!(whole["author"], "me");
    assert_eq!(config["Shell"], serde_json::json!(["/bin/sh", "-eu", "-c"]));
    assert_eq!(config["Entrypoint"], serde_json::json!(["/bin/sh", "-eu", "-c", "b"]));
    assert_eq!(config["Cmd"], serde_json::json!(["/bin/sh", "-eu", "-c", "a"]));
    let check = &config["Healthcheck"];
    assert_eq!(check["Test"], serde_json::json!(["CMD-SHELL", "check it"]));
    assert_eq!(check["Interval"], 90_000_000_000_i64);
    assert_eq!((&check["StartInterval"], &check["Retries"]), (&1_000_000_000.into(), &2.into()));
    let ports = serde_json::json!({ "53/udp": {}, "80/tcp": {}, "9000/tcp": {}, "9001/tcp": {} });
    assert_eq!(config["ExposedPorts"], ports);
    assert_eq!(config["Volumes"], serde_json::json!({ "/a b": {}, "/c": {} }));
    assert_eq!((&config["User"], &config["WorkingDir"]), (&"1:2".into(), &"/w/x".into()));
    let history = whole["history"].as_array().unwrap();
    let layers = history.iter().filter(|h| h["empty_layer"] != true).count();
    assert_eq!(layers, whole["rootfs"]["diff_ids"].as_array().unwrap().len());
}
