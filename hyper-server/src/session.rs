//! Sessions of the SDK as registries.

use crate::auth::{Action, Authorizer, Principal};
use crate::options::RegistryOptions;
use crate::serve::ServerOptions;
use crate::server::{RunningServer, Server};
use hyper_sdk::session::Session;
use hyper_sdk::store::{TagGuard, is_internal};
use hyper_sdk::uses::{Use, UseKind};
use hyper_sdk::{RepositoryName, Result, Tag};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves the images of a session.
///
/// ```no_run
/// use hyper_sdk::session::Session;
/// use hyper_server::{RegistryOptions, ServeSession as _, ServerOptions};
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let session = Session::from_variables(|name| std::env::var_os(name))?;
/// let listener = TcpListener::bind("127.0.0.1:5000").await?;
/// let registry = RegistryOptions { read_only: true, ..RegistryOptions::default() };
/// let server = session.serve(listener, registry, ServerOptions::default()).await?;
/// println!("{}", server.url());
/// server.stop().await?;
/// # Ok(())
/// # }
/// ```
pub trait ServeSession {
    /// Serves the local store of the session on a socket that listens already. Repositories that the builder keeps for
    /// itself are not served. Dropping the result stops the server: see [`RunningServer`].
    ///
    /// # Errors
    /// Those of [`Session::store`] and of [`Server::start_on`].
    fn serve(
        &self,
        listener: TcpListener,
        registry: RegistryOptions,
        server: ServerOptions,
    ) -> impl Future<Output = Result<RunningServer>> + Send;
}

impl ServeSession for Session {
    async fn serve(
        &self,
        listener: TcpListener,
        mut registry: RegistryOptions,
        server: ServerOptions,
    ) -> Result<RunningServer> {
        let held = Some(self.hold(UseKind::Server).await?);
        let others = registry.effective_authorizer();
        registry.authorizer = Some(Arc::new(ImagesOnly { others, _held: held }));
        Server::start_on(listener, self.store().await?, registry, server)
    }
}

/// Denies the repositories that the builder keeps for itself, and asks another authorizer about all others.
#[derive(Debug)]
struct ImagesOnly {
    others: Arc<dyn Authorizer>,
    /// The server uses the state folder for as long as it has its authorizer.
    _held: Option<Use>,
}

impl Authorizer for ImagesOnly {
    fn allows(&self, who: &Principal, repository: Option<&RepositoryName>, action: Action) -> bool {
        !repository.is_some_and(is_internal) && self.others.allows(who, repository, action)
    }

    fn tag_guard(&self, who: &Principal, repository: &RepositoryName) -> Option<TagGuard> {
        self.others.tag_guard(who, repository)
    }

    fn keeps_tag(&self, repository: &RepositoryName, tag: &Tag) -> Option<String> {
        self.others.keeps_tag(repository, tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AnonymousAccess;
    use hyper_sdk::store::TagChange;
    use hyper_sdk::{Error, ErrorKind};

    /// Allows everything but changes of tags.
    #[derive(Debug)]
    struct FixedTags;

    impl Authorizer for FixedTags {
        fn allows(&self, _: &Principal, _: Option<&RepositoryName>, _: Action) -> bool {
            true
        }

        fn tag_guard(&self, _: &Principal, _: &RepositoryName) -> Option<TagGuard> {
            Some(TagGuard::new(|_, _| Err(Error::new(ErrorKind::Denied, "fixed"))))
        }

        fn keeps_tag(&self, _: &RepositoryName, _: &Tag) -> Option<String> {
            Some("fixed".to_owned())
        }
    }

    #[test]
    fn the_rules_for_tags_of_the_other_authorizer_hold() {
        let authorizer = ImagesOnly { others: Arc::new(FixedTags), _held: None };
        let name = RepositoryName::parse("app").unwrap();
        let guard = authorizer.tag_guard(&Principal::anonymous(), &name).unwrap();
        assert!(guard.check(&Tag::latest(), TagChange::Create).is_err());
        assert!(authorizer.keeps_tag(&name, &Tag::latest()).is_some());
    }

    #[test]
    fn repositories_of_the_builder_are_denied_and_the_options_decide_on_all_others() {
        let name = |text: &str| RepositoryName::parse(text).unwrap();
        let images = (name("hyper.local.example/app"), name("hyper.local/layers"));
        for access in [AnonymousAccess::Full, AnonymousAccess::Pull, AnonymousAccess::None] {
            let options = RegistryOptions { anonymous: Some(access), ..RegistryOptions::default() };
            let authorizer = ImagesOnly { others: options.effective_authorizer(), _held: None };
            for (who, action) in [
                (Principal::anonymous(), Action::Pull),
                (Principal::anonymous(), Action::Push),
                (Principal::user("me"), Action::Delete),
            ] {
                let expected = access.allows(&who, Some(&images.0), action);
                assert_eq!(authorizer.allows(&who, Some(&images.0), action), expected);
                assert_eq!(authorizer.allows(&who, None, action), expected);
                assert!(!authorizer.allows(&who, Some(&images.1), action));
            }
        }
    }
}
