//! Client certificates: a user shows one in place of a password.

use super::{AuthError, AuthRequest, Authenticator, Challenge, Denial, Principal};
use crate::client_certificate::ClientCertificate;
use async_trait::async_trait;
use hyper_sdk::{Error, ErrorKind};
use std::sync::Arc;

/// Takes the user of a connection from its verified client certificate. A request with credentials in a header, and one
/// without a certificate, goes to another authenticator.
#[derive(Debug)]
pub(crate) struct ClientCertificates {
    pub(crate) others: Arc<dyn Authenticator>,
    /// Whether the other authenticator knows users, so that credentials in a header take precedence.
    pub(crate) others_know_users: bool,
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Principal, AuthError> {
        let has_other = self.others_know_users && request.has_authorization();
        let Some(certificate) = request.extensions().get::<ClientCertificate>().filter(|_| !has_other) else {
            return self.others.authenticate(request).await;
        };
        match certificate.name() {
            Some(name) => Ok(Principal::user(name)),
            None => Err(Error::new(
                ErrorKind::Denied,
                "the client certificate has not exactly one name where this registry looks for the user",
            )
            .into()),
        }
    }

    fn challenge(
        &self,
        request: &AuthRequest<'_>,
        principal: &Principal,
        denial: Denial,
    ) -> Option<Challenge> {
        self.others.challenge(request, principal, denial)
    }
}
