//! Quotas on the metadata backend.

use super::Composed;
use crate::QuotaExcess;
use crate::Result;
use crate::reference::RepositoryName;
use crate::store::blob::BlobBackend;
use crate::store::errors::quota_exceeded;
use crate::store::meta::{Change, MetaBackend};
use crate::store::{QuotaCounts, QuotaNamespace, QuotaUse};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How many repositories are read together.
const PAGE: usize = 1000;
/// How many rows a piece of a count has at most.
const ROWS: u64 = 20_000;
/// The longest rest between two pieces of a count.
const REST: Duration = Duration::from_millis(500);

impl<B: BlobBackend, M: MetaBackend> Composed<B, M> {
    /// See [`crate::store::RegistryStore::count_quotas`].
    pub(super) async fn count_namespaces(&self) -> Result<()> {
        let uses = self.0.meta.quota_use().await?;
        let (mut missing, mut counted) = (BTreeSet::new(), BTreeSet::new());
        for one in &uses {
            let is_counted = one.used.is_some() && one.counting.is_none();
            let set = if is_counted { &mut counted } else { &mut missing };
            set.insert(one.namespace.clone());
        }
        if missing.remove(&QuotaNamespace::Each) {
            let mut after: Option<String> = None;
            loop {
                let page = self.0.meta.repositories(after.as_deref(), PAGE).await?;
                let firsts = page.items.iter().filter_map(|name| QuotaNamespace::of_repository(name).nth(1));
                missing.extend(firsts.filter(|namespace| !counted.contains(namespace)));
                after = page.items.last().map(ToString::to_string);
                if !page.more || after.is_none() {
                    break;
                }
            }
        }
        if !missing.is_empty() {
            self.writable()?;
        }
        let mut outcome = Ok(());
        for namespace in missing {
            let counted = self.count_namespace(namespace.clone()).await;
            if let Err(error) = &counted {
                tracing::warn!(%namespace, %error, "a namespace is not counted to its end");
            }
            outcome = outcome.and(counted);
        }
        outcome
    }

    /// Counts a namespace to its end. Others write for at least as long as it does.
    async fn count_namespace(&self, namespace: QuotaNamespace) -> Result<()> {
        let began = Instant::now();
        let mut pieces = 0u64;
        loop {
            let piece = Instant::now();
            let change = Change::CountNamespace { namespace: namespace.clone(), rows: ROWS };
            let written = self.0.meta.write(change).await;
            let is_done = written.map_err(|e| e.with_context("namespace", &namespace))? == 0;
            tokio::time::sleep(piece.elapsed().min(REST)).await;
            if is_done {
                break;
            }
            pieces += 1;
        }
        if pieces > 0 {
            let seconds = began.elapsed().as_secs();
            tracing::info!(%namespace, pieces, seconds, "counted what the namespace uses");
        }
        Ok(())
    }

    /// Ends the counts of namespaces that are empty, if there are any.
    pub(super) async fn forget_namespaces(&self) -> Result<()> {
        let uses = self.0.meta.quota_use().await?;
        let is_empty = |one: &QuotaUse| {
            !one.has_rule && one.counting.is_none() && one.used == Some(QuotaCounts::default())
        };
        if !uses.iter().any(is_empty) {
            return Ok(());
        }
        let mut after = 0;
        loop {
            let piece = Instant::now();
            after = self.0.meta.write(Change::ForgetNamespaces { after }).await?;
            if after == 0 {
                return Ok(());
            }
            tokio::time::sleep(piece.elapsed().min(REST)).await;
        }
    }

    /// Fails when an upload has more bytes than its repository can get because of a quota.
    pub(super) async fn check_upload(&self, repository: &RepositoryName, most: u64, size: u64) -> Result<()> {
        if size <= most {
            return Ok(());
        }
        // It may have become more since.
        let Some(now) = self.0.meta.largest_upload(repository).await?.filter(|now| size > *now) else {
            return Ok(());
        };
        let mut uses = self.0.meta.quota_use().await?;
        // The limits of `*` are those of the first component, which has none of its own and may not be counted yet.
        if let Some(first) = QuotaNamespace::of_repository(repository).nth(1) {
            let is_there = uses.iter().any(|one| one.namespace == first);
            for one in uses.iter_mut().filter(|one| one.namespace == QuotaNamespace::Each && !is_there) {
                one.namespace = first.clone();
            }
        }
        let covers = |one: &QuotaUse| one.namespace != QuotaNamespace::Each && one.namespace.has(repository);
        let limited = uses.into_iter().filter(covers).filter_map(|one| {
            let used = one.used.unwrap_or_default().bytes;
            Some((one.limits.bytes?, used, one.namespace.to_string()))
        });
        let tightest = limited.min_by_key(|(limit, used, _)| *limit.max(used));
        let (limit, used, namespace) = tightest.unwrap_or_else(|| (now, 0, repository.to_string()));
        Err(quota_exceeded(QuotaExcess { namespace, resource: "bytes", used, added: size, limit }))
    }
}
