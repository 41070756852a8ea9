//! The space of the state folder: what is removed gives it back, and what is used stays.

use crate::rootless::ordinary_user;
use crate::support::{Place, Registry, base, busybox, bytes_on_disk, is_root, skip, succeed, told};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A file of so many bytes that cannot be compressed; its content depends on the name.
fn noise(place: &Place, name: &str, bytes: usize) {
    let mut state = name.bytes().fold(1_u64, |n, b| n.wrapping_mul(31).wrapping_add(u64::from(b))) | 1;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    let path = place.write(name, "");
    std::fs::write(path, content).unwrap();
}

/// Builds an image of one file, which nothing else has.
fn image(place: &Place, name: &str, bytes: usize) {
    noise(place, &format!("context-{name}/{name}"), bytes);
    let file = place.write("one.Dockerfile", "FROM scratch\nCOPY . /\n");
    let context = format!("context-{name}");
    place.ok(&["build", "-q", "-t", name, "-f", file.to_str().unwrap(), &context]);
}

/// The bytes that the blobs of the state folder take.
fn blobs(place: &Place) -> u64 {
    fn walk(folder: &Path) -> u64 {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|e| if e.path().is_dir() { walk(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) })
            .sum()
    }
    walk(&place.join("state/store/blobs"))
}

fn du(place: &Place) -> Value {
    serde_json::from_str(&place.ok(&["du", "--format", "json", "--verbose"])).unwrap()
}

fn of_kind(usage: &Value, kind: &str) -> Vec<Value> {
    let items = usage["items"].as_array().unwrap().iter();
    items.filter(|item| item["kind"] == kind).cloned().collect()
}

/// Whether an image of the store is whole.
fn is_whole(place: &Place, name: &str) -> Result<(), String> {
    let to = place.join(&format!("saved-{}", name.replace([':', '/'], "-")));
    let output = place.hyper(&["inspect", name]).output().unwrap();
    if !output.status.success() {
        return Err(told(&output));
    }
    let mut push = place.hyper(&["build", "-q", "-o"]);
    push.arg(format!("type=oci,dest={}", to.display())).args(["-f", "-"]);
    push.arg("--build-context").arg(format!("x=docker-image://{name}")).arg(place.join("empty"));
    std::fs::create_dir_all(place.join("empty")).unwrap();
    let mut child = push.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"FROM x\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let _ = std::fs::remove_file(to);
    if output.status.success() { Ok(()) } else { Err(told(&output)) }
}

#[test]
fn rm_gives_the_space_of_a_pulled_image_back() {
    let (place, registry) = (Place::new(), Registry::start());
    let name = |tag: &str| format!("{}/app:{tag}", registry.host);
    let maker = Place::new();
    image(&maker, &name("1"), 300_000);
    maker.ok(&["push", "-q", &name("1")]);
    for to in ["a:1", "a:2"] {
        place.ok(&["pull", "-q", &name("1")]);
        place.ok(&["tag", &name("1"), to]);
    }
    place.ok(&["rm", &name("1")]);
    assert!(blobs(&place) > 300_000);
    place.ok(&["rm", "a:1"]);
    assert!(blobs(&place) > 300_000, "another name has it");
    is_whole(&place, "a:2").unwrap();
    place.ok(&["rm", "a:2"]);
    // What the check built is in the cache.
    place.ok(&["prune", "--force"]);
    assert_eq!(blobs(&place), 0);
    place.ok(&["pull", "-q", &name("1")]);
    place.ok(&["rm", &name("1")]);
    assert_eq!(blobs(&place), 0, "nothing else uses a pulled image");
}

#[test]
fn prune_removes_the_cache_and_keeps_images() {
    let place = Place::new();
    image(&place, "kept", 200_000);
    image(&place, "gone", 300_000);
    place.ok(&["rm", "gone"]);
    assert!(blobs(&place) > 500_000, "the cache has the layer");
    let plan = place.ok(&["prune", "--dry-run"]);
    assert!(plan.contains("would be freed") && plan.contains("layer"), "{plan}");
    assert!(blobs(&place) > 500_000);
    let filtered = place.ok(&["prune", "--force", "--filter", "until=1h"]);
    assert!(filtered.starts_with("0 B freed"), "{filtered}");
    let said = place.ok(&["prune", "--force"]);
    assert!(said.contains("kB freed"), "{said}");
    assert!((200_000..300_000).contains(&blobs(&place)), "{}", blobs(&place));
    is_whole(&place, "kept").unwrap();
    let again: Value =
        serde_json::from_str(&place.ok(&["prune", "--all", "--force", "--format", "json"])).unwrap();
    assert!(again["freed"].as_u64().is_some() && again["removed"].is_array());
    for (arguments, word) in [
        (&["prune", "--filter", "colour=red"][..], "keys are"),
        (&["prune", "--max-used-space", "much"], "size"),
        (&["images", "--cache-limit", "much"], "20GB"),
    ] {
        let output = place.hyper(arguments).output().unwrap();
        assert!(output.status.code() == Some(2) && told(&output).contains(word), "{}", told(&output));
    }
}

#[test]
fn a_build_after_a_prune_makes_everything_again() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let text = "FROM base\nRUN --mount=type=cache,target=/c echo x >> /c/n; head -c 100000 /dev/urandom > /f; cp /c/n /n\n";
    let first = place.built(text, &["-t", "app:1"]);
    let usage = du(&place);
    for kind in ["image", "layer", "snapshot", "cache-mount", "log", "database"] {
        assert!(!of_kind(&usage, kind).is_empty(), "no {kind}: {usage:#}");
    }
    place.ok(&["prune", "--all", "--force"]);
    let usage = du(&place);
    for kind in ["layer", "snapshot", "cache-mount", "source", "index", "untagged", "base"] {
        assert_eq!(of_kind(&usage, kind), Vec::<Value>::new(), "{kind}");
    }
    is_whole(&place, "app:1").unwrap();
    let second = place.built(text, &["-t", "app:2"]);
    assert_ne!(first.digest, second.digest, "the step ran again");
    assert!(second.outcomes().iter().all(|(name, outcome)| !name.contains("RUN") || outcome == "done"));
    let said: Vec<_> = second.events.iter().filter(|e| e["event"] == "warning").collect();
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn du_agrees_with_the_file_system() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    let state = place.join("state");
    std::fs::create_dir_all(&state).unwrap();
    let mount = || {
        Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0700,size=512m", "none"]).arg(&state).output()
    };
    if !is_root() || !mount().is_ok_and(|mount| mount.status.success()) {
        skip!("a small file system needs the right to mount");
    }
    image(&place, "app", 3_000_000);
    if busybox().is_some() {
        place.built(
            "FROM base\nRUN head -c 2000000 /dev/urandom > /f; ln /f /g; mkdir -p /d/e\n",
            &["-t", "b"],
        );
    }
    let usage = du(&place);
    let disk = rustix::fs::statvfs(&state).unwrap();
    let used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize;
    succeed(Command::new("umount").arg(&state));
    let total = usage["total"].as_u64().unwrap();
    assert!(total.abs_diff(used) * 100 <= used, "{total} bytes, and the disk says {used}");
    let sum: u64 = usage["items"].as_array().unwrap().iter().map(|item| item["size"].as_u64().unwrap()).sum();
    assert_eq!(sum, total);
}

/// Steps write files with owners and modes that their user may neither look at nor remove.
#[test]
fn an_ordinary_user_counts_and_removes_what_steps_wrote() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let user = match ordinary_user() {
        Ok(user) => user,
        Err(why) => skip!("{why}"),
    };
    let place = Place::of(user);
    // Both cache mounts belong to another user themselves.
    let text = "FROM base\nRUN --mount=type=cache,id=own,target=/o,uid=1000,gid=1000 echo x > /o/f\n\
                RUN --mount=type=cache,target=/c mkdir -m 700 /d /c/d; head -c 60000000 /dev/zero > /d/f; \
                head -c 400000 /dev/urandom > /c/d/f; chown -R 1000:1000 /d /c; chmod 0 /c/d\n";
    place.built(text, &["-t", "app"]);
    let usage = du(&place);
    let seen = bytes_on_disk(&place.join("state"));
    let total = usage["total"].as_u64().unwrap();
    assert!(total.abs_diff(seen) * 100 <= seen, "{total} bytes, and du says {seen}");
    let size = |kind| of_kind(&usage, kind).iter().map(|item| item["size"].as_u64().unwrap()).sum::<u64>();
    assert!(size("snapshot") > 60_000_000 && size("cache-mount") > 400_000, "{usage:#}");
    place.ok(&["prune", "--all", "--force"]);
    let usage = du(&place);
    assert!(of_kind(&usage, "snapshot").is_empty() && of_kind(&usage, "cache-mount").is_empty());
    let entries = |name: &str| std::fs::read_dir(place.join(name)).map_or(0, |entries| entries.count());
    assert_eq!((entries("state/scratch"), entries("state/mounts")), (0, 0), "nothing is left aside");
}

#[test]
fn a_build_keeps_the_cache_below_its_limit() {
    let place = Place::new();
    noise(&place, "context/file", 400_000);
    place.write("context/Dockerfile", "FROM scratch\nCOPY file /\n");
    for (limit, keeps) in [("off", true), ("100MB", true), ("0", false)] {
        place.ok(&["build", "-q", "-t", "app", "--cache-limit", limit, "context"]);
        assert_eq!(!of_kind(&du(&place), "layer").is_empty(), keeps, "{limit}");
        is_whole(&place, "app").unwrap();
    }
    succeed(place.hyper(&["build", "-q", "-t", "app", "context"]).env("HYPER_CACHE_LIMIT", "0"));
    assert!(of_kind(&du(&place), "layer").is_empty());
}

/// Some steps are the same for all builders, some for each round.
fn steps_of(n: usize, round: usize) -> String {
    format!(
        "FROM base\nRUN echo all > /all\nCOPY . /files/\nRUN echo {} > /some; head -c 20000 /dev/zero > /z\n\
         RUN echo {n} {round} > /own\n",
        round % 2
    )
}

/// Cleans up until it is over; with `killed`, each clean-up is killed at some point.
fn clean(place: &Place, killed: bool, over: &AtomicBool, fail: &(dyn Fn(String) + Sync)) {
    let mut round = 0;
    while !over.load(Ordering::SeqCst) {
        let mut prune = place.hyper(&["prune", "--force", "--all", "-q"]);
        let mut child = prune.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        if killed {
            round += 1;
            std::thread::sleep(Duration::from_millis(5 + round * 7 % 60));
            let _ = child.kill();
            let _ = child.wait();
            continue;
        }
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            return fail(format!("prune: {}", told(&output)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The first build of a state folder measures it, and removes nothing that the next one needs: the layers of a layout too.
#[test]
fn a_layer_of_a_layout_is_read_once() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    place.write("context/Dockerfile", "FROM base\nRUN echo hello > /file\n");
    let context = format!("base=oci-layout://{}", base().display());
    let (archive, folder) = (place.join("image.tar"), place.join("context"));
    let output = format!("type=oci,dest={}", archive.display());
    let mut pulled = Vec::new();
    for _ in 0..2 {
        let mut build =
            place.hyper(&["build", "--progress", "plain", "--build-context", &context, "-o", &output]);
        let built = build.arg(&folder).output().unwrap();
        assert!(built.status.success(), "{}", told(&built));
        pulled.push(told(&built).lines().filter(|line| line.contains(" pull ")).count());
    }
    assert!(pulled[0] > 0 && pulled[1] == 0, "{pulled:?}");
}

/// Builds, removals and clean-ups at once: every image that was reported is whole, and at the end nothing unused is left.
#[test]
fn builds_removals_and_prunes_at_once_lose_nothing() {
    if busybox().is_none() {
        skip!("there is no static busybox");
    }
    let place = Place::new();
    base();
    noise(&place, "context/file", 100_000);
    let context = format!("base=oci-layout://{}", base().display());
    let (over, built) = (AtomicBool::new(false), AtomicUsize::new(0));
    let end = Instant::now() + Duration::from_secs(20);
    let failures = std::sync::Mutex::new(Vec::new());
    let fail = |text: String| failures.lock().unwrap().push(text);
    std::thread::scope(|scope| {
        let builders: Vec<_> = (0..4)
            .map(|n| {
                let (place, context, built, fail) = (&place, &context, &built, &fail);
                scope.spawn(move || {
                    let mut round = 0;
                    while Instant::now() < end {
                        let file = place.write(&format!("files/{n}"), &steps_of(n, round));
                        let name = format!("app{n}:{round}");
                        let mut build =
                            place.hyper(&["build", "-q", "--build-context", context, "-t", &name, "-f"]);
                        let output = build.arg(file).arg(place.join("context")).output().unwrap();
                        if !output.status.success() {
                            return fail(format!("build {name}: {}", told(&output)));
                        }
                        if let Err(e) = is_whole(place, &name) {
                            return fail(format!("{name} is not whole: {e}"));
                        }
                        built.fetch_add(1, Ordering::SeqCst);
                        if round > 0 {
                            let old = format!("app{n}:{}", round - 1);
                            let output = place.hyper(&["rm", &old]).output().unwrap();
                            if !output.status.success() {
                                return fail(format!("rm {old}: {}", told(&output)));
                            }
                        }
                        round += 1;
                    }
                })
            })
            .collect();
        let cleaners: Vec<_> = (0..2)
            .map(|n| {
                let (place, over, fail) = (&place, &over, &fail);
                scope.spawn(move || clean(place, n == 0, over, fail))
            })
            .collect();
        for builder in builders {
            builder.join().unwrap();
        }
        over.store(true, Ordering::SeqCst);
        for cleaner in cleaners {
            cleaner.join().unwrap();
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(built.load(Ordering::SeqCst) >= 4, "too few builds");
    let names = place.ok(&["images", "-q"]);
    assert_eq!(names.lines().count(), 4, "{names}");
    for line in place.ok(&["images"]).lines().skip(1) {
        is_whole(&place, line.split_whitespace().next().unwrap()).unwrap();
    }
    for image in place.ok(&["images"]).lines().skip(1) {
        place.ok(&["rm", image.split_whitespace().next().unwrap()]);
    }
    place.ok(&["prune", "--all", "--force"]);
    let usage = du(&place);
    // The last prune has a log of its own at most.
    let stays = ["log", "database", "other"];
    let left: Vec<&Value> = usage["items"].as_array().unwrap().iter().collect();
    let left: Vec<_> = left.iter().filter(|item| !stays.contains(&item["kind"].as_str().unwrap())).collect();
    assert!(left.is_empty(), "{left:#?}");
    let scratch = std::fs::read_dir(place.join("state/scratch")).map_or(0, |entries| entries.count());
    assert_eq!(scratch, 0, "nothing is left aside");
    assert_eq!(blobs(&place), 0);
}
