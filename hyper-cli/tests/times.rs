//! The times that steps see: their own, to the nanosecond, while layers and outputs have none later than the epoch.

use crate::rootless::ordinary_user;
use crate::support::{Built, Place, Who, busybox, find, is_root, missing, skip, succeed};
use crate::web::Web;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A git work tree as the build context, whose commits are all of 2020, beside the tools of this machine.
struct Tree(Place);

const COMMITTED: i64 = 1_577_934_245;

impl Tree {
    fn new(who: Who) -> Self {
        let tree = Self(Place::of(who));
        std::fs::create_dir_all(tree.0.join("context")).unwrap();
        tree.git(&["init", "-q", "-b", "main"]);
        tree
    }

    fn git(&self, arguments: &[&str]) -> String {
        let date = format!("{COMMITTED} +0000");
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=A", "-c", "user.email=a@b"])
            .args(["-c", "safe.directory=*", "-C"])
            .arg(self.0.join("context"))
            .args(arguments)
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .env("HOME", self.0.join("home"));
        let told = succeed(&mut command);
        // Whoever builds owns the work tree.
        let owner = std::fs::metadata(self.0.join("")).unwrap();
        if is_root() && owner.uid() != 0 {
            let owner = format!("{}:{}", owner.uid(), owner.gid());
            succeed(Command::new("chown").args(["-hR", &owner]).arg(self.0.join("context")));
        }
        told
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        // Clocks of file systems tick coarsely.
        std::thread::sleep(std::time::Duration::from_millis(30));
        self.0.write(&format!("context/{name}"), text)
    }

    fn commit(&self) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", "work"]);
    }

    fn checkout(&self, branch: &str) {
        std::thread::sleep(std::time::Duration::from_millis(30));
        self.git(&["checkout", "-q", branch]);
    }

    /// Programs of this machine with what they are linked to, as the build context `tools`.
    fn tools(&self, names: &[&str]) -> String {
        let folder = self.0.join("tools");
        for name in names {
            let program = find(name).unwrap().canonicalize().unwrap();
            let mut files = vec![(program.clone(), PathBuf::from("/bin").join(name))];
            let linked = Command::new("ldd").arg(&program).output().unwrap();
            for word in String::from_utf8_lossy(&linked.stdout).split_whitespace() {
                if word.starts_with('/') {
                    files.push((Path::new(word).canonicalize().unwrap(), word.into()));
                }
            }
            for (from, to) in files {
                let to = folder.join(to.strip_prefix("/").unwrap());
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::copy(from, to).unwrap();
            }
        }
        format!("tools={}", folder.display())
    }

    fn built(&self, dockerfile: &str, more: &[&str]) -> Built {
        self.0.built(dockerfile, more)
    }

    /// Builds, and returns the file `out` of the result.
    fn out(&self, dockerfile: &str, more: &[&str]) -> String {
        let folder = self.0.join("out");
        let _ = std::fs::remove_dir_all(&folder);
        self.built(dockerfile, &[&["-o", folder.to_str().unwrap()], more].concat());
        std::fs::read_to_string(folder.join("out")).unwrap().trim().to_owned()
    }

    fn forget_snapshots(&self) {
        let folder = self.0.join("state/snapshots");
        assert!(folder.exists());
        // Files of mapped owners can be removed by root, or are the builder's own.
        succeed(Command::new("chmod").arg("-R").arg("u+rwX").arg(&folder));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Why the tests do not run here.
fn lacking() -> Option<String> {
    if busybox().is_none() {
        return Some("this takes a static busybox".into());
    }
    missing(&["git", "ldd"]).map(|tool| format!("this takes {tool}"))
}

/// A tool that makes `/c/out` of `/src/in` when that is newer, and writes a line to `/c/log` whenever it does.
struct Tool {
    programs: &'static [&'static str],
    rules: (&'static str, &'static str),
    run: &'static str,
}

const MAKE: Tool = Tool {
    programs: &["make"],
    rules: ("Makefile", "/c/out: /src/in\n\tcat /src/in > $@ && echo ran >> /c/log\n"),
    run: "make -s -f /src/Makefile",
};

const NINJA: Tool = Tool {
    programs: &["ninja"],
    rules: (
        "build.ninja",
        "builddir = /c\nrule copy\n  command = cat $in > $out && echo ran >> /c/log\nbuild /c/out: copy /src/in\n",
    ),
    run: "ninja -f /src/build.ninja > /dev/null",
};

/// As cargo does: a file is stale that is newer than the list of what was used when it was made.
const CARGO: Tool = Tool {
    programs: &[],
    rules: (
        "fingerprint",
        "t() { stat -c %y $1 2>/dev/null || echo 0; }\n\
         n=$( (t /src/in; t /c/dep) | sort | tail -n 1)\n\
         [ $(t /c/dep) != 0 ] 2>/dev/null; [ -e /c/dep ] && [ \"$n\" = \"$(t /c/dep)\" ] ||\n\
         { touch /c/dep && cat /src/in > /c/out && echo ran >> /c/log; }\n",
    ),
    run: "sh /src/fingerprint",
};

/// What is made in a cache mount follows an edit and a switch of branches, whichever steps run again, and nothing is
/// made again without need.
fn follows(tool: &Tool, who: Who) {
    if let Some(lacking) = lacking().or(missing(tool.programs).map(|tool| format!("this takes {tool}"))) {
        skip!("{lacking}");
    }
    let tree = Tree::new(who);
    let tools = tree.tools(tool.programs);
    let text = format!(
        "FROM base\nCOPY --from=tools . /\nARG N\nCOPY . /src\n\
         RUN --mount=type=cache,target=/c {} && cp /c/out /out && wc -l < /c/log && echo \"$N\"\n",
        tool.run
    );
    std::fs::create_dir_all(tree.0.join("tools")).unwrap();
    let made = |more: &[&str]| tree.out(&text, &[&["--build-context", &tools], more].concat());
    let lines = |more: &[&str]| tree.built(&text, &[&["--build-context", &tools], more].concat()).log();
    tree.write(tool.rules.0, tool.rules.1);
    tree.write("in", "A");
    tree.commit();
    assert_eq!(made(&[]), "A");
    tree.write("in", "B");
    assert_eq!(made(&[]), "B", "after an edit");
    tree.git(&["checkout", "-q", "-b", "other"]);
    tree.commit();
    tree.checkout("main");
    assert_eq!(made(&[]), "A", "from the cache");
    assert_eq!(made(&["--build-arg", "N=1"]), "A", "after a switch, with the last step run again");
    tree.checkout("other");
    assert_eq!(made(&["--build-arg", "N=1"]), "B", "after a switch back");
    assert_eq!(made(&["--build-arg", "N=2"]), "B");
    tree.checkout("main");
    assert_eq!(made(&["--no-cache"]), "A", "after a switch, without the cache");
    let ran = |more: &[&str]| lines(more).lines().next().unwrap().trim().parse::<u32>().unwrap();
    let before = ran(&["--build-arg", "N=3"]);
    assert_eq!(ran(&["--build-arg", "N=4"]), before, "nothing has changed");
    tree.forget_snapshots();
    assert_eq!(ran(&["--build-arg", "N=5"]), before, "nothing has changed but where it is unpacked");
    tree.write("in", "C");
    assert_eq!(made(&[]), "C");
    assert_eq!(ran(&["--build-arg", "N=6"]), before + 1);
}

#[test]
fn make_follows_edits_and_branches() {
    follows(&MAKE, Who::Me);
}

#[test]
fn ninja_follows_edits_and_branches() {
    follows(&NINJA, Who::Me);
}

#[test]
fn cargo_follows_edits_and_branches() {
    follows(&CARGO, Who::Me);
}

#[test]
fn ordinary_users_see_the_same_times() {
    if !is_root() || find("setpriv").is_none() {
        skip!("this takes root, to be somebody else, and setpriv");
    }
    follows(&MAKE, Who::Id(45_678));
    match ordinary_user() {
        Ok(user) => {
            for tool in [&MAKE, &NINJA, &CARGO] {
                follows(tool, user.clone());
            }
        }
        Err(why) => skip!("{why}"),
    }
}

/// Makes `/c/out` of the file `$f` when that is newer, and takes it from there.
const NEWER: &str = "if [ ! -e /c/out ] || \
    [ \"$( (stat -c %y /c/out; stat -c %y $f) | sort | tail -n 1)\" != \"$(stat -c %y /c/out)\" ]; \
    then cat $f > /c/out; fi; cat /c/out > /out";

/// Whatever brings the files, a test of their times in a cache mount is right after an edit.
#[test]
fn files_keep_their_times_on_every_way_into_a_step() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let ways = [
        ("file", format!("FROM base\nCOPY src /src\nRUN --mount=type=cache,target=/c f=/src; {NEWER}\n")),
        ("add", format!("FROM base\nADD src /src\nRUN --mount=type=cache,target=/c f=/src; {NEWER}\n")),
        (
            "link",
            format!("FROM base\nCOPY --link src /src\nRUN --mount=type=cache,target=/c f=/src; {NEWER}\n"),
        ),
        (
            "bind",
            format!(
                "FROM base\nRUN --mount=type=bind,target=/x --mount=type=cache,target=/c f=/x/src; {NEWER}\n"
            ),
        ),
        (
            "stage",
            format!(
                "FROM scratch AS s\nCOPY src /src\nFROM base\nCOPY --from=s /src /src\n\
                 RUN --mount=type=cache,target=/c f=/src; {NEWER}\n"
            ),
        ),
        (
            "mounted-stage",
            format!(
                "FROM scratch AS s\nCOPY src /src\nFROM base\n\
                 RUN --mount=type=bind,from=s,target=/x --mount=type=cache,target=/c f=/x/src; {NEWER}\n"
            ),
        ),
        (
            "made",
            format!(
                "FROM base AS s\nCOPY src /in\nRUN cat /in > /src\nFROM base\nCOPY --from=s /src /src\n\
                 RUN --mount=type=cache,target=/c f=/src; {NEWER}\n"
            ),
        ),
        (
            "folder",
            format!(
                "FROM base\nCOPY . /all\nRUN --mount=type=cache,target=/c \
                 if [ ! -e /c/out ] || [ \"$( (stat -c %y /c/out; stat -c %y /all) | sort | tail -n 1)\" != \
                 \"$(stat -c %y /c/out)\" ]; then cat /all/src > /c/out; fi; cat /c/out > /out # {}\n",
                NEWER.len()
            ),
        ),
    ];
    for (name, text) in ways {
        let tree = Tree::new(Who::Me);
        tree.write("src", "A");
        tree.commit();
        assert_eq!(tree.out(&text, &[]), "A", "{name}");
        tree.write("src", "B");
        assert_eq!(tree.out(&text, &[]), "B", "{name}");
    }
    // An inline document changes with the text of the Dockerfile.
    let tree = Tree::new(Who::Me);
    tree.write("x", "x");
    tree.commit();
    for content in ["A", "B"] {
        let text = format!(
            "FROM base\nCOPY <<EOF /src\n{content}\nEOF\nRUN --mount=type=cache,target=/c f=/src; {NEWER}\n"
        );
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert_eq!(tree.out(&text, &[]), content, "inline");
    }
}

/// The time as `stat -c %y` of busybox prints it, without the zone: seconds are enough of the date.
fn fraction(path: &Path) -> String {
    format!("{:09}", std::fs::metadata(path).unwrap().mtime_nsec())
}

#[test]
fn steps_see_original_times_and_outputs_those_of_the_layers() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let tree = Tree::new(Who::Me);
    let file = tree.write("d/f", "text");
    let old = tree.write("old", "text");
    std::fs::File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_millis(86_400_250))
        .unwrap();
    tree.commit();
    let text = "FROM base AS one\nCOPY . /src\nRUN echo x > /made && ln /made /linked && ln -s made /link\nFROM base\n\
                COPY --from=one / /\nARG N\nRUN stat -c '%n %Y %y' /src/d/f /src/d /src/old /made /linked /link; echo $N\n";
    let folder = tree.0.join("files");
    let tar = tree.0.join("files.tar");
    let seen = tree
        .built(text, &["-o", folder.to_str().unwrap(), "-o", &format!("type=tar,dest={}", tar.display())])
        .log();
    let of = |seen: &str, name: &str| {
        let line = seen
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")))
            .unwrap_or_else(|| panic!("{name} in {seen}"));
        let mut words = line.split(' ');
        let seconds = words.nth(1).unwrap().parse::<i64>().unwrap();
        (seconds, words.nth(1).unwrap().split('.').nth(1).unwrap().to_owned())
    };
    for (name, path) in [("/src/d/f", file.as_path()), ("/src/d", file.parent().unwrap()), ("/src/old", &old)]
    {
        let metadata = std::fs::metadata(path).unwrap();
        assert_eq!(of(&seen, name), (metadata.mtime(), fraction(path)), "{name}");
    }
    for name in ["/made", "/linked", "/link"] {
        assert!(of(&seen, name).0 > COMMITTED + 1_000_000, "{seen}");
    }
    // An output makes the blobs of the stage, of which its files can be unpacked.
    tree.built(text, &["--target=one", "-t", "one:1"]);
    // The same when all comes out of the cache, unpacked anew, and when nothing does.
    tree.forget_snapshots();
    let again = tree.built(text, &["--build-arg", "N=1"]).log();
    assert_eq!(again.trim(), format!("{}\n1", seen.trim()));
    // What is published has the epoch, whatever steps saw.
    for (path, time) in [
        ("src/d/f", COMMITTED),
        ("src/d", COMMITTED),
        ("src/old", 86_400),
        ("made", COMMITTED),
        ("linked", COMMITTED),
        ("link", COMMITTED),
    ] {
        let metadata = folder.join(path).symlink_metadata().unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (time, 0), "{path}");
    }
    let listed = succeed(Command::new("tar").args(["--full-time", "--utc", "-tvf"]).arg(&tar));
    for name in ["src/d/f", "made", "src/d/"] {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap();
        assert!(line.contains("2020-01-02 03:04:05"), "{line}");
    }
}

#[test]
fn two_checkouts_make_one_image() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let digests = [0, 1].map(|_| {
        let tree = Tree::new(Who::Me);
        tree.write("a/b", "text");
        tree.write("c", "text");
        // What git notes of its work tree is another everywhere.
        tree.write(".dockerignore", ".git\n");
        tree.commit();
        let text = "FROM base AS s\nWORKDIR /w\nCOPY . .\nRUN cat c > d && touch a && ln c e\n\
                    FROM base\nCOPY --from=s /w /w\nCOPY <<EOF /x/y\nz\nEOF\nRUN rm /w/e && cp -r /w /v\n";
        let first = tree.built(text, &[]).digest;
        assert_eq!(tree.built(text, &["--no-cache"]).digest, first);
        first
    });
    assert_eq!(digests[0], digests[1]);
}

/// With a time that the caller gives, files of a context have at most that, so that steps see the same everywhere.
#[test]
fn a_given_epoch_is_what_steps_see_of_copied_files() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let tree = Tree::new(Who::Me);
    tree.write("f", "text");
    tree.commit();
    let text = "FROM base\nCOPY f /f\nRUN stat -c %Y /f && echo > /made && touch /x\nRUN stat -c %Y /made\n";
    let log = tree.built(text, &["--source-date-epoch=1000000000"]).log();
    let times: Vec<i64> = log.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(times[0], 1_000_000_000);
    assert!(times[1] > COMMITTED, "{times:?}");
}

/// A given epoch is for who reads the image: it hides from no tool what is newer than its cache.
#[test]
fn a_given_epoch_keeps_no_old_result_of_a_cache() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    if missing(&["find"]).is_some() {
        skip!("there is no find");
    }
    let tree = Tree::new(Who::Me);
    // That of busybox compares whole seconds.
    let tools = tree.tools(&["find"]);
    let made = "RUN --mount=type=cache,target=/c if [ ! -e /c/out ] || [ -n \"$(/bin/find /src -newer /c/out)\" ]; \
                then cat /src/* > /c/out; fi; cat /c/out\n";
    let ways = [
        "FROM base\nCOPY --from=tools / /\nCOPY src /src\n",
        "FROM base AS a\nCOPY src /src\nFROM base\nCOPY --from=tools / /\nCOPY --from=a /src /src\n",
        "FROM base\nCOPY --from=tools / /\nWORKDIR /src\nADD src .\n",
    ];
    for way in ways {
        for epoch in ["--source-date-epoch=1000000000", "--build-arg=SOURCE_DATE_EPOCH=1600000000"] {
            for text in ["one", "two", "three", "two"] {
                tree.write("src/f", text);
                let built = tree.built(&format!("{way}{made}"), &[epoch, "--build-context", &tools]);
                if !built.log().is_empty() {
                    assert_eq!(built.log(), text, "{way} {epoch}");
                }
            }
        }
    }
    tree.built(
        &format!("{}{made}", ways[0]),
        &["--source-date-epoch=1000000000", "-o=out", "--build-context", &tools],
    );
    assert_eq!(std::fs::metadata(tree.0.join("out/src/f")).unwrap().mtime(), 1_000_000_000);
}

/// A table of times that is gone or damaged is made anew; nothing fails.
#[test]
fn damaged_times_are_not_an_error() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let tree = Tree::new(Who::Me);
    tree.write("f", "text");
    tree.commit();
    let text = "FROM base\nRUN echo x > /made\nARG N\nRUN stat -c %Y /made; echo $N\n";
    tree.built(text, &[]);
    let tables = || {
        let files = std::fs::read_dir(tree.0.join("state/indexes")).unwrap().map(|e| e.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "times")).collect::<Vec<_>>()
    };
    assert!(!tables().is_empty());
    tree.forget_snapshots();
    for path in tables() {
        std::fs::write(path, "nonsense").unwrap();
    }
    // Found damaged or missing, the step runs again.
    let log = tree.built(text, &["--build-arg", "N=1"]).log();
    assert!(log.lines().next().unwrap().parse::<i64>().unwrap() > COMMITTED + 1_000_000, "{log}");
    tables().into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    tree.forget_snapshots();
    let log = tree.built(text, &["--build-arg", "N=2"]).log();
    assert!(log.lines().next().unwrap().parse::<i64>().unwrap() > COMMITTED + 1_000_000, "{log}");
    assert!(!tables().is_empty());
}

/// An archive whose server does not say when it changed has the time of its newest file, and what has no time of its own
/// is empty for steps.
#[test]
fn the_epoch_of_an_archive_is_that_of_its_newest_file() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let (place, web) = (Place::new(), Web::start());
    let mut builder = tar::Builder::new(Vec::new());
    for (name, time) in [("a", 1_000_000), ("b", 1_234_567_890), ("c", 5)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_mtime(time);
        builder.append_data(&mut header, name, &b"x"[..]).unwrap();
    }
    let archive = builder.into_inner().unwrap();
    web.file("/src.tar", archive.clone(), &[]);
    web.file("/dated.tar", archive, &[("Last-Modified", "Sun, 06 Nov 1994 08:49:37 UTC")]);
    let stage = |file: &str| format!("FROM scratch AS src\nADD {} /\n", web.url(file));
    let seen = "FROM base\nARG SOURCE_DATE_EPOCH\nRUN echo [$SOURCE_DATE_EPOCH]\n";
    let epoch = |stages: &str, more: &[&str]| {
        let text = format!("ARG SOURCE_DATE_EPOCH=src\n{stages}{seen}");
        place.built(&text, &[&["--no-cache"], more].concat()).log().trim().to_owned()
    };
    assert_eq!(epoch(&stage("/src.tar"), &[]), "[1234567890]");
    assert_eq!(epoch(&stage("/dated.tar"), &[]), "[784111777]");
    let named = format!("src={}", web.url("/src.tar"));
    assert_eq!(epoch("", &["--build-context", &named]), "[1234567890]");
    assert_eq!(epoch("FROM scratch AS src\nCOPY <<a <<b /\nx\na\ny\nb\n", &[]), "[]");
    let context = ["--build-arg", "SOURCE_DATE_EPOCH=context"];
    assert_eq!(epoch("FROM scratch AS src\n", &context), "[]");
}

/// The time of a commit says nothing of when its files came: a branch may be older than what was made of another.
#[test]
fn files_of_a_git_repository_have_the_time_of_the_fetch() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let (tree, web) = (Tree::new(Who::Me), Web::start());
    let text =
        |way: &str| format!("FROM base\n{way} /g/\nRUN --mount=type=cache,target=/c f=/g/src; {NEWER}\n");
    tree.write("Dockerfile", &text("COPY ."));
    for (branch, content) in [("one", "A"), ("two", "B")] {
        tree.git(&["checkout", "-q", "-b", branch]);
        tree.write("src", content);
        tree.commit();
    }
    let bare = tree.0.join("repositories/e.git");
    std::fs::create_dir_all(bare.parent().unwrap()).unwrap();
    tree.git(&["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    web.repositories(bare.parent().unwrap());
    for (branch, content) in [("one", "A"), ("two", "B")] {
        let url = web.url(&format!("/e.git#{branch}"));
        assert_eq!(tree.out(&text(&format!("ADD {url}")), &[]), content, "added");
        let named = format!("g={url}");
        let copied = text("COPY --from=g .").replace("target=/c", "target=/c,id=named");
        assert_eq!(tree.out(&copied, &["--build-context", &named]), content, "a named context");
        let out = tree.0.join("of-git");
        let base = format!("base=oci-layout://{}", crate::support::base().display());
        tree.0.ok(&["build", "-q", "--build-context", &base, "-o", out.to_str().unwrap(), &url]);
        assert_eq!(std::fs::read_to_string(out.join("out")).unwrap(), content, "the context");
        // What is published has the time of the commit.
        assert_eq!(std::fs::metadata(out.join("g/src")).unwrap().mtime(), COMMITTED);
    }
}

/// Other times of a lower layer give upper ones another name, and their files are not unpacked again for it.
#[test]
fn unpacked_layers_are_shared_whatever_the_times_of_lower_files() {
    if let Some(lacking) = lacking() {
        skip!("{lacking}");
    }
    let tree = Tree::new(Who::Me);
    let text = "FROM base\nCOPY f /f\nRUN echo x > /x\nARG N\nRUN stat -c %y /f /x; echo $N\n";
    let mut seen = Vec::new();
    let mut unpacked = Vec::new();
    for n in 0..4 {
        tree.write("f", "text");
        let built = tree.built(text, &["--build-arg", &format!("N={n}")]);
        unpacked.push(built.outcomes().keys().filter(|name| name.starts_with("unpack ")).count());
        seen.push(built.log().lines().take(2).map(str::to_owned).collect::<Vec<_>>());
    }
    assert!(seen.iter().all(|times| times[1] == seen[0][1]), "{seen:?}");
    assert!((1..4).all(|n| seen[n][0] > seen[n - 1][0]), "{seen:?}");
    // Whole trees, where overlays cannot be mounted, have the files of all layers in them.
    if tree.0.join("state/snapshots/overlay").exists() {
        assert_eq!(unpacked[2..], [1, 1], "the copy alone");
    }
}
