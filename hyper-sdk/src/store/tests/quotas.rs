//! Quotas against a model, under concurrency, and through backups.

use super::meta::{Change, MetaBackend, SqlMeta, TagRecord};
use super::*;
use crate::ErrorKind;
use crate::oci::{ImageIndex, Manifest};
use crate::store::errors::is_quota_exceeded;
use std::collections::{BTreeMap, BTreeSet};

mod counting;

const NAMES: [&str; 5] = ["team", "team/a", "team/b/c", "other", "team-x"];
const NAMESPACES: [&str; 4] = ["**", "team", "team/b", "other"];

/// A sequence of numbers that looks random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }
}

#[derive(Clone, Debug)]
enum Step {
    Link { to: &'static str, blob: u64 },
    Mount { to: &'static str, from: &'static str, blob: u64 },
    Unlink { from: &'static str, blob: u64 },
    CollectLink { from: &'static str, blob: u64 },
    Put { to: &'static str, manifest: u64, tags: Vec<u64> },
    Delete { from: &'static str, manifest: u64 },
    CollectManifest { from: &'static str, manifest: u64 },
    DeleteTag { from: &'static str, tag: u64 },
    ExpireTag { from: &'static str, tag: u64 },
    Undelete { to: &'static str, manifest: u64, tag: u64 },
    Purge { from: &'static str, manifest: u64 },
}

fn step(dice: &mut Dice) -> Step {
    let (one, two) = (dice.pick(&NAMES), dice.pick(&NAMES));
    let (blob, manifest, tag) = (dice.roll(6), dice.roll(5), dice.roll(4));
    match dice.roll(17) {
        0..3 => Step::Link { to: one, blob },
        3..5 => Step::Mount { to: one, from: two, blob },
        5 => Step::Unlink { from: one, blob },
        6 => Step::CollectLink { from: one, blob },
        7..10 => Step::Put { to: one, manifest, tags: (0..dice.roll(3)).map(|_| dice.roll(4)).collect() },
        10 => Step::Delete { from: one, manifest },
        11 => Step::CollectManifest { from: one, manifest },
        12 => Step::DeleteTag { from: one, tag },
        13 | 14 => Step::Undelete { to: one, manifest, tag },
        15 => Step::Purge { from: one, manifest },
        _ => Step::ExpireTag { from: one, tag },
    }
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

fn tag(number: u64) -> Tag {
    Tag::parse(&format!("t{number}")).unwrap()
}

fn blob_of(number: u64) -> (Digest, u64) {
    (Digest::sha256(number.to_string()), number * 7)
}

fn manifest_of(number: u64) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), "x".repeat(number as usize));
    Manifest::sniff(index.to_bytes()).unwrap()
}

/// What every repository has.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<&'static str, Repository>);

#[derive(Clone, Debug, Default)]
struct Repository {
    blobs: BTreeSet<u64>,
    manifests: BTreeSet<u64>,
    tags: BTreeMap<u64, u64>,
    /// Manifests that are kept after their deletion, and those that tags have lost within a window.
    kept: BTreeSet<u64>,
    lost: BTreeSet<u64>,
}

impl Repository {
    fn put(&mut self, manifest: u64, tags: &[u64], keeps: bool) {
        self.kept.remove(&manifest);
        self.manifests.insert(manifest);
        for tag in tags {
            let lost = self.tags.insert(*tag, manifest);
            self.lost.extend(lost.filter(|lost| keeps && *lost != manifest));
        }
    }
}

impl Model {
    fn used(&self, namespace: &str) -> QuotaCounts {
        let namespace = QuotaNamespace::parse(namespace).unwrap();
        let those: Vec<&Repository> = self
            .0
            .iter()
            .filter(|(of, _)| namespace.has(&name(of)))
            .map(|(_, repository)| repository)
            .collect();
        let blobs: BTreeSet<u64> = those.iter().flat_map(|one| one.blobs.iter().copied()).collect();
        let manifests: BTreeSet<u64> =
            those.iter().flat_map(|one| one.manifests.iter().chain(&one.kept).copied()).collect();
        let sizes = manifests.iter().map(|number| manifest_of(*number).bytes().len() as u64);
        QuotaCounts {
            bytes: blobs.iter().map(|number| blob_of(*number).1).chain(sizes).sum(),
            tags: those.iter().map(|one| one.tags.len() as u64).sum(),
            manifests: those.iter().map(|one| (one.manifests.len() + one.kept.len()) as u64).sum(),
        }
    }

    /// The model after a step of a server that keeps what it deletes or not, as if there were no quotas; `None` when the step has no
    /// effect.
    fn after(&self, step: &Step, keeps: bool) -> Option<Self> {
        let mut model = self.clone();
        let done = match step {
            Step::Link { to, blob } => {
                model.0.entry(to).or_default().blobs.insert(*blob);
                true
            }
            Step::Mount { to, from, blob } => {
                let there = model.0.entry(from).or_default().blobs.contains(blob);
                there && {
                    model.0.entry(to).or_default().blobs.insert(*blob);
                    true
                }
            }
            Step::Unlink { from, blob } | Step::CollectLink { from, blob } => {
                model.0.entry(from).or_default().blobs.remove(blob)
            }
            Step::Put { to, manifest, tags } => {
                model.0.entry(to).or_default().put(*manifest, tags, keeps);
                true
            }
            Step::Undelete { to, manifest, tag } => {
                let repository = model.0.entry(to).or_default();
                let there = repository.kept.contains(manifest) || repository.manifests.contains(manifest);
                there && {
                    repository.put(*manifest, &[*tag], keeps);
                    true
                }
            }
            Step::Delete { from, manifest } => {
                let repository = model.0.entry(from).or_default();
                let had_tags = repository.tags.values().any(|of| of == manifest);
                repository.tags.retain(|_, of| of != manifest);
                let there = repository.manifests.remove(manifest);
                if there && keeps {
                    repository.kept.insert(*manifest);
                    repository.lost.extend(had_tags.then_some(*manifest));
                } else if there {
                    repository.lost.remove(manifest);
                }
                there
            }
            Step::Purge { from, manifest } => {
                let repository = model.0.entry(from).or_default();
                let is_live = repository.manifests.contains(manifest);
                !is_live && {
                    repository.lost.remove(manifest);
                    repository.kept.remove(manifest)
                }
            }
            Step::CollectManifest { from, manifest } => {
                let repository = model.0.entry(from).or_default();
                let is_kept =
                    repository.lost.contains(manifest) || repository.tags.values().any(|of| of == manifest);
                !is_kept && repository.manifests.remove(manifest)
            }
            Step::DeleteTag { from, tag } | Step::ExpireTag { from, tag } => {
                let repository = model.0.entry(from).or_default();
                let lost = repository.tags.remove(tag);
                repository.lost.extend(lost.filter(|_| keeps));
                lost.is_some()
            }
        };
        done.then_some(model)
    }

    /// The namespace that refuses the way from this model to the next one.
    fn refusal(&self, next: &Self, rules: &QuotaRules) -> bool {
        rules.as_slice().iter().any(|QuotaRule { namespace, limits }| {
            let (before, after) = (self.used(&namespace.to_string()), next.used(&namespace.to_string()));
            QuotaResource::ALL.iter().any(|resource| {
                let limit = limits.of(*resource).unwrap_or(u64::MAX);
                after.of(*resource) > before.of(*resource) && after.of(*resource) > limit
            })
        })
    }
}

fn put(to: &str, manifest: u64, tags: &[u64], undeletes: bool) -> Change {
    let (repository, manifest, edges) = (name(to), manifest_of(manifest), Vec::new());
    let tags = tags.iter().map(|number| tag(*number)).collect();
    let (if_match, guard, entries) = (None, None, Vec::new());
    let change =
        meta::ManifestChange { repository, manifest, edges, tags, if_match, undeletes, entries, guard };
    Change::PutManifest(Box::new(change))
}

/// Makes a step. Returns whether it had an effect.
async fn make(meta: &dyn MetaBackend, step: &Step) -> Result<bool> {
    let change = match step {
        Step::Link { to, blob } => {
            let (digest, size) = blob_of(*blob);
            let key = blob::BlobKey::Digest(digest.clone());
            Change::LinkBlob { repository: name(to), digest, size, key, upload: None, leased_until: 0 }
        }
        Step::Mount { to, from, blob } => {
            let (repository, from, digest) = (name(to), name(from), blob_of(*blob).0);
            Change::MountBlob { repository, digest, from, leased_until: 0 }
        }
        Step::Unlink { from, blob } => {
            Change::UnlinkBlob { repository: name(from), digest: blob_of(*blob).0 }
        }
        Step::CollectLink { from, blob } => {
            Change::CollectLink { repository: name(from), digest: blob_of(*blob).0, now: 1 }
        }
        Step::Put { to, manifest, tags } => put(to, *manifest, tags, false),
        Step::Undelete { to, manifest, tag } => put(to, *manifest, &[*tag], true),
        Step::Purge { from, manifest } => {
            let digest = manifest_of(*manifest).digest().clone();
            return match meta.write(Change::PurgeDeleted { repository: name(from), digest }).await {
                Err(e) if e.kind() == ErrorKind::Conflict => Ok(false),
                purged => Ok(purged? > 0),
            };
        }
        Step::Delete { from, manifest } => {
            let digest = manifest_of(*manifest).digest().clone();
            Change::DeleteManifest { repository: name(from), digest }
        }
        Step::CollectManifest { from, manifest } => {
            let digest = manifest_of(*manifest).digest().clone();
            Change::CollectManifest { repository: name(from), digest, before: i64::MAX }
        }
        Step::DeleteTag { from, tag: number } => {
            Change::DeleteTag { repository: name(from), tag: tag(*number) }
        }
        Step::ExpireTag { from, tag: number } => {
            let tags = meta.tag_records(&name(from), None, 10).await?;
            let found = tags.into_iter().flat_map(|page| page.items).find(|one| one.tag == tag(*number));
            let Some(record): Option<TagRecord> = found else { return Ok(false) };
            let judged_at = record.pushed_at;
            Change::ExpireTag { repository: name(from), record, judged_at, unpulled_since: None }
        }
    };
    let counts =
        matches!(step, Step::CollectLink { .. } | Step::CollectManifest { .. } | Step::ExpireTag { .. });
    match meta.write(change).await {
        Ok(number) => Ok(!counts || number == 1),
        Err(e) if matches!(e.kind(), ErrorKind::BlobUnknown | ErrorKind::ManifestUnknown) => Ok(false),
        Err(e) => Err(e),
    }
}

fn rules(dice: &mut Dice) -> Arc<QuotaRules> {
    let mut limit = |most: u64| (dice.roll(3) > 0).then(|| dice.roll(most));
    let rule = |namespace: &str| {
        let limits = QuotaLimits { bytes: limit(400), tags: limit(9), manifests: limit(9) };
        QuotaRule { namespace: QuotaNamespace::parse(namespace).unwrap(), limits }
    };
    let all: Vec<QuotaRule> = NAMESPACES.into_iter().map(rule).collect();
    let some = all.into_iter().filter(|rule| rule.limits != QuotaLimits::default());
    Arc::new(QuotaRules::new(some.collect()).unwrap())
}

async fn are_right(meta: &dyn MetaBackend) {
    for check in meta.check_quotas(false).await.unwrap() {
        assert!(check.is_right(), "{check:?}");
    }
}

/// Makes many steps on servers of one registry in turn: each is refused when the model says so, and the counts are those of the
/// model. The rules change meanwhile, for each server on its own. A busy machine may end a change before it has counted a
/// namespace whole; the limit of that namespace then holds for what is counted.
async fn follows_the_model(servers: &[Arc<dyn MetaBackend>], seed: u64, steps: usize) {
    let (mut dice, mut model) = (Dice(seed), Model::default());
    let mut limits: Vec<Arc<QuotaRules>> = servers.iter().map(|_| Arc::default()).collect();
    let (mut refusals, mut keeps) = (0, vec![false; servers.len()]);
    for number in 0..steps {
        let at = dice.roll(servers.len() as u64) as usize;
        if dice.roll(10) == 0 {
            keeps[at] ^= true;
            servers[at].set_undelete_window(if keeps[at] { 3600 } else { 0 }).unwrap();
        }
        if number % 40 == 20 {
            limits[at] = rules(&mut dice);
            servers[at].set_quotas(limits[at].clone()).unwrap();
            // A slow machine would count a part alone with the next change.
            for (namespace, _) in NAMES.iter().flat_map(|text| limits[at].covering(&name(text))) {
                let count = Change::CountNamespace { namespace, rows: 1000 };
                while servers[at].write(count.clone()).await.unwrap() > 0 {}
            }
        }
        let step = step(&mut dice);
        let next = model.after(&step, keeps[at]);
        let made = make(&*servers[at], &step).await;
        match next {
            Some(next) if made.is_ok() && servers[at].is_counting().await.unwrap() => model = next,
            Some(next) if model.refusal(&next, &limits[at]) => {
                let error = made.expect_err(&format!("{number}: {step:?} passes a limit"));
                assert!(is_quota_exceeded(&error), "{step:?}: {error}");
                refusals += 1;
            }
            Some(next) => {
                assert!(made.unwrap(), "{number}: {step:?}");
                model = next;
            }
            None => assert!(!made.unwrap(), "{number}: {step:?}"),
        }
        for one in servers[at].quota_use().await.unwrap() {
            if let (Some(used), None) = (one.used, one.counting) {
                assert_eq!(
                    used,
                    model.used(&one.namespace.to_string()),
                    "{number}: {step:?} {}",
                    one.namespace
                );
            }
        }
    }
    assert!(refusals > steps / 50, "only {refusals} of {steps} steps were refused");
    are_right(&*servers[0]).await;
}

/// Makes many steps on all servers at once. No limit is passed at any time, and the counts are right in the end.
async fn stays_within(servers: &[Arc<dyn MetaBackend>], seed: u64, steps: usize) {
    let limits = QuotaLimits { bytes: Some(300), tags: Some(8), manifests: Some(8) };
    let rule = |namespace| QuotaRule { namespace: QuotaNamespace::parse(namespace).unwrap(), limits };
    let rules = Arc::new(QuotaRules::new(NAMESPACES.map(rule).to_vec()).unwrap());
    servers.iter().for_each(|server| server.set_quotas(rules.clone()).unwrap());
    servers[0].set_undelete_window(3600).unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let server = servers[number % servers.len()].clone();
            let mut dice = Dice(seed + number as u64);
            tokio::spawn(async move {
                let mut refusals = 0;
                for _ in 0..steps {
                    match make(&*server, &step(&mut dice)).await {
                        Ok(_) => {}
                        Err(e) if is_quota_exceeded(&e) => refusals += 1,
                        Err(e) => panic!("{e}"),
                    }
                    for one in server.quota_use().await.unwrap() {
                        let used = one.used.unwrap_or_default();
                        for resource in QuotaResource::ALL {
                            assert!(used.of(resource) <= limits.of(resource).unwrap(), "{one:?}");
                        }
                    }
                }
                refusals
            })
        })
        .collect();
    let mut refusals = 0;
    for task in tasks {
        refusals += task.await.unwrap();
    }
    assert!(refusals > 0);
    are_right(&*servers[0]).await;
}

#[tokio::test]
async fn memory_follows_the_model() {
    for seed in 1..6 {
        follows_the_model(&[Arc::new(meta::MemoryMeta::default())], seed * 77, 1500).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_within_its_limits() {
    stays_within(&[Arc::new(meta::MemoryMeta::default())], 9, 200).await;
}

/// Two processes on one file.
async fn sqlite(folder: &std::path::Path) -> [Arc<dyn MetaBackend>; 2] {
    let open =
        async || Arc::new(SqlMeta::open(folder.join("hyper.db")).await.unwrap()) as Arc<dyn MetaBackend>;
    [open().await, open().await]
}

#[tokio::test]
async fn sqlite_follows_the_model() {
    for seed in 1..4 {
        let folder = tempfile::tempdir().unwrap();
        follows_the_model(&sqlite(folder.path()).await, seed * 131, 400).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_stays_within_its_limits() {
    let folder = tempfile::tempdir().unwrap();
    stays_within(&sqlite(folder.path()).await, 5, 40).await;
}

#[cfg(feature = "store-postgres")]
mod postgres {
    use super::super::postgres::{connect, server};
    use super::*;

    pub(super) async fn servers(database: &str) -> Option<[Arc<dyn MetaBackend>; 2]> {
        let url = server(database)?.url(database);
        let open = async || Arc::new(connect(&url).await) as Arc<dyn MetaBackend>;
        Some([open().await, open().await])
    }

    #[tokio::test]
    async fn postgres_follows_the_model() {
        let Some(servers) = servers("quotas_model").await else { return };
        follows_the_model(&servers, 4711, 600).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_stays_within_its_limits() {
        let Some(servers) = servers("quotas_concurrent").await else { return };
        stays_within(&servers, 3, 60).await;
    }

    /// A server of an earlier version would change rows without counting them, or collect what is kept.
    #[tokio::test]
    async fn a_server_of_an_earlier_version_cannot_write() {
        let Some(server) = server("quotas_earlier") else { return };
        let url = server.database();
        let _meta = connect(&url).await;
        let database = url.split(['/', '?']).nth(3).unwrap();
        for column in ["version", "content_version"] {
            let update = format!(
                "DO $$ BEGIN UPDATE registry_state SET {column} = {column}; RAISE EXCEPTION 'it can'; \
                 EXCEPTION WHEN undefined_column THEN NULL; END $$"
            );
            server.sql(database, &update);
        }
    }
}

/// Counts that are wrong, whatever made them so, are found and repaired, beside another process.
#[tokio::test]
async fn wrong_counts_are_found_and_repaired() {
    use sqlx::ConnectOptions as _;
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = sqlite(folder.path()).await;
    let mut dice = Dice(8);
    one.set_quotas(rules(&mut dice)).unwrap();
    one.set_quotas(Arc::default()).unwrap();
    for namespace in NAMESPACES {
        let namespace = QuotaNamespace::parse(namespace).unwrap();
        one.write(Change::CountNamespace { namespace, rows: 100 }).await.unwrap();
    }
    for _ in 0..200 {
        make(&*two, &step(&mut dice)).await.unwrap();
    }
    are_right(&*one).await;
    let path = folder.path().join("hyper.db");
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    for (fault, numbers) in [
        ("UPDATE quotas SET bytes = bytes + 1 WHERE namespace = 'team'", true),
        ("UPDATE quotas SET tags = tags + 1 WHERE namespace = 'team'", true),
        ("UPDATE quotas SET manifests = 99 WHERE namespace = 'team'", true),
        (
            "UPDATE quota_blobs SET links = links + 1 WHERE quota_id = (SELECT id FROM quotas WHERE namespace = 'team')",
            false,
        ),
        (
            "DELETE FROM quota_manifests WHERE quota_id = (SELECT id FROM quotas WHERE namespace = 'team')",
            false,
        ),
    ] {
        sqlx::raw_sql(fault).execute(&mut connection).await.unwrap();
        let wrong = async |repair| {
            let checks = one.check_quotas(repair).await.unwrap();
            assert_eq!(checks.len(), NAMESPACES.len());
            checks.into_iter().filter(|check| !check.is_right()).collect::<Vec<_>>()
        };
        let found = wrong(false).await;
        assert_eq!(found.len(), 1, "{fault}: {found:?}");
        assert_eq!(found[0].namespace.to_string(), "team");
        assert_eq!(
            (found[0].recorded != found[0].found, found[0].wrong_rows > 0),
            (numbers, !numbers),
            "{fault}"
        );
        assert_eq!(wrong(true).await, found);
        assert_eq!(wrong(false).await, [], "{fault}");
    }
}

/// A namespace that takes long to count keeps nobody from making room, and names that do not exist leave nothing behind.
#[tokio::test]
async fn deletions_count_no_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let [meta, _] = sqlite(folder.path()).await;
    let tags = vec![0, 1, 2];
    for first in [
        Step::Link { to: "team/a", blob: 3 },
        Step::Link { to: "team/a", blob: 4 },
        Step::Put { to: "team/a", manifest: 1, tags },
    ] {
        make(&*meta, &first).await.unwrap();
    }
    let limits = QuotaLimits { bytes: Some(1000), tags: None, manifests: None };
    let rule = |text| QuotaRule { namespace: QuotaNamespace::parse(text).unwrap(), limits };
    meta.set_quotas(Arc::new(QuotaRules::new(vec![rule("team"), rule("*")]).unwrap())).unwrap();
    for from in ["team/a", "other"] {
        for deletion in [
            Step::DeleteTag { from, tag: 0 },
            Step::ExpireTag { from, tag: 1 },
            Step::Unlink { from, blob: 3 },
            Step::CollectLink { from, blob: 3 },
            Step::Delete { from, manifest: 1 },
            Step::CollectManifest { from, manifest: 1 },
        ] {
            make(&*meta, &deletion).await.unwrap();
        }
    }
    assert_eq!(meta.check_quotas(false).await.unwrap(), []);
    make(&*meta, &Step::Link { to: "team/a", blob: 5 }).await.unwrap();
    let counted = meta.check_quotas(false).await.unwrap();
    assert_eq!(counted.len(), 1);
    assert_eq!(counted[0].found, QuotaCounts { bytes: 4 * 7 + 5 * 7, tags: 0, manifests: 0 });
    are_right(&*meta).await;
}

/// A refused change does not fail those that share its transaction.
#[tokio::test]
async fn a_refusal_leaves_its_neighbours_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [meta, _] = sqlite(folder.path()).await;
    let limits = QuotaLimits { bytes: Some(1 << 20), tags: None, manifests: Some(10) };
    let rule = QuotaRule { namespace: QuotaNamespace::parse("team").unwrap(), limits };
    meta.set_quotas(Arc::new(QuotaRules::new(vec![rule]).unwrap())).unwrap();
    let puts = (0..60).map(|manifest| {
        let (meta, to) = (meta.clone(), if manifest % 3 == 0 { "other" } else { "team/a" });
        async move { make(&*meta, &Step::Put { to, manifest, tags: vec![manifest] }).await }
    });
    let outcomes = futures::future::join_all(puts).await;
    let stored = |is_other: bool| {
        let of = outcomes.iter().enumerate().filter(|(at, _)| (at % 3 == 0) == is_other);
        of.filter(|(_, outcome)| outcome.is_ok()).count()
    };
    assert_eq!((stored(true), stored(false)), (20, 10));
    are_right(&*meta).await;
}

/// A store that is filled counts what came, also when its namespaces were counted while it was empty.
#[tokio::test]
async fn a_restored_store_has_the_counts_of_its_content() {
    use crate::store::backup::{BackupFolder, CreateOptions, RestoreOptions, create, migrate, restore};
    let top = tempfile::tempdir().unwrap();
    let open = async |text: &str| DiskStore::open(top.path().join(text)).await.unwrap();
    let (source, target, moved) = (open("source").await, open("target").await, open("moved").await);
    let limits = QuotaLimits { bytes: Some(1 << 20), ..QuotaLimits::default() };
    let rule = QuotaRule { namespace: QuotaNamespace::parse("team").unwrap(), limits };
    let rules = Arc::new(QuotaRules::new(vec![rule]).unwrap());
    for store in [&source, &target, &moved] {
        store.set_quotas(rules.clone()).unwrap();
        store.count_quotas().await.unwrap();
    }
    for repository in ["team/a", "team/b", "other"] {
        source.put_bytes(&name(repository), "a/b", "hello".into()).await.unwrap();
        source
            .put_manifest(&name(repository), PutManifest::new(manifest_of(3), [tag(1), tag(2)]))
            .await
            .unwrap();
    }
    let size = manifest_of(3).bytes().len() as u64 + 5;
    let used = async |store: &DiskStore| store.quota_use().await.unwrap()[0].used.unwrap();
    let expected = QuotaCounts { bytes: size, tags: 4, manifests: 2 };
    assert_eq!(used(&source).await, expected);
    let folder = BackupFolder::create(&top.path().join("backups")).unwrap();
    create(&source, &folder, &CreateOptions::default()).await.unwrap();
    restore(&folder, None, &target, &RestoreOptions::default()).await.unwrap();
    migrate(&source, &moved, top.path(), &RestoreOptions::default()).await.unwrap();
    for store in [&target, &moved] {
        assert_eq!(store.quota_use().await.unwrap()[0].counting, Some(0), "servers count it");
        store.count_quotas().await.unwrap();
        assert_eq!(used(store).await, expected);
        are_right(store.meta()).await;
        store.put_bytes(&name("team/c"), "a/b", "more".into()).await.unwrap();
        assert_eq!(used(store).await.bytes, size + 4);
    }
}
