//! An admitted request, as the handlers get it.

use crate::auth::{Action, Principal, Resource, decide, lists};
use crate::state::State;
use http::header::AsHeaderName;
use http::request::Parts;
use http::{HeaderMap, Method};
use hyper_sdk::store::SharedStore;
use hyper_sdk::{Error, RepositoryName, Result};
use std::ops::Deref;
use std::sync::Arc;

/// A request that was authenticated and authorized. Dereferences to the state of the registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) state: &'a Arc<State>,
    pub(crate) principal: &'a Principal,
    pub(crate) parts: &'a Parts,
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

    /// Runs a change of the store to its end, even when the client disconnects.
    pub(crate) async fn change<T, F, Fut>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(SharedStore) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        tokio::spawn(change(self.store.clone()))
            .await
            .map_err(|e| Error::internal("a change of the store was interrupted").with_source(e))?
    }
}

/// Marks a response whose body is a stream, so that it is counted and logged when it has been sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streamed;
