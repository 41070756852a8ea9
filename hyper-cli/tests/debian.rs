//! A real distribution: packages are installed, a program is compiled, and two people get the same image.
//!
//! `HYPER_DEBIAN_LAYOUT` names the OCI image layout of a Debian base, tagged `latest`.

use crate::rootless::ordinary_user;
use crate::support::{Place, Who, is_root, skip, succeed};
use std::path::Path;
use std::process::Command;

const DOCKERFILE: &str = "FROM debian AS build\n\
    RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev\n\
    COPY main.c /src/main.c\n\
    RUN gcc -O2 -static -o /app /src/main.c\n\
    FROM debian\n\
    COPY --from=build --chmod=755 /app /usr/local/bin/app\n\
    RUN app > /etc/app.out && chown daemon:daemon /etc/app.out\n\
    CMD [\"app\"]\n";

fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(folder).args([
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@localhost",
        "-c",
        "safe.directory=*",
    ]);
    git
}

/// Builds twice, the second time unchanged, and returns the digest.
fn build(place: &Place, layout: &str) -> String {
    let base = format!("debian=oci-layout://{layout}:latest");
    let built = place.built(DOCKERFILE, &["--no-cache", "--build-context", &base, "-t", "app:1"]);
    let again = place.built(DOCKERFILE, &["--build-context", &base, "-t", "app:1"]);
    assert_eq!(built.digest, again.digest);
    let steps: Vec<_> = again.outcomes().into_iter().filter(|(name, _)| name.starts_with('[')).collect();
    assert_eq!(steps.len(), 5, "{steps:?}");
    assert!(steps.iter().all(|(_, outcome)| outcome == "cached"), "{steps:?}");
    built.digest
}

#[test]
fn two_people_with_two_checkouts_build_one_image() {
    let Ok(layout) = std::env::var("HYPER_DEBIAN_LAYOUT") else {
        skip!("HYPER_DEBIAN_LAYOUT names no Debian base image");
    };
    if !is_root() {
        skip!("this takes root, to be somebody else");
    }
    let user = match ordinary_user() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let (mine, theirs) = (Place::of(Who::Me), Place::of(user));
    mine.write("context/main.c", "#include <stdio.h>\nint main(void) { puts(\"compiled\"); return 0; }\n");
    let (here, there) = (mine.join("context"), theirs.join("context"));
    succeed(git(&here).args(["init", "-q"]));
    succeed(git(&here).args(["add", "main.c"]));
    succeed(git(&here).args(["commit", "-q", "-m", "main"]));
    let _ = std::fs::remove_dir(&there);
    succeed(Command::new("git").args(["-c", "safe.directory=*", "clone", "-q"]).arg(&here).arg(&there));
    assert_eq!(build(&mine, &layout), build(&theirs, &layout));
}
