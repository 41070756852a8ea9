//! Checks a registry against the rules of the distribution specification: each rule is a named case.
//!
//! Any registry can be checked, over HTTP. The cases push small content of their own into two repositories, read it back,
//! and remove it again as far as the registry lets them.
//!
//! ```text
//!   check ── Kit          requests, content that nobody else has, what to remove at the end
//!     └───── cases        base  blobs  uploads  chunks  mounts  manifests  contents  tags  deletes  referrers
//!              └───────── Report   a status and a reason for each case
//! ```
//!
//! ```no_run
//! use hyper_sdk::client::HttpClient;
//! use hyper_sdk::client::registry_conformance::{Options, Status, check};
//! use hyper_sdk::Result;
//! use hyper_sdk::reference::RegistryHost;
//!
//! async fn broken_rules() -> Result<Vec<String>> {
//!     let client = HttpClient::builder(RegistryHost::parse("localhost:5000")?).build()?;
//!     let report = check(&client, &Options::default(), |_| ()).await?;
//!     let failed = report.cases.into_iter().filter(|case| case.status == Status::Failed);
//!     Ok(failed.map(|case| case.name.to_owned()).collect())
//! }
//! ```

mod base;
mod blobs;
mod chunks;
mod contents;
mod deletes;
mod kit;
mod manifests;
mod mounts;
mod referrers;
mod report;
mod tags;
mod uploads;

pub use report::{CaseResult, Report, Status};

use super::HttpClient;
use crate::reference::RepositoryName;
use crate::{Error, ErrorKind, Result, ResultExt as _};
use futures::future::BoxFuture;
use kit::{Kit, Outcome, Stop};
use std::time::{Duration, Instant};

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(300);
/// The longest reason, in characters.
const SHOWN: usize = 600;

/// How strict a rule is (RFC 2119).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// A registry that breaks the rule does not conform.
    Must,
    /// A registry that breaks the rule conforms, and clients will have trouble with it.
    Should,
}

/// A rule, and how it is checked.
#[derive(Debug)]
#[non_exhaustive]
pub struct Case {
    /// The name of the case, such as `blob-get`; it stays.
    pub name: &'static str,
    /// The request of the specification that the rule is about, such as `end-2`; `errors`, or `ext` for what is beside it.
    pub endpoint: &'static str,
    /// How strict the rule is.
    pub level: Level,
    /// The rule, a sentence.
    pub rule: &'static str,
    run: for<'a> fn(&'a Kit) -> BoxFuture<'a, Outcome>,
}

/// Defines the cases of a module.
macro_rules! define {
    ($($name:literal, $endpoint:literal, $level:ident, $rule:literal => $run:ident;)+) => {
        pub(super) const CASES: &[super::Case] = &[$(super::Case {
            name: $name,
            endpoint: $endpoint,
            level: super::Level::$level,
            rule: $rule,
            run: |kit| Box::pin($run(kit)),
        }),+];
    };
}
use define;

const MODULES: [&[Case]; 10] = [
    base::CASES,
    blobs::CASES,
    uploads::CASES,
    chunks::CASES,
    mounts::CASES,
    manifests::CASES,
    contents::CASES,
    tags::CASES,
    referrers::CASES,
    deletes::CASES,
];

/// All cases, in the order in which they run.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    MODULES.into_iter().flatten()
}

/// What is checked, and where.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The repository that the cases work in.
    pub repository: RepositoryName,
    /// The repository that blobs are mounted into, another one.
    pub other_repository: RepositoryName,
    /// The names of the cases to run, or how they start; all of them when it is empty.
    pub only: Vec<String>,
    /// Whether what was pushed stays.
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Self {
        let name = |text| RepositoryName::parse(text).expect("a name of a repository");
        Self {
            repository: name("conformance/one"),
            other_repository: name("conformance/two"),
            only: Vec::new(),
            keep: false,
        }
    }
}

/// Checks the registry of the client, one case after the other; `observer` sees each result at once.
///
/// A case whose request gets no answer is [`Status::Lost`], and the next one runs; each has 5 minutes. What is pushed is removed
/// at the end as far as the registry lets the client; what a dropped future has pushed so far stays. Its tags begin with
/// `conformance-`. The empty blob and that of `{}` stay in any case.
///
/// Requests go where the registry points, credentials to its own origin only.
///
/// # Errors
/// - [`ErrorKind::Invalid`] when `only` has a name that no case starts with, or both repositories are one;
/// - [`ErrorKind::Unauthorized`] when the registry accepts no request of the client;
/// - [`ErrorKind::Unavailable`] when what answers is no registry, and the errors of the network for the first request.
pub async fn check(
    client: &HttpClient,
    options: &Options,
    mut observer: impl FnMut(&CaseResult),
) -> Result<Report> {
    if options.repository == options.other_repository {
        return Err(Error::invalid("the two repositories must have different names")
            .with_context("repository", &options.repository));
    }
    if let Some(name) = options.only.iter().find(|name| !cases().any(|case| case.name.starts_with(*name))) {
        return Err(Error::invalid("no case has a name that starts so").with_context("case", name));
    }
    let kit = Kit::new(client.clone(), options);
    let hello = kit.get("/v2/").send().await.map_err(Stop::into_error).context("registry", client)?;
    match hello.status {
        200 => {}
        401 | 403 => {
            return Err(Error::new(ErrorKind::Unauthorized, "the registry refuses the credentials")
                .with_context("registry", client));
        }
        status => {
            return Err(Error::new(ErrorKind::Unavailable, "what answers is no registry")
                .with_context("registry", client)
                .with_context("status", status));
        }
    }
    let is_chosen = |case: &Case| {
        options.only.is_empty() || options.only.iter().any(|name| case.name.starts_with(name.as_str()))
    };
    let mut report = Report { registry: client.to_string(), cases: Vec::new() };
    for case in cases().filter(|case| is_chosen(case)) {
        let begun = Instant::now();
        let outcome = tokio::time::timeout(LIMIT, (case.run)(&kit)).await.unwrap_or_else(|_| {
            let late = Error::new(ErrorKind::Timeout, "the case takes longer than 5 minutes");
            Err(Stop::Lost("the case".to_owned(), late))
        });
        let (status, reason) = match outcome {
            Ok(()) => (Status::Passed, String::new()),
            Err(Stop::Skipped(reason)) => (Status::Skipped, reason),
            Err(stop @ Stop::Lost(..)) => (Status::Lost, shown(&stop)),
            Err(stop) if case.level == Level::Must => (Status::Failed, shown(&stop)),
            Err(stop) => (Status::Warned, shown(&stop)),
        };
        let result = CaseResult {
            name: case.name,
            endpoint: case.endpoint,
            level: case.level,
            rule: case.rule,
            status,
            reason,
            elapsed: begun.elapsed(),
        };
        observer(&result);
        report.cases.push(result);
    }
    if !options.keep {
        kit.remove_all().await;
    }
    Ok(report)
}

/// A reason as one line for a terminal, whatever the registry sent.
fn shown(stop: &Stop) -> String {
    let text = stop.to_string();
    let mut shown = String::new();
    for c in text.chars().take(SHOWN) {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_has_its_own_name_and_a_rule() {
        let names: BTreeSet<&str> = cases().map(|case| case.name).collect();
        assert_eq!(names.len(), cases().count());
        for case in cases() {
            assert!(case.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(
                ["errors", "ext"].contains(&case.endpoint) || case.endpoint.starts_with("end-"),
                "{}",
                case.endpoint
            );
            assert!(case.rule.len() > 20 && !case.rule.ends_with('.'), "{}", case.rule);
        }
    }
}
