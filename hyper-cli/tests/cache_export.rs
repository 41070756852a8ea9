//! Caches that machines share: one state folder writes what another one finds.

use crate::peers::{Head, Peer, Registry};
use crate::support::{Built, Place, Who, base, busybox, find, is_root, skip, told, tool, wait_for};
use hyper_sdk::Digest;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A multi-stage file whose steps give something else each time that they run.
pub(crate) const STAGES: &str = "\
FROM base AS made
RUN head -c 16 /dev/urandom | od -An -tx1 > /made && mkdir /deep && cp /made /deep/made
WORKDIR /deep
COPY file copied
RUN head -c 16 /dev/urandom | od -An -tx1 > /later
FROM base AS last
RUN head -c 16 /dev/urandom | od -An -tx1 > /own
COPY --from=made /deep /from
COPY file /file
RUN cat /from/made /own /file > /all
";

macro_rules! needs_busybox {
    () => {
        if busybox().is_none() {
            skip!("there is no static busybox");
        }
    };
}
pub(crate) use needs_busybox;

/// A place with the context of [`STAGES`].
pub(crate) fn machine() -> Place {
    of(Place::new())
}

fn of(place: Place) -> Place {
    let file = std::fs::File::open(place.write("context/file", "content\n")).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    file.set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
    place
}

/// The steps that ran.
pub(crate) fn ran(built: &Built) -> Vec<String> {
    let outcomes = built.outcomes().into_iter();
    outcomes
        .filter(|(name, outcome)| name.starts_with('[') && outcome != "cached")
        .map(|(name, _)| name)
        .collect()
}

/// The tasks with this word.
fn tasks(built: &Built, word: &str) -> Vec<String> {
    built.outcomes().into_keys().filter(|name| name.starts_with(word)).collect()
}

pub(crate) fn warnings(built: &Built) -> Vec<String> {
    let warnings = built.events.iter().filter(|event| event["event"] == "warning");
    warnings.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

/// A registry that counts.
fn registry() -> (Arc<Registry>, Peer) {
    let registry = Arc::new(Registry::default());
    let kept = Arc::clone(&registry);
    (registry, Peer::start(move |head, wire| kept.answer(head, wire)))
}

/// The blobs that were asked for since some requests, by how.
fn asked(peer: &Peer, since: usize, method: &str, part: &str) -> Vec<Head> {
    peer.seen().into_iter().skip(since).filter(|head| head.is(method, part)).collect()
}

fn sub(folder: &Path, flag: &str, key: &str, more: &str) -> String {
    format!("--cache-{flag}=type=local,{key}={}{more}", folder.display())
}

pub(crate) fn flag(place: &Place, name: &str, more: &str) -> (String, String) {
    let folder = place.join(name);
    (sub(&folder, "to", "dest", more), sub(&folder, "from", "src", ""))
}

#[test]
fn another_machine_runs_no_step() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let (to, from) = flag(&one, "cache", ",mode=max");
    let made = one.built(STAGES, &[&to]);
    assert_eq!(ran(&made).len(), 8, "{:?}", made.outcomes());
    let found = two.built(STAGES, &[&from]);
    assert_eq!(ran(&found), [""; 0]);
    assert_eq!(found.digest, made.digest);
    assert_eq!(warnings(&found), [""; 0]);
    // What was fetched is in the cache of this machine.
    let own = ran(&two.built(STAGES, &[]));
    assert!(!own.iter().any(|name| name.starts_with("[last 2/5]")), "{own:?}");
}

#[test]
fn the_epoch_that_is_given_is_part_of_what_is_found() {
    needs_busybox!();
    let (one, two, three) = (machine(), machine(), machine());
    let (to, from) = flag(&one, "cache", ",mode=max");
    let made = one.built(STAGES, &[&to, "--source-date-epoch=1700000000"]);
    let found = two.built(STAGES, &[&from, "--source-date-epoch=1700000000"]);
    assert_eq!((found.digest.as_str(), ran(&found).len()), (made.digest.as_str(), 0));
    let other = three.built(STAGES, &[&from, "--source-date-epoch=1600000000"]);
    assert_eq!(ran(&other).len(), 8);
}

#[test]
fn a_build_that_needs_no_files_fetches_no_layer() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let (registry, peer) = registry();
    let name = format!("{}/team/cache:1", peer.host);
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    let made = one.built(STAGES, &[&to]);
    let manifest = registry.manifest("team/cache", "1");
    let since = peer.seen().len();
    let plan = two.build(STAGES, &["--cache-from", &name, "--dry-run"]).output().unwrap();
    assert!(plan.status.success(), "{}", told(&plan));
    let found = two.built(STAGES, &["--cache-from", &name, "--output=type=cacheonly"]);
    assert_eq!(ran(&found), [""; 0]);
    assert_eq!(tasks(&found, "import ").len(), 1, "{:?}", found.outcomes());
    assert_eq!(
        asked(&peer, since, "GET", "/manifests/").len(),
        2,
        "once for the plan and once for the build"
    );
    // The records, and the indexes that the keys of copies need.
    let fetched = asked(&peer, since, "GET", "/blobs/");
    let kind_of = |head: &Head| kind(&manifest, &head.target);
    let kinds: Vec<String> = fetched.iter().map(kind_of).collect();
    assert!(kinds.iter().any(|kind| kind.contains("index")), "{kinds:?}");
    assert!(kinds.iter().all(|kind| kind.contains("index") || kind.contains("records")), "{kinds:?}");
    // A check reads no cache.
    let since = peer.seen().len();
    let check = two.build(STAGES, &["--cache-from", &name, "--check"]).output().unwrap();
    assert!(check.status.success(), "{}", told(&check));
    assert_eq!(peer.seen().len(), since);
    // With an image the layers of the image come, and no other.
    let since = peer.seen().len();
    let image = two.built(STAGES, &["--cache-from", &name]);
    assert_eq!((ran(&image).len(), image.digest), (0, made.digest));
    let kinds: Vec<String> = asked(&peer, since, "GET", "/blobs/").iter().map(kind_of).collect();
    assert_eq!(kinds.iter().filter(|kind| kind.contains("image.layer")).count(), 4, "{kinds:?}");
    // Whoever has everything asks nobody.
    let since = peer.seen().len();
    one.built(STAGES, &["--cache-from", &name]);
    assert_eq!(peer.seen().len(), since);
}

/// The media type of a blob of a cache, by the path of a request.
fn kind(manifest: &serde_json::Value, target: &str) -> String {
    let mut blobs = manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]);
    let blob = blobs.find(|blob| target.ends_with(blob["digest"].as_str().unwrap()));
    blob.unwrap()["mediaType"].as_str().unwrap().to_owned()
}

#[test]
fn a_second_export_sends_what_is_new() {
    needs_busybox!();
    let one = machine();
    let (registry, peer) = registry();
    let name = format!("{}/team/cache:1", peer.host);
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    one.built(STAGES, &[&to]);
    let (since, sent) = (peer.seen().len(), registry.sent.load(Ordering::SeqCst));
    one.built(STAGES, &[&to]);
    assert_eq!(peer.seen().len() - since, 1, "{:?}", &peer.seen()[since..]);
    assert_eq!(registry.sent.load(Ordering::SeqCst), sent);
    let since = peer.seen().len();
    one.built(&format!("{STAGES}RUN echo more > /more\n"), &[&to]);
    let asked_for = asked(&peer, since, "HEAD", "/blobs/");
    assert!(asked_for.len() <= 4, "the layer, its index, its times and the records: {asked_for:?}");
    assert_eq!(asked(&peer, since, "PUT", "/manifests/").len(), 1);
    assert!(registry.manifest("team/cache", "1")["layers"].as_array().unwrap().len() > 8);
}

#[test]
fn the_smaller_cache_has_the_steps_of_the_image_alone() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let (to, from) = flag(&one, "cache", "");
    let made = one.built(STAGES, &[&to]);
    let found = two.built(STAGES, &[&from]);
    let ran = ran(&found);
    assert_eq!(ran.iter().filter(|name| name.starts_with("[made ")).count(), 4, "{ran:?}");
    assert!(!ran.iter().any(|name| name.starts_with("[last 2/5]")), "{ran:?}");
    assert_ne!(found.digest, made.digest, "the stage ran and made another number");
    let one_stage = "FROM base\nRUN head -c 16 /dev/urandom > /x\n";
    let made = one.built(one_stage, &[&to]);
    let found = two.built(one_stage, &[&from]);
    assert_eq!(found.digest, made.digest);
}

#[test]
fn an_image_can_be_its_own_cache() {
    needs_busybox!();
    let (_, peer) = registry();
    let simple =
        "FROM base\nRUN head -c 16 /dev/urandom | od -An -tx1 > /made\nCOPY file /\nRUN cat /made > /again\n";
    for (tag, asks) in [("a", "--cache-to=type=inline"), ("b", "--build-arg=BUILDKIT_INLINE_CACHE=1")] {
        let (one, two) = (machine(), machine());
        let name = format!("{}/team/app:{tag}", peer.host);
        let made = one.built(simple, &[asks, "-t", &name, "--push"]);
        let found = two.built(simple, &[asks, "--cache-from", &name]);
        assert_eq!((ran(&found).len(), &found.digest), (0, &made.digest), "{:?}", found.outcomes());
        // An image without them says so.
        let bare = format!("{}/team/bare:{tag}", peer.host);
        one.built(simple, &["-t", &bare, "--push"]);
        let warned = warnings(&machine().built(simple, &["--cache-from", &bare])).concat();
        assert!(warned.contains("the image has no records"), "{warned}");
    }
    let one = machine();
    let refused = one.build(simple, &["--cache-to=type=inline", "-o=type=cacheonly"]).output().unwrap();
    assert!(told(&refused).contains("no output is an image"), "{}", told(&refused));
}

#[test]
fn several_caches_are_written_and_read() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let (_, peer) = registry();
    let first = "FROM base\nRUN head -c 16 /dev/urandom > /first\n";
    let both = "FROM base AS a\nRUN head -c 16 /dev/urandom > /first\nFROM base\nRUN head -c 16 /dev/urandom > /second\nCOPY --from=a /first /\n";
    let (to, from) = flag(&one, "cache", ",mode=max,tag=x");
    let from = format!("{from},tag=x");
    let name = format!("{}/c", peer.host);
    let zstd = format!("--cache-to=type=registry,ref={name},mode=max,compression=zstd");
    one.built(first, &[&to]);
    let made = machine().built(both, &[&from, &zstd]);
    assert_eq!(ran(&made).len(), 2, "{:?}", made.outcomes());
    let found = two.built(both, &[&from, "--cache-from", &name]);
    assert_eq!((ran(&found).len(), found.digest), (0, made.digest));
    // Other tags of the layout stay.
    let (more, _) = flag(&one, "cache", ",tag=y");
    one.built(first, &[&more]);
    let found = machine().built(first, &[&from]);
    assert_eq!(ran(&found).len(), 0);
}

#[test]
fn what_cannot_be_read_is_a_warning() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let simple = "FROM base\nRUN head -c 16 /dev/urandom > /x\nRUN cat /x > /y\n";
    let (to, from) = flag(&one, "cache", "");
    let made = one.built(simple, &[&to]);
    let (_, peer) = registry();
    let gone = format!("{}/gone", peer.host);
    let nobody = "127.0.0.1:1/c";
    let missing = sub(&one.join("nowhere"), "from", "src", "");
    let warned = two
        .built(simple, &["--cache-from", &gone, "--cache-from", nobody, &missing, "--output=type=cacheonly"]);
    assert_eq!(ran(&warned).len(), 2, "{:?}", warnings(&warned));
    let left = warnings(&warned).iter().filter(|warning| warning.contains("is not used")).count();
    assert_eq!(left, 3, "{:?}", warnings(&warned));
    // A layer that is not what its digest says, is missing, or is shorter; then records that are not.
    let layers = layers_of(&one.join("cache"));
    assert_eq!(layers.len(), 2);
    for damage in [
        &(|path: &Path| std::fs::write(path, "other").unwrap()) as &dyn Fn(&Path),
        &|path: &Path| std::fs::remove_file(path).unwrap(),
        &|path: &Path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, [&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat())
                .unwrap();
        },
    ] {
        let bytes = std::fs::read(&layers[1]).unwrap();
        damage(&layers[1]);
        let again = machine();
        let healed = again.built(simple, &[&from]);
        let warned = warnings(&healed);
        assert!(warned.iter().any(|warning| warning.contains("has no usable layer")), "{warned:?}");
        assert_eq!(ran(&healed).len(), 1, "{:?}", healed.outcomes());
        let own = again.built(simple, &[]);
        assert_eq!((ran(&own).len(), own.digest), (0, healed.digest));
        std::fs::write(&layers[1], bytes).unwrap();
    }
    assert_eq!(machine().built(simple, &[&from]).digest, made.digest);
    let (records, text) = records_of(&one.join("cache"));
    std::fs::write(&records, text.replace("\"version\":1", "\"version\":7")).unwrap();
    let ignored = machine().built(simple, &[&from]);
    assert_eq!((ran(&ignored).len(), warnings(&ignored).len()), (2, 1), "{:?}", warnings(&ignored));
}

/// The layers of a cache in a folder, the largest first.
pub(crate) fn layers_of(folder: &Path) -> Vec<PathBuf> {
    let mut paths = layers_of_records(folder);
    // The first step made more than the second.
    paths.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |metadata| metadata.len())));
    paths
}

/// The layers of a cache in a folder, in the order of its records.
pub(crate) fn layers_of_records(folder: &Path) -> Vec<PathBuf> {
    let (_, text) = records_of(folder);
    let records: serde_json::Value = serde_json::from_str(&text).unwrap();
    let blobs = records["records"].as_array().unwrap().iter().map(|record| record["blob"].as_str().unwrap());
    let path = |digest: &str| folder.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    blobs.map(path).collect()
}

/// The records of the newest cache in a folder.
fn records_of(folder: &Path) -> (PathBuf, String) {
    let json =
        |path: &Path| -> serde_json::Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let path = |digest: &serde_json::Value| {
        folder.join("blobs/sha256").join(digest.as_str().unwrap().strip_prefix("sha256:").unwrap())
    };
    let index = json(&folder.join("index.json"));
    let newest = index["manifests"].as_array().unwrap().last().unwrap();
    let records = path(&json(&path(&newest["digest"]))["config"]["digest"]);
    let text = std::fs::read_to_string(&records).unwrap();
    (records, text)
}

#[test]
fn a_layer_with_false_records_does_not_stay() {
    needs_busybox!();
    let one = machine();
    let simple = "FROM base\nRUN head -c 16 /dev/urandom > /x\n";
    let (to, from) = flag(&one, "cache", "");
    one.built(simple, &[&to]);
    // The record names a layer that is another one when it is uncompressed. All digests of blobs are right.
    let folder = one.join("cache");
    let (records, text) = records_of(&folder);
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let diff_id = parsed["records"][0]["diff_id"].as_str().unwrap();
    let text = text.replace(diff_id, Digest::sha256("another").as_str());
    std::fs::remove_file(records).unwrap();
    let blob =
        |bytes: &str| std::fs::write(folder.join("blobs/sha256").join(Digest::sha256(bytes).hex()), bytes);
    blob(&text).unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join(digest)).unwrap()).unwrap();
    manifest["config"]["digest"] = Digest::sha256(&text).as_str().into();
    manifest["config"]["size"] = text.len().into();
    let manifest = manifest.to_string();
    blob(&manifest).unwrap();
    let mut index = index;
    index["manifests"][0]["digest"] = Digest::sha256(&manifest).as_str().into();
    index["manifests"][0]["size"] = manifest.len().into();
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let two = machine();
    let healed = two.built(simple, &[&from]);
    assert_eq!(ran(&healed).len(), 1, "{:?}", healed.outcomes());
    assert!(warnings(&healed).concat().contains("has no usable layer"), "{:?}", warnings(&healed));
    let own = two.built(simple, &[]);
    assert_eq!((ran(&own).len(), own.digest), (0, healed.digest));
}

#[test]
fn a_registry_that_goes_away_is_left() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let registry = Arc::new(Registry::default());
    let (kept, left) = (Arc::clone(&registry), Arc::new(OnceLock::<String>::new()));
    let only = Arc::clone(&left);
    let peer = Peer::start(move |head, wire| match only.get() {
        Some(only) if head.is("GET", "/blobs/") && !head.target.ends_with(only) => wire.answer(403, "", "no"),
        _ => kept.answer(head, wire),
    });
    let name = format!("{}/c:1", peer.host);
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    one.built(STAGES, &[&to]);
    // From now on it gives the records alone.
    left.set(registry.manifest("c", "1")["config"]["digest"].as_str().unwrap().to_owned()).unwrap();
    let built = two.built(STAGES, &["--cache-from", &name]);
    assert_eq!(ran(&built).len(), 8, "{:?}", built.outcomes());
    assert!(warnings(&built).concat().contains("cannot be read any more"), "{:?}", warnings(&built));
}

#[test]
fn a_cache_that_cannot_be_written_fails_the_build_unless_that_is_ignored() {
    needs_busybox!();
    let place = machine();
    place.write("full/blobs", "in the place of a folder");
    let (to, _) = flag(&place, "full", "");
    let simple = "FROM base\nRUN echo 1 > /x\n";
    let failed = place.build(simple, &[&to]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", told(&failed));
    assert!(told(&failed).contains("in the place of a folder"), "{}", told(&failed));
    let ignored = place.built(simple, &[&format!("{to},ignore-error=true")]);
    assert!(warnings(&ignored).concat().contains("was not written"), "{:?}", warnings(&ignored));
    assert!(ignored.digest.starts_with("sha256:"));
}

#[test]
fn an_interrupted_export_leaves_the_cache_before() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let registry = Arc::new(Registry::default());
    let (kept, refuses) = (Arc::clone(&registry), Arc::new(AtomicBool::new(false)));
    let refused = Arc::clone(&refuses);
    let peer =
        Peer::start(move |head, wire| match refused.load(Ordering::SeqCst) && head.is("PUT", "/blobs/") {
            true => wire.answer(403, "", "no"),
            false => kept.answer(head, wire),
        });
    let name = format!("{}/c", peer.host);
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    let made = one.built(STAGES, &[&to]);
    refuses.store(true, Ordering::SeqCst);
    let failed = one.build(&format!("{STAGES}RUN echo 1 > /x\n"), &[&to]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", told(&failed));
    let found = two.built(STAGES, &["--cache-from", &name]);
    assert_eq!((ran(&found).len(), found.digest), (0, made.digest));
}

#[test]
fn a_step_that_runs_sees_the_times_of_the_other_machine() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let (to, from) = flag(&one, "cache", ",mode=max");
    let first = "FROM base\nRUN echo 1 > /x && stat -c %y /x > /time\n";
    let both = format!("{first}RUN test \"$(stat -c %y /x)\" = \"$(cat /time)\"\n");
    one.built(first, &[&to]);
    let found = two.built(&both, &[&from]);
    assert_eq!(ran(&found).len(), 1, "{:?}", found.outcomes());
}

#[test]
fn an_imported_record_does_not_replace_an_own_one() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let simple = "FROM base\nRUN head -c 16 /dev/urandom > /x\n";
    let (to, from) = flag(&one, "cache", "");
    let (made, own) = (one.built(simple, &[&to]), two.built(simple, &[]));
    assert_ne!(made.digest, own.digest);
    assert_eq!(two.built(simple, &[&from]).digest, own.digest);
    let anew = machine().built(simple, &[&from, "--no-cache"]);
    assert_eq!(ran(&anew).len(), 1);
}

#[test]
fn no_secret_is_in_a_cache() {
    needs_busybox!();
    let place = machine();
    let (to, _) = flag(&place, "cache", ",mode=max,compression=uncompressed");
    place.write("secret", "hunter2hunter2");
    let file = "FROM base\nARG NAME\nRUN --mount=type=secret,id=s cat /run/secrets/s > /dev/null && echo \"$NAME\" > /dev/null\n";
    let secret = format!("--secret=id=s,src={}", place.join("secret").display());
    place.built(file, &[&to, &secret, "--build-arg=NAME=argument-of-the-build"]);
    for entry in std::fs::read_dir(place.join("cache/blobs/sha256")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for text in
            ["hunter2hunter2", "argument-of-the-build", "run/secrets", place.join("state").to_str().unwrap()]
        {
            assert!(!bytes.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
        }
    }
}

#[test]
fn targets_of_bake_share_caches() {
    needs_busybox!();
    let (one, two) = (machine(), machine());
    let folder = one.join("cache");
    let bake = |place: &Place, more: &[&str]| {
        place.write("Dockerfile", STAGES);
        let file = format!(
            "target \"app\" {{\n context = \"{}\"\n dockerfile = \"{}\"\n contexts = {{ base = \"oci-layout://{}\" }}\n \
             output = [\"type=cacheonly\"]\n cache-to = [\"type=local,dest={},mode=max\"]\n}}\n",
            place.join("context").display(),
            place.join("Dockerfile").display(),
            base().display(),
            folder.display()
        );
        let file = place.write("docker-bake.hcl", &file);
        let mut command = place.hyper(&["bake", "--progress=json", "--allow=fs=*", "-f"]);
        let output = command.arg(file).arg("app").args(more).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        Built::of(&output)
    };
    let steps = |built: &Built| {
        let outcomes = built.outcomes().into_iter();
        outcomes.filter(|(name, outcome)| name.contains("RUN") && outcome != "cached").count()
    };
    assert_eq!(steps(&bake(&one, &[])), 4);
    let from = format!("app.cache-from=type=local,src={}", folder.display());
    assert_eq!(steps(&bake(&two, &["--set", &from, "--set", "app.cache-to="])), 0);
}

#[test]
fn an_ordinary_user_shares_caches_with_root() {
    needs_busybox!();
    if !is_root() || find("setpriv").is_none() {
        skip!("only root becomes another user");
    }
    let (root, user) = (machine(), of(Place::of(Who::Id(54_321))));
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(54_321), Some(54_321)).unwrap();
    std::os::unix::fs::chown(user.join("context"), Some(54_321), Some(54_321)).unwrap();
    let cache = folder.path().join("cache");
    let (to, from) = (sub(&cache, "to", "dest", ",mode=max"), sub(&cache, "from", "src", ""));
    let made = user.built(STAGES, &[&to]);
    let found = root.built(STAGES, &[&from]);
    assert_eq!((ran(&found).len(), found.digest), (0, made.digest));
}

#[test]
fn a_real_registry_keeps_a_cache() {
    needs_busybox!();
    if find("docker-registry").is_none() {
        skip!("there is no docker-registry");
    }
    let place = machine();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        place.join("registry").display()
    );
    let config = place.write("registry.yml", &text);
    let mut server = tool("docker-registry", &place.join("home"))
        .arg("serve")
        .arg(config)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the registry listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let outcome = std::panic::catch_unwind(|| there_and_back(&format!("127.0.0.1:{port}/team/cache:1")));
    server.kill().unwrap();
    server.wait().unwrap();
    outcome.unwrap();
}

#[test]
fn the_own_registry_keeps_a_cache() {
    needs_busybox!();
    let registry = crate::support::Registry::start();
    there_and_back(&format!("{}/team/cache:1", registry.host));
}

fn there_and_back(name: &str) {
    let to = format!("--cache-to=type=registry,ref={name},mode=max");
    let made = machine().built(STAGES, &[&to]);
    let found = machine().built(STAGES, &["--cache-from", name]);
    assert_eq!((ran(&found).len(), found.digest), (0, made.digest));
}
