//! Where the metrics are read from.

use crate::audit::AuditLog;
use crate::auth::{Directory, IssuerState, Issuers};
use crate::connection::Connections;
use crate::dependencies::Dependency;
use crate::metrics::Metrics;
use crate::reloads::{Files, Reloads};
use crate::throttle::Throttle;
use crate::tls::Tls;
use crate::trace::SpanCounts;
use crate::webhook::WebhookCounts;
use hyper_sdk::store::wrap::CacheStatistics;
use hyper_sdk::store::{PullNotes, QuotaUse};
use std::collections::BTreeMap;

/// Where the metrics are read from.
pub(crate) struct Sources<'a> {
    pub(crate) metrics: &'a Metrics,
    pub(crate) cache: CacheStatistics,
    pub(crate) connections: &'a Connections,
    pub(crate) throttle: &'a Throttle,
    /// What became of spans, when they are sent.
    pub(crate) spans: Option<&'a SpanCounts>,
    pub(crate) audit: Option<&'a AuditLog>,
    pub(crate) quotas: &'a [QuotaUse],
    pub(crate) webhooks: &'a [WebhookCounts],
    /// The other issuers of tokens, and that of logins in a browser.
    pub(crate) issuers: [Option<&'a Issuers>; 2],
    /// The pulls that wait to be noted.
    pub(crate) pulls: Option<&'a PullNotes>,
    /// Whether the store can be read and written.
    pub(crate) ready: bool,
    /// What is needed elsewhere, by its kind.
    pub(crate) dependencies: &'a BTreeMap<&'static str, Dependency>,
    pub(crate) reloads: &'a Reloads,
    pub(crate) tls: Option<&'a Tls>,
    /// The directory of users.
    pub(crate) directory: Option<&'a Directory>,
}

impl Sources<'_> {
    /// The issuers, each name once: that of logins may be one of the others as well.
    pub(super) fn issuers(&self) -> impl Iterator<Item = IssuerState<'_>> {
        let [others, login] = self.issuers.map(|issuers| issuers.into_iter().flat_map(Issuers::states));
        let is_new =
            move |state: &IssuerState<'_>| !self.issuers[0].is_some_and(|others| others.has_name(state.name));
        others.chain(login.filter(is_new))
    }

    /// Whether files that were read again cannot be used.
    pub(super) fn reload_failed(&self, files: Files) -> bool {
        match files {
            Files::Tls => self.tls.is_some_and(Tls::is_faulty),
            files => self.reloads.failed(files),
        }
    }
}
