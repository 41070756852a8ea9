//! Renews the time of an object: it is copied onto itself, on the server.

use super::S3Cache;
use crate::s3::{Object, Refusal};
use crate::{Error, Result};
use object_store::HeaderValue;
use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpRequestBody};
use object_store::path::Path as Key;
use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;
use std::time::Duration;

/// The largest object that one request copies.
const MAX_COPY: u64 = 5 << 30;
/// How often a request is sent.
const ATTEMPTS: u32 = 4;
const FIRST_DELAY: Duration = Duration::from_millis(200);

impl S3Cache {
    /// Renews the time of an object.
    ///
    /// # Errors
    /// Those of the server; [`crate::ErrorKind::Unsupported`] for an object that one request cannot copy.
    pub(super) async fn touch(&self, key: &Key, size: u64) -> Result<()> {
        if size > MAX_COPY {
            return Err(Error::unsupported("the time of an object above 5 GiB is not renewed"));
        }
        self.largest.announce(size);
        let mut attempt = 1;
        loop {
            match self.copy_onto_itself(key).await {
                Err(e) if attempt < ATTEMPTS && may_pass(e.kind()) => {
                    tokio::time::sleep(FIRST_DELAY * 2u32.pow(attempt - 1)).await;
                    attempt += 1;
                }
                done => return done.map_err(|e| self.error(Object::Blob, &e)),
            }
        }
    }

    async fn copy_onto_itself(&self, key: &Key) -> std::result::Result<(), HttpError> {
        let unusable = |e| HttpError::new(HttpErrorKind::Unknown, e);
        let credential = self.store.credentials().get_credential().await.map_err(unusable)?;
        let path = encoded(key.as_ref());
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::PUT;
        let invalid = || HttpError::new(HttpErrorKind::Unknown, Error::invalid("the key makes no request"));
        *request.uri_mut() = format!("{}/{path}", self.address.url).parse().map_err(|_| invalid())?;
        let source = format!("/{}/{path}", self.address.bucket);
        let headers = request.headers_mut();
        headers.insert("x-amz-copy-source", HeaderValue::from_str(&source).map_err(|_| invalid())?);
        // Without it, a copy onto itself is refused.
        headers.insert("x-amz-metadata-directive", HeaderValue::from_static("REPLACE"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.address.region);
        authorizer.try_authorize(&mut request, None).map_err(unusable)?;
        let answer = self.http.execute(request).await?;
        let text = answer.into_body().bytes().await?;
        // S3 says with status 200 that a copy failed while it was made.
        match text.windows(7).any(|window| window == b"<Error>") {
            true => Err(HttpError::new(
                HttpErrorKind::Request,
                Refusal::new(500, &text, None, credential.token.as_deref()),
            )),
            false => Ok(()),
        }
    }
}

/// Whether another attempt may succeed.
fn may_pass(kind: HttpErrorKind) -> bool {
    use HttpErrorKind::{Connect, Interrupted, Request, Timeout};
    matches!(kind, Connect | Request | Timeout | Interrupted)
}

/// The path in the form in which it is signed: every byte but the unreserved ones as `%XX`.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(byte.into())
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_as_they_are_signed() {
        assert_eq!(encoded("blobs/sha256:ab"), "blobs/sha256%3Aab");
        assert_eq!(encoded("a b/ü?~"), "a%20b/%C3%BC%3F~");
    }
}
