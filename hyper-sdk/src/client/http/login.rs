//! Checks credentials with requests that need them.
//!
//! ```text
//!   GET /v2/ without credentials
//!     401             ──► answer the challenge: 200 right, 401 wrong
//!     else, with a    ──► answer the challenge: 401 wrong; a token server that gives a token has checked them
//!     challenge
//!     else            ──► POST an upload to a repository that does not exist, without credentials
//!                           401  ──► answer the challenge: 401 wrong, else right (403: right, and not permitted)
//!                           else ──► the registry asks for no credentials
//! ```
//!
//! An upload session that this opens is cancelled at once.

use super::auth::Access;
use super::errors::{self, Subject};
use super::transport::Answer;
use super::{HttpClient, header};
use crate::client::RegistryClient as _;
use crate::reference::RepositoryName;
use crate::{Error, ErrorKind, Result, ResultExt as _};
use futures::future::BoxFuture;
use reqwest::Method;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};

/// The repository of the upload, which does not exist.
const PROBE: &str = "hyper/login-probe";

/// The result of a check of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialCheck {
    /// The registry, or the token server that it names, accepted them.
    Accepted,
    /// The registry did not ask for any: whether they are right is not known.
    NotAsked,
}

impl HttpClient {
    /// Checks the keychain's credentials for the registry. A registry that is open to everybody gets a request that needs
    /// credentials and changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthorized`] when they are wrong; those of the network.
    pub async fn check_credentials(&self) -> Result<CredentialCheck> {
        self.check().await.map_err(|e| e.with_registry(self)).context("registry", self)
    }

    fn check<'a>(&'a self) -> BoxFuture<'a, Result<CredentialCheck>> {
        // Boxed: programs that call this do not compile it again.
        Box::pin(async move {
            let root = self.url("");
            let answer = self.ask(Method::GET, &root, None).await?;
            if answer.response.status() == 401 {
                return self.ping().await.map(|()| CredentialCheck::Accepted);
            }
            if !answer.response.status().is_success() {
                // A server that answers so at this address is not a registry.
                self.ping().await?;
            }
            if answer.response.headers().contains_key(WWW_AUTHENTICATE) {
                let access = Access::registry();
                let is_token = self.learn(&answer, &access).await?;
                let authorization = self.authorization(&access).await?;
                let again = self.ask(Method::GET, &root, authorization.as_ref()).await?;
                if again.response.status() == 401 {
                    return Err(refused(again, self).await);
                }
                if is_token {
                    return Ok(CredentialCheck::Accepted);
                }
            }
            let probe = RepositoryName::parse(PROBE)?;
            let uploads = self.url(format_args!("{probe}/blobs/uploads/"));
            let answer = self.ask(Method::POST, &uploads, None).await?;
            if answer.response.status() != 401 {
                self.cancel_session(&answer, None).await;
                return Ok(CredentialCheck::NotAsked);
            }
            // A token without scopes shows whether the name and the password are right, whatever they permit.
            let access = Access::registry();
            let is_token = self.learn(&answer, &access).await?;
            let authorization = self.authorization(&access).await?;
            if is_token {
                return Ok(CredentialCheck::Accepted);
            }
            let again = self.ask(Method::POST, &uploads, authorization.as_ref()).await?;
            if again.response.status() == 401 {
                return Err(refused(again, self).await);
            }
            self.cancel_session(&again, authorization.as_ref()).await;
            Ok(CredentialCheck::Accepted)
        })
    }

    /// Reads a challenge. Returns whether it names a token server.
    async fn learn(&self, answer: &Answer, access: &Access) -> Result<bool> {
        let transport = self.transport();
        let headers = answer.response.headers();
        transport.auth.refused(transport.base(), headers, access, None).await?;
        Ok(transport.auth.wants_token())
    }

    /// The header that answers the challenge; [`ErrorKind::Unauthorized`] when the token server gives no token.
    async fn authorization(&self, access: &Access) -> Result<Option<HeaderValue>> {
        let transport = self.transport();
        let found = transport.auth.header(&transport.http, access, &self.reporter).await?;
        found.map_or_else(
            || Err(Error::new(ErrorKind::Unauthorized, "there are no credentials for the registry")),
            |header| Ok(Some(header)),
        )
    }

    async fn ask(
        &self,
        method: Method,
        url: &url::Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer> {
        self.transport().ask(method, url, authorization, &self.reporter).await
    }

    /// Cancels the session that the request opened, if any. It would expire by itself.
    async fn cancel_session(&self, answer: &Answer, authorization: Option<&HeaderValue>) {
        let Some(location) = header(answer.response.headers(), "location") else { return };
        let Ok(url) = answer.url.join(location) else { return };
        if answer.response.status() == 202 && self.transport().is_own(&url) {
            let _ = self.ask(Method::DELETE, &url, authorization).await;
        }
    }
}

async fn refused(answer: Answer, client: &HttpClient) -> Error {
    errors::of_response(answer.response, Subject::Registry, client.transport().timeouts)
        .await
        .with_kind(ErrorKind::Unauthorized)
        .with_retryable(false)
}
