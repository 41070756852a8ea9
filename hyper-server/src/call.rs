//! An admitted request, as the handlers get it.

use crate::admission::refusal;
use crate::audit::{Author, Deed, Entry, Outcome, Pending};
use crate::auth::{Action, AuthRequest, Denial, Principal, Resource, decide, lists};
use crate::error::ApiError;
use crate::state::State;
use crate::throttle::Turn;
use http::header::AsHeaderName;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper_sdk::store::{ChangeContext, SharedStore, TagGuard};
use hyper_sdk::{Digest, Error, ErrorKind, RepositoryName, Result};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::Instrument as _;

/// A request that was authenticated and authorized. Dereferences to the state of the registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) state: &'a Arc<State>,
    pub(crate) principal: &'a Principal,
    pub(crate) parts: &'a Parts,
    pub(crate) audit: &'a Audit,
    /// What the request has taken of the limits of its sender.
    pub(crate) turn: &'a Turn,
}

/// What the audit log needs to know of a request.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) request_id: HeaderValue,
    pub(crate) client: Option<IpAddr>,
    /// Whether a change was begun, so that its line says how the request has ended.
    began: AtomicBool,
}

impl Audit {
    pub(crate) fn new(request_id: HeaderValue, client: Option<IpAddr>) -> Self {
        Self { request_id, client, began: AtomicBool::new(false) }
    }

    /// Writes that a known user was refused a change, unless the line of the change says so.
    pub(crate) async fn refused(&self, state: &State, principal: &Principal, asked: Option<Deed>) {
        let (Some(log), Some(deed)) = (&state.options.audit, asked) else { return };
        if principal.is_anonymous() || self.began.load(Ordering::Relaxed) {
            return;
        }
        log.refused(&self.entry(principal, deed.short(), Outcome::Refused)).await;
    }

    fn entry(&self, principal: &Principal, deed: Deed, outcome: Outcome) -> Entry {
        let (request_id, principal) = (self.request_id.clone(), principal.clone());
        Entry { author: Some(Author { request_id, client: self.client, principal }), deed, outcome }
    }
}

impl Deref for Call<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state
    }
}

impl Call<'_> {
    /// Whether the sender may perform an action in a repository.
    pub(crate) fn may(&self, repository: &RepositoryName, action: Action) -> bool {
        decide(&*self.authorizer, self.principal, Resource::Repository(repository), action).is_ok()
    }

    /// Whether lists show a repository to the sender.
    pub(crate) fn can_list(&self, repository: &RepositoryName) -> bool {
        lists(&*self.authorizer, self.principal, repository)
    }

    /// Requires the right to an action besides that of the request.
    pub(crate) fn require(&self, repository: &RepositoryName, action: Action) -> Result<(), ApiError> {
        let resource = Resource::Repository(repository);
        decide(&*self.authorizer, self.principal, resource, action).map_err(|denial| {
            let request = AuthRequest::new(self.parts, resource, action);
            let challenge = self.authenticator.challenge(&request, self.principal, denial);
            refusal(challenge, resource, action)
        })
    }

    /// The rule for the tags that the sender changes in a repository by an action. Credentials whose scopes do not have the
    /// action may do what callers without credentials may.
    pub(crate) fn tag_rule(&self, repository: &RepositoryName, action: Action) -> Result<Option<TagRule>> {
        let nobody = Principal::anonymous();
        let who = if self.principal.is_in_scope(repository, action) { self.principal } else { &nobody };
        let Some(guard) = self.authorizer.tag_guard(who, repository) else { return Ok(None) };
        if !self.store.capabilities().tag_guards {
            return Err(Error::unsupported("the store of this registry cannot check rules for tags"));
        }
        Ok(Some(TagRule::new(guard)))
    }

    /// The answer to a change that failed. When the rule for tags has refused it, that is a demand for other credentials
    /// where they may help. Who may not pull does not read which tags exist.
    pub(crate) fn failed_change(
        &self,
        repository: &RepositoryName,
        action: Action,
        rule: Option<&TagRule>,
        e: Error,
    ) -> ApiError {
        if e.kind() != ErrorKind::Denied || !rule.is_some_and(TagRule::has_refused) {
            return e.into();
        }
        let request = AuthRequest::new(self.parts, Resource::Repository(repository), action);
        let mut answer = match self.authenticator.challenge(&request, self.principal, Denial::Forbidden) {
            Some(challenge) => ApiError::from(challenge),
            None if self.may(repository, Action::Pull) => return e.into(),
            None => ApiError::new(
                StatusCode::FORBIDDEN,
                "DENIED",
                format!("no permission for this change in `{repository}`: only who may pull reads why"),
            ),
        };
        answer.cause = Some(e);
        answer.into_refusal()
    }

    /// The method.
    pub(crate) fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Whether the request is HEAD.
    pub(crate) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// A header as text.
    pub(crate) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.parts.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Who makes the changes of this request. A task that makes some has to be given it.
    pub(crate) fn context(&self) -> ChangeContext {
        ChangeContext {
            actor: self.principal.name().map(str::to_owned),
            address: self.audit.client.map(|address| address.to_string()),
            request_id: self.audit.request_id.to_str().ok().map(str::to_owned),
            origin: None,
        }
    }

    /// Begins a change for the audit log, if there is one.
    pub(crate) fn begin(&self, deed: impl FnOnce() -> Deed, rule: Option<&TagRule>) -> Option<Pending> {
        let log = self.options.audit.as_ref()?;
        self.audit.began.store(true, Ordering::Relaxed);
        // The change may fail before its end is known, and without an answer.
        let entry = self.audit.entry(self.principal, deed(), Outcome::Unknown);
        Some(Pending::new(log.clone(), entry, rule.map(|rule| rule.has_refused.clone())))
    }

    /// Makes a change in the name of who has just logged in. The change ends with the request, so when the client disconnects its line
    /// may say that the end is not known.
    ///
    /// # Errors
    /// Those of the change, and [`ErrorKind::Unavailable`] while the audit log cannot be written: then nothing was begun.
    pub(crate) async fn change_as<T>(
        &self,
        who: &Principal,
        deed: Deed,
        change: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(log) = &self.options.audit else { return change.await };
        let mut pending = Pending::new(log.clone(), self.audit.entry(who, deed, Outcome::Unknown), None);
        pending.ready().await?;
        let result = change.await;
        pending.ended(result.as_ref().err()).await;
        result
    }

    /// Runs a change of the store to its end, even when the client disconnects, and writes its line of the audit log.
    ///
    /// # Errors
    /// Those of the change, and [`ErrorKind::Unavailable`] while the audit log cannot be written.
    pub(crate) async fn change<T, F, Fut>(
        &self,
        deed: impl FnOnce() -> Deed,
        rule: Option<&TagRule>,
        change: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(SharedStore) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.change_of(deed, rule, change, |_| None).await
    }

    /// The same for a change that finds the manifest itself, which its line of the audit log names when it is done.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn change_of<T, F, Fut>(
        &self,
        deed: impl FnOnce() -> Deed,
        rule: Option<&TagRule>,
        change: F,
        manifest: fn(&T) -> Option<&Digest>,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(SharedStore) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let (mut pending, change) =
            (self.begin(deed, rule), self.context().scope(change(self.store.clone())));
        let held = self.turn.held();
        let to_its_end = async move {
            let _held = held;
            if let Some(pending) = &mut pending {
                pending.ready().await?;
            }
            let result = change.await;
            if let Some(mut pending) = pending {
                if let Some(digest) = result.as_ref().ok().and_then(manifest) {
                    pending.found(digest);
                }
                pending.ended(result.as_ref().err()).await;
            }
            result
        };
        tokio::spawn(to_its_end.in_current_span())
            .await
            .map_err(|e| Error::internal("a change of the store was interrupted").with_source(e))?
    }
}

/// The rule for tags of one request. It remembers that it has refused: a store may deny a change for other reasons.
#[derive(Clone, Debug)]
pub(crate) struct TagRule {
    pub(crate) guard: TagGuard,
    has_refused: Arc<AtomicBool>,
}

impl TagRule {
    fn new(inner: TagGuard) -> Self {
        let has_refused = Arc::new(AtomicBool::new(false));
        let (asks_about_deletions, refused) = (inner.asks_about_deletions(), has_refused.clone());
        let guard = TagGuard::new(move |tag, change| {
            inner.check(tag, change).inspect_err(|_| refused.store(true, Ordering::Relaxed))
        });
        Self { guard: if asks_about_deletions { guard } else { guard.without_deletions() }, has_refused }
    }

    fn has_refused(&self) -> bool {
        self.has_refused.load(Ordering::Relaxed)
    }
}

/// Marks a response whose body is a stream, so that it is counted and logged when it has been sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::htpasswd_entry;
    use crate::options::RegistryOptions;
    use hyper_sdk::Tag;
    use hyper_sdk::store::{MemoryStore, TagChange};
    use std::io::Write as _;

    /// A bucket may deny the server, whatever the client may do. Credentials of the client do not help.
    #[test]
    fn only_a_refusal_of_the_rule_asks_for_other_credentials() {
        let mut users = tempfile::NamedTempFile::new().unwrap();
        writeln!(users, "{}", htpasswd_entry("a", "b", 4).unwrap()).unwrap();
        let options =
            RegistryOptions { htpasswd: Some(users.path().to_owned()), ..RegistryOptions::default() };
        let state = Arc::new(State::new(Arc::new(MemoryStore::default()), options).unwrap());
        let parts = http::Request::new(()).into_parts().0;
        let principal = Principal::anonymous();
        let audit = Audit::new(HeaderValue::from_static("id"), None);
        let turn = Turn::new(None, None);
        let call = Call { state: &state, principal: &principal, parts: &parts, audit: &audit, turn: &turn };
        let name = RepositoryName::parse("a").unwrap();
        let denied = || Error::new(ErrorKind::Denied, "the bucket denies it");
        let rule = TagRule::new(TagGuard::new(move |_, _| Err(denied())));
        let status = |rule: Option<&TagRule>| call.failed_change(&name, Action::Push, rule, denied()).status;
        assert_eq!(status(None), StatusCode::FORBIDDEN);
        assert_eq!(status(Some(&rule)), StatusCode::FORBIDDEN);
        rule.guard.check(&Tag::latest(), TagChange::Move).unwrap_err();
        assert_eq!(status(Some(&rule)), StatusCode::UNAUTHORIZED);
        let answer = call.failed_change(&name, Action::Push, Some(&rule), denied());
        assert_eq!(answer.cause.unwrap().message(), "the bucket denies it");
        assert!(!TagRule::new(rule.guard.clone().without_deletions()).guard.asks_about_deletions());
    }
}
