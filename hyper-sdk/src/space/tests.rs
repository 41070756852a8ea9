//! Clean-ups of a state folder beside running work.

use super::*;
use crate::cache::{CacheRecord, DiskCache};
use crate::clock::{Clock as _, SystemClock};
use crate::oci::{Descriptor, ImageIndex, ImageManifest, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::solve::LAYERS_REPOSITORY;
use crate::store::blob::BlobBackend as _;
use crate::store::wrap::{FaultPlan, FaultyMeta, InUse};
use crate::store::{Composed, MemoryStore, PutManifest, RegistryStore as _, RegistryStoreExt as _};
use crate::testing::{FrozenClock, PlainSnapshotter};
use crate::uses::{Use, UseKind};
use crate::{Digest, media_type};
use std::sync::Arc;
use std::time::Duration;

/// A state folder with a store in memory.
pub(super) struct State {
    pub(super) space: Space,
    blobs: MemoryStore,
    _folder: tempfile::TempDir,
}

fn layers() -> RepositoryName {
    RepositoryName::parse(LAYERS_REPOSITORY).unwrap()
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn key(text: &str) -> Digest {
    Digest::sha256(format!("key of {text}"))
}

/// File times and the beginnings of work are as exact as the clock of the kernel.
async fn moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

impl State {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, blobs) = (folder.path().to_owned(), MemoryStore::default());
        let cache = Arc::new(DiskCache::open(root.join("cache")).unwrap());
        let snapshotter = Arc::new(PlainSnapshotter::new().unwrap());
        let space = Space { root, store: Arc::new(blobs.clone()), cache, snapshotter, local: None };
        Self { space, blobs, _folder: folder }
    }

    /// A layer in the store, as a build uploads it.
    async fn upload(&self, text: &str) -> Descriptor {
        self.blobs.put_bytes(&layers(), media_type::OCI_LAYER, text.to_owned().into()).await.unwrap()
    }

    /// The record of a layer that was uploaded.
    async fn record(&self, text: &str) {
        let layer = Descriptor::of(media_type::OCI_LAYER, text.as_bytes());
        let record = CacheRecord::of_blob(layer, Digest::sha256(text), layers());
        self.space.cache.put(&key(text), &record).await.unwrap();
    }

    async fn layer(&self, text: &str) {
        self.upload(text).await;
        self.record(text).await;
    }

    /// An image of a layer that the builder has.
    async fn image(&self, repository: &str, layer: &str, tags: &[&str]) -> Digest {
        let at = name(repository);
        let digest = Digest::sha256(layer);
        self.blobs.mount_blob(&at, &digest, &layers()).await.unwrap();
        let config = self.blobs.put_bytes(&at, media_type::OCI_CONFIG, "{}".into()).await.unwrap();
        let layer = Descriptor::new(media_type::OCI_LAYER, digest, layer.len() as u64);
        let manifest = Manifest::sniff(ImageManifest::new(config, vec![layer]).to_bytes()).unwrap();
        let tags = tags.iter().map(|tag| Tag::parse(tag).unwrap());
        self.blobs.put_manifest(&at, PutManifest::new(manifest, tags)).await.unwrap().digest
    }

    async fn prune(&self) -> Pruned {
        self.space.prune(&PruneOptions::default()).await.unwrap()
    }

    async fn has(&self, text: &str) -> bool {
        self.blobs.has_blob(&layers(), &Digest::sha256(text)).await.unwrap()
    }

    async fn knows(&self, text: &str) -> bool {
        self.space.cache.list(None, 1000).await.unwrap().iter().any(|entry| entry.key == key(text))
    }

    /// How many blobs take space.
    async fn stored(&self) -> usize {
        self.blobs.blobs().list(None, 1000).await.unwrap().items.len()
    }

    fn work(&self) -> Use {
        Use::begin_blocking(&self.space.root, UseKind::Work).unwrap()
    }
}

#[tokio::test]
async fn unused_layers_go_with_their_records_and_images_stay() {
    let state = State::new();
    for text in ["one", "two"] {
        state.layer(text).await;
    }
    state.image("docker.io/library/app", "one", &["latest"]).await;
    let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let planned = state.space.prune(&dry).await.unwrap();
    assert!(planned.removed.len() == 2 && state.has("two").await, "{planned:?}");
    let pruned = state.prune().await;
    assert_eq!((pruned.removed.len(), pruned.freed, pruned.in_use), (2, 3, 0), "{pruned:?}");
    assert!(!state.has("one").await && !state.has("two").await && !state.knows("one").await);
    let app = name("docker.io/library/app");
    assert_eq!(state.blobs.read_blob(&app, &Digest::sha256("one"), 9).await.unwrap(), "one");
    assert_eq!(state.stored().await, 2);
}

/// The manifest of a layout is not in the store: the note of the layer alone keeps it.
#[tokio::test]
async fn the_layer_of_a_layout_stays_until_it_is_its_turn() {
    let state = State::new();
    for (text, repository) in [("of a layout", "hyper.local/layouts"), ("of a source", "hyper.local/others")]
    {
        let repository = name(repository);
        let text = text.to_owned();
        let layer =
            state.blobs.put_bytes(&repository, media_type::OCI_LAYER, text.clone().into()).await.unwrap();
        let record = CacheRecord::of_blob(layer, Digest::sha256(&text), repository);
        state.space.cache.put(&key(&text), &record).await.unwrap();
    }
    let kept = PruneOptions { max_used: Some(1 << 20), ..PruneOptions::default() };
    let pruned = state.space.prune(&kept).await.unwrap();
    assert!(pruned.removed.is_empty() && state.stored().await == 2, "{pruned:?}");
    assert!(state.knows("of a layout").await && state.knows("of a source").await);
    let pruned = state.prune().await;
    assert_eq!((pruned.removed.len(), pruned.freed, state.stored().await), (2, 22, 0), "{pruned:?}");
}

#[tokio::test]
async fn what_running_work_found_or_made_stays() {
    let state = State::new();
    for text in ["found", "unused"] {
        state.layer(text).await;
    }
    moment().await;
    let work = state.work();
    moment().await;
    assert!(state.space.cache.get(&key("found")).await.unwrap().is_some());
    state.layer("made").await;
    // Uploaded, and without a record yet.
    state.upload("uploaded").await;
    let pruned = state.prune().await;
    assert_eq!(pruned.in_use, 2, "{pruned:?}");
    for text in ["found", "made", "uploaded"] {
        assert!(state.has(text).await, "{text} was removed");
    }
    assert!(!state.knows("unused").await && state.knows("found").await);
    state.record("uploaded").await;
    drop(work);
    state.prune().await;
    assert_eq!(state.stored().await, 0);
}

/// Another build can have replaced the record by which a layer was found, or it has another record that is old.
#[tokio::test]
async fn a_layer_that_running_work_found_stays_without_a_record() {
    let state = State::new();
    let clock = Arc::new(FrozenClock::new(SystemClock.now() - 3600));
    let store = state.blobs.clone().with_clock(clock.clone());
    for text in ["found", "unused"] {
        store.put_bytes(&layers(), media_type::OCI_LAYER, text.into()).await.unwrap();
    }
    clock.advance(3600);
    let _work = state.work();
    let used = InUse::new(Arc::new(store));
    assert!(used.has_blob(&layers(), &Digest::sha256("found")).await.unwrap());
    state.prune().await;
    assert!(state.has("found").await && !state.has("unused").await);
}

/// Leases end with full seconds, and those of one second differ by nothing.
#[tokio::test]
async fn a_layer_that_work_made_in_its_first_second_stays() {
    let state = State::new();
    // The end of a lease is rounded up to such a time.
    let now = SystemClock.now() / 600 * 600;
    for (made, stays) in [(now, true), (now - 600, false)] {
        let store = state.blobs.clone().with_clock(Arc::new(FrozenClock::new(made)));
        store.put_bytes(&layers(), media_type::OCI_LAYER, "made".into()).await.unwrap();
        let work = state.work();
        let began = std::time::UNIX_EPOCH + Duration::from_secs(now as u64);
        let uses = std::fs::read_dir(state.space.root.join("uses")).unwrap().flatten();
        for file in uses.filter(|file| file.file_name().to_string_lossy().starts_with("work-")) {
            std::fs::File::options().write(true).open(file.path()).unwrap().set_modified(began).unwrap();
        }
        state.prune().await;
        assert_eq!(state.has("made").await, stays, "made at {made}");
        drop(work);
        state.prune().await;
    }
}

/// A step that runs anew can make the layer that an old record names.
#[tokio::test]
async fn a_layer_that_running_work_made_again_stays_without_its_old_record() {
    let state = State::new();
    state.layer("one").await;
    moment().await;
    let _work = state.work();
    state.upload("one").await;
    state.prune().await;
    assert!(!state.knows("one").await && state.has("one").await);
}

#[tokio::test]
async fn the_least_recently_used_goes_first_until_the_limit_is_kept() {
    let state = State::new();
    for text in ["aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc"] {
        state.layer(text).await;
        moment().await;
    }
    assert!(state.space.cache.get(&key("aaaaaaaaaa")).await.unwrap().is_some());
    let size = state.space.usage().await.unwrap();
    let size: u64 = size.items.iter().filter(|item| item.prunable).map(|item| item.size).sum();
    let options = PruneOptions { max_used: Some(size - 1), ..PruneOptions::default() };
    let pruned = state.space.prune(&options).await.unwrap();
    assert_eq!(pruned.removed.len(), 1);
    assert!(!state.knows("bbbbbbbbbb").await && state.knows("aaaaaaaaaa").await);
    let kept = state.space.keep_to(CacheLimit::Bytes(0)).await.unwrap();
    assert_eq!(kept.removed.len(), 2);
    assert_eq!(state.stored().await, 0);
    // The survey says that there is nothing more.
    state.layer("dddd").await;
    assert!(state.space.keep_to(CacheLimit::Bytes(1 << 30)).await.unwrap().removed.is_empty());
    assert!(state.space.keep_to(CacheLimit::Off).await.unwrap().removed.is_empty());
}

/// Whether the log is there depends on who has the database open, and the count itself opens it.
#[tokio::test]
async fn the_log_of_an_open_database_does_not_count() {
    let state = State::new();
    let at = |name: &str| state.space.root.join("store").join(name);
    std::fs::create_dir_all(at("")).unwrap();
    std::fs::write(at("hyper.db"), vec![1; 90_000]).unwrap();
    let closed = state.space.usage().await.unwrap();
    std::fs::write(at("hyper.db-wal"), vec![1; 100_000]).unwrap();
    std::fs::write(at("hyper.db-shm"), vec![1; 32_768]).unwrap();
    let open = state.space.usage().await.unwrap();
    let of_database =
        |usage: &SpaceUsage| usage.items.iter().find(|item| item.kind == SpaceKind::Database).unwrap().size;
    assert!(closed.total > of_database(&closed) && of_database(&closed) >= 90_000, "{closed:?}");
    assert_eq!((open.total, of_database(&open)), (closed.total, of_database(&closed)));
    let sum: u64 = open.items.iter().map(|item| item.size).sum();
    assert_eq!(sum, open.total);
}

#[tokio::test]
async fn a_removed_name_gives_its_space_back_when_no_work_uses_it() {
    let state = State::new();
    let at = name("docker.io/library/app");
    for (text, tag) in [("one", "1"), ("two", "2")] {
        state.upload(text).await;
        state.image(at.as_str(), text, &[tag]).await;
        // The cache of the builder has forgotten the layer.
        state.blobs.delete_blob(&layers(), &Digest::sha256(text)).await.unwrap();
    }
    let remove = async |tag: &str| {
        let tag = Tag::parse(tag).unwrap().into();
        let digest = state.blobs.get_manifest(&at, &tag).await.unwrap().digest().clone();
        let family = family_of(&state.blobs, &at, &digest).await.unwrap();
        state.blobs.delete_manifest(&at, &tag).await.unwrap();
        let family = family.into_iter().map(|digest| (at.clone(), digest)).collect();
        release(&state.space.root, &state.space.store, family).await.unwrap();
    };
    assert_eq!(state.stored().await, 3);
    remove("1").await;
    assert_eq!(state.stored().await, 2, "the config is that of the other image too");
    let work = state.work();
    remove("2").await;
    state.space.keep_to(CacheLimit::Off).await.unwrap();
    assert_eq!(state.stored().await, 2, "running work may use it");
    drop(work);
    state.space.keep_to(CacheLimit::Off).await.unwrap();
    assert_eq!(state.stored().await, 0);
    assert!(!state.space.root.join("uses/released").exists());
}

#[tokio::test]
async fn another_name_keeps_an_image_whose_name_was_removed() {
    let state = State::new();
    state.upload("one").await;
    let at = "docker.io/library/app";
    let digest = state.image(at, "one", &["1", "2"]).await;
    state.blobs.delete_manifest(&name(at), &Tag::parse("1").unwrap().into()).await.unwrap();
    release(&state.space.root, &state.space.store, [(name(at), digest)].into()).await.unwrap();
    let left = state.blobs.get_manifest(&name(at), &Tag::parse("2").unwrap().into()).await;
    assert!(left.is_ok());
    assert_eq!(state.blobs.read_blob(&name(at), &Digest::sha256("one"), 9).await.unwrap(), "one");
}

/// A client of a server was told that a blob is there, and is about to name it.
#[tokio::test]
async fn blobs_with_leases_stay_while_a_server_runs() {
    let state = State::new();
    let at = name("docker.io/library/app");
    state.blobs.put_bytes(&at, media_type::OCI_LAYER, "pushed".into()).await.unwrap();
    state.layer("one").await;
    let server = Use::begin_blocking(&state.space.root, UseKind::Server).unwrap();
    state.prune().await;
    assert!(state.blobs.has_blob(&at, &Digest::sha256("pushed")).await.unwrap());
    assert!(!state.has("one").await, "the cache is no business of a server");
    drop(server);
    state.prune().await;
    assert_eq!(state.stored().await, 0);
}

#[tokio::test]
async fn images_without_a_name_go_and_index_entries_of_named_ones_stay() {
    let state = State::new();
    state.layer("one").await;
    state.layer("two").await;
    let at = "docker.io/library/app";
    state.image(at, "one", &["latest"]).await;
    // The tag moves on.
    let digest = state.image(at, "two", &["latest"]).await;
    let usage = state.space.usage().await.unwrap();
    let of = |kind| usage.items.iter().filter(move |item| item.kind == kind).collect::<Vec<_>>();
    let (named, untagged) = (of(SpaceKind::Image), of(SpaceKind::Untagged));
    assert!(named.len() == 1 && named[0].id == digest.to_string(), "{named:?}");
    assert!(untagged.len() == 1 && untagged[0].prunable, "{untagged:?}");
    let filters = vec!["type=untagged".parse().unwrap()];
    let pruned = state.space.prune(&PruneOptions { filters, ..PruneOptions::default() }).await.unwrap();
    assert_eq!(pruned.removed.len(), 1);
    assert!(state.has("one").await, "its record names it");
    state.prune().await;
    // The layer and the config of the image that has a name.
    assert_eq!(state.stored().await, 2);
}

#[tokio::test]
async fn folders_go_by_the_use_of_their_markers() {
    let state = State::new();
    let at = |text: &str| state.space.root.join(text);
    for folder in ["mounts/old", "mounts/new", "sources/web/old", "sources/checkouts/old", "sources/git/home"]
    {
        std::fs::create_dir_all(at(folder)).unwrap();
        std::fs::write(at(folder).join("file"), "content").unwrap();
    }
    std::fs::create_dir_all(at("indexes")).unwrap();
    std::fs::create_dir_all(at("logs")).unwrap();
    std::fs::write(at("indexes").join(Digest::sha256("one").hex()), "index").unwrap();
    std::fs::write(at("logs/build-1.log"), "log").unwrap();
    std::fs::create_dir_all(at("history")).unwrap();
    for name in ["a.steps", "a.json", "steps.key"] {
        std::fs::write(at("history").join(name), "record").unwrap();
    }
    // The folders are from yesterday, and one was used since.
    let yesterday = std::time::SystemTime::now() - Duration::from_secs(24 * 60 * 60);
    for folder in ["mounts/old", "mounts/new"] {
        std::fs::File::open(at(folder)).unwrap().set_modified(yesterday).unwrap();
    }
    crate::uses::mark(&at("mounts/new"));
    let seconds = yesterday.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let usage = state.space.usage().await.unwrap();
    let used =
        |id: &str, kind| usage.items.iter().find(|i| i.id == id && i.kind == kind).unwrap().used.unwrap();
    assert_eq!(used("old", SpaceKind::CacheMount), seconds);
    assert!(used("new", SpaceKind::CacheMount) > seconds + 60 * 60);
    let total: u64 = usage.items.iter().map(|item| item.size).sum();
    assert_eq!(total, usage.total);
    let work = state.work();
    assert_eq!(state.prune().await.removed.len(), 0, "work may use them");
    drop(work);
    let options =
        PruneOptions { filters: vec!["type=cache-mount".parse().unwrap()], ..PruneOptions::default() };
    assert_eq!(state.space.prune(&options).await.unwrap().removed.len(), 2);
    assert!(!at("mounts/old").exists() && !at("mounts/new.used").exists() && at("sources/web/old").exists());
    state.prune().await;
    assert!(!at("sources/web/old").exists() && !at("sources/checkouts/old").exists());
    assert!(at("sources/git/home").exists() && at("logs/build-1.log").exists());
    assert!(at("history/a.steps").exists());
    assert_eq!(std::fs::read_dir(at("indexes")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(at("mounts")).unwrap().count(), 0, "nothing is left aside");
    state.space.prune(&PruneOptions { all: true, ..PruneOptions::default() }).await.unwrap();
    assert!(!at("logs/build-1.log").exists() && !at("history/a.steps").exists());
    assert!(at("history/a.json").exists() && at("history/steps.key").exists());
}

/// A clean-up that was killed leaves what it had taken away.
#[tokio::test]
async fn what_an_interrupted_clean_up_left_goes_with_the_next_and_is_no_item() {
    let state = State::new();
    let at = |text: &str| state.space.root.join(text);
    let left = ["mounts/.removed-1-0-5/a", "sources/git/.removed-1-1-5/a", "scratch/removed-x/0"];
    for left in left {
        std::fs::create_dir_all(at(left)).unwrap();
    }
    for left in ["indexes", "sources/images", "logs", "history"] {
        std::fs::create_dir_all(at(left)).unwrap();
        std::fs::write(at(left).join(".removed-1-2-5"), "x").unwrap();
    }
    let usage = state.space.usage().await.unwrap();
    assert!(usage.items.iter().all(|item| !item.prunable), "{:?}", usage.items);
    assert!(state.prune().await.removed.is_empty());
    for folder in ["mounts", "sources/git", "scratch", "indexes", "sources/images", "logs", "history"] {
        assert_eq!(std::fs::read_dir(at(folder)).unwrap().count(), 0, "{folder}");
    }
}

/// What killed builds left goes after a minute when nobody works, and stays while somebody does.
#[tokio::test]
async fn temporary_files_of_killed_builds_go_when_nobody_works() {
    let state = State::new();
    let left = ["cache/ab/.tmpAbCdEf", ".tmp123456", "uses/.tmpabcdef"];
    let earlier = std::time::SystemTime::now() - Duration::from_secs(120);
    for left in left {
        let path = state.space.root.join(left);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().set_modified(earlier).unwrap();
    }
    let new = state.space.root.join(".tmpNewOne");
    std::fs::write(&new, "x").unwrap();
    let count = || left.iter().filter(|left| state.space.root.join(left).exists()).count();
    let work = Use::begin(&state.space.root, UseKind::Work).await.unwrap();
    state.prune().await;
    assert_eq!(count(), left.len());
    drop(work);
    let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
    state.space.prune(&dry).await.unwrap();
    assert_eq!(count(), left.len(), "a dry run removes nothing");
    state.prune().await;
    assert_eq!(count(), 0);
    assert!(new.exists(), "a builder that is being opened may need it");
}

/// Two indexes have one entry, and only one of them loses its name by removal.
#[tokio::test]
async fn an_index_without_a_name_stays_whole_when_another_with_its_entries_is_removed() {
    let state = State::new();
    let at = name("docker.io/library/app");
    state.upload("one").await;
    let entry = state.image(at.as_str(), "one", &[]).await;
    let put = async |note: &str| {
        let manifest = state.blobs.get_manifest(&at, &entry.clone().into()).await.unwrap();
        let mut index = ImageIndex::new(vec![manifest.descriptor()]);
        index.annotations.insert("note".to_owned(), note.to_owned());
        let index = Manifest::sniff(serde_json::to_vec(&index).unwrap()).unwrap();
        let put = PutManifest::new(index, [Tag::parse("1").unwrap()]);
        state.blobs.put_manifest(&at, put).await.unwrap().digest
    };
    let first = put("first").await;
    let second = put("second").await;
    let family = family_of(&state.blobs, &at, &second).await.unwrap();
    state.blobs.delete_manifest(&at, &Tag::parse("1").unwrap().into()).await.unwrap();
    let family = family.into_iter().map(|digest| (at.clone(), digest)).collect();
    release(&state.space.root, &state.space.store, family).await.unwrap();
    let has = async |digest: &Digest| state.blobs.get_manifest(&at, &digest.clone().into()).await.is_ok();
    assert!(!has(&second).await && has(&first).await);
    assert!(has(&entry).await, "the first index has it too");
    assert_eq!(state.blobs.read_blob(&at, &Digest::sha256("one"), 9).await.unwrap(), "one");
    state.prune().await;
    assert!(!has(&first).await && !has(&entry).await);
    assert_eq!(state.stored().await, 0);
}

#[tokio::test]
async fn what_came_back_after_its_name_was_removed_stays() {
    let state = State::new();
    let at = "docker.io/library/app";
    state.upload("one").await;
    let digest = state.image(at, "one", &[]).await;
    let note = state.space.root.join("uses/released");
    std::fs::create_dir_all(note.parent().unwrap()).unwrap();
    // The second line was cut short.
    for (time, stays) in [(1000, true), (crate::clock::SystemClock.now() + 60, false)] {
        std::fs::write(&note, format!("{at} {digest} {time}\n{at} {digest} 9999999999")).unwrap();
        state.space.keep_to(CacheLimit::Off).await.unwrap();
        let found = state.blobs.get_manifest(&name(at), &digest.clone().into()).await;
        assert_eq!((found.is_ok(), note.exists()), (stays, false), "{time}");
    }
}

/// The index was stored again after its removal, and its entry was not; another image was removed later.
#[tokio::test]
async fn an_index_that_came_back_after_its_name_was_removed_stays_whole() {
    let state = State::new();
    let at = name("docker.io/library/app");
    let put = async |manifest: Manifest| {
        state.blobs.put_manifest(&at, PutManifest::new(manifest, [])).await.unwrap().digest
    };
    for text in ["one", "two"] {
        state.upload(text).await;
    }
    let entry = state.image(at.as_str(), "one", &[]).await;
    let other = state.image(at.as_str(), "two", &[]).await;
    let manifest = state.blobs.get_manifest(&at, &entry.clone().into()).await.unwrap();
    let index = put(Manifest::sniff(ImageIndex::new(vec![manifest.descriptor()]).to_bytes()).unwrap()).await;
    let (now, note) = (SystemClock.now(), state.space.root.join("uses/released"));
    let lines = [(&entry, now + 60), (&index, now - 60), (&other, now + 90)];
    let lines = lines.map(|(digest, time)| format!("{at} {digest} {time}\n"));
    std::fs::create_dir_all(note.parent().unwrap()).unwrap();
    std::fs::write(&note, lines.concat()).unwrap();
    state.space.keep_to(CacheLimit::Off).await.unwrap();
    let has = async |digest: &Digest| state.blobs.get_manifest(&at, &digest.clone().into()).await.is_ok();
    assert!(has(&index).await && has(&entry).await && !has(&other).await);
}

/// The work depends on how many images were removed, and not on when each was.
#[tokio::test]
async fn a_name_that_was_removed_in_another_second_costs_no_collection_of_its_own() {
    let mut operations = Vec::new();
    for seconds in [1, 40] {
        let mut state = State::new();
        let at = name("docker.io/library/app");
        let (now, mut lines) = (SystemClock.now(), String::new());
        for number in 0..40 {
            let text = format!("layer {number}");
            state.upload(&text).await;
            let digest = state.image(at.as_str(), &text, &[]).await;
            lines.push_str(&format!("{at} {digest} {}\n", now + 60 + number % seconds));
        }
        let note = state.space.root.join("uses/released");
        std::fs::create_dir_all(note.parent().unwrap()).unwrap();
        std::fs::write(&note, lines).unwrap();
        let plan = FaultPlan::none();
        let meta = FaultyMeta::new(state.blobs.meta().clone(), plan.clone());
        state.space.store = Arc::new(Composed::new(state.blobs.blobs().clone(), meta));
        state.space.keep_to(CacheLimit::Off).await.unwrap();
        let left = images::untagged_of(&state.blobs, [at].into()).await.unwrap();
        assert!(left.is_empty() && !note.exists(), "{left:?}");
        operations.push(plan.operations());
    }
    assert_eq!(operations[0], operations[1]);
}

#[tokio::test]
async fn an_image_that_a_client_of_a_server_stored_just_now_is_not_told_to_be_removed() {
    let state = State::new();
    state.upload("one").await;
    let at = name("docker.io/library/app");
    let digest = state.image(at.as_str(), "one", &[]).await;
    let server = Use::begin_blocking(&state.space.root, UseKind::Server).unwrap();
    let pruned = state.prune().await;
    assert!(state.blobs.get_manifest(&at, &digest.into()).await.is_ok());
    assert_eq!((pruned.removed.len(), pruned.in_use), (0, 1), "{pruned:?}");
    drop(server);
    assert_eq!(state.prune().await.removed.len(), 1);
}
