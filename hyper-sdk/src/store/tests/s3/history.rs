//! Random histories of two servers on one PostgreSQL and one bucket, which fail at random: what was acknowledged is there, and
//! nothing else stays.
//!
//! Three clients push in chunks to either server, mount, tag and delete; a collector runs beside them. Each client knows what
//! its repository must have, and what it may have because an answer was lost. `HYPER_HISTORY_SEED` is the first seed, and
//! `HYPER_HISTORY_SECONDS` says for how long histories are run, one seed after the other.

use super::*;
use crate::clock::{Clock as _, FrozenClock, SystemClock};
use crate::media_type;
use crate::oci::{Descriptor, ImageManifest, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::BlobBackend as _;
use crate::store::errors::is_other_content;
use crate::store::meta::{MetaBackend as _, SqlMeta};
use crate::store::{CollectOptions, PutManifest, UploadId};
use crate::testing::{Act, Front, PostgresServer, Random, given};
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type Store = Composed<S3Blobs, SqlMeta>;

const CLIENTS: usize = 3;
const STEPS: usize = 40;
const TAGS: [&str; 3] = ["one", "two", "three"];
/// Shared by all clients. Two of them have more than one part.
const SIZES: [usize; 8] = [10, 1000, 70_000, 300_000, 400_000, 1_000_000, 9_000_000, 17_500_000];

/// A blob of the histories; with a twist, one of the same size and another end.
fn content(n: usize) -> Bytes {
    static ALL: OnceLock<Vec<Bytes>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        SIZES.iter().enumerate().map(|(n, size)| Random::new(n as u64).bytes(*size).into()).collect()
    });
    all[n].clone()
}

/// What an answer says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    There,
    Gone,
    /// The answer was lost.
    Perhaps,
}

/// What a client knows of its repository.
#[derive(Debug, Default)]
struct Model {
    blobs: BTreeMap<Digest, (Bytes, Known)>,
    manifests: BTreeMap<Digest, (BTreeSet<Digest>, Known)>,
    /// What a tag may name; `None` for nothing.
    tags: BTreeMap<&'static str, BTreeSet<Option<Digest>>>,
}

impl Model {
    fn blobs_that_are_there(&self) -> Vec<Digest> {
        self.blobs.iter().filter(|(_, (_, known))| *known == Known::There).map(|(d, _)| d.clone()).collect()
    }

    fn is_used(&self, blob: &Digest) -> bool {
        self.manifests.values().any(|(blobs, known)| *known != Known::Gone && blobs.contains(blob))
    }
}

struct Servers {
    stores: [Store; 2],
}

struct Client {
    servers: Arc<Servers>,
    name: RepositoryName,
    others: Vec<RepositoryName>,
    random: Random,
    model: Model,
    told: Vec<String>,
}

/// An error that a client of a registry in trouble may get, and can answer by trying again.
fn is_trouble(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}

impl Client {
    fn store(&mut self) -> Store {
        let number = self.random.below(2);
        self.servers.stores[number].clone()
    }

    /// What a failed test shows.
    fn told(&self) -> String {
        format!("{}: {:#?}", self.name, self.told)
    }

    fn know(&mut self, bytes: &Bytes, known: Known) {
        let digest = Digest::sha256(bytes);
        let entry = self.model.blobs.entry(digest).or_insert((bytes.clone(), Known::Gone));
        // A push whose answer was lost takes nothing away.
        if known != Known::Perhaps || entry.1 == Known::Gone {
            entry.1 = known;
        }
    }

    async fn step(&mut self) {
        let n = match self.random.below(10) {
            0 => 6 + self.random.below(2),
            _ => self.random.below(6),
        };
        match self.random.below(12) {
            0..=3 => self.push_in_chunks(n).await,
            4 => self.push_at_once(n).await,
            5 => self.mount(n).await,
            6..=7 => self.put_manifest().await,
            8 => self.delete_tag().await,
            9 => self.delete_manifest().await,
            10 => self.delete_blob().await,
            _ => self.read().await,
        }
    }

    async fn push_at_once(&mut self, n: usize) {
        let (store, bytes) = (self.store(), content(n));
        let pushed = store.put_blob(&self.name, &Digest::sha256(&bytes), bytes.clone()).await;
        self.told.push(format!("push blob {n} at once: {:?}", pushed.as_ref().err()));
        self.pushed(&bytes, pushed.map(drop));
    }

    fn pushed(&mut self, bytes: &Bytes, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.know(bytes, Known::There),
            Err(e) if is_trouble(&e) => self.know(bytes, Known::Perhaps),
            Err(e) => panic!("{e:?}\n{}", self.told()),
        }
    }

    /// Pushes a blob in chunks, to one server or the other, and sometimes by two writers at once, one of which may have other
    /// bytes.
    async fn push_in_chunks(&mut self, n: usize) {
        let store = self.store();
        let mut bytes = content(n);
        let Ok(upload) = store.start_upload(&self.name, Default::default()).await else { return };
        let id = upload.id().clone();
        drop(upload);
        let mut acknowledged = 0;
        // What the session may be sealed with: the answers to these were troubles.
        let mut tried: Vec<Digest> = Vec::new();
        for attempt in 0..40 {
            let store = self.store();
            let mut upload = match store.resume_upload(&self.name, &id).await {
                Ok(upload) => upload,
                Err(e) if is_trouble(&e) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                // The answer to the request that ended it was lost.
                Err(e) if e.kind() == ErrorKind::UploadUnknown && self.is_there(&bytes).await => {
                    self.know(&bytes, Known::There);
                    return;
                }
                Err(e) => panic!("attempt {attempt} of blob {n}: {e:?}\n{}", self.told()),
            };
            let offset = upload.offset() as usize;
            assert!(offset >= acknowledged, "{offset} of {acknowledged} acknowledged bytes\n{}", self.told());
            acknowledged = offset;
            let left = bytes.len() - offset;
            let most = if self.random.once_in(2) { left } else { (left / 2).max(1) };
            let end = offset + most.min(left);
            if end < bytes.len() && self.random.once_in(3) {
                drop(upload);
                match self.race(&id, offset, bytes.slice(offset..end)).await {
                    Some(all) => {
                        let changed: Bytes = [&bytes[..offset], &all[..]].concat().into();
                        acknowledged = changed.len();
                        bytes = [&changed[..], &bytes[changed.len().min(bytes.len())..]].concat().into();
                        continue;
                    }
                    // Nobody knows whose bytes they are.
                    None => return self.give_up(&id).await,
                }
            }
            let is_last = end == bytes.len();
            let digest = Digest::sha256(&bytes);
            let outcome = async {
                for piece in bytes.slice(offset..end).chunks(512 << 10) {
                    upload.append(Bytes::copy_from_slice(piece)).await?;
                }
                if is_last {
                    return upload.finish(&digest).await.map(|_| true);
                }
                upload.save().await.map(|()| false)
            };
            let outcome = outcome.await;
            self.told.push(format!("chunk {offset}..{end} of blob {n}: {outcome:?}"));
            match outcome {
                Ok(true) => {
                    self.know(&bytes, Known::There);
                    return;
                }
                Ok(false) => acknowledged = end,
                Err(e) if is_trouble(&e) => {
                    if is_last {
                        self.know(&bytes, Known::Perhaps);
                        tried.push(digest);
                    }
                    tokio::time::sleep(e.retry_after().unwrap_or_default().min(Duration::from_millis(700)))
                        .await;
                }
                // Its answer was lost, and it is saved.
                Err(e) if e.kind() == ErrorKind::RangeInvalid => {}
                Err(e) if e.kind() == ErrorKind::UploadUnknown && self.is_there(&bytes).await => {
                    self.know(&bytes, Known::There);
                    return;
                }
                // A race has changed the bytes since a request began to finish the upload with those from before.
                Err(e) if is_last && is_other_content(&e) && tried.iter().any(|other| *other != digest) => {
                    return self.give_up(&id).await;
                }
                Err(e) => panic!("chunk {offset}..{end} of blob {n}: {e:?}\n{}", self.told()),
            }
        }
        self.give_up(&id).await;
    }

    async fn give_up(&mut self, id: &UploadId) {
        let store = self.store();
        if let Ok(upload) = store.resume_upload(&self.name, id).await {
            // It expires if that fails.
            drop(upload.abort().await);
        }
        self.told.push("gave up".to_owned());
    }

    /// Whether a server has a blob, whatever its troubles.
    async fn is_there(&mut self, bytes: &Bytes) -> bool {
        for _ in 0..200 {
            let store = self.store();
            match store.has_blob(&self.name, &Digest::sha256(bytes)).await {
                Ok(is_there) => return is_there,
                Err(e) if is_trouble(&e) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(e) => panic!("{e:?}\n{}", self.told()),
            }
        }
        panic!("nobody answers\n{}", self.told());
    }

    /// Two servers get bytes for the same place. Returns those of the one that was told that they are saved; `None` when
    /// neither was told so, and nobody knows.
    async fn race(&mut self, id: &UploadId, offset: usize, bytes: Bytes) -> Option<Bytes> {
        let other: Bytes = match self.random.once_in(2) {
            true => bytes.clone(),
            false => bytes.iter().map(|byte| byte ^ 1).collect::<Vec<u8>>().into(),
        };
        let write = async |store: &Store, bytes: &Bytes| {
            let mut upload = store.resume_upload(&self.name, id).await?;
            if upload.offset() as usize != offset {
                return Err(Error::new(ErrorKind::RangeInvalid, "moved"));
            }
            for piece in bytes.chunks(1 << 20) {
                upload.append(Bytes::copy_from_slice(piece)).await?;
            }
            upload.save().await
        };
        let [one, two] = &self.servers.stores;
        let (first, second) = tokio::join!(write(one, &bytes), write(two, &other));
        self.told.push(format!("race at {offset}: {first:?} {second:?}"));
        assert!(!(first.is_ok() && second.is_ok()), "two writers were told the same\n{}", self.told());
        match (first, second) {
            (Ok(()), _) => Some(bytes),
            (_, Ok(())) => Some(other),
            // Whoever has written them, they are these.
            _ if bytes == other => Some(Bytes::new()),
            _ => None,
        }
    }

    async fn mount(&mut self, n: usize) {
        let (store, bytes) = (self.store(), content(n));
        let from = self.random.pick(&self.others).unwrap().clone();
        let mounted = store.mount_blob(&self.name, &Digest::sha256(&bytes), &from).await;
        self.told.push(format!("mount blob {n} from {from}: {mounted:?}"));
        match mounted {
            Err(e) if e.kind() == ErrorKind::BlobUnknown => {}
            outcome => self.pushed(&bytes, outcome.map(drop)),
        }
    }

    async fn put_manifest(&mut self) {
        let there = self.model.blobs_that_are_there();
        let (Some(config), Some(layer)) = (self.random.pick(&there), self.random.pick(&there)) else {
            return;
        };
        let describe = |digest: &Digest| {
            let size = self.model.blobs[digest].0.len() as u64;
            Descriptor::new(media_type::OCI_LAYER, digest.clone(), size)
        };
        let image = ImageManifest::new(describe(config), vec![describe(layer)]);
        let blobs = BTreeSet::from([config.clone(), layer.clone()]);
        let manifest = Manifest::sniff(image.to_bytes()).unwrap();
        let digest = manifest.digest().clone();
        let tag = *self.random.pick(&TAGS).unwrap();
        let store = self.store();
        let put = PutManifest::new(manifest, [Tag::parse(tag).unwrap()]);
        let outcome = store.put_manifest(&self.name, put).await;
        self.told.push(format!("put {digest} as {tag}: {:?}", outcome.as_ref().err()));
        let entry = self.model.manifests.entry(digest.clone()).or_insert((blobs, Known::Gone));
        let tags = self.model.tags.entry(tag).or_insert_with(|| BTreeSet::from([None]));
        match outcome {
            Ok(_) => {
                entry.1 = Known::There;
                *tags = BTreeSet::from([Some(digest)]);
            }
            Err(e) if is_trouble(&e) => {
                if entry.1 == Known::Gone {
                    entry.1 = Known::Perhaps;
                }
                tags.insert(Some(digest));
            }
            Err(e) => panic!("{e:?}\n{}", self.told()),
        }
    }

    async fn delete_tag(&mut self) {
        let tag = *self.random.pick(&TAGS).unwrap();
        let store = self.store();
        let outcome = store.delete_manifest(&self.name, &Tag::parse(tag).unwrap().into()).await;
        self.told.push(format!("delete {tag}: {outcome:?}"));
        let names = self.model.tags.entry(tag).or_insert_with(|| BTreeSet::from([None]));
        match outcome {
            Ok(()) => *names = BTreeSet::from([None]),
            Err(e) if is_trouble(&e) => {
                names.insert(None);
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::ManifestUnknown, "{e}");
                assert!(names.contains(&None), "{tag} is lost\n{}", self.told());
                *names = BTreeSet::from([None]);
            }
        }
    }

    async fn delete_manifest(&mut self) {
        let all: Vec<Digest> = self.model.manifests.keys().cloned().collect();
        let Some(digest) = self.random.pick(&all).cloned() else { return };
        let store = self.store();
        let outcome = store.delete_manifest(&self.name, &digest.clone().into()).await;
        self.told.push(format!("delete {digest}: {outcome:?}"));
        let known = &mut self.model.manifests.get_mut(&digest).unwrap().1;
        let is_gone = match outcome {
            Ok(()) => true,
            Err(e) if is_trouble(&e) => false,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::ManifestUnknown, "{e}");
                assert!(*known != Known::There, "{digest} is lost\n{}", self.told());
                true
            }
        };
        *known = match is_gone {
            true => Known::Gone,
            false if *known == Known::There => Known::Perhaps,
            false => *known,
        };
        for names in self.model.tags.values_mut().filter(|names| names.contains(&Some(digest.clone()))) {
            names.insert(None);
            if is_gone {
                names.remove(&Some(digest.clone()));
            }
        }
    }

    async fn delete_blob(&mut self) {
        let all = self.model.blobs.keys().filter(|digest| !self.model.is_used(digest)).cloned();
        let Some(digest) = self.random.pick(&all.collect::<Vec<_>>()).cloned() else { return };
        let store = self.store();
        let outcome = store.delete_blob(&self.name, &digest).await;
        self.told.push(format!("delete blob {digest}: {outcome:?}"));
        let known = &mut self.model.blobs.get_mut(&digest).unwrap().1;
        *known = match outcome {
            Ok(()) => Known::Gone,
            Err(e) if is_trouble(&e) && *known == Known::Gone => Known::Gone,
            Err(e) if is_trouble(&e) => Known::Perhaps,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::BlobUnknown, "{e}");
                assert!(*known != Known::There, "{digest} is lost\n{}", self.told());
                Known::Gone
            }
        };
    }

    async fn read(&mut self) {
        let there = self.model.blobs_that_are_there();
        let Some(digest) = self.random.pick(&there) else { return };
        let store = self.store();
        match store.read_blob(&self.name, digest, 64 << 20).await {
            Ok(bytes) => assert!(bytes == self.model.blobs[digest].0, "{digest} has other bytes"),
            Err(e) => assert!(is_trouble(&e), "{digest}: {e:?}\n{}", self.told()),
        }
    }

    /// What must be there is there, at both servers.
    async fn check(&self) {
        for store in &self.servers.stores {
            for (digest, (bytes, known)) in &self.model.blobs {
                if *known == Known::There || store.has_blob(&self.name, digest).await.unwrap() {
                    let read = store.read_blob(&self.name, digest, 64 << 20).await;
                    let read = read.unwrap_or_else(|e| panic!("{digest}: {e:?}\n{}", self.told()));
                    assert!(read == *bytes, "{digest} has other bytes\n{}", self.told());
                }
            }
            for (digest, (blobs, known)) in &self.model.manifests {
                let found = store.find_manifest(&self.name, &digest.clone().into()).await.unwrap();
                assert!(found.is_some() || *known != Known::There, "{digest} is lost\n{}", self.told());
                assert!(found.is_none() || *known != Known::Gone, "{digest} came back\n{}", self.told());
                for blob in blobs.iter().filter(|_| found.is_some()) {
                    let read = store.read_blob(&self.name, blob, 64 << 20).await;
                    assert!(read.is_ok(), "{blob} of {digest}: {read:?}\n{}", self.told());
                }
            }
            for tag in TAGS {
                let found = store.find_manifest(&self.name, &Tag::parse(tag).unwrap().into()).await.unwrap();
                let found = found.map(|manifest| manifest.digest().clone());
                if let Some(names) = self.model.tags.get(tag) {
                    assert!(names.contains(&found), "{tag} names {found:?}, not {names:?}\n{}", self.told());
                }
            }
        }
    }
}

/// What the bucket does wrong, by a seed, while it is switched on.
fn trouble(seed: u64, is_on: &Arc<AtomicBool>) -> impl Fn(&str, &str) -> Act + Send + Sync + 'static {
    let (random, is_on) = (Mutex::new((Random::new(seed), 0)), Arc::clone(is_on));
    move |method, _| {
        if !is_on.load(Ordering::SeqCst) {
            return Act::Pass;
        }
        let mut random = random.lock().unwrap();
        let (random, down) = &mut *random;
        // For a while it is down, longer than requests are sent again.
        if *down > 0 {
            *down -= 1;
            return Act::Answer(503, "SlowDown");
        }
        if random.once_in(400) {
            *down = 25;
        }
        match random.below(60) {
            0 => Act::Answer(500, "InternalError"),
            1 => Act::Answer(503, "SlowDown"),
            2 => Act::LoseAnswer,
            3 => Act::Drop,
            4 => Act::CutRequest(random.below(100_000)),
            5 if method == "GET" => Act::Cut(random.below(100_000)),
            6 => Act::Late(Duration::from_millis(random.below(300) as u64)),
            _ => Act::Pass,
        }
    }
}

async fn history(seed: u64, postgres: &'static PostgresServer, server: &'static S3Server) {
    println!("HYPER_HISTORY_SEED={seed}");
    let (url, bucket) = (postgres.database(), server.bucket());
    let database = url.split(['/', '?']).nth(3).unwrap().to_owned();
    let is_on = Arc::new(AtomicBool::new(false));
    let mut stores = Vec::new();
    let mut fronts = Vec::new();
    for number in 0..2 {
        let front = Front::start(server.host(), trouble(seed * 2 + number, &is_on)).await;
        let meta = super::super::postgres::connect(&url).await;
        stores.push(Composed::new(blobs_at(&front.host, &bucket), meta).claiming(2));
        fronts.push(front);
    }
    let servers = Arc::new(Servers { stores: stores.try_into().unwrap() });
    is_on.store(true, Ordering::SeqCst);
    let names = ["a", "b", "c"].map(|name| RepositoryName::parse(name).unwrap());
    let clients = (0..CLIENTS).map(|number| {
        let mut client = Client {
            servers: Arc::clone(&servers),
            name: names[number].clone(),
            others: names.iter().filter(|name| **name != names[number]).cloned().collect(),
            random: Random::new(seed * 1000 + number as u64),
            model: Model::default(),
            told: vec![format!("seed {seed}")],
        };
        tokio::spawn(async move {
            for _ in 0..STEPS {
                client.step().await;
            }
            client
        })
    });
    let clients: Vec<_> = clients.collect();
    let over = Arc::new(AtomicBool::new(false));
    let (running, ended) = (Arc::clone(&servers), Arc::clone(&over));
    let collector = tokio::spawn(async move {
        let mut random = Random::new(seed);
        while !ended.load(Ordering::SeqCst) {
            let store = running.stores[random.below(2)].clone();
            let outcome = match random.once_in(3) {
                true => store.expire_uploads(Duration::from_secs(3600)).await.map(drop),
                false => store.collect(CollectOptions::default()).await.map(drop),
            };
            assert!(outcome.as_ref().map_err(is_trouble).err() != Some(false), "{outcome:?}");
            if random.once_in(3) {
                let sql = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = '{database}' AND random() < 0.6"
                );
                tokio::task::spawn_blocking(move || postgres.sql("postgres", &sql)).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100 + random.below(200) as u64)).await;
        }
    });
    let clients = futures::future::join_all(clients).await;
    over.store(true, Ordering::SeqCst);
    collector.await.unwrap();
    is_on.store(false, Ordering::SeqCst);
    let clients: Vec<Client> = clients.into_iter().map(|client| client.unwrap()).collect();
    // A pool learns of a connection that was cut when it uses it.
    for store in &servers.stores {
        let mut answers = 0;
        while answers < 20 {
            match store.list_repositories(Default::default()).await {
                Ok(_) => answers += 1,
                Err(e) => assert!(is_trouble(&e), "{e:?}"),
            }
        }
    }
    for client in &clients {
        client.check().await;
    }
    // Claims are over, and what nobody ends is old.
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let one = &servers.stores[0];
    let later = Arc::new(FrozenClock::new(SystemClock.now() + 7200));
    one.clone().with_clock(later).expire_uploads(Duration::from_secs(3600)).await.unwrap();
    let options = CollectOptions { unnamed: true, ..CollectOptions::default() };
    // Nobody pushes any more, so what no row names is nobody's however new it is.
    let meta = super::super::postgres::connect(&url).await;
    let last = Composed::new(blobs_at(server.host(), &bucket), meta).collecting_at_once();
    last.collect(options).await.unwrap();
    for client in &clients {
        client.check().await;
    }
    let left = one.blobs().list(None, 10_000).await.unwrap().items;
    let keys: Vec<_> = left.into_iter().map(|stored| stored.key).collect();
    let named = one.meta().has_keys(&keys).await.unwrap();
    let unnamed: Vec<_> = keys.iter().zip(named).filter(|(_, named)| !named).collect();
    let told = || clients.iter().map(Client::told).collect::<Vec<_>>().join("\n");
    assert!(unnamed.is_empty(), "seed {seed}: nothing names {unnamed:?}\n{}", told());
    assert_eq!(one.blobs().objects("uploads").await, 0, "seed {seed}: an upload left objects\n{}", told());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_of_two_servers_in_trouble_lose_nothing() {
    let case = "random_histories_of_two_servers";
    let Some(postgres) = super::super::postgres::server(case) else { return };
    let Some(server) = given::<&S3Server>(case, S3Server::running()) else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("HYPER_HISTORY_SEED").unwrap_or(1);
    let time = Duration::from_secs(number("HYPER_HISTORY_SECONDS").unwrap_or(0));
    let start = Instant::now();
    for seed in first.. {
        history(seed, postgres, server).await;
        if start.elapsed() >= time {
            break;
        }
    }
}
