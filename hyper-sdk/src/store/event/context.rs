//! Who makes a change, as far as the caller of a store says it.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who makes a change of a store: it is recorded with the events of the change.
///
/// It belongs to a task, so that every store and every wrapper passes it on, whether it knows of it or not. A task that the change
/// spawns does not have it: give it [`ChangeContext::current`].
///
/// ```
/// use hyper_sdk::store::ChangeContext;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let alice = ChangeContext { actor: Some("alice".to_owned()), ..ChangeContext::default() };
/// let seen = alice.clone().scope(async { ChangeContext::current() }).await;
/// assert_eq!(seen.as_deref(), Some(&alice));
/// assert_eq!(ChangeContext::current(), None);
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeContext {
    /// The user who asks for the change; `None` for callers without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The network address of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The part of a program that makes the change by itself, such as `import`. A store says `retention` and `collection` for its
    /// own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

tokio::task_local! {
    static CONTEXT: Arc<ChangeContext>;
}

impl ChangeContext {
    /// The context of a part of a program.
    pub fn of_origin(name: &str) -> Self {
        Self { origin: Some(name.to_owned()), ..Self::default() }
    }

    /// Runs a future whose changes this context makes. Dropping it drops that future.
    pub async fn scope<F: Future>(self, changes: F) -> F::Output {
        CONTEXT.scope(Arc::new(self), changes).await
    }

    /// The context of the running task, if it has one.
    pub fn current() -> Option<Arc<Self>> {
        CONTEXT.try_with(Arc::clone).ok()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
