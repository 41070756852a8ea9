//! What is kept of web files and git repositories between builds is checked before it is used.

use crate::support::{Built, Place, find, skip, succeed};
use crate::web::Web;
use hyper_sdk::Digest;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHANGED: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

fn build(place: &Place, dockerfile: &str, more: &[&str]) -> (Built, PathBuf) {
    let out = place.join("out");
    let _ = std::fs::remove_dir_all(&out);
    let output = format!("type=local,dest={}", out.display());
    // What is cached needs no files.
    (place.built(dockerfile, &[&["--no-cache", "-o", &output], more].concat()), out)
}

/// The warnings that say this.
fn warnings(built: &Built, text: &str) -> usize {
    let told = built.events.iter().filter(|e| e["event"] == "warning").map(|e| e["message"].to_string());
    told.filter(|message| message.contains(text)).count()
}

/// The files with this name in the sources of the state folder.
fn kept(place: &Place, below: &str, name: &str) -> Vec<PathBuf> {
    let listing = succeed(Command::new("find").arg(place.join("state")).args([
        "-path",
        &format!("*/{below}/*"),
        "-name",
        name,
    ]));
    listing.lines().map(PathBuf::from).collect()
}

/// Changes a file and keeps its time.
fn change(path: &Path, to: &[u8]) {
    let time = path.metadata().unwrap().modified().unwrap();
    std::fs::write(path, to).unwrap();
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_kept_download_that_was_changed_is_downloaded_again() {
    let (place, web) = (Place::new(), Web::start());
    web.file("/f", "content", &[("ETag", "\"1\""), ("Last-Modified", CHANGED)]);
    let url = web.url("/f");
    let checksums = [format!("--checksum={} ", Digest::sha256("content")), String::new()];
    for checksum in &checksums {
        let dockerfile = format!("FROM scratch\nADD {checksum}{url} /f\n");
        let check = |what: &str, damaged: bool| {
            web.seen();
            let (built, out) = build(&place, &dockerfile, &[]);
            assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), "content", "{checksum} {what}");
            assert_eq!(
                warnings(&built, "was changed: it is downloaded again"),
                usize::from(damaged),
                "{checksum} {what}"
            );
            let seen = web.seen();
            let conditional = seen.iter().filter(|seen| seen.headers.contains_key("if-none-match")).count();
            let asked = if damaged {
                (1, 0)
            } else {
                (usize::from(checksum.is_empty()), usize::from(checksum.is_empty()))
            };
            assert_eq!((seen.len(), conditional), asked, "{checksum} {what}: {seen:?}");
        };
        if !checksum.is_empty() {
            build(&place, &dockerfile, &[]);
        }
        check("whole", false);
        let file = || {
            let files = kept(&place, "web", "f");
            assert_eq!(files.len(), 1, "{files:?}");
            files[0].clone()
        };
        change(&file(), b"CONTENT");
        check("other bytes", true);
        check("mended", false);
        change(&file(), b"cont");
        check("cut off", true);
        let path = file();
        std::fs::rename(&path, place.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(place.join("elsewhere"), &path).unwrap();
        check("a link", true);
        std::fs::remove_file(place.join("elsewhere")).unwrap();
        let path = file();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        check("a folder", true);
        check("mended at last", false);
    }
    // A changed file is not trusted without its record, either.
    change(&kept(&place, "web", "f")[0], b"CONTENT");
    for record in kept(&place, "web", "*.json") {
        std::fs::remove_file(record).unwrap();
    }
    let (_, out) = build(&place, &format!("FROM scratch\nADD {url} /f\n"), &[]);
    assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), "content");
}

#[test]
fn a_kept_context_that_was_changed_is_downloaded_again() {
    let (place, web) = (Place::new(), Web::start());
    place.write("c/f", "content");
    place.write("c/Dockerfile", "FROM scratch\nCOPY f /\n");
    let archive = place.join("c.tar");
    succeed(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(place.join("c")).arg("."));
    let bytes = std::fs::read(&archive).unwrap();
    web.file("/c.tar", bytes.clone(), &[("ETag", "\"1\"")]);
    let out = place.join("out");
    let run = || {
        let _ = std::fs::remove_dir_all(&out);
        let output = format!("type=local,dest={}", out.display());
        let command =
            &mut place.hyper(&["build", "--progress=json", "--no-cache", "-o", &output, &web.url("/c.tar")]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", crate::support::told(&output));
        assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), "content");
        warnings(&Built::of(&output), "was changed: it is downloaded again")
    };
    assert_eq!((run(), run()), (0, 0));
    let mut changed = bytes;
    let at = changed.windows(7).position(|window| window == b"content").unwrap();
    changed[at..at + 7].copy_from_slice(b"CONTENT");
    let files = kept(&place, "web", "context");
    let file =
        files.iter().find(|path| path.is_file() && path.extension().is_none_or(|e| e != "json")).unwrap();
    change(file, &changed);
    assert_eq!((run(), run()), (1, 0));
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "x").env(format!("GIT_{who}_EMAIL"), "x@example.com");
    }
    succeed(command.args(["-c", "init.defaultBranch=main"]).args(arguments))
}

#[test]
fn a_kept_checkout_and_a_kept_repository_are_used_only_as_they_were_written() {
    if find("git").is_none() {
        skip!("there is no git");
    }
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    place.write("repositories/r.git/file", "content");
    place.write("repositories/r.git/deep/more", "more");
    let folder = place.join("repositories/r.git");
    git(&folder, &["init", "--quiet"]);
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "--quiet", "--message", "x"]);
    let commit = git(&folder, &["rev-parse", "HEAD"]);
    for address in [web.url("/r.git"), web.url(&format!("/r.git#{commit}")), web.url("/r.git#main:deep")] {
        let dockerfile = format!("FROM scratch\nADD {address} /s/\n");
        let check = |changed: usize, damaged: usize| {
            let (built, out) = build(&place, &dockerfile, &[]);
            let (file, text) =
                if address.ends_with(":deep") { ("more", "more") } else { ("file", "content") };
            assert_eq!(std::fs::read_to_string(out.join("s").join(file)).unwrap(), text, "{address}");
            assert_eq!(
                std::fs::read_dir(out.join("s")).unwrap().count(),
                if file == "more" { 1 } else { 2 },
                "{address}"
            );
            let told = (warnings(&built, "were changed"), warnings(&built, "is damaged"));
            assert_eq!(told, (changed, damaged), "{address}: {:?}", built.events);
        };
        check(0, 0);
        check(0, 0);
        let files = || {
            let mut files = kept(&place, "checkouts", "file");
            files.extend(kept(&place, "checkouts", "more"));
            files
        };
        for file in files() {
            change(&file, b"CONTENT");
        }
        check(1, 0);
        check(0, 0);
        for file in files() {
            std::fs::write(file.with_file_name("added"), "").unwrap();
        }
        check(1, 0);
        for file in files() {
            std::fs::remove_file(file).unwrap();
        }
        check(1, 0);
        check(0, 0);
        // The objects that the files are written from.
        for file in files() {
            std::fs::remove_file(file).unwrap();
        }
        let mut objects = kept(&place, "git/*/objects", "*.pack");
        objects.extend(kept(&place, "git/*/objects/??", "*"));
        assert!(!objects.is_empty());
        for object in objects {
            let mut bytes = std::fs::read(&object).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle..].fill(0);
            std::fs::remove_file(&object).unwrap();
            std::fs::write(&object, bytes).unwrap();
        }
        check(1, 1);
        check(0, 0);
    }
}
