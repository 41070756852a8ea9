//! Root, an ordinary user with subordinate ids, and one without build the same image.

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

/// The owners of files, as the step sees them and as the image has them.
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

/// Owners beyond the subordinate ids: files are written as the user's own with one warning, and an archive keeps them.
#[test]
fn files_of_every_owner_are_exported() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let who = match ordinary_user() {
        Ok(Who::Me) => skip!("the user with subordinate ids is known to root alone"),
        Ok(who) => who,
        Err(why) => skip!("{why}"),
    };
    let place = Place::of(who);
    place.write("context/f", "text\n");
    place.write("context/tree/deep/g", "more\n");
    let (out, tar) = (place.join("out"), place.join("out.tar"));
    let dockerfile = "FROM base\nRUN mkdir /a && chown 12:34 /a\nCOPY --chown=4000000:7 f /a/\nCOPY --chown=5:4000001 tree /tree\n\
                      COPY --chown=4000000:7 f /gone/f\nCOPY --chown=9:9 f /last\n";
    let warnings = |built: &crate::support::Built| -> Vec<String> {
        let texts = built.events.iter().filter(|e| e["event"] == "warning").map(|e| e["message"].to_string());
        texts.filter(|text| text.contains("beyond")).collect()
    };
    for _ in 0..2 {
        let built = place.built(dockerfile, &["-o", out.to_str().unwrap()]);
        let told = warnings(&built);
        assert_eq!(told.len(), 1, "{:?}", built.events);
        assert!(
            told[0].contains("`/a/f`") && told[0].contains("4000000:7") && told[0].contains("type=tar"),
            "{told:?}"
        );
        assert_eq!(std::fs::read_to_string(out.join("a/f")).unwrap(), "text\n");
        assert_eq!(std::fs::read_to_string(out.join("tree/deep/g")).unwrap(), "more\n");
        let owner = |name: &str| std::os::unix::fs::MetadataExt::uid(&out.join(name).metadata().unwrap());
        assert_eq!(owner("a/f"), owner("last"));
    }
    let built = place.built(dockerfile, &["-o", &format!("type=tar,dest={}", tar.display())]);
    assert_eq!(warnings(&built), Vec::<String>::new());
    let mut command = std::process::Command::new("tar");
    let listing = crate::support::succeed(command.args(["--numeric-owner", "-tvf"]).arg(&tar));
    for (owner, name) in [
        ("4000000/7", "a/f"),
        ("5/4000001", "tree/deep/g"),
        ("5/4000001", "tree/deep/"),
        ("4000000/7", "gone/f"),
        ("12/34", "a/"),
        ("9/9", "last"),
        ("0/0", "bin/busybox"),
    ] {
        let line = listing.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap_or_default();
        assert!(line.contains(&format!(" {owner} ")), "{name} {owner}: {listing}");
    }
    // A step cannot be run on such files, and says why.
    let output = place.build(&format!("{dockerfile}RUN true\n"), &[]).output().unwrap();
    assert!(!output.status.success() && crate::support::told(&output).contains("/etc/subuid"));
    // Who is gone is told nothing of.
    let gone = "FROM base\nCOPY --chown=4000000:7 f /f\nCOPY --chown=3:3 f /f\n";
    assert_eq!(warnings(&place.built(gone, &["-o", out.to_str().unwrap()])), Vec::<String>::new());
}
