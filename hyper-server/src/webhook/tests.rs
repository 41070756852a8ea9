//! What deliveries cost the database.

use super::counts::Counts;
use super::run::{Running, start};
use super::{Source, Webhook, WebhookFormat};
use async_trait::async_trait;
use hyper_sdk::oci::{ImageIndex, Manifest};
use hyper_sdk::store::{
    ConsumerHold, Event, EventConsumer, EventLimits, EventLog, EventPage, EventRules, EventStart, Listing,
    MemoryStore, PutManifest, RegistryStore as _, SharedEventLog,
};
use hyper_sdk::{RepositoryName, RepositoryPattern, Result, Tag};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The log of a server, which counts how often it writes a place.
#[derive(Debug)]
struct Counting {
    log: SharedEventLog,
    holds: AtomicU64,
}

#[async_trait]
impl EventLog for Counting {
    fn record(&self, rules: Option<EventRules>) {
        self.log.record(rules);
    }

    async fn read(&self, start: &EventStart, limit: usize) -> Result<EventPage> {
        self.log.read(start, limit).await
    }

    async fn tag_history(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Listing<Event>> {
        self.log.tag_history(repository, tag, before, limit).await
    }

    async fn prune(&self, limits: EventLimits) -> Result<u64> {
        self.log.prune(limits).await
    }

    async fn consumers(&self) -> Result<Vec<EventConsumer>> {
        self.log.consumers().await
    }

    async fn begin(&self, name: &str) -> Result<bool> {
        self.log.begin(name).await
    }

    async fn hold(&self, hold: ConsumerHold) -> Result<Option<EventConsumer>> {
        self.holds.fetch_add(1, Ordering::Relaxed);
        self.log.hold(hold).await
    }

    async fn reset(&self, name: &str, start: &EventStart) -> Result<bool> {
        self.log.reset(name, start).await
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        self.log.forget(name).await
    }
}

/// A store that records events, with a webhook that nobody answers.
struct Site {
    store: MemoryStore,
    log: SharedEventLog,
    webhook: Webhook,
}

impl Site {
    fn new() -> Self {
        let store = MemoryStore::default();
        let log = store.event_log().unwrap();
        log.record(Some(EventRules::default()));
        let webhook = Webhook {
            name: "ci".to_owned(),
            url: "http://127.0.0.1:1/".into(),
            format: WebhookFormat::CloudEvents,
            events: Vec::new(),
            repositories: Vec::new(),
            secrets: Vec::new(),
            headers: Vec::new(),
            timeout: Duration::from_secs(1),
            give_up: Duration::from_secs(3600),
            authorities: Vec::new(),
        };
        Self { store, log, webhook }
    }

    fn server(&self) -> (Arc<Counting>, Running) {
        let log = Arc::new(Counting { log: self.log.clone(), holds: AtomicU64::new(0) });
        let source = Source { reference: "test".to_owned(), url: None };
        let running = start(self.webhook.clone(), log.clone(), source, Arc::<Counts>::default()).unwrap();
        (log, running)
    }

    async fn push(&self, tag: &str) {
        let manifest = Manifest::sniff(ImageIndex::new(Vec::new()).to_bytes()).unwrap();
        let put = PutManifest::new(manifest, [Tag::parse(tag).unwrap()]);
        self.store.put_manifest(&RepositoryName::parse("a").unwrap(), put).await.unwrap();
    }

    async fn until(&self, is_so: impl Fn(&EventConsumer) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.log.consumers().await.unwrap().first().is_some_and(&is_so) {
            assert!(Instant::now() < end, "{:?}", self.log.consumers().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_server_without_the_webhook_writes_nothing_while_it_fails() {
    let site = Site::new();
    let (first, _running) = site.server();
    site.until(|_| true).await;
    site.push("v1").await;
    site.until(|consumer| consumer.failure.is_some()).await;
    let (second, _other) = site.server();
    let before = first.holds.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(second.holds.load(Ordering::Relaxed), 0);
    let wrote = first.holds.load(Ordering::Relaxed) - before;
    assert!(wrote < 8, "a few attempts: {wrote}");
    let consumer = site.log.consumers().await.unwrap().remove(0);
    assert!(consumer.failure.unwrap().tried >= 1);
}

#[tokio::test]
async fn events_that_are_not_wanted_cost_few_changes() {
    let mut site = Site::new();
    site.webhook.repositories = vec![RepositoryPattern::parse("other/**").unwrap()];
    let (log, _running) = site.server();
    site.until(|_| true).await;
    let start = Instant::now();
    for number in 0..20 {
        site.push(&format!("v{number}")).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    site.until(|consumer| consumer.place.after() == consumer.last).await;
    let (wrote, most) = (log.holds.load(Ordering::Relaxed), 2 + start.elapsed().as_secs() / 2);
    assert!(wrote <= most, "{wrote} of at most {most}");
}
