//! `COPY --exclude` and `ADD --exclude` wherever the files come from.

use crate::support::{Place, base, busybox, missing, skip, succeed, told};
use crate::web::Web;
use std::process::Command;

/// The names of the files that a Dockerfile makes in `/n`.
fn made(place: &Place, dockerfile: &str) -> Vec<String> {
    let folder = place.join("out");
    let _ = std::fs::remove_dir_all(&folder);
    let output = format!("type=local,dest={}", folder.display());
    let output = place.build(dockerfile, &["-o", &output]).output().unwrap();
    assert!(output.status.success(), "{dockerfile}\n{}", told(&output));
    let mut found: Vec<String> = Vec::new();
    let mut open = vec![folder.join("n")];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder.join("n")).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

fn home(place: &Place) {
    for name in ["home.txt", "home.md", "hom/home.txt", "hom/a", "sub/home.txt", "sub/home.md"] {
        place.write(&format!("context/{name}"), name);
    }
}

#[test]
fn excluded_files_of_contexts_stages_and_images_are_not_copied() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    home(&place);
    place.write("context/Dockerfile", "");
    for (flags, from) in [
        ("", ""),
        ("--link ", ""),
        ("--from=s ", "FROM scratch AS s\nCOPY . /\n"),
        ("--from=s --link ", "FROM scratch AS s\nCOPY . /\n"),
    ] {
        for (sources, excluded, expected) in [
            ("hom*", "*.txt", &["a", "home.md"][..]),
            ("home.txt", "*.txt", &[]),
            ("home.txt home.md", "home.txt", &["home.md"]),
            ("sub/home.*", "*.txt", &["home.md"]),
            ("sub/home.*", "sub/*.txt", &["home.md"]),
            ("hom*", "hom", &["home.md", "home.txt"]),
            ("sub", "sub", &["home.md", "home.txt"]),
        ] {
            let text = format!("{from}FROM scratch\nCOPY {flags}--exclude={excluded} {sources} /n/\n");
            assert_eq!(made(&place, &text), expected, "{text}");
        }
    }
    let passwd = "FROM scratch\nCOPY --from=base --exclude=passwd /etc/* /n/\n";
    assert_eq!(made(&place, passwd), ["group"], "{}", base().display());
    let add = "FROM scratch\nADD --exclude=*.txt --exclude=hom hom* /n/\n";
    assert_eq!(made(&place, add), ["home.md"]);
    // Nothing is left, and that is a layer of nothing.
    let nothing = "FROM scratch\nCOPY --exclude=* home.* /n/\nCOPY home.md /m\n";
    assert_eq!(made(&place, nothing), Vec::<String>::new());
    assert!(!place.join("out/n").exists() && place.join("out/m").exists());
}

#[test]
fn fetched_and_unpacked_files_can_be_excluded() {
    if let Some(tool) = missing(&["tar"]) {
        skip!("there is no {tool}");
    }
    let place = Place::new();
    home(&place);
    let archive = place.join("context/all.tar");
    succeed(
        Command::new("tar")
            .arg("-C")
            .arg(place.join("context"))
            .arg("-cf")
            .arg(&archive)
            .args(["hom", "sub"]),
    );
    let web = Web::start();
    for name in ["home.txt", "home.md", "all.tar"] {
        web.file(&format!("/{name}"), std::fs::read(place.join("context").join(name)).unwrap(), &[]);
    }
    let url = web.url("");
    for (line, expected) in [
        (format!("ADD --exclude=*.txt {url}/home.txt {url}/home.md /n/"), &["home.md"][..]),
        ("ADD --exclude=*.tar all.tar /n/".to_owned(), &[]),
        ("ADD --exclude=**/*.txt all.tar /n/".to_owned(), &["hom/a", "sub/home.md"]),
        (format!("ADD --unpack=true --exclude=sub --exclude=hom/home.txt {url}/all.tar /n/"), &["hom/a"]),
        ("COPY --exclude=**/*.txt all.tar /n/".to_owned(), &["all.tar"]),
    ] {
        assert_eq!(made(&place, &format!("FROM scratch\n{line}\n")), expected, "{line}");
    }
}

#[test]
fn the_cache_depends_on_the_files_that_are_not_excluded() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    home(&place);
    let build = |from: &str, excluded: &str| {
        let stage = if from.is_empty() { "" } else { "FROM scratch AS s\nCOPY home.* /\n" };
        place.built(
            &format!("{stage}FROM base\nCOPY {from}--exclude={excluded} home.* /n/\nRUN : {from}; ls /n\n"),
            &[],
        )
    };
    for from in ["", "--from=s "] {
        assert_eq!(build(from, "*.txt").log().trim(), "home.md");
        assert_eq!(build(from, "*.md").log().trim(), "home.txt");
    }
    // A change of what is left out changes nothing; one of what is copied does.
    let first = build("", "*.txt");
    std::fs::write(place.join("context/home.txt"), "another text").unwrap();
    let second = build("", "*.txt");
    assert_eq!(first.digest, second.digest);
    assert_eq!(second.log(), "", "the step ran again");
    std::fs::write(place.join("context/home.md"), "another text").unwrap();
    assert_ne!(build("", "*.txt").digest, first.digest);
}
