//! An ordinary user without subordinate ids: owners and users are those that the Dockerfile asks for, or a step fails.

use crate::support::{Built, Place, Who, busybox, find, is_root, skip, told};

const NOBODY: u32 = 45_679;

/// Why the tests here cannot run.
fn missing() -> Option<&'static str> {
    if busybox().is_none() || !is_root() || find("setpriv").is_none() {
        return Some("this takes root, to be somebody else, setpriv, and a static busybox");
    }
    None
}

fn with_files(who: Who) -> Place {
    let place = Place::of(who);
    place.write("context/data", "data\n");
    place.write("context/tree/a", "a\n");
    place.write("context/tree/b/c", "c\n");
    std::os::unix::fs::symlink("a", place.join("context/tree/link")).unwrap();
    std::os::unix::fs::symlink("a", place.join("context/tree/other")).unwrap();
    place
}

/// Builds as root and as a user with one id, and expects one image and the same output of the steps.
fn the_same(dockerfile: &str) -> String {
    let [root, other] = [Who::Me, Who::Id(NOBODY)].map(|who| {
        let place = with_files(who);
        let built = place.built(dockerfile, &["--source-date-epoch=1700000000"]);
        (built.log(), built.digest)
    });
    assert_eq!(root, other);
    root.0
}

#[test]
fn owners_that_steps_set_are_those_of_the_image() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    let log = the_same(
        "FROM base\n\
         COPY --chown=12:34 --chmod=640 data /data\n\
         COPY --chown=12:34 tree /tree\n\
         RUN mkdir -p /made/deep && echo text > /made/deep/file && ln -s file /made/deep/link && ln /made/deep/file /made/hard && mkfifo /made/pipe \
             && chown -R 5:6 /made && chmod 4755 /made/deep/file && chown 7 /data \
             && stat -c '%u:%g %n' /data /tree/link /made /made/pipe /made/deep/link\n\
         RUN echo more >> /data && mv /tree/a /made/a && cp -a /made /copied \
             && mv /tree/other /moved && touch -h /tree/link && mv /made/deep/link /made/moved\n\
         RUN stat -c '%u:%g %a %n' /data /made/a /made/hard /copied/deep/file /made/moved /copied/pipe /moved /tree/link\n\
         RUN chown 1:1 /made/hard && stat -c %a /made/deep/file && rm /made/a && touch /made/a && ln -sfn b /tree/link\n\
         RUN stat -c '%u:%g' /made/a /tree/link /made/deep/file; find / -xdev -user 5 | sort\n\
         RUN cp /data /installed && chown 3:4 /installed && chmod 6711 /installed && chown 3:5 /installed && mkdir /t && tar cf - made | (cd /t && tar xpf -)\n\
         RUN mkdir /g && chown 0:50 /g && chmod 2775 /g && touch /g/f && mkdir /g/d && stat -c %g /g/f /g/d\n\
         RUN chown 99:98 / /etc && chown -h 6 /bin/sh && chown 0:0 /t/made && rm -r /copied && mkdir /copied\n\
         COPY --chown=7 data /again\n\
         FROM base\n\
         COPY --from=0 /made /made\n\
         RUN stat -c '%u:%g %n' /made /made/pipe /made/moved /made/hard\n",
    );
    assert!(
        log.starts_with("7:34 /data\n12:34 /tree/link\n5:6 /made\n5:6 /made/pipe\n5:6 /made/deep/link\n"),
        "{log}"
    );
    assert!(log.contains("5:6 4755 /made/hard\n5:6 4755 /copied/deep/file\n5:6 777 /made/moved\n"), "{log}");
    assert!(log.contains("12:34 777 /moved\n12:34 777 /tree/link\n"), "{log}");
}

#[test]
fn the_user_of_a_step_owns_its_files() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    let log = the_same(
        "FROM base\n\
         RUN echo 'app:x:1000:1001::/home/app:/bin/sh' >> /etc/passwd && echo 'app:x:1001:' >> /etc/group \
             && echo 'more:x:77:app' >> /etc/group && mkdir -p /home/app && chown app:app /home/app && chmod 1777 /tmp\n\
         USER app\n\
         WORKDIR /home/app/new\n\
         RUN id -u && id -g && id -G && echo text > f && mkdir -p d/e && ln -s x l && (umask 077 && echo x > p) \
             && cp f g && mkfifo q && ln f h && mv g i && : > 'h\u{e4}' && ln -s y '\u{e4}'\n\
         RUN stat -c '%u:%g %a %n' * && chgrp 77 f && ! chown 0 f 2> /dev/null && ! chown 1000 /bin/sh 2> /dev/null\n\
         USER 0\n\
         RUN su app -c 'id -u; touch /home/app/by-su /tmp/by-su; mktemp -p /tmp | grep -c tmp; rm /tmp/tmp.*' \
             && touch /home/app/by-root && stat -c '%u %n' /home/app/by-*\n\
         RUN cp /bin/busybox /busybox && chmod 4755 /busybox\n\
         USER 1000:1001\n\
         RUN cp /bin/busybox busybox && ./busybox id -u && /busybox id -u\n",
    );
    assert!(log.starts_with("1000\n1001\n1001 77\n1000:1001 755 d\n1000:1001 644 f\n"), "{log}");
    assert!(log.contains("1000\n1\n0 /home/app/by-root\n1000 /home/app/by-su\n"), "{log}");
}

#[test]
fn layers_with_owners_are_unpacked_with_them() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    let first = with_files(Who::Id(NOBODY));
    let layout = first.join("layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    first.built(
        "FROM base\nCOPY --chown=12:34 tree /tree\nRUN mkdir /d && chown 9:9 /d && ln -s x /d/l && chown -h 8:8 /d/l\n",
        &["-o", &output],
    );
    let second = with_files(Who::Id(NOBODY));
    let context = format!("--build-context=prev=oci-layout://{}", layout.display());
    let tar = second.join("files.tar");
    let tar_output = format!("type=tar,dest={}", tar.display());
    let dockerfile = "FROM prev\nRUN stat -c '%u:%g %n' /tree/b/c /tree/link /d /d/l\n\
                      RUN touch /d/new && echo more >> /tree/b/c && mv /tree/link /d/moved && chmod 700 /tree\n\
                      RUN stat -c '%u:%g %n' /tree /tree/b/c /d/new /d/moved /d/l\n";
    let built = second.built(dockerfile, &[&context, "-o", &tar_output]);
    assert_eq!(
        built.log(),
        "12:34 /tree/b/c\n12:34 /tree/link\n9:9 /d\n8:8 /d/l\n\
         12:34 /tree\n12:34 /tree/b/c\n0:0 /d/new\n12:34 /d/moved\n8:8 /d/l\n"
    );
    let listing = crate::support::succeed(
        std::process::Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&tar),
    );
    for (owner, name) in [
        ("12/34", "tree/b/c"),
        ("8/8", "d/l -> x"),
        ("12/34", "d/moved -> a"),
        ("9/9", "d/"),
        ("0/0", "d/new"),
    ] {
        let found = listing.lines().any(|line| line.contains(owner) && line.ends_with(&format!(" {name}")));
        assert!(found, "{owner} {name} in\n{listing}");
    }
}

#[test]
fn a_quiet_build_warns_about_differences_to_root() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    let place = Place::of(Who::Id(NOBODY));
    let output = place.build("FROM base\nRUN true\n", &["-q"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.lines().count() == 1, "{}", told(&output));
    assert!(text.starts_with("WARN: /etc/subuid gives this user 0 ids"), "{text}");
}

#[test]
fn devices_that_cannot_be_made_fail_the_step() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    let place = Place::of(Who::Id(NOBODY));
    for kind in ["b 8 0", "c 1 3"] {
        let output = place.build(&format!("FROM base\nRUN mknod /dev-node {kind}\n"), &[]).output().unwrap();
        assert!(!output.status.success(), "{}", told(&output));
        assert!(Built::of(&output).log().contains("not permitted"), "{}", told(&output));
    }
}

#[test]
fn users_change_by_the_rules_of_the_kernel_and_no_record_leaves_the_build() {
    if let Some(why) = missing() {
        skip!("{why}");
    }
    let log = the_same(
        "FROM base\n\
         RUN echo 'app:x:1000:1001::/:/bin/sh' >> /etc/passwd\n\
         RUN su app -c 'id -u; id -g; chown 5 /bin/sh 2>&1 | tail -1'\n\
         RUN mkdir -m 777 /w && su app -c 'mkdir /w/d && touch /w/d/f' && stat -c %u:%g /w/d /w/d/f\n\
         RUN ulimit -a > /dev/null; for i in 1 2 3; do echo u$i:x:$i:$i::/:/bin/sh >> /etc/passwd; \
             su u$i -c \"touch /w/$i\"; done; stat -c %u:%g /w/1 /w/2 /w/3\n",
    );
    assert!(log.starts_with("1000\n1001\n"), "{log}");
}
