//! The same image, whoever builds it: root, an ordinary user with subordinate ids, one without.

use crate::support::{Place, Who, busybox, find, is_root, skip};

/// A user of this machine that has subordinate ids.
pub(crate) fn ordinary_user() -> Result<Who, String> {
    if !is_root() {
        return Ok(Who::Me);
    }
    if find("newuidmap").is_none() || find("setpriv").is_none() {
        return Err("there is no newuidmap or setpriv".into());
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let users = read("/etc/passwd");
    let names = read("/etc/subuid");
    let known = names
        .lines()
        .filter_map(|line| line.split(':').next())
        .find(|name| *name != "root" && users.lines().any(|line| line.split(':').next() == Some(name)));
    if let Some(name) = known {
        return Ok(Who::User(name.to_owned()));
    }
    Err("no ordinary user has subordinate ids in /etc/subuid".into())
}

const DOCKERFILE: &str = "FROM base\n\
    COPY --chown=12:34 --chmod=640 data /data\n\
    COPY tree /tree\n\
    RUN mkdir -p /made/deep && echo text > /made/deep/file && chown -R 5:6 /made && chmod 4755 /made/deep/file\n\
    RUN ln -s file /made/deep/link && mv /tree/a /made/a && rm /data && touch -d @1000 /made/a\n\
    COPY --chown=7 data /again\n";

/// What `id` gives of files, as the step sees it and as the image has it.
fn build(who: Who) -> (String, String) {
    let place = Place::of(who);
    place.write("context/data", "data\n");
    place.write("context/tree/a", "a\n");
    place.write("context/tree/b/c", "c\n");
    let built = place.built(DOCKERFILE, &["--source-date-epoch=1700000000", "-t", "same:1"]);
    let seen = place.built(
        &format!("{DOCKERFILE}RUN stat -c '%u:%g %a %n' /made /made/deep/file /again /tree/b/c; id -u\n"),
        &["--source-date-epoch=1700000000"],
    );
    (built.digest, seen.log())
}

const SEEN: &str = "5:6 755 /made\n5:6 4755 /made/deep/file\n7:7 644 /again\n0:0 644 /tree/b/c\n0\n";

#[test]
fn a_user_with_subordinate_ids_builds_the_image_of_root() {
    if busybox().is_none() || !is_root() {
        skip!("this takes root, to be somebody else, and a static busybox");
    }
    let user = match ordinary_user() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let (root, of_root) = build(Who::Me);
    let (other, of_other) = build(user);
    assert_eq!((of_root.as_str(), of_other.as_str()), (SEEN, SEEN));
    assert_eq!(root, other);
}

#[test]
fn a_user_with_one_id_builds_the_image_of_root() {
    if busybox().is_none() || !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, setpriv, and a static busybox");
    }
    let (root, of_root) = build(Who::Me);
    let (other, of_other) = build(Who::Id(45_678));
    assert_eq!((of_root.as_str(), of_other.as_str()), (SEEN, SEEN));
    assert_eq!(root, other);
}

#[test]
fn an_ordinary_user_exports_twice_into_one_folder() {
    if busybox().is_none() || !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, setpriv, and a static busybox");
    }
    let place = Place::of(Who::Id(45_680));
    let out = place.join("out");
    let export = |text: &str| {
        let dockerfile = format!(
            "FROM base\nRUN mkdir -p /closed/deep /gone/deep && echo {text} > /closed/deep/f && touch /gone/deep/f \
             && chmod 400 /closed/deep/f && chmod 500 /closed/deep /closed /gone/deep && chmod 0 /gone && chmod 555 /\n"
        );
        place.built(&dockerfile, &["-o", out.to_str().unwrap()]);
        let mode =
            |name: &str| std::os::unix::fs::MetadataExt::mode(&out.join(name).metadata().unwrap()) & 0o7777;
        assert_eq!(std::fs::read_to_string(out.join("closed/deep/f")).unwrap(), format!("{text}\n"));
        assert_eq!([mode("closed"), mode("gone"), mode(".")], [0o500, 0, 0o555]);
    };
    export("first");
    export("second");
    // What is a folder there may have become a file.
    place.built("FROM base\nRUN echo x > /gone && echo x > /closed\n", &["-o", out.to_str().unwrap()]);
    assert!(out.join("gone").is_file() && out.join("closed").is_file());
}
