//! Disks that are full: what fails says where, leaves nothing behind, and works once there is space.

use crate::serve::Serving;
use crate::support::{Place, Registry, busybox, is_root, skip, told};
use hyper_sdk::Digest;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file system of few bytes on a folder, which goes with the value.
struct Small(PathBuf);

impl Small {
    fn on(folder: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&folder).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("mode=0700,size={size}"), "none"]).arg(&folder);
        if is_root() && mount.output().is_ok_and(|mount| mount.status.success()) {
            return Some(Self(folder));
        }
        println!("SKIPPED: a small file system needs the right to mount");
        None
    }

    /// Of the state folder of a place.
    fn state(place: &Place, size: &str) -> Option<Self> {
        Self::on(place.join("state"), size)
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Runs the program until it leaves no log of the database: what is in that could be written over without any space.
    /// A process may end before its thread has removed it.
    fn at_rest(&self, place: &Place) {
        let log = self.0.join("store/hyper.db-wal");
        let leaves_none = || {
            place.ok(&["images"]);
            !log.exists()
        };
        assert!((0..50).any(|_| leaves_none()), "the log stays");
    }

    /// Fills what is free but for `rest` bytes.
    fn fill(&self, rest: u64) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        while self.free() > rest {
            let block = vec![0; (self.free() - rest).min(1 << 20) as usize];
            if filler.write_all(&block).is_err() {
                break;
            }
        }
    }

    /// Gives the space back. A process that another test starts just now may have inherited the file, and would keep the
    /// space of one that is only removed.
    fn empty(&self) {
        let filler = self.0.join("filler");
        File::options().write(true).open(&filler).and_then(|file| file.set_len(0)).unwrap();
        std::fs::remove_file(filler).unwrap();
    }

    /// The files there but for those that are of no weight: the logs and records of builds, the log of the database, what
    /// is known of sources, and files without a byte.
    fn files(&self) -> BTreeSet<PathBuf> {
        fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, found);
                } else {
                    found.insert(path);
                }
            }
        }
        let mut found = BTreeSet::new();
        walk(&self.0, &mut found);
        let light = ["filler", "hyper.db-wal", "hyper.db-shm", "stat-cache"];
        found.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            // A build that fails has a record too, under its own name and no other.
            let is_record = (name.ends_with(".json") || name.ends_with(".steps"))
                && path.parent().is_some_and(|f| f.ends_with("history"));
            let holds_bytes = path.symlink_metadata().is_ok_and(|meta| meta.len() > 0);
            holds_bytes
                && !is_record
                && !light.contains(&name)
                && path.parent().is_none_or(|folder| !folder.ends_with("logs"))
        });
        found
    }

    /// The files that are new since then, without complete blobs: the next attempt uses those.
    fn left_since(&self, before: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let whole = |path: &Path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            path.ancestors().any(|folder| folder.ends_with("blobs/sha256"))
                && Digest::sha256(std::fs::read(path).unwrap()).hex() == name
        };
        // The note that the layer of the base was fetched stays as long as its blob: the clean-up that takes both away at the
        // limit of the cache can fail on a full disk.
        let names_whole = |path: &Path| {
            let record = || -> Option<serde_json::Value> {
                serde_json::from_str(std::fs::read_to_string(path).ok()?.lines().next()?).ok()
            };
            path.starts_with(self.0.join("cache"))
                && record().is_some_and(|record| {
                    let digest = record["layer"]["digest"].as_str().unwrap_or_default();
                    let name = digest.trim_start_matches("sha256:");
                    self.files().iter().any(|path| path.ends_with(name) && whole(path))
                })
        };
        let new = self.files().difference(before).cloned().collect::<Vec<_>>();
        new.into_iter().filter(|path| !whole(path) && !names_whole(path)).collect()
    }

    /// Checks a failure: its status, that it tells what is full, and that the program did not break down.
    fn is_told(&self, output: &Output) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}", told(output));
        assert!(stderr.contains("full") && stderr.contains(self.0.to_str().unwrap()), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes bytes that do not compress.
fn noise(path: PathBuf, length: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut random = File::open("/dev/urandom").unwrap().take(length);
    std::io::copy(&mut random, &mut File::create(path).unwrap()).unwrap();
}

/// A registry with an image of 4 MiB, and the name of that.
fn registry_with_an_image() -> (Registry, String) {
    let registry = Registry::start();
    let place = Place::new();
    noise(place.join("context/noise"), 4 << 20);
    let name = format!("{}/big:1", registry.host);
    let file = place.write("Dockerfile", "FROM scratch\nCOPY noise /\n");
    let output = place.hyper(&["build", "-t", &name, "-f"]).arg(file).arg("context").output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    place.ok(&["push", &name]);
    (registry, name)
}

#[test]
fn a_pull_that_fills_the_disk_leaves_nothing_there() {
    let place = Place::new();
    let Some(disk) = Small::state(&place, "12m") else { return };
    let (_registry, name) = registry_with_an_image();
    place.ok(&["images"]);
    let before = disk.files();
    for rest in [0, 70_000, 2 << 20] {
        disk.fill(rest);
        let output = place.hyper(&["pull", &name]).output().unwrap();
        disk.is_told(&output);
        // What the program did not come to remove before its end goes with the next command, space or not.
        place.ok(&["images"]);
        assert_eq!(disk.left_since(&before), Vec::<PathBuf>::new(), "{rest}");
        disk.empty();
        assert!(disk.free() > 11 << 20, "{} are free", disk.free());
        assert!(!place.ok(&["images"]).contains("big"));
    }
    place.ok(&["pull", &name]);
    assert!(place.ok(&["images"]).contains("big"));
    place.ok(&["inspect", &name]);
}

#[test]
fn a_build_that_fills_the_disk_leaves_nothing_there() {
    if busybox().is_none() {
        skip!("a static busybox is needed");
    }
    let place = Place::new();
    let Some(disk) = Small::state(&place, "16m") else { return };
    noise(place.join("context/noise"), 12 << 20);
    place.write("context/few", "bytes\n");
    // What the base comes to is kept, and rightly so.
    place.built("FROM base\nCOPY few /\nRUN true\n", &[]);
    let (before, free) = (disk.files(), disk.free());
    let write = "RUN dd if=/dev/urandom of=/noise bs=1M count=30";
    for (step, by_itself) in [
        ("COPY noise /", false),
        ("ADD noise /", false),
        (write, true),
        (&format!("{write} || true"), false),
        ("RUN mkdir /many && for i in $(seq 5000); do echo $i > /many/$i || exit 0; done", false),
    ] {
        for rest in [0, 200_000, 4 << 20] {
            disk.fill(rest);
            let output = place.build(&format!("FROM base\n{step}\n"), &["-t", "x:1"]).output().unwrap();
            // A command may be the first to meet it, and tells so itself.
            if by_itself && told(&output).contains("dd: error writing '/noise': No space left on device") {
                assert_eq!(output.status.code(), Some(1), "{}", told(&output));
            } else if rest < 4 << 20 || !step.contains("mkdir") {
                disk.is_told(&output);
            }
            place.ok(&["images"]);
            disk.empty();
            assert!(!place.ok(&["history", "ls"]).contains("running"), "no build runs any more");
            if output.status.success() {
                place.ok(&["rm", "x:1"]);
                continue;
            }
            assert_eq!(disk.left_since(&before), Vec::<PathBuf>::new(), "{step} {rest}\n{}", told(&output));
            assert!(disk.free() + 200_000 > free, "{} of {free} are free", disk.free());
        }
    }
    place.built("FROM base\nCOPY few /\nRUN cat /few\n", &["-t", "x:1"]);
    place.ok(&["inspect", "x:1"]);
}

#[test]
fn a_source_that_is_larger_than_the_disk_leaves_nothing_there() {
    let place = Place::new();
    let Some(disk) = Small::state(&place, "16m") else { return };
    place.write("context/few", "bytes\n");
    place.built("FROM scratch\nCOPY few /\n", &[]);
    let before = disk.files();
    let (web, endless) = (crate::web::Web::start(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let large = vec![7; 40 << 20];
    web.file("/large", large.clone(), &[]);
    let unending = format!("http://{}/unending", endless.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in endless.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[7; 65_536]).is_ok() {}
        }
    });
    let mut sources = vec![web.url("/large"), unending];
    if crate::support::find("git").is_some() {
        web.repositories(&place.join("repositories"));
        let folder = place.join("repositories/r.git");
        noise(folder.join("noise"), 40 << 20);
        for arguments in [
            &["init", "--quiet"][..],
            &["add", "."],
            &["-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "--quiet", "--message=x"],
        ] {
            crate::support::succeed(Command::new("git").current_dir(&folder).args(arguments));
        }
        sources.push(web.url("/r.git"));
    }
    for source in sources {
        let output = place.build(&format!("FROM scratch\nADD {source} /\n"), &[]).output().unwrap();
        disk.is_told(&output);
        assert!(told(&output).contains(&source), "{}", told(&output));
        // The repository itself is kept, and holds nothing of what did not come.
        let left: Vec<_> = disk.left_since(&before);
        let large = left.iter().filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 100_000));
        assert_eq!(large.count(), 0, "{source}: {left:?}");
        assert!(disk.free() > 14 << 20, "{source}: {} are free", disk.free());
    }
    place.built("FROM scratch\nCOPY few /again\n", &[]);
}

#[test]
fn images_can_be_read_when_the_disk_is_full() {
    let place = Place::new();
    let Some(disk) = Small::state(&place, "8m") else { return };
    place.write("context/file", "content\n");
    place.built("FROM scratch\nCOPY file /\n", &["-t", "localhost/app:1"]);
    for rest in [0, 4096, 20_000] {
        disk.at_rest(&place);
        disk.fill(rest);
        assert!(place.ok(&["images"]).contains("localhost/app"));
        assert!(place.ok(&["inspect", "localhost/app:1"]).contains("localhost/app"));
        for arguments in [&["tag", "localhost/app:1", "localhost/app:2"][..], &["rm", "localhost/app:1"]] {
            disk.is_told(&place.hyper(arguments).output().unwrap());
        }
        disk.is_told(&place.build("FROM scratch\nCOPY file /other\n", &[]).output().unwrap());
        disk.empty();
        assert!(!place.ok(&["images"]).contains(" 2 "));
        place.ok(&["tag", "localhost/app:1", "localhost/app:2"]);
        place.ok(&["rm", "localhost/app:2"]);
    }
}

#[test]
fn a_registry_on_a_full_disk_serves_pulls_and_takes_pushes_when_there_is_space() {
    let place = Place::new();
    let Some(disk) = Small::state(&place, "8m") else { return };
    place.write("context/file", "content\n");
    place.built("FROM scratch\nCOPY file /\n", &["-t", "localhost/app:1"]);
    disk.at_rest(&place);
    disk.fill(0);
    let server = Serving::start(&place, &[]);
    let manifest = "/v2/localhost/app/manifests/1";
    for _ in 0..3 {
        assert!(server.request("GET", "/v2/_catalog", "", "").contains("localhost/app"));
        assert!(server.request("GET", manifest, "", "").starts_with("HTTP/1.1 200"));
        let push = server.request("POST", "/v2/localhost/app/blobs/uploads/", "", "");
        assert!(push.starts_with("HTTP/1.1 507") && push.contains("retry-after: 30"), "{push}");
        assert!(place.ok(&["images"]).contains("localhost/app"));
    }
    disk.empty();
    let push = server.request("POST", "/v2/localhost/app/blobs/uploads/", "", "");
    assert!(push.starts_with("HTTP/1.1 202"), "{push}");
    assert!(server.request("GET", manifest, "", "").starts_with("HTTP/1.1 200"));
    place.ok(&["tag", "localhost/app:1", "localhost/app:2"]);
    assert!(server.request("GET", "/v2/localhost/app/manifests/2", "", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn an_output_that_fills_its_disk_leaves_no_partial_file() {
    let place = Place::new();
    let Some(disk) = Small::on(place.join("small"), "4m") else { return };
    noise(place.join("context/noise"), 6 << 20);
    let small = disk.0.display();
    for form in ["type=tar", "type=oci", "type=docker", "type=oci,tar=false", "type=local"] {
        let output = format!("{form},dest={small}/out");
        let output = place.build("FROM scratch\nCOPY noise /\n", &["-t", "x:1", "-o", &output]).output();
        disk.is_told(&output.unwrap());
        // The folder may have existed before: its other files stay.
        if form != "type=local" {
            assert_eq!(disk.left_since(&BTreeSet::new()), Vec::<PathBuf>::new(), "{form}");
        }
        let _ = std::fs::remove_dir_all(disk.0.join("out"));
    }
}
