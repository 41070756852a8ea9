//! The contents of cache mounts in caches that machines share: `cache-mounts=true`.

use crate::cache_export::{needs_busybox, ran, warnings};
use crate::peers::{Peer, Registry};
use crate::support::{Place, Who, busybox, find, is_root, skip, told, wait_for};
use hyper_sdk::Digest;
use hyper_sdk::layer::{CompressOptions, Decompressor, LayerCompressor};
use hyper_sdk::media_type::Compression;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

const NOBODY: u32 = 45_683;
const ASKED: &str = ",cache-mounts=true";
const MARK: &str = "files of a cache mount";

fn to(folder: &Path, more: &str) -> String {
    format!("--cache-to=type=local,dest={}{more}", folder.display())
}

fn from(folder: &Path, more: &str) -> String {
    format!("--cache-from=type=local,src={}{more}", folder.display())
}

/// A step that fills a cache.
fn fill(mount: &str) -> String {
    format!("FROM base\nRUN --mount=type=cache,{mount}target=/c echo '{MARK}' > /c/file\n")
}

/// A step that shows what is in a cache. It is in no cache of steps.
fn show(mount: &str) -> String {
    format!("FROM base\nRUN --mount=type=cache,{mount}target=/c echo shown; cat /c/file || true\n")
}

/// A folder that users of both places can write to.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(folder.path(), all).unwrap();
    folder
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn blob(folder: &Path, digest: &serde_json::Value) -> PathBuf {
    folder.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
}

/// The newest manifest of a layout.
fn manifest(folder: &Path) -> serde_json::Value {
    let index = json(&folder.join("index.json"));
    json(&blob(folder, &index["manifests"].as_array().unwrap().last().unwrap()["digest"]))
}

/// The contents of cache mounts among the layers of a manifest.
fn mounts_of(manifest: &serde_json::Value) -> Vec<serde_json::Value> {
    let is_mount = |layer: &&serde_json::Value| layer["mediaType"].as_str().unwrap().contains("cache.mount");
    manifest["layers"].as_array().unwrap().iter().filter(is_mount).cloned().collect()
}

/// Whether a text is in a file below a folder, in whatever compression.
fn has_text(folder: &Path, text: &str) -> bool {
    let has = |path: &Path| {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).unwrap();
        let read = Decompressor::new(file).unwrap().read_to_end(&mut bytes);
        read.is_ok() && bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    std::fs::read_dir(folder.join("blobs/sha256")).unwrap().any(|entry| has(&entry.unwrap().path()))
}

#[test]
fn another_machine_gets_the_files_with_owners_modes_links_and_times() {
    needs_busybox!();
    let make = "FROM base\n\
        RUN --mount=type=cache,id=a,target=/c --mount=type=cache,id=b,target=/o,uid=5,gid=6,mode=0750 \
        mkdir -p /c/d/e && echo text > /c/d/f && ln /c/d/f /c/hard && ln -s d/f /c/link && echo name > /c/.wh.name \
        && chown 7:8 /c/d/f /c/d/e && chmod 4750 /c/d/f && chmod 1777 /c && mkfifo /c/pipe && echo owned > /o/x \
        && touch -d '2020-01-02 03:04:05' /c/d/f /c/d && chown 0:9 /c\n";
    let show = "FROM base\n\
        RUN --mount=type=cache,id=a,target=/c --mount=type=cache,id=b,target=/o,uid=5,gid=6,mode=0750 \
        cd /; stat -c '%a %u:%g %h %F %n' /c /c/d /c/d/e /c/d/f /c/hard /c/link /c/pipe /o /o/x; stat -c '%y' /c/d /c/d/f /c/.wh.name; \
        cat /c/link /c/hard /c/.wh.name /o/x\n";
    let mut users = vec![Who::Me];
    if is_root() && find("setpriv").is_some() {
        users.push(Who::Id(NOBODY));
    }
    for who in users {
        let folder = open_folder();
        let (one, two) = (Place::of(who.clone()), Place::of(who.clone()));
        one.built(make, &[&to(folder.path(), ASKED)]);
        assert_eq!(mounts_of(&manifest(folder.path())).len(), 2, "{who:?}");
        let here = one.built(show, &[]).log();
        assert!(here.contains("4750 7:8 2 regular file /c/hard") && here.contains("750 5:6"), "{here}");
        let built = two.built(show, &[&from(folder.path(), ASKED)]);
        assert_eq!(warnings(&built), warnings(&one.built(show, &[])), "{who:?}");
        assert_eq!(built.log(), here, "{who:?}");
        assert!(here.contains("2020-01-02 03:04:05"), "{here}");
        // Nothing is left beside the caches.
        let names: Vec<String> = std::fs::read_dir(two.join("state/mounts"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains(".new"))
            .collect();
        assert_eq!(names, [""; 0]);
        assert_eq!(std::fs::read_dir(one.join("state/scratch")).unwrap().count(), 0);
    }
}

#[test]
fn without_being_asked_nothing_of_a_cache_mount_is_written_or_read() {
    needs_busybox!();
    let (one, folder) = (Place::new(), tempfile::tempdir().unwrap());
    let (plain, whole) = (folder.path().join("plain"), folder.path().join("whole"));
    one.built(&fill("id=x,"), &[&to(&plain, ",mode=max")]);
    assert!(!has_text(&plain, MARK));
    assert_eq!(mounts_of(&manifest(&plain)), [""; 0]);
    // The step is cached now, and its cache mount goes all the same.
    let asked = one.built(&fill("id=x,"), &[&to(&whole, &format!(",mode=max{ASKED}"))]);
    assert_eq!(ran(&asked), [""; 0]);
    assert!(has_text(&whole, MARK));
    // With a folder that has none, and with one that has them for somebody who does not ask.
    for cache in [from(&plain, ASKED), from(&whole, "")] {
        assert_eq!(
            Place::new().built(&show("id=x,"), &[&cache]).log().trim(),
            "shown\ncat: can't open '/c/file': No such file or directory"
        );
    }
    assert_eq!(Place::new().built(&show("id=x,"), &[&from(&whole, ASKED)]).log(), format!("shown\n{MARK}\n"));
    // Another id is another cache.
    assert!(!Place::new().built(&show("id=y,"), &[&from(&whole, ASKED)]).log().contains(MARK));
}

#[test]
fn a_cache_that_exists_stays_as_it_is() {
    needs_busybox!();
    let (one, two, folder) = (Place::new(), Place::new(), tempfile::tempdir().unwrap());
    one.built(&fill("id=x,"), &[&to(folder.path(), ASKED)]);
    let own = "FROM base\nRUN --mount=type=cache,id=x,target=/c echo own > /c/own\n";
    two.built(own, &[]);
    let look = "FROM base\nRUN --mount=type=cache,id=x,target=/c ls -A /c\n";
    assert_eq!(two.built(look, &[&from(folder.path(), ASKED)]).log(), "own\n");
    // One that `--no-cache` empties stays empty.
    let owned = "id=x,mode=0755,";
    one.built(&fill(owned), &[&to(folder.path(), ASKED)]);
    let shown = |more: &[&str]| {
        let from = from(folder.path(), ASKED);
        Place::new().built(&show(owned), &[&[&*from], more].concat()).log()
    };
    assert!(shown(&[]).contains(MARK));
    assert!(!shown(&["--no-cache"]).contains(MARK));
}

#[test]
fn files_are_fetched_for_a_step_that_runs_and_not_for_a_cached_one() {
    needs_busybox!();
    let registry = Arc::new(Registry::default());
    let kept = Arc::clone(&registry);
    let peer = Peer::start(move |head, wire| kept.answer(head, wire));
    let name = format!("{}/team/cache:1", peer.host);
    let (to, from) = (
        format!("--cache-to=type=registry,ref={name},mode=max{ASKED}"),
        format!("--cache-from=type=registry,ref={name}{ASKED}"),
    );
    let (one, two) = (Place::new(), Place::new());
    one.built(&fill("id=x,"), &[&to]);
    let mounts = mounts_of(&registry.manifest("team/cache", "1"));
    let digest = mounts[0]["digest"].as_str().unwrap().to_owned();
    let fetched = || peer.seen().iter().filter(|head| head.is("GET", &digest)).count();
    assert_eq!(ran(&two.built(&fill("id=x,"), &[&from])), [""; 0]);
    assert_eq!(fetched(), 0);
    // A further cache of a build that has only cached steps has the files, too.
    let passed = tempfile::tempdir().unwrap();
    two.built(&fill("id=x,"), &[&from, &self::to(passed.path(), ASKED)]);
    assert!(has_text(passed.path(), MARK));
    let before = fetched();
    let third = Place::new();
    assert_eq!(third.built(&show("id=x,"), &[&from]).log(), format!("shown\n{MARK}\n"));
    assert_eq!(fetched(), before + 1);
    let again = "FROM base\nRUN --mount=type=cache,id=x,target=/c cat /c/file /c/file\n";
    third.built(again, &[&from]);
    assert_eq!(fetched(), before + 1);
    // A second export of the same sends nothing.
    let sent = registry.sent.load(std::sync::atomic::Ordering::SeqCst);
    one.built(&fill("id=x,"), &[&to]);
    assert_eq!(registry.sent.load(std::sync::atomic::Ordering::SeqCst), sent);
}

/// Writes a blob into a layout and returns its descriptor's digest and size.
fn put(folder: &Path, bytes: &[u8]) -> (serde_json::Value, serde_json::Value) {
    let digest = Digest::sha256(bytes);
    std::fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
    (digest.as_str().into(), bytes.len().into())
}

/// Replaces the files of the only cache mount of a layout by another archive, with right digests everywhere.
fn forge(folder: &Path, tar: &[u8], change: impl Fn(&mut serde_json::Value)) {
    let mut manifest = manifest(folder);
    let mut records = json(&blob(folder, &manifest["config"]["digest"]));
    let options = CompressOptions::new(Compression::Zstd);
    let mut compressor = LayerCompressor::new(Vec::new(), options).unwrap();
    compressor.write_all(tar).unwrap();
    let (packed, layer) = compressor.finish().unwrap();
    let (digest, size) = put(folder, &packed);
    let mount = &mut records["mounts"][0];
    (mount["blob"], mount["diff_id"]) = (digest.clone(), layer.diff_id.as_str().into());
    mount["size"] = tar.len().into();
    change(mount);
    let layers = manifest["layers"].as_array_mut().unwrap();
    let at = layers.iter().position(|layer| layer["mediaType"].as_str().unwrap().contains("cache.mount"));
    (layers[at.unwrap()]["digest"], layers[at.unwrap()]["size"]) = (digest, size);
    let (digest, size) = put(folder, records.to_string().as_bytes());
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest, size);
    let (digest, size) = put(folder, manifest.to_string().as_bytes());
    let mut index = json(&folder.join("index.json"));
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest, size);
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, kind, value) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        // Written as they are: the methods refuse what is hostile.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        let is_file = *kind == tar::EntryType::Regular;
        if !is_file {
            header.as_mut_bytes()[157..157 + value.len()].copy_from_slice(value.as_bytes());
        }
        let content = if is_file { value.as_bytes() } else { b"" };
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What else is changed of the record of a cache mount.
type Change<'a> = &'a dyn Fn(&mut serde_json::Value);

#[test]
fn a_damaged_or_hostile_archive_is_a_warning_and_an_empty_cache() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    needs_busybox!();
    let (one, folder) = (Place::new(), tempfile::tempdir().unwrap());
    one.built(&fill("id=x,"), &[&to(folder.path(), ASKED)]);
    let outside = tempfile::tempdir().unwrap();
    let there = outside.path().to_str().unwrap();
    let evil = outside.path().join("evil");
    let good = archive(&[("file", Regular, "good\n")]);
    let cut = &good[..good.len() - 1100];
    let cases: [(&str, Vec<u8>, Change<'_>); 8] = [
        ("a part above", archive(&[("../evil", Regular, "x")]), &|_| {}),
        ("through a link", archive(&[("l", Symlink, there), ("l/evil", Regular, "x")]), &|_| {}),
        ("a link to a file outside", archive(&[("l", Link, "/etc/passwd")]), &|_| {}),
        ("a file as a folder", archive(&[("f", Regular, "x"), ("f/evil", Regular, "x")]), &|_| {}),
        ("cut off", cut.to_vec(), &|_| {}),
        ("another archive", good.clone(), &|mount| mount["diff_id"] = Digest::sha256("x").as_str().into()),
        ("larger than it says", good.clone(), &|mount| mount["size"] = 1024.into()),
        ("a root that is a file", archive(&[("./", Regular, "x"), ("d", Directory, "")]), &|_| {}),
    ];
    for (name, tar, change) in cases {
        forge(folder.path(), &tar, change);
        let two = Place::new();
        let built = two.built(&show("id=x,"), &[&from(folder.path(), ASKED)]);
        let warned = warnings(&built).concat();
        assert!(warned.contains("no usable content of the cache mount `x`"), "{name}: {warned}");
        assert!(built.log().starts_with("shown\ncat: "), "{name}: {}", built.log());
        assert!(!evil.exists(), "{name}");
        let mounts = std::fs::read_dir(two.join("state/mounts")).unwrap();
        let folders = mounts.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
        assert_eq!(folders, 1, "{name}: only the empty cache");
    }
    // An absolute link is a link: nothing was written through it.
    forge(folder.path(), &archive(&[("l", Symlink, there), ("file", Regular, "good\n")]), |_| {});
    assert_eq!(Place::new().built(&show("id=x,"), &[&from(folder.path(), ASKED)]).log(), "shown\ngood\n");
    // Bytes that are not what the manifest says, and a blob that is gone.
    let blob = blob(folder.path(), &mounts_of(&manifest(folder.path()))[0]["digest"]);
    let mut bytes = std::fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    for _ in 0..2 {
        let built = Place::new().built(&show("id=x,"), &[&from(folder.path(), ASKED)]);
        let warned = warnings(&built).concat();
        assert!(warned.contains("no usable content of the cache mount `x`"), "{warned}");
        assert!(!built.log().contains("good"));
        let _ = std::fs::remove_file(&blob);
    }
    // What is lost is left out of the next cache, which has the rest.
    let next = tempfile::tempdir().unwrap();
    let built = Place::new().built(&fill("id=x,"), &[&from(folder.path(), ASKED), &to(next.path(), ASKED)]);
    assert_eq!((ran(&built).len(), mounts_of(&manifest(next.path())).len()), (0, 0));
}

#[test]
fn a_step_that_uses_a_cache_has_ended_before_the_cache_is_read() {
    needs_busybox!();
    for sharing in ["shared", "locked", "private"] {
        let (one, folder) = (Place::new(), tempfile::tempdir().unwrap());
        let mount = format!("id=x,sharing={sharing},");
        one.built(&fill(&mount), &[]);
        // Another build is in the middle of it.
        let slow = format!(
            "FROM base\nRUN --mount=type=cache,{mount}target=/c echo half > /c/half; \
             while ! test -e /c/go; do sleep 0.1; done; rm /c/go; echo whole > /c/half\n"
        );
        let mut other = one.build(&slow, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mounts = one.join("state/mounts");
        let find = |name: &str| {
            let entries = std::fs::read_dir(&mounts).unwrap().flatten();
            entries.map(|entry| entry.path()).find(|path| path.join(name).exists())
        };
        wait_for("the other build writes", || find("half").is_some());
        let mut export = one.build(&fill(&mount), &[&to(folder.path(), ASKED)]);
        let mut export = export.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Its steps are cached; the cache is the next.
        let mut events = BufReader::new(export.stderr.take().unwrap()).lines();
        assert!(events.any(|event| event.unwrap().contains("read cache mount")), "{sharing}");
        std::fs::write(find("half").unwrap().join("go"), "").unwrap();
        assert!(other.wait().unwrap().success());
        let rest: Vec<String> = events.map(Result::unwrap).collect();
        assert!(export.wait().unwrap().success(), "{rest:?}");
        assert!(has_text(folder.path(), "whole") && !has_text(folder.path(), "half\n"), "{sharing}");
    }
}

#[test]
fn caches_of_steps_without_isolation_are_exported_and_filled() {
    needs_busybox!();
    if !is_root() {
        skip!("steps without isolation take root");
    }
    let none = "--isolation=none";
    let (one, two, folder) = (Place::new(), Place::new(), tempfile::tempdir().unwrap());
    one.built(&fill("id=x,"), &[&to(folder.path(), ASKED), none]);
    let log = format!("shown\n{MARK}\n");
    assert_eq!(two.built(&show("id=x,"), &[&from(folder.path(), ASKED), none]).log(), log);
    assert_eq!(Place::new().built(&show("id=x,"), &[&from(folder.path(), ASKED)]).log(), log);
}

#[test]
fn bake_takes_the_attribute_and_a_wrong_value_is_named() {
    needs_busybox!();
    let place = Place::new();
    for (flag, why) in [
        ("--cache-to=type=local,dest=c,cache-mounts=some", "`cache-mounts` is true or false, not `some`"),
        ("--cache-from=type=local,src=c,cache-mounts=some", "`cache-mounts` is true or false, not `some`"),
        (
            "--cache-to=type=inline,cache-mounts=true",
            "`cache-mounts=true` is not an attribute of type=inline",
        ),
    ] {
        let refused = place.build("FROM base\n", &[flag]).output().unwrap();
        assert!(!refused.status.success() && told(&refused).contains(why), "{}", told(&refused));
    }
    place.write(
        "docker-bake.hcl",
        "target \"default\" {\n  contexts = { base = \"oci-layout://BASE\" }\n  cache-to = [\"type=local,dest=out,cache-mounts=true\"]\n}\n",
    );
    let text = std::fs::read_to_string(place.join("docker-bake.hcl")).unwrap();
    place.write("docker-bake.hcl", &text.replace("BASE", crate::support::base().to_str().unwrap()));
    place.write("Dockerfile", &fill("id=x,"));
    place.ok(&["bake", "--allow=fs=*"]);
    assert!(has_text(&place.join("out"), MARK));
}
