//! Credentials that a service or a file gives, checked: the crate `object_store` expects that they can be sent.

use crate::Result;
use crate::s3::{NoCredentials, S3Credentials};
use crate::small_file::{self, Kinds};
use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use std::path::Path;
use std::sync::Arc;

/// The most bytes of a file with a token.
const MAX_TOKEN: u64 = 16 << 10;
/// The most bytes of a key or a token that a service gives.
const MAX_KEY: usize = 16 << 10;

/// Checks the file with the token that is exchanged for keys, if there is one.
///
/// # Errors
/// Those of reading it; [`crate::ErrorKind::Invalid`] for one that is no token.
pub(super) fn check_file(credentials: &S3Credentials) -> Result<()> {
    let (S3Credentials::WebIdentity { token_file, .. } | S3Credentials::Pod { token_file, .. }) = credentials
    else {
        return Ok(());
    };
    let path = Path::new(token_file);
    let token = small_file::read_text(path, "the file with the token for S3", MAX_TOKEN, Kinds::Files)?;
    match token.bytes().all(|c| c.is_ascii_graphic()) && !token.is_empty() {
        true => Ok(()),
        false => {
            Err(crate::Error::invalid("the file with the token for S3 has something else than one token")
                .with_context("path", path.display()))
        }
    }
}

/// Credentials that are refused when they cannot be in a header.
#[derive(Debug)]
pub(super) struct Checked(AwsCredentialProvider);

impl Checked {
    pub(super) fn over(inner: &AwsCredentialProvider) -> AwsCredentialProvider {
        Arc::new(Self(Arc::clone(inner)))
    }
}

#[async_trait]
impl CredentialProvider for Checked {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.0.get_credential().await?;
        let is_plain = |text: &str| text.len() <= MAX_KEY && text.bytes().all(|c| c.is_ascii_graphic());
        match is_plain(&found.key_id) && found.token.as_deref().is_none_or(is_plain) {
            true => Ok(found),
            false => {
                let source = Box::new(NoCredentials::from("it gave keys that cannot be sent"));
                Err(object_store::Error::Generic { store: "S3", source })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::StaticCredentialProvider;

    #[tokio::test]
    async fn keys_that_cannot_be_sent_are_refused() {
        for (key, token, good) in
            [("id", None, true), ("id", Some("t"), true), ("i\nd", None, false), ("id", Some("t\0"), false)]
        {
            let (key_id, token) = (key.to_owned(), token.map(str::to_owned));
            let credential = AwsCredential { key_id, secret_key: "s".to_owned(), token };
            let inner: AwsCredentialProvider = Arc::new(StaticCredentialProvider::new(credential));
            assert_eq!(Checked::over(&inner).get_credential().await.is_ok(), good, "{key:?}");
        }
    }

    #[test]
    fn files_with_tokens_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let url = "http://x".to_owned();
        let of = || S3Credentials::Pod { url: url.clone(), token_file: path.display().to_string() };
        assert!(check_file(&of()).is_err());
        for (text, good) in [("a.b-c", true), ("", false), ("a b", false), ("a\n\nb", false)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(check_file(&of()).is_ok(), good, "{text:?}");
        }
        assert!(check_file(&S3Credentials::Machine(None)).is_ok());
    }
}
