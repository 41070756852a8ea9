//! Every option of every kind of mount, seen to work; privileges and networks of RUN.

use crate::support::{Place, busybox, is_root, skip, told};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;

macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}

/// Builds a stage `run` and returns the content of its file `/out`.
fn out_of(place: &Place, stages: &str, flags: &[&str]) -> String {
    let folder = place.join("out");
    let output = format!("type=local,dest={}", folder.display());
    let dockerfile = format!("{stages}\nFROM scratch\nCOPY --from=run /out /\n");
    place.built(&dockerfile, &[flags, &["-o", &output]].concat());
    std::fs::read_to_string(folder.join("out")).unwrap()
}

fn fault(place: &Place, dockerfile: &str, flags: &[&str]) -> String {
    let output = place.build(dockerfile, flags).output().unwrap();
    assert!(!output.status.success(), "{dockerfile} was built");
    told(&output)
}

#[test]
fn bind_takes_source_from_target_and_rw() {
    needs_busybox!();
    let place = Place::new();
    place.write("context/d/f", "context");
    let stages = "FROM base AS other\nRUN mkdir /o && echo stage > /o/f\n\
        FROM base AS run\nWORKDIR /w\n\
        RUN --mount=type=bind,from=other,source=/o,target=a --mount=source=d,dst=/b,rw --mount=type=bind,src=d/f,destination=/c,ro \\\n\
        cat /w/a/f > /out; echo new > /b/f && cat /b/f /c >> /out; (echo x > /c) 2>/dev/null || echo read-only >> /out; \\\n\
        (echo x > /w/a/f) 2>/dev/null || echo also >> /out";
    assert_eq!(out_of(&place, stages, &[]), "stage\nnew\ncontextread-only\nalso\n");
    assert_eq!(std::fs::read_to_string(place.join("context/d/f")).unwrap(), "context");
    // Without a target it is the working directory.
    let stages = "FROM base AS run\nWORKDIR /w\nRUN --mount=source=d cat f > /out; cat /w/f >> /out";
    assert_eq!(out_of(&place, stages, &[]), "contextcontext");
    let said = fault(&place, "FROM base\nRUN --mount=type=bind,target=/ true\n", &[]);
    assert!(said.contains("cannot have the target `/`"), "{said}");
}

#[test]
fn cache_takes_id_target_from_mode_and_owner() {
    needs_busybox!();
    let place = Place::new();
    let steps = std::cell::Cell::new(0);
    let run = |mount: &str, command: &str| {
        // No step is found in the cache. Without the cache, those with an owner would begin anew.
        steps.set(steps.get() + 1);
        let stages = format!(
            "FROM base AS seed\nRUN mkdir -p /s/in && echo seeded > /s/in/f\n\
             FROM base AS run\nENV STEP={}\nWORKDIR /w\nRUN --mount=type=cache,{mount} {command}",
            steps.get()
        );
        out_of(&place, &stages, &[])
    };
    let own = |uid: u32| format!("{uid}\n");
    let options = "id=one,target=c,mode=0711,uid=12,gid=13";
    assert_eq!(run(options, "stat -c '%a %u %g' /w/c > /out; echo kept > /w/c/f"), "711 12 13\n");
    assert_eq!(run("id=one,target=/elsewhere,mode=0711,uid=12,gid=13", "cat /elsewhere/f > /out"), "kept\n");
    assert_eq!(run("target=/w/c", "ls /w/c > /out"), "", "another id is another cache");
    assert_eq!(run("id=two,target=/c,from=seed,source=/s/in", "cat /c/f > /out"), "seeded\n");
    assert_eq!(run("id=one,target=/c", "ls /c > /out"), "", "so is one without an owner");
    // The target as written is the id, wherever the working folder is.
    assert_eq!(run("target=rel", "touch /w/rel/x; echo > /out"), "\n");
    assert_eq!(run("id=rel,target=/c", "ls /c > /out"), "x\n");
    assert_eq!(run("target=/w/rel", "ls /w/rel > /out"), "");
    // An owner makes a folder of its own in the source; a part of the source keeps what it has.
    assert_eq!(run("target=/c,from=seed,uid=9", "stat -c %u /c > /out; ls /c >> /out"), own(9));
    assert_eq!(
        run("id=part,target=/c,from=seed,source=/s,uid=9", "stat -c %u /c > /out; ls /c >> /out"),
        "0\nin\n"
    );
    let read_only = "id=one,target=/c,ro,mode=0711,uid=12,gid=13";
    assert_eq!(run(read_only, "(echo x > /c/g) 2>/dev/null || cat /c/f > /out"), "kept\n");
    for sharing in ["shared", "private", "locked"] {
        let options = format!("id={sharing},target=/c,sharing={sharing}");
        assert_eq!(run(&options, "echo x >> /c/f; echo ok > /out"), "ok\n");
        assert_eq!(run(&options, "cat /c/f > /out"), "x\n", "{sharing}");
    }
    // Arguments can be in the options, and a cache leaves nothing in the image.
    let stages = "FROM base AS run\nARG WHERE=/there\nRUN --mount=type=cache,target=$WHERE touch /there/x\n\
        RUN (ls /there/x 2>/dev/null || echo empty) > /out";
    assert_eq!(out_of(&place, stages, &[]), "empty\n");
}

#[test]
fn without_the_cache_a_cache_mount_with_an_owner_or_a_mode_starts_empty() {
    needs_busybox!();
    let place = Place::new();
    for (mount, begins_anew) in [
        ("mode=0773", true),
        ("uid=5", true),
        ("gid=5", true),
        ("mode=0774,sharing=private", true),
        ("id=x", false),
    ] {
        let touch = |name: &str, more: &[&str]| {
            let stages = format!(
                "FROM base AS run\nRUN --mount=type=cache,target=/c,{mount} touch /c/{name}\n\
                 RUN --mount=type=cache,target=/c,{mount} touch /c/{name}2; ls /c > /out"
            );
            out_of(&place, &stages, more)
        };
        assert_eq!(touch("a", &[]), "a\na2\n", "{mount}");
        // Both steps of a build use what the first began.
        let after = if begins_anew { "b\nb2\n" } else { "a\na2\nb\nb2\n" };
        assert_eq!(touch("b", &["--no-cache"]), after, "{mount}");
        assert_eq!(touch("c", &[]), format!("{after}c\nc2\n"), "{mount}: later builds go on");
        let filtered = touch("d", &["--no-cache-filter", "run"]);
        assert_eq!(filtered.contains('c'), !begins_anew, "{mount}: {filtered}");
    }
}

#[test]
fn private_caches_are_not_shared_at_the_same_time() {
    needs_busybox!();
    let place = Place::new();
    let stage = |name: &str| {
        format!(
            "FROM base AS {name}\nRUN --mount=type=cache,id=p,target=/c,sharing=private \
             echo {name} >> /c/f && sleep 0.5 && cat /c/f > /{name}\n"
        )
    };
    let stages = format!(
        "{}{}FROM base AS run\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN cat /a /b > /out",
        stage("a"),
        stage("b")
    );
    assert_eq!(out_of(&place, &stages, &[]), "a\nb\n");
}

#[test]
fn mounts_do_not_hide_what_is_below_them() {
    needs_busybox!();
    let place = Place::new();
    let file = place.write("token", "s3cret");
    let secret = format!("id=token,src={}", file.display());
    let stages = "FROM base AS other\nRUN mkdir -p /one /two && touch /one/1 /two/2\n\
        FROM base AS run\nWORKDIR /w/deep\n\
        RUN --mount=type=secret,id=token --mount=type=tmpfs,target=/run cat /run/secrets/token > /out; echo >> /out\n\
        RUN --mount=type=cache,target=/a/b --mount=type=tmpfs,target=/a touch /a/b/x && ls /a >> /out\n\
        RUN --mount=from=other,source=/one,target=/m --mount=from=other,source=/two,target=/m ls /m >> /out\n\
        RUN --mount=type=tmpfs,target=/w pwd >> /out && touch gone\n\
        RUN --mount=type=cache,target=/w touch kept\n\
        RUN --mount=type=cache,target=/w ls >> /out\n\
        RUN ls -A /w/deep /a /m /run/secrets >> /out 2>/dev/null || true";
    let seen = out_of(&place, stages, &["--secret", &secret]);
    assert_eq!(seen, "s3cret\nb\n2\n/w/deep\nkept\n/w/deep:\n");
    if !is_root() {
        skip!("whether files can have other owners is for root to see");
    }
    let stages = "FROM base AS run\nWORKDIR /a/b\nRUN cd / && rm -rf /a && touch /out && chmod 666 /out\nUSER 1000:1001\n\
        RUN touch f && stat -c '%a %u %g' /a /a/b > /out && id >> /out";
    assert_eq!(out_of(&place, stages, &[]), "755 1000 1001\n755 1000 1001\nuid=1000 gid=1001 groups=1001\n");
}

#[test]
fn tmpfs_takes_target_and_size() {
    needs_busybox!();
    let place = Place::new();
    let stages = "FROM base AS run\nWORKDIR /w\n\
        RUN --mount=type=tmpfs,target=t,size=64k grep ' /w/t tmpfs ' /proc/mounts > /dev/null && \\\n\
        (dd if=/dev/zero of=/w/t/f bs=1k count=100 2>/dev/null || echo full > /out); ls /w/t >> /out\n\
        RUN ls -A /w/t >> /out 2>/dev/null || true";
    assert_eq!(out_of(&place, stages, &[]), "full\nf\n");
}

#[test]
fn secret_takes_id_source_target_env_required_mode_and_owner() {
    needs_busybox!();
    let place = Place::new();
    let file = place.write("token", "s3cret");
    let secret = format!("id=token,src={}", file.display());
    let flags = ["--secret", secret.as_str()];
    let run = |mount: &str, command: &str| {
        out_of(
            &place,
            &format!("FROM base AS run\nWORKDIR /w\nRUN --mount=type=secret,{mount} {command}"),
            &flags,
        )
    };
    let show = |path: &str| format!("stat -c '%a %u %g' {path} > /out; cat {path} | wc -c >> /out");
    assert_eq!(run("id=token", &show("/run/secrets/token")), "400 0 0\n6\n");
    assert_eq!(run("source=token,target=t", &show("/w/t")), "400 0 0\n6\n");
    assert_eq!(run("id=token,dst=/x/y,mode=0440,uid=5,gid=6", &show("/x/y")), "440 5 6\n6\n");
    assert_eq!(
        run("id=token,env=TOKEN", "echo ${#TOKEN} > /out; ls /run/secrets >> /out 2>/dev/null || true"),
        "6\n"
    );
    assert_eq!(run("id=none,env=NONE", "set -u; echo \"[$NONE]\" > /out"), "[]\n");
    assert_eq!(run("id=none", "(ls /run/secrets/none 2>/dev/null || echo absent) > /out"), "absent\n");
    let said = fault(&place, "FROM base\nRUN --mount=type=secret,id=none,required true\n", &flags);
    assert!(said.contains("`none` is required") && said.contains("--secret id=none"), "{said}");
    // It is in no file, no history and no log.
    let built = place.built(
        "FROM base\nRUN --mount=type=secret,id=token cat /run/secrets/token > /dev/null\n",
        &[&flags[..], &["-t", "with-secret"]].concat(),
    );
    assert!(!built.log().contains("s3cret"));
    assert!(!place.ok(&["inspect", "with-secret", "--format=json"]).contains("s3cret"));
}

/// An agent that answers every request to list keys with none.
fn agent(place: &Place) -> String {
    let path = place.join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut request = [0; 5];
                while stream.read_exact(&mut request).is_ok() {
                    stream.write_all(&[0, 0, 0, 5, 12, 0, 0, 0, 0]).ok();
                }
            });
        }
    });
    path.display().to_string()
}

#[test]
fn ssh_takes_id_target_required_mode_and_owner() {
    needs_busybox!();
    let place = Place::new();
    let socket = agent(&place);
    let run = |mount: &str, command: &str, flag: &str| {
        let stages = format!("FROM base AS run\nWORKDIR /w\nRUN --mount=type=ssh{mount} {command}");
        out_of(&place, &stages, &["--ssh", flag])
    };
    let show = "test -S $SSH_AUTH_SOCK && stat -c '%n %a %u %g' $SSH_AUTH_SOCK > /out";
    let default = format!("default={socket}");
    assert_eq!(run("", show, &default), "/run/buildkit/ssh_agent.0 600 0 0\n");
    let other = format!("other={socket}");
    assert_eq!(run(",id=other,target=s,mode=0660,uid=7,gid=8", show, &other), "/w/s 660 7 8\n");
    let absent = "echo \"[$SSH_AUTH_SOCK]\" > /out";
    assert_eq!(run(",id=missing", absent, &default), "[/run/buildkit/ssh_agent.0]\n");
    let said = fault(&place, "FROM base\nRUN --mount=type=ssh,required true\n", &[]);
    assert!(said.contains("`default` is required") && said.contains("--ssh default"), "{said}");
    // Nothing of the socket is left, and another socket does not change the key of the step.
    let text = "FROM base\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK\nRUN test ! -e /run/buildkit\n";
    place.built(text, &["--ssh", &default, "-t", "with-agent"]);
    assert!(!place.ok(&["inspect", "with-agent", "--format=json"]).contains("agent.sock"));
    let built = place.built(text, &["--ssh", &default]);
    assert!(built.outcomes().iter().filter(|(n, _)| n.contains("RUN")).all(|(_, o)| o == "cached"));
}

#[test]
fn a_step_talks_to_the_agent_through_its_socket() {
    let Ok(layout) = std::env::var("HYPER_DEBIAN_LAYOUT") else {
        skip!("HYPER_DEBIAN_LAYOUT names no Debian base image");
    };
    needs_busybox!();
    let place = Place::new();
    let socket = agent(&place);
    // Perl is in every Debian. 11 lists the keys; 19 would remove them all and does not reach the agent.
    let ask = r#"perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) or die; for (11, 19) { print $s pack("NC", 1, $_); $s->flush; sysread $s, $a, 4; sysread $s, $b, unpack("N", $a); print ord($b), "\n" }' > /out"#;
    let stages = format!("FROM debian AS run\nRUN --mount=type=ssh {ask}");
    let base = format!("debian=oci-layout://{layout}:latest");
    let flags = ["--build-context", base.as_str(), "--ssh", &format!("default={socket}")];
    assert_eq!(out_of(&place, &stages, &flags), "12\n5\n");
}

#[test]
fn an_insecure_step_needs_a_permission_and_then_has_all_capabilities() {
    needs_busybox!();
    let place = Place::new();
    let of = |security: &str| {
        format!(
            "FROM base AS run\nRUN {security} grep -E '^(CapEff|Seccomp):' /proc/self/status | cut -f2 > /out"
        )
    };
    let said = fault(&place, &of("--security=insecure"), &[]);
    assert!(said.contains("--allow security.insecure"), "{said}");
    let sandbox = out_of(&place, &of("--security=sandbox"), &[]);
    let insecure = out_of(&place, &of("--security=insecure"), &["--allow", "security.insecure"]);
    let numbers = |text: &str| -> Vec<u64> {
        text.lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect()
    };
    let (sandbox, insecure) = (numbers(&sandbox), numbers(&insecure));
    assert_eq!((sandbox[1], insecure[1]), (2, 0), "a filter, and none");
    assert_eq!(insecure[0] & sandbox[0], sandbox[0]);
    assert!(insecure[0].count_ones() > sandbox[0].count_ones());
    let admin = 1 << 21;
    assert_eq!((sandbox[0] & admin, insecure[0] & admin), (0, admin));
    if !is_root() {
        skip!("whether a step can mount is for root to see");
    }
    let text = "FROM base AS run\nRUN touch /out && chmod 666 /out\nUSER 1000\n\
        RUN --security=insecure grep CapEff /proc/self/status | cut -f2 > /out; grep -c ' /sys sysfs rw' /proc/mounts >> /out; \\\n\
        ls /dev >> /out";
    let seen = out_of(&place, text, &["--allow", "security.insecure"]);
    let of_another_user = format!("{:016x}\n1\n", insecure[0]);
    assert!(seen.starts_with(&of_another_user), "another user has as much: {seen}");
    for name in ["fuse", "kvm", "loop-control", "loop7", "net"] {
        let can_be = std::path::Path::new("/dev").join(name).exists();
        assert!(!can_be || seen.lines().any(|line| line == name), "{name}: {seen}");
    }
    let text = "FROM base AS run\nRUN --security=insecure mkdir /m && mount -t tmpfs none /m && touch /m/x && ls /m > /out && umount /m";
    assert_eq!(out_of(&place, text, &["--allow", "security.insecure"]), "x\n");
}

#[test]
fn a_step_without_network_has_only_a_loopback_interface() {
    needs_busybox!();
    let place = Place::new();
    let text =
        "FROM base AS run\nRUN --network=none tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' > /out";
    assert_eq!(out_of(&place, text, &[]), "lo\n");
}

#[test]
fn a_step_gets_a_permitted_device() {
    needs_busybox!();
    let place = Place::new();
    place.write("mounted/file", "of the host");
    let description = format!(
        "cdiVersion: \"0.6.0\"\nkind: vendor.example/gpu\ndevices:\n- name: card0\n  containerEdits:\n    env: [\"CARD=zero\"]\n    \
         additionalGids: [4242]\n    deviceNodes:\n    - path: /dev/card0\n      hostPath: /dev/full\n    mounts:\n    \
         - hostPath: {}\n      containerPath: /card/files\n      options: [ro]\n",
        place.join("mounted").display()
    );
    place.write("cdi/gpu.yaml", &description);
    let folder = format!("--cdi-config-dir={}", place.join("cdi").display());
    let run = "RUN --device=vendor.example/gpu=card0,required \\\n\
               { echo $CARD; cat /card/files/file; echo; test -c /dev/card0 && echo node; \\\n\
               echo x > /dev/card0 || echo full; echo x > /card/files/new || echo read-only; } > /out";
    let text = format!("FROM base AS run\n{run}");
    let full = format!("{text}\n");
    let said = fault(&place, &full, &[&folder]);
    assert!(said.contains("--allow device=vendor.example/gpu=card0"), "{said}");
    let said = fault(&place, &full, &["--allow=device"]);
    assert!(said.contains("no device `vendor.example/gpu=card0`"), "{said}");
    let expected = "zero\nof the host\nnode\nfull\nread-only\n";
    assert_eq!(out_of(&place, &text, &[&folder, "--allow=device=vendor.example/gpu=card0"]), expected);
    assert!(!place.join("mounted/new").exists());
    let said = fault(&place, &full, &[&folder]);
    assert!(said.contains("--allow device"), "what is in the cache needs it too: {said}");
    let optional =
        concat!("FROM base AS run\n", "RUN --device=vendor.example/tpu echo \"${CARD:-none}\" > /out");
    assert_eq!(out_of(&place, optional, &[&folder]), "none\n");
    if is_root() {
        let groups = "FROM base AS run\nRUN --device=vendor.example/gpu id -G > /out";
        assert!(out_of(&place, groups, &[&folder, "--allow=device"]).contains("4242"));
    }
}
