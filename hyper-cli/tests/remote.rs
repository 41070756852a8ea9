//! Remote inputs: ADD of web files and git repositories, contexts from there and from standard input.

use crate::support::{Place, busybox, missing, path, skip, succeed, told};
use crate::web::Web;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

macro_rules! needs {
    ($($tool:literal),*) => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
        if let Some(tool) = missing(&[$($tool),*]) {
            skip!("there is no {tool}");
        }
    };
}

/// 2001-09-09T01:46:40Z.
const CHANGED: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

/// Builds a Dockerfile that starts from scratch, and returns the folder with its files.
fn files(place: &Place, dockerfile: &str, flags: &[&str]) -> PathBuf {
    let folder = place.join("out");
    let _ = std::fs::remove_dir_all(&folder);
    let output = format!("type=local,dest={}", folder.display());
    let output = place.build(dockerfile, &[&["-o", &output], flags].concat()).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    folder
}

/// Builds, which must fail, and returns the output.
fn fault(place: &Place, dockerfile: &str, flags: &[&str]) -> String {
    let output = place.build(dockerfile, flags).output().unwrap();
    assert!(!output.status.success(), "{dockerfile} was built");
    told(&output)
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "x").env(format!("GIT_{who}_EMAIL"), "x@example.com");
        command.env(format!("GIT_{who}_DATE"), "1234567890 +0000");
    }
    succeed(
        command.args(["-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"]).args(arguments),
    )
}

/// A repository `NAME.git` with these files on `main`, and the commit.
fn repository(place: &Place, name: &str, tree: &[(&str, &str)]) -> String {
    for (path, text) in tree {
        place.write(&format!("repositories/{name}.git/{path}"), text);
    }
    let folder = place.join(&format!("repositories/{name}.git"));
    if !folder.join(".git").exists() {
        git(&folder, &["init", "--quiet"]);
    }
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "--quiet", "--message", "x"]);
    git(&folder, &["rev-parse", "HEAD"])
}

fn sha256(bytes: &[u8]) -> String {
    hyper_sdk::Digest::sha256(bytes).to_string()
}

#[test]
fn a_web_file_is_private_and_has_the_time_of_the_server() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.file("/a%2Ab.txt", "hello", &[("Last-Modified", CHANGED), ("ETag", "\"1\"")]);
    let dockerfile = format!("FROM scratch\nADD {} /in/\n", web.url("/a%2Ab.txt"));
    let out = files(&place, &dockerfile, &[]);
    let meta = std::fs::metadata(out.join("in/a*b.txt")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o600);
    assert_eq!(meta.mtime(), 1_000_000_000);
    assert_eq!(std::fs::read(out.join("in/a*b.txt")).unwrap(), b"hello");

    // Asked for again, not fetched again; and a new content is seen.
    web.seen();
    let built = place.built(&dockerfile, &[]);
    assert!(built.outcomes().values().any(|o| o == "cached"), "{:?}", built.outcomes());
    assert_eq!(web.seen()[0].headers["if-none-match"], "\"1\"");
    web.file("/a%2Ab.txt", "other", &[("ETag", "\"2\"")]);
    let out = files(&place, &dockerfile, &[]);
    assert_eq!(std::fs::read(out.join("in/a*b.txt")).unwrap(), b"other");
}

#[test]
fn a_web_file_can_be_renamed_and_given_a_mode_and_is_not_unpacked_unasked() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, "inside", &b"x"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    web.file("/t.tar", tar.clone(), &[]);
    let url = web.url("/t.tar");
    let text = format!(
        "FROM scratch\nADD --chmod=755 {url} /named\nADD {url} /kept/\nADD --unpack=true {url} /unpacked/\n"
    );
    let out = files(&place, &text, &[]);
    assert_eq!(std::fs::metadata(out.join("named")).unwrap().mode() & 0o777, 0o755);
    assert_eq!(std::fs::read(out.join("kept/t.tar")).unwrap(), tar);
    assert_eq!(std::fs::read(out.join("unpacked/inside")).unwrap(), b"x");
    assert_eq!(web.seen().len(), 1, "one fetch is enough");
}

#[test]
fn a_web_file_with_a_name_that_is_too_long_needs_another() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    let path = format!("/{}", "x".repeat(256));
    web.file(&path, "content", &[]);
    let url = web.url(&path);
    let out = files(&place, &format!("FROM scratch\nADD {url} /named\n"), &[]);
    assert_eq!(std::fs::read(out.join("named")).unwrap(), b"content");
    let said = fault(&place, &format!("FROM scratch\nADD {url} /d/\n"), &[]);
    assert!(said.contains("Dockerfile:2:5") && said.contains("as in `/d/NAME`"), "{said}");
}

#[test]
fn the_checksum_of_a_web_file_is_checked() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.file("/f", "hello", &[]);
    let good = sha256(b"hello");
    let text = |sum: &str| format!("FROM scratch\nADD --checksum={sum} {} /f\n", web.url("/f"));
    let said = fault(&place, &text(&sha256(b"other")), &[]);
    assert!(said.contains("another checksum") && said.contains(&good), "{said}");
    files(&place, &text(&good), &[]);
    // What a server compresses for the way is not part of the file.
    let packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00";
    web.file("/packed", *packed, &[("Content-Encoding", "gzip")]);
    let out = files(&place, &text(&good).replace("/f /f", "/packed /f"), &[]);
    assert_eq!(std::fs::read(out.join("f")).unwrap(), b"hello");
    web.seen();
    // What is known by its checksum is not asked for again.
    files(&place, &text(&good), &[]);
    assert_eq!(web.seen().len(), 0);
    // What is known by a checksum of one algorithm can be asked for by one of another.
    web.file("/both", "hello", &[("ETag", "\"1\"")]);
    let mut hasher = hyper_sdk::digest::Algorithm::Sha512.hasher();
    hasher.update(b"hello");
    for sum in [hasher.finish().to_string(), good.clone()] {
        let out = files(&place, &text(&sum).replace("/f /f", "/both /f"), &[]);
        assert_eq!(std::fs::read(out.join("f")).unwrap(), b"hello");
    }
    assert!(fault(&place, &text("sha256:12"), &[]).contains("Dockerfile:2"));
    place.write("context/f", "x");
    let local = format!("FROM scratch\nADD --checksum={good} f /f\n");
    assert!(fault(&place, &local, &[]).contains("not for local files"));
}

#[test]
fn the_error_of_a_web_file_has_the_reason() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    let said = fault(&place, &format!("FROM scratch\nADD {} /f\n", web.url("/missing")), &[]);
    assert!(said.contains("404") && said.contains("/missing"), "{said}");
    web.require("Bearer s3cret-token");
    web.file("/f", "private", &[]);
    let text = format!("FROM scratch\nADD {} /f\n", web.url("/f"));
    assert!(fault(&place, &text, &[]).contains("401"));
    let token = place.write("token", "s3cret-token\n");
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", token.display());
    let out = files(&place, &text, &["--secret", &secret]);
    assert_eq!(std::fs::read(out.join("f")).unwrap(), b"private");
    let wrong = place.write("wrong", "wr0ng-token");
    let secret = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", wrong.display());
    let said = fault(&place, &text, &["--secret", &secret, "--no-cache"]);
    assert!(said.contains("401") && !said.contains("wr0ng-token"), "{said}");
}

#[test]
fn local_and_remote_sources_go_into_one_folder() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.file("/w", "web", &[]);
    place.write("context/l", "local");
    let text = format!("FROM scratch\nADD l {} <<EOF /all/\ninline\nEOF\n", web.url("/w"));
    let out = files(&place, &text, &[]);
    for (name, content) in [("l", "local"), ("w", "web"), ("EOF", "inline\n")] {
        assert_eq!(std::fs::read_to_string(out.join("all").join(name)).unwrap(), content);
    }
}

#[test]
fn a_repository_is_added_at_a_branch_a_tag_or_a_commit() {
    needs!("git");
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    let first =
        repository(&place, "r", &[("file", "one"), ("sub/deep/x", "deep"), ("run.sh", "#!/bin/sh\n")]);
    let folder = place.join("repositories/r.git");
    git(&folder, &["tag", "--annotate", "v1", "--message", "v1"]);
    let tag_object = git(&folder, &["rev-parse", "v1"]);
    let second = repository(&place, "r", &[("file", "two")]);
    let url = web.url("/r.git");
    for (source, content) in [
        (url.clone(), "two"),
        (format!("{url}#main"), "two"),
        (format!("{url}#v1"), "one"),
        (format!("{url}?tag=v1"), "one"),
        (format!("{url}#{first}"), "one"),
        (format!("{url}?branch=main&commit={}", &second[..9]), "two"),
        (format!("{url}?tag=v1&checksum={tag_object}"), "one"),
        (format!("{url}?commit={first}&fetch-by-commit=1"), "one"),
    ] {
        let out = files(&place, &format!("FROM scratch\nADD {source} /src\n"), &[]);
        assert_eq!(std::fs::read_to_string(out.join("src/file")).unwrap(), content, "{source}");
        assert!(!out.join("src/.git").exists());
    }
    let out = files(&place, &format!("FROM scratch\nADD {url}#main:sub/deep /s/\n"), &[]);
    assert_eq!(std::fs::read_to_string(out.join("s/x")).unwrap(), "deep");
    assert_eq!(std::fs::metadata(out.join("s/x")).unwrap().mtime(), 1_234_567_890);
    let out = files(&place, &format!("FROM scratch\nADD --keep-git-dir=true {url}#v1 /s\n"), &[]);
    assert_eq!(git(&out.join("s"), &["-c", "safe.directory=*", "rev-parse", "HEAD"]), first);
    assert_eq!(git(&out.join("s"), &["-c", "safe.directory=*", "describe"]), "v1");
    assert_eq!(git(&out.join("s"), &["-c", "safe.directory=*", "status", "--porcelain"]), "");

    let out = files(&place, &format!("FROM scratch\nADD --keep-git-dir=true {url}#main /s\n"), &[]);
    assert_eq!(git(&out.join("s"), &["-c", "safe.directory=*", "rev-parse", "main"]), second);

    // The same commit is the same layer, and a commit that is known needs no network.
    web.seen();
    let text = format!("FROM scratch\nADD {url}#{first} /src\n");
    let built = place.built(&text, &[]);
    assert!(built.outcomes().values().any(|o| o == "cached"), "{:?}", built.outcomes());
    assert_eq!(web.seen().len(), 0);

    for (source, why) in [
        (format!("{url}#mian"), "did you mean `main`?"),
        (format!("{url}?branch=main&commit={first}"), "is not at the commit of its checksum"),
        (format!("{url}#main:nothing"), "no folder `nothing`"),
        (web.url("/none.git"), "cannot be fetched"),
    ] {
        let said = fault(&place, &format!("FROM scratch\nADD {source} /src\n"), &[]);
        assert!(said.contains(why), "{source}: {said}");
    }
    let sum = format!("FROM scratch\nADD --checksum={first} {url}#main /src\n");
    assert!(fault(&place, &sum, &[]).contains("is not at the commit of its checksum"));
}

#[test]
fn submodules_are_fetched_unless_turned_off() {
    needs!("git");
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    repository(&place, "inner", &[("i", "inner")]);
    repository(&place, "outer", &[("o", "outer")]);
    let outer = place.join("repositories/outer.git");
    git(&outer, &["submodule", "--quiet", "add", "../inner.git", "part"]);
    git(&outer, &["config", "--file", ".gitmodules", "submodule.part.url", "../inner.git"]);
    git(&outer, &["commit", "--quiet", "--all", "--message", "submodule"]);
    let url = web.url("/outer.git");
    let out = files(&place, &format!("FROM scratch\nADD {url} /s\n"), &[]);
    assert_eq!(std::fs::read_to_string(out.join("s/part/i")).unwrap(), "inner");
    assert!(!out.join("s/part/.git").exists());
    let out = files(&place, &format!("FROM scratch\nADD {url}?submodules=false /s\n"), &[]);
    assert!(out.join("s/o").exists() && !out.join("s/part/i").exists());

    // What is kept of git tells nothing of this machine.
    let out = files(&place, &format!("FROM scratch\nADD --keep-git-dir=true {url} /s\n"), &[]);
    for folder in ["s/.git", "s/.git/modules/part"] {
        for name in ["logs", "hooks", "info", "FETCH_HEAD", "ORIG_HEAD"] {
            assert!(!out.join(folder).join(name).exists(), "{folder}/{name}");
        }
        // The times of the first entry, which come after the head of twelve bytes, are unset.
        let index = std::fs::read(out.join(folder).join("index")).unwrap();
        assert!(index[12..28].iter().all(|byte| *byte == 0), "{folder}: {index:?}");
    }
    assert_eq!(git(&out.join("s"), &["-c", "safe.directory=*", "status", "--porcelain"]), "");

    // A submodule cannot reach into this machine.
    let hidden = place.join("repositories/inner.git");
    git(&outer, &["config", "--file", ".gitmodules", "submodule.part.url", hidden.to_str().unwrap()]);
    git(&outer, &["commit", "--quiet", "--all", "--message", "local"]);
    let said = fault(&place, &format!("FROM scratch\nADD {url} /s\n"), &[]);
    assert!(said.contains("not allowed"), "{said}");
}

#[test]
fn the_token_of_a_repository_is_sent_only_to_its_host() {
    needs!("git");
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    repository(&place, "r", &[("file", "one")]);
    // `x-access-token:t0ken`
    web.require("basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=");
    let text = format!("FROM scratch\nADD {} /s\n", web.url("/r.git"));
    assert!(fault(&place, &text, &[]).contains("cannot be fetched"));
    let token = place.write("token", "t0ken\n");
    let other = format!("id=GIT_AUTH_TOKEN.example.com,src={}", token.display());
    assert!(fault(&place, &text, &["--secret", &other]).contains("cannot be fetched"));
    let secret = format!("id=GIT_AUTH_TOKEN.127.0.0.1,src={}", token.display());
    let out = files(&place, &text, &["--secret", &secret]);
    assert_eq!(std::fs::read_to_string(out.join("s/file")).unwrap(), "one");
    web.require("basic dXNlcjpwYXNzdzByZA==");
    let url = web.url("/r.git").replace("http://", "http://user:passw0rd@");
    let out = files(&place, &format!("FROM scratch\nADD --keep-git-dir {url} /s\n"), &[]);
    let config = std::fs::read_to_string(out.join("s/.git/config")).unwrap();
    assert!(config.contains("/r.git") && !config.contains("passw0rd"), "{config}");
    web.require("nothing");
    let said = fault(&place, &format!("FROM scratch\nADD {url}#x /s\n"), &[]);
    assert!(!said.replace(&url, "").contains("passw0rd"), "{said}");
    // A name alone may be a token. `t0ken:`
    web.require("Basic dDBrZW46");
    let url = web.url("/r.git").replace("http://", "http://t0ken@");
    let out = files(&place, &format!("FROM scratch\nADD --keep-git-dir {url} /s\n"), &[]);
    let config = std::fs::read_to_string(out.join("s/.git/config")).unwrap();
    assert!(config.contains("/r.git") && !config.contains("t0ken"), "{config}");

    // A server that sends elsewhere gets nothing to take along.
    let (first, elsewhere) = (Web::start(), Web::start());
    elsewhere.repositories(&place.join("repositories"));
    first.redirect(&elsewhere.url("").replace("127.0.0.1", "localhost"));
    let text = format!("FROM scratch\nADD {} /s\n", first.url("/r.git"));
    let said = fault(&place, &text, &["--secret", &secret]);
    assert!(said.contains("gets no credentials"), "{said}");
    let named = text.replace("http://", "http://user:passw0rd@");
    assert!(fault(&place, &named, &[]).contains("gets no credentials"));
    let seen = first.seen();
    assert!(seen.iter().all(|s| s.headers.contains_key("authorization")), "{seen:?}");
    let seen = elsewhere.seen();
    assert!(seen.is_empty(), "{seen:?}");
    // Without credentials there is nothing to lose.
    let out = files(&place, &text, &[]);
    assert_eq!(std::fs::read_to_string(out.join("s/file")).unwrap(), "one");
    assert!(!elsewhere.seen().iter().any(|s| s.headers.contains_key("authorization")));
}

#[test]
fn git_ignores_the_configuration_of_the_user_but_ssh_keys() {
    needs!("git");
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    repository(&place, "r", &[("file", "one\n")]);
    place.write("home/.netrc", "machine 127.0.0.1 login user password passw0rd\n");
    place.write("home/.config/git/attributes", "* text eol=crlf\n");
    place.write("templates/info/attributes", "* text eol=crlf\n");
    place.write("configuration/git/attributes", "* text eol=crlf\n");
    let folder = place.join("out");
    let output = format!("type=local,dest={}", folder.display());
    let build = |address: &str| {
        let text = format!("FROM scratch\nADD {address} /s\n");
        let mut command = place.build(&text, &["-o", &output]);
        command
            .env("GIT_TEMPLATE_DIR", place.join("templates"))
            .env("XDG_CONFIG_HOME", place.join("configuration"))
            .env("GIT_EXEC_PATH", place.join("nowhere"))
            .env("GIT_DIR", place.join("nowhere"));
        command
    };
    let built = build(&web.url("/r.git")).output().unwrap();
    assert!(built.status.success(), "{}", told(&built));
    assert_eq!(std::fs::read_to_string(folder.join("s/file")).unwrap(), "one\n");

    // `user:passw0rd`
    let known = "Basic dXNlcjpwYXNzdzByZA==";
    web.require(known);
    web.seen();
    let built = build(&format!("{}#other", web.url("/r.git"))).output().unwrap();
    assert!(!built.status.success());
    let seen = web.seen();
    assert!(
        !seen.is_empty() && seen.iter().all(|s| s.headers.get("authorization").is_none_or(|a| a != known))
    );

    let said = place.join("said");
    place.write_program("bin/ssh", &format!("#!/bin/sh\necho \"$*\" > {}\nexit 1\n", said.display()));
    let path = format!("{}:{}", place.join("bin").display(), path());
    let built = build("ssh://git@example.invalid/r.git").env("PATH", path).output().unwrap();
    assert!(!built.status.success());
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.starts_with("-o BatchMode=yes"), "{said}");
}

/// Runs the program on a context of any kind; the result goes into `out`.
fn build_context(
    place: &Place,
    context: &str,
    flags: &[&str],
    stdin: Option<&[u8]>,
) -> Result<PathBuf, String> {
    let folder = place.join("out");
    let _ = std::fs::remove_dir_all(&folder);
    let output = format!("type=local,dest={}", folder.display());
    let arguments = [&["build", "--progress=plain", "-o", &output], flags, &[context]].concat();
    let mut child = place
        .hyper(&arguments)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(bytes) = stdin {
        let _ = child.stdin.take().unwrap().write_all(bytes);
    }
    let output = child.wait_with_output().unwrap();
    if output.status.success() { Ok(folder) } else { Err(told(&output)) }
}

#[test]
fn a_repository_is_a_context() {
    needs!("git");
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    let tree = [
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("other/my.dockerfile", "FROM scratch\nCOPY kept /mine\n"),
        (".dockerignore", "secret\n"),
        ("secret", "no"),
        ("kept", "yes"),
        ("part/Dockerfile", "FROM scratch\nCOPY p /\n"),
        ("part/p", "part"),
    ];
    repository(&place, "c", &tree);
    std::os::unix::fs::symlink("/etc/hostname", place.join("repositories/c.git/leads-out")).unwrap();
    let commit = repository(&place, "c", &[]);
    let url = web.url("/c.git");
    let out = build_context(&place, &url, &[], None).unwrap();
    assert!(out.join("kept").exists() && !out.join("secret").exists() && !out.join(".git").exists());
    assert_eq!(std::fs::metadata(out.join("kept")).unwrap().mtime(), 1_234_567_890);
    let out =
        build_context(&place, &format!("{url}#{commit}"), &["-f", "other/my.dockerfile"], None).unwrap();
    assert!(out.join("mine").exists());
    let out = build_context(&place, &format!("{url}#:part"), &[], None).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("p")).unwrap(), "part");
    let keep = ["--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    let out = build_context(&place, &url, &keep, None).unwrap();
    assert!(out.join(".git/HEAD").exists());
    let out =
        build_context(&place, &url, &["-f", "-"], Some(b"FROM scratch\nCOPY kept /from-stdin\n")).unwrap();
    assert!(out.join("from-stdin").exists());
    // The ignore file of a Dockerfile counts for that one alone.
    repository(&place, "c", &[("Dockerfile.dockerignore", "kept\n")]);
    let all = b"FROM scratch\nCOPY . /\n";
    let out = build_context(&place, &url, &["-f", "-"], Some(all)).unwrap();
    assert!(out.join("kept").exists() && !out.join("secret").exists());
    let out = build_context(&place, &url, &[], None).unwrap();
    assert!(!out.join("kept").exists() && out.join("secret").exists());
    let said = build_context(&place, &url, &["-f", "leads-out"], None).unwrap_err();
    assert!(said.contains("has no `leads-out`"), "{said}");
    for name in [".dockerignore", "Dockerfile.dockerignore"] {
        std::fs::remove_file(place.join("repositories/c.git").join(name)).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", place.join("repositories/c.git/.dockerignore")).unwrap();
    repository(&place, "c", &[]);
    let said = build_context(&place, &url, &[], None).unwrap_err();
    assert!(said.contains("`.dockerignore` of the build context is a link"), "{said}");
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn an_archive_is_a_context_from_standard_input_and_the_web() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    let plain = archive(&[
        ("Dockerfile", "FROM scratch\nCOPY a /\n"),
        ("a", "A"),
        ("d/F", "FROM scratch\nCOPY a /b\n"),
    ]);
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    for bytes in [&plain, &zstd] {
        let out = build_context(&place, "-", &[], Some(bytes)).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "A");
        web.file("/c.tar", bytes.clone(), &[]);
        let out = build_context(&place, &web.url("/c.tar"), &["-f", "d/F"], None).unwrap();
        assert_eq!(std::fs::read_to_string(out.join("b")).unwrap(), "A");
    }
    // A Dockerfile alone.
    let text = b"FROM scratch\nADD <<EOF /x\nhi\nEOF\n";
    let out = build_context(&place, "-", &[], Some(text)).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("x")).unwrap(), "hi\n");
    web.file("/Dockerfile", &text[..], &[]);
    let out = build_context(&place, &web.url("/Dockerfile"), &[], None).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("x")).unwrap(), "hi\n");
    let copies = b"FROM scratch\nCOPY a /\n";
    assert!(build_context(&place, "-", &[], Some(copies)).unwrap_err().contains("no build context"));
    assert!(build_context(&place, "-", &["-f", "-"], Some(text)).unwrap_err().contains("both"));
    assert!(build_context(&place, "-", &[], Some(b"\xff\xfe")).unwrap_err().contains("neither a tar"));
    let without = archive(&[("a", "A")]);
    assert!(build_context(&place, "-", &[], Some(&without)).unwrap_err().contains("has no `Dockerfile`"));
    // Nothing of the archives stays.
    let scratch = place.join("state/scratch");
    let left = std::fs::read_dir(&scratch).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{}", scratch.display());
}

#[test]
fn named_contexts_replace_images_stages_and_mounts() {
    needs!("git");
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    repository(&place, "n", &[("g", "git")]);
    web.file("/n.tar", archive(&[("t", "tar")]), &[]);
    place.write("folder/f", "folder");
    let flags: Vec<String> = [
        format!("git={}", web.url("/n.git")),
        format!("tar={}", web.url("/n.tar")),
        format!("folder={}", place.join("folder").display()),
        format!("unused={}", web.url("/unused.tar")),
        "stage=target:made".to_owned(),
        format!("arch::linux/{}={}", other_architecture(), place.join("nowhere").display()),
        format!("arch={}", place.join("folder").display()),
    ]
    .iter()
    .map(|c| format!("--build-context={c}"))
    .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).filter(|f| !f.contains("arch::")).collect();
    let text = "FROM scratch AS made\nADD <<EOF /made\nmade\nEOF\n\
                FROM folder\nCOPY --from=git / /git/\nCOPY --from=tar t /tar\nCOPY --from=stage made /\n\
                COPY --from=arch f /arch\n";
    let out = files(&place, text, &flags);
    for (name, content) in
        [("f", "folder"), ("git/g", "git"), ("tar", "tar"), ("made", "made\n"), ("arch", "folder")]
    {
        assert_eq!(std::fs::read_to_string(out.join(name)).unwrap(), content, "{name}");
    }
    assert!(!web.seen().iter().any(|s| s.line.contains("unused")), "what is not needed is not fetched");
    let said = fault(&place, "FROM scratch\nCOPY --from=x a /\n", &["--build-context", "x=target:none"]);
    assert!(said.contains("`none` could not be found"), "{said}");
}

fn other_architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") { "arm64" } else { "amd64" }
}

#[test]
fn a_named_context_for_one_platform_comes_first() {
    needs!();
    let place = Place::new();
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    place.write("general/f", "general");
    place.write("special/f", "special");
    let general = format!("--build-context=x={}", place.join("general").display());
    for (platform, content) in [(own, "special"), (other_architecture(), "general")] {
        let special = format!("--build-context=x::linux/{platform}={}", place.join("special").display());
        let out = files(&place, "FROM scratch\nCOPY --from=x f /\n", &[&general, &special]);
        assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), content);
    }
}

#[test]
fn the_epoch_can_be_that_of_the_context_or_of_a_stage() {
    needs!("git");
    let (place, web) = (Place::new(), Web::start());
    web.repositories(&place.join("repositories"));
    repository(&place, "e", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let url = web.url("/e.git");
    place.write("context/new", "x");
    let stage = format!("FROM scratch AS source\nADD {url} /\nFROM scratch\nCOPY new /\n");
    let default = format!("ARG SOURCE_DATE_EPOCH=source\n{stage}");
    for (text, flags) in [(&stage, &["--build-arg", "SOURCE_DATE_EPOCH=source"][..]), (&default, &[])] {
        let out = files(&place, text, flags);
        assert_eq!(std::fs::metadata(out.join("new")).unwrap().mtime(), 1_234_567_890);
    }
    let flags = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    let out = build_context(&place, &url, &flags, None).unwrap();
    assert_eq!(std::fs::metadata(out.join("Dockerfile")).unwrap().mtime(), 1_234_567_890);
    let said = fault(&place, &stage, &["--build-arg", "SOURCE_DATE_EPOCH=sorce"]);
    assert!(said.contains("did you mean the stage `source`?"), "{said}");
}
