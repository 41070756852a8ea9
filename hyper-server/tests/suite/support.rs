//! A registry in memory, and requests to it that need no socket.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_sdk::oci::{Descriptor, ImageIndex, ImageManifest};
use hyper_sdk::store::{MemoryStore, SharedStore};
use hyper_sdk::{Digest, media_type};
use hyper_server::{Registry, RegistryOptions};
use std::sync::Arc;

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The error code, after checking that the body is an error as the specification has it.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/json");
        let json = self.json();
        assert!(json["errors"][0]["message"].is_string(), "{json}");
        json["errors"][0]["code"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status.as_u16(), self.code().as_str()), (status, code), "{}", self.text());
        self
    }
}

pub(crate) struct Api {
    pub(crate) registry: Registry,
}

pub(crate) fn memory() -> SharedStore {
    Arc::new(MemoryStore::default())
}

impl Api {
    pub(crate) fn new() -> Self {
        Self::with(RegistryOptions::default())
    }

    pub(crate) fn with(options: RegistryOptions) -> Self {
        Self { registry: Registry::new(memory(), options).unwrap() }
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.registry.handle(request.body(body.into()).unwrap()).await;
        let (head, body) = response.into_parts();
        let reply = Reply {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes(),
        };
        assert_eq!(reply.header("docker-distribution-api-version"), "registry/2.0");
        assert!(!reply.header("x-request-id").is_empty());
        if method == "HEAD" || matches!(reply.status.as_u16(), 204 | 304) {
            assert!(reply.body.is_empty(), "{method} {path}");
        }
        reply
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], Body::empty()).await
    }

    pub(crate) async fn head(&self, path: &str) -> Reply {
        self.request("HEAD", path, &[], Body::empty()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.request("DELETE", path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str) -> Reply {
        self.request("POST", path, &[], Body::empty()).await
    }

    pub(crate) async fn blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.request("POST", &path, &[], content.to_vec()).await.expect(201);
        digest
    }

    pub(crate) async fn manifest(
        &self,
        repository: &str,
        reference: &str,
        kind: &str,
        bytes: &[u8],
    ) -> Reply {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.request("PUT", &path, &[("content-type", kind)], bytes.to_vec()).await
    }

    /// Pushes an image whose config holds `content`, and returns its manifest.
    pub(crate) async fn image(&self, repository: &str, reference: &str, content: &[u8]) -> (Vec<u8>, Digest) {
        self.blob(repository, content).await;
        let bytes = image(content).to_bytes();
        self.manifest(repository, reference, media_type::OCI_MANIFEST, &bytes).await.expect(201);
        let digest = Digest::sha256(&bytes);
        (bytes, digest)
    }
}

/// An image with a config and nothing else.
pub(crate) fn image(config: &[u8]) -> ImageManifest {
    ImageManifest::new(Descriptor::of(media_type::OCI_CONFIG, config), vec![])
}

pub(crate) fn index(manifests: Vec<Descriptor>) -> ImageIndex {
    ImageIndex::new(manifests)
}

/// Bytes that differ with their seed and do not repeat.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
