//! The mounts of RUN: contexts seen through their ignore file, caches and their locks, permissions.

use crate::support::{Place, at_once, busybox, skip, told, wait_for};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}

/// Builds and returns the content of the file `/out` of the last stage.
fn out_of(place: &Place, dockerfile: &str, flags: &[&str]) -> String {
    let folder = place.join("out");
    let output = format!("type=local,dest={}", folder.display());
    place.built(dockerfile, &[flags, &["-o", &output]].concat());
    std::fs::read_to_string(folder.join("out")).unwrap()
}

fn last(run: &str) -> String {
    format!("FROM base AS run\n{run}\nFROM scratch\nCOPY --from=run /out /\n")
}

#[test]
fn a_mounted_context_follows_the_ignore_file() {
    needs_busybox!();
    let place = Place::new();
    for (name, text) in
        [(".dockerignore", "secret\n*/deep\n"), ("secret", "hidden"), ("a/kept", "1"), ("a/deep/x", "2")]
    {
        place.write(&format!("context/{name}"), text);
    }
    std::fs::create_dir(place.join("context/empty")).unwrap();
    let run = "RUN --mount=type=bind,target=/x cd /x && find . | sort > /out && cat a/kept >> /out";
    let seen = out_of(&place, &last(run), &[]);
    assert_eq!(seen, ".\n./.dockerignore\n./a\n./a/kept\n./empty\n1", "{seen}");

    // One file, and a folder that is empty.
    let run = "RUN --mount=type=bind,source=a/kept,target=/y --mount=type=bind,source=empty,target=/e \\\n\
               cat /y > /out; ls -A /e >> /out";
    assert_eq!(out_of(&place, &last(run), &[]), "1");
    let run = "RUN --mount=type=bind,source=a,target=/x,rw echo 9 > /x/kept && cat /x/kept > /out";
    assert_eq!(out_of(&place, &last(run), &[]), "9\n");
    assert_eq!(std::fs::read_to_string(place.join("context/a/kept")).unwrap(), "1");
}

#[test]
fn a_mounted_context_belongs_to_root() {
    needs_busybox!();
    let place = Place::new();
    place.write("context/file", "x");
    if std::os::unix::fs::chown(place.join("context/file"), Some(1234), Some(1234)).is_err() {
        skip!("this user cannot give files away");
    }
    let run = "RUN --mount=type=bind,source=file,target=/x stat -c '%u %g' /x > /out";
    assert_eq!(out_of(&place, &last(run), &[]), "0 0\n");
}

#[test]
fn caches_in_caches_of_stages_that_run_at_once_all_work() {
    needs_busybox!();
    let place = Place::new();
    let (mut stages, mut copies) = (String::new(), String::from("FROM scratch\n"));
    for round in 0..12 {
        for stage in 0..4 {
            let name = format!("s{round}-{stage}");
            let cache = |at: &str| format!("--mount=type=cache,id={at}-{round},target=/foo{at}");
            stages.push_str(&format!(
                "FROM base AS {name}\nWORKDIR /foo/bar/baz\n\
                 RUN {} {} --mount=type=tmpfs,target=/foo/bar/memory touch /foo/bar/memory/x && \
                 echo {name} > /foo/bar/{name} && echo {name} > {name} && cat /foo/bar/{name} {name} > /out\n",
                cache("/bar"),
                cache("/bar/baz"),
            ));
            copies.push_str(&format!("COPY --from={name} /out /{name}\n"));
        }
    }
    copies.push_str("COPY --from=s0-0 /foo /foo\n");
    let out = place.join("out");
    place.built(&(stages + &copies), &["-o", &format!("type=local,dest={}", out.display())]);
    for round in 0..12 {
        for stage in 0..4 {
            let name = format!("s{round}-{stage}");
            assert_eq!(std::fs::read_to_string(out.join(&name)).unwrap(), format!("{name}\n{name}\n"));
        }
    }
    // The working folder is in the image, though the step saw a cache in its place; nothing else of the mounts is.
    assert_eq!(std::fs::read_dir(out.join("foo/bar")).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(out.join("foo/bar/baz")).unwrap().count(), 0);
}

#[test]
fn caches_of_one_step_and_of_two_never_wait_for_each_other() {
    needs_busybox!();
    let place = Place::new();
    let cache = |id: &str, at: &str| format!("--mount=type=cache,id={id},target={at},sharing=locked");
    let twice = format!("RUN {} {} echo hi > /a/f && cat /b/f > /out", cache("x", "/a"), cache("x", "/b"));
    assert_eq!(out_of(&place, &last(&twice), &[]), "hi\n");
    let dockerfile = format!(
        "FROM base AS one\nRUN {} {} sleep 0.3; touch /1\n\
         FROM base AS two\nRUN {} {} sleep 0.3; touch /2\n\
         FROM base AS three\nRUN {} sleep 0.5; touch /3\n\
         FROM scratch\nCOPY --from=one /1 /\nCOPY --from=two /2 /\nCOPY --from=three /3 /out\n",
        cache("p", "/p"),
        cache("q", "/q"),
        cache("q", "/q"),
        cache("p", "/p"),
        cache("q", "/q"),
    );
    assert_eq!(out_of(&place, &dockerfile, &[]), "");
}

#[test]
fn a_locked_cache_is_locked_for_other_programs_too() {
    needs_busybox!();
    let place = Place::new();
    // The steps differ, so that none is found in the cache or waits for another as the same step.
    let text = "FROM base\nARG NAME\nRUN --mount=type=cache,target=/c,sharing=locked \
                mkdir /c/taken && sleep 0.5 && rmdir /c/taken && echo $NAME\n";
    let builds = ["NAME=one", "NAME=two", "NAME=three"];
    for output in at_once(builds.map(|name| place.build(text, &["--build-arg", name]))) {
        assert!(output.status.success(), "{}", told(&output));
    }
}

#[test]
fn a_file_that_changes_during_the_build_is_not_cached() {
    needs_busybox!();
    let place = Place::new();
    let text = "FROM base\nARG NAME\nRUN --mount=type=cache,target=/c,sharing=locked \
                --mount=type=bind,source=file,target=/file touch /c/$NAME; cat /file; \
                if [ $NAME = first ]; then while [ ! -e /c/go ]; do sleep 0.1; done; fi\n";
    place.write("context/file", "before");
    let cache = || {
        let caches = std::fs::read_dir(place.join("state/mounts")).into_iter().flatten().flatten();
        caches.map(|entry| entry.path()).find(|path| path.join("first").exists())
    };
    let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = quiet(&mut place.build(text, &["--build-arg=NAME=first"]));
    wait_for("the first step to run", || cache().is_some());
    let mut second = quiet(&mut place.build(text, &["--build-arg=NAME=second"]));
    let mut lines = BufReader::new(second.stderr.take().unwrap()).lines().map(Result::unwrap);
    while !lines.next().unwrap().contains("RUN") {}
    // The step has begun: it makes its key, and then waits for the cache.
    std::thread::sleep(Duration::from_millis(1500));
    place.write("context/file", "after it");
    std::fs::write(cache().unwrap().join("go"), "").unwrap();
    let told = lines.collect::<Vec<_>>().join("\n");
    assert!(second.wait().unwrap().success(), "{told}");
    assert!(told.contains("after it") && told.contains("not kept for later builds"), "{told}");
    assert!(first.wait().unwrap().success());
    place.write("context/file", "before");
    assert_eq!(place.built(text, &["--build-arg=NAME=second"]).log(), "before");
    assert_eq!(place.built(text, &["--build-arg=NAME=second"]).log(), "", "and now the step is known");
}

#[test]
fn a_cache_starts_with_the_current_content_of_its_source() {
    needs_busybox!();
    let place = Place::new();
    let run = "RUN --mount=type=cache,id=seed,target=/c,from=src,source=/s cat /c/f > /out";
    for word in ["one", "two"] {
        let stages = format!("FROM base AS src\nRUN mkdir /s && echo {word} > /s/f\n{}", last(run));
        assert_eq!(out_of(&place, &stages, &[]), format!("{word}\n"));
    }
}

#[test]
fn hidden_files_of_mounts_do_not_change_the_key() {
    needs_busybox!();
    let place = Place::new();
    let build = |source: &str, other: &str, seen: &str, mounts: [&str; 2]| {
        let [first, second] = mounts;
        let text = format!(
            "FROM base AS src\nRUN mkdir /{source} && echo {seen} > /{source}/f && echo {other} > /other\n\
             FROM base AS run\nRUN --mount={first} --mount={second} cat /s/f > /out\n"
        );
        let built = place.built(&text, &[]);
        let step = built.outcomes().into_iter().find(|(name, _)| name.contains("cat /s/f")).unwrap();
        step.1
    };
    let from = |source: &str| format!("from=src,source=/{source},target=/s");
    let cache = |options: &str| format!("type=cache,target=/c,{options}");
    let outcome =
        |other: &str, seen: &str, options: &str| build("s", other, seen, [&from("s"), &cache(options)]);
    assert_eq!(outcome("1", "a", "id=x"), "done");
    assert_eq!(outcome("2", "a", "id=x"), "cached", "the mounted files are the same");
    assert_eq!(outcome("2", "a", "id=y,sharing=locked"), "cached", "which cache is used makes no difference");
    let turned = build("t", "2", "a", [&cache("id=x"), &from("t")]);
    assert_eq!(turned, "cached", "the order, and where the files come from, make no difference either");
    assert_eq!(outcome("2", "b", "id=x"), "done");
    assert_eq!(outcome("2", "b", "id=x,uid=5"), "done");
}

#[test]
fn the_network_of_the_host_needs_a_permission() {
    needs_busybox!();
    let place = Place::new();
    let text = "FROM base\nRUN --network=host true\n";
    let refused = place.build(text, &["--network=none"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--allow network.host") && !stderr.contains("registry"), "{stderr}");
    place.built(text, &["--network=none", "--allow=network.host"]);
    let again = place.build(text, &["--network=none"]).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "what is in the cache needs it too");
}

#[test]
fn a_linked_copy_has_the_numeric_owner() {
    needs_busybox!();
    let place = Place::new();
    for number in [100, 200] {
        let text = format!(
            "FROM base AS src\nRUN echo x > /f\n\
             FROM base AS run\nRUN echo app:x:{number}:{number}::/:/bin/sh > /etc/passwd\n\
             COPY --link --from=src --chown=app /f /f\nRUN stat -c %u /f > /out\n\
             FROM scratch\nCOPY --from=run /out /\n"
        );
        assert_eq!(out_of(&place, &text, &[]), format!("{number}\n"));
    }
}
