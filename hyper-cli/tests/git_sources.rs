//! Git repositories with SHA-256 objects, and servers that give out nothing but files.

use crate::support::{Place, find, skip, succeed, told};
use crate::web::Web;
use std::path::{Path, PathBuf};
use std::process::Command;

fn git(folder: &Path, arguments: &[&str]) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let mut command = Command::new("git");
    command.current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "x").env(format!("GIT_{who}_EMAIL"), "x@example.com");
        command.env(format!("GIT_{who}_DATE"), "1234567890 +0000");
    }
    let options = ["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"];
    succeed(command.args(options).args(arguments))
}

/// A repository with one commit on `main` and the tag `v1` of it, and the commit.
fn repository(folder: &Path, format: &str, text: &str) -> String {
    git(folder, &["init", "--quiet", &format!("--object-format={format}")]);
    std::fs::write(folder.join("file"), text).unwrap();
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY file /s/\n").unwrap();
    git(folder, &["add", "."]);
    git(folder, &["commit", "--quiet", "--message", "x"]);
    git(folder, &["tag", "-a", "v1", "-m", "x"]);
    git(folder, &["rev-parse", "HEAD"])
}

/// Runs a build and returns the folder with its files.
fn built(place: &Place, mut command: Command) -> PathBuf {
    let folder = place.join("out");
    let _ = std::fs::remove_dir_all(&folder);
    let output = command.arg("-o").arg(format!("type=local,dest={}", folder.display())).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    folder
}

#[test]
fn repositories_with_sha_256_objects_are_sources_and_contexts() {
    if find("git").is_none() {
        skip!("there is no git");
    }
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    let folder = place.join("repositories/r.git");
    let commit = repository(&folder, "sha256", "one");
    assert_eq!(commit.len(), 64);
    let url = web.url("/r.git");
    for address in [url.clone(), format!("{url}#v1"), format!("{url}#main"), format!("{url}#{commit}")] {
        let text = format!("FROM scratch\nADD {address} /s/\n");
        let out = built(&place, place.build(&text, &[]));
        assert_eq!(std::fs::read_to_string(out.join("s/file")).unwrap(), "one", "{address}");
        let out = built(&place, place.hyper(&["build", &address]));
        assert_eq!(std::fs::read_to_string(out.join("s/file")).unwrap(), "one", "{address}");
    }
    let text = format!("FROM scratch\nADD --keep-git-dir=true --checksum={} {url}#v1 /s/\n", &commit[..12]);
    let out = built(&place, place.build(&text, &[]));
    assert_eq!(git(&out.join("s"), &["-c", "safe.directory=*", "rev-parse", "HEAD"]), commit);
    // What is at the address may be of another kind the next time, and back again.
    for (format, text) in [("sha1", "two"), ("sha256", "three")] {
        std::fs::remove_dir_all(&folder).unwrap();
        repository(&folder, format, text);
        let out = built(&place, place.build(&format!("FROM scratch\nADD {url} /s/\n"), &[]));
        assert_eq!(std::fs::read_to_string(out.join("s/file")).unwrap(), text);
    }
}

/// A build that is killed ends git in the middle, whose locks would keep the next one from fetching.
#[test]
fn leftovers_of_a_killed_git_do_not_stop_the_next_one() {
    if find("git").is_none() {
        skip!("there is no git");
    }
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    let folder = place.join("repositories/r.git");
    repository(&folder, "sha1", "one");
    let text = format!("FROM scratch\nADD {} /s/\n", web.url("/r.git"));
    built(&place, place.build(&text, &[]));
    let kept = std::fs::read_dir(place.join("state/sources/git")).unwrap().map(|entry| entry.unwrap().path());
    let kept = kept.into_iter().find(|path| path.join("HEAD").is_file()).unwrap();
    let left = [
        "shallow.lock",
        "config.lock",
        "objects/pack/tmp_pack_Ab12cd",
        "objects/tmp_objdir-incoming-x/pack",
        "objects/6f/tmp_obj_Ab12cd",
    ];
    for name in left {
        std::fs::create_dir_all(kept.join(name).parent().unwrap()).unwrap();
        std::fs::write(kept.join(name), "x").unwrap();
    }
    std::fs::write(folder.join("file"), "two").unwrap();
    git(&folder, &["commit", "--quiet", "--all", "--message", "y"]);
    let out = built(&place, place.build(&text, &[]));
    assert_eq!(std::fs::read_to_string(out.join("s/file")).unwrap(), "two");
    let there: Vec<_> = left.iter().filter(|name| kept.join(name).exists()).collect();
    assert!(there.is_empty(), "{there:?}");
}

/// Gives out the files of a repository, as a web server does that knows nothing of git.
fn give_out(web: &Web, name: &str, repository: &Path) {
    git(repository, &["update-server-info"]);
    let mut open = vec![repository.join(".git")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let below = path.strip_prefix(repository.join(".git")).unwrap().display().to_string();
            let content = std::fs::read(&path).unwrap();
            web.file(&format!("/{name}/{below}"), content.clone(), &[]);
            if below == "info/refs" {
                web.file(&format!("/{name}/{below}?service=git-upload-pack"), content, &[]);
            }
        }
    }
}

#[test]
fn repositories_and_submodules_come_from_servers_without_shallow_clones() {
    if find("git").is_none() {
        skip!("there is no git");
    }
    let (place, web) = (Place::new(), Web::start());
    let (inner, middle, outer) =
        (place.join("r/inner.git"), place.join("r/middle.git"), place.join("r/outer.git"));
    repository(&inner, "sha1", "inner");
    repository(&middle, "sha1", "middle");
    repository(&outer, "sha1", "outer");
    for (folder, part) in [(&middle, "inner.git"), (&outer, "middle.git")] {
        let path = place.join("r").join(part);
        git(folder, &["submodule", "--quiet", "add", path.to_str().unwrap(), "part"]);
        git(folder, &["config", "--file", ".gitmodules", "submodule.part.url", &format!("../{part}")]);
        git(folder, &["commit", "--quiet", "--all", "--message", "submodule"]);
    }
    // The commit of the submodule is not the newest one there.
    std::fs::write(inner.join("file"), "newer").unwrap();
    git(&inner, &["commit", "--quiet", "--all", "--message", "newer"]);
    for (name, folder) in [("inner.git", &inner), ("middle.git", &middle), ("outer.git", &outer)] {
        give_out(&web, name, folder);
    }
    let text = format!("FROM scratch\nADD {} /s/\n", web.url("/outer.git"));
    let out = built(&place, place.build(&text, &[]));
    for (path, content) in [("file", "outer"), ("part/file", "middle"), ("part/part/file", "inner")] {
        assert_eq!(std::fs::read_to_string(out.join("s").join(path)).unwrap(), content, "{path}");
    }
}
