//! The webhooks of a registry: those that run, and those that wait for a runtime.

use super::counts::Counts;
use super::run::{Running, check, start, warn_of_others};
use super::{Source, Webhook};
use hyper_sdk::Result;
use hyper_sdk::store::SharedEventLog;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

/// The counts of a webhook, and its name.
#[derive(Clone, Debug)]
pub(crate) struct WebhookCounts {
    name: String,
    counts: Arc<Counts>,
}

/// Calls `each` with the name of each webhook and one of its values.
pub(crate) fn each<V>(
    webhooks: &[WebhookCounts],
    each: &mut dyn FnMut(&[&str], V),
    value: impl Fn(&Counts) -> V,
) {
    for webhook in webhooks {
        each(&[&webhook.name], value(&webhook.counts));
    }
}

/// The webhooks of a registry.
#[derive(Debug, Default)]
pub(crate) struct Webhooks(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: Vec<Running>,
    /// What waits for a runtime.
    waiting: Option<(Vec<Webhook>, SharedEventLog, Source)>,
    /// Whether the server ends: a reload that goes on meanwhile begins none.
    is_stopped: bool,
}

impl Webhooks {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells these and no others. Those that are the same go on, those of the same name keep their counts, and those that the store
    /// does not know begin with the next event. After [`Webhooks::stop`] nothing begins.
    ///
    /// # Errors
    /// Those of a webhook that is not well formed: nothing changes.
    pub(crate) fn set(&self, webhooks: Vec<Webhook>, log: &SharedEventLog, source: &Source) -> Result<()> {
        check(&webhooks)?;
        let mut inner = self.inner();
        if inner.is_stopped {
            tracing::debug!("no webhook begins: they were stopped for good");
            return Ok(());
        }
        if Handle::try_current().is_err() {
            inner.waiting = (!webhooks.is_empty()).then(|| (webhooks, log.clone(), source.clone()));
            return Ok(());
        }
        let mut old = std::mem::take(&mut inner.running);
        for webhook in webhooks {
            let counts = match old.iter().position(|running| running.webhook.name == webhook.name) {
                Some(at) if old[at].webhook == webhook => {
                    old[at].begin_again();
                    inner.running.push(old.swap_remove(at));
                    continue;
                }
                Some(at) => old[at].counts.clone(),
                None => Arc::default(),
            };
            inner.running.push(start(webhook, log.clone(), source.clone(), counts)?);
        }
        let names = inner.running.iter().map(|running| running.webhook.name.clone()).collect();
        tokio::spawn(warn_of_others(log.clone(), names));
        Ok(())
    }

    /// Begins what waits for a runtime. Must be called on one.
    pub(crate) fn start_waiting(&self) {
        let Some((webhooks, log, source)) = self.inner().waiting.take() else { return };
        if let Err(error) = self.set(webhooks, &log, &source) {
            tracing::warn!(%error, "events are not delivered to webhooks");
        }
    }

    /// Ends all for good, and waits until their places are recorded.
    pub(crate) async fn stop(&self) {
        let running = {
            let mut inner = self.inner();
            inner.is_stopped = true;
            std::mem::take(&mut inner.running)
        };
        futures::future::join_all(running.into_iter().map(Running::stop)).await;
    }

    /// What is counted.
    pub(crate) fn counts(&self) -> Vec<WebhookCounts> {
        let inner = self.inner();
        let counts = |running: &Running| WebhookCounts {
            name: running.webhook.name.clone(),
            counts: running.counts.clone(),
        };
        inner.running.iter().map(counts).collect()
    }
}
