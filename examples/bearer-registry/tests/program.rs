//! The registry with tokens of its own, as a client meets it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures::TryStreamExt;
use hyper_sdk::client::keychain::{Credentials, Secret, StaticKeychain};
use hyper_sdk::client::{HttpClient, RegistryClient};
use hyper_sdk::oci::{Descriptor, ImageManifest};
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::{Digest, ErrorKind, RepositoryName, Tag, media_type};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// The program.
struct Program {
    child: Child,
    url: String,
}

impl Program {
    fn start() -> Self {
        let mut tokens = tempfile::NamedTempFile::new().unwrap();
        tokens.write_all(b"t0p alice web\nr3ad bob\n").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_bearer-registry"))
            .arg(tokens.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        Self { child, url: url.trim().to_owned() }
    }

    fn host(&self) -> RegistryHost {
        RegistryHost::parse(self.url.strip_prefix("http://").unwrap()).unwrap()
    }

    fn client(&self, token: &str) -> HttpClient {
        let credentials = Credentials::Bearer(Secret::new(token));
        let keychain = StaticKeychain::default().with(self.host(), credentials);
        HttpClient::builder(self.host()).keychain(Arc::new(keychain)).build().unwrap()
    }

    /// Pushes an image of one blob by plain requests, and returns their statuses.
    async fn push(&self, repository: &str, token: &str, config: &[u8]) -> Vec<u16> {
        let manifest = ImageManifest::new(Descriptor::of(media_type::OCI_CONFIG, config), vec![]).to_bytes();
        let client = reqwest::Client::new();
        let root = format!("{}/v2/{repository}", self.url);
        let blob = client.post(format!("{root}/blobs/uploads/?digest={}", Digest::sha256(config)));
        let manifest = client
            .put(format!("{root}/manifests/1"))
            .header("content-type", media_type::OCI_MANIFEST)
            .body(manifest);
        let mut statuses = Vec::new();
        for request in [blob.body(config.to_vec()), manifest] {
            statuses.push(request.bearer_auth(token).send().await.unwrap().status().as_u16());
        }
        statuses
    }

    fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[tokio::test]
async fn a_good_token_pushes_and_pulls_and_a_bad_one_is_challenged() {
    let program = Program::start();
    let config = b"{}";
    assert_eq!(program.push("web/app", "t0p", config).await, [201, 201]);
    // Another group's repository, and a user without a group.
    assert_eq!(program.push("db/app", "t0p", config).await, [403, 403]);
    assert_eq!(program.push("web/app", "r3ad", config).await, [403, 403]);
    assert_eq!(program.push("web/app", "wrong", config).await, [401, 401]);

    let (repository, tag) = (RepositoryName::parse("web/app").unwrap(), Tag::parse("1").unwrap());
    for token in ["t0p", "r3ad"] {
        let client = program.client(token);
        let manifest = client.get_manifest(&repository, &tag.clone().into()).await.unwrap();
        let digest = manifest.image().unwrap().config.digest.clone();
        let reader = client.get_blob(&repository, &digest, None).await.unwrap();
        let content: Vec<_> = reader.stream.try_collect().await.unwrap();
        assert_eq!(content.concat(), config);
    }
    let e = program.client("wrong").get_manifest(&repository, &tag.into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unauthorized, "{e}");

    let client = reqwest::Client::new();
    let probe = client.get(format!("{}/v2/", program.url));
    for (request, challenge) in [
        (probe.try_clone().unwrap(), r#"Bearer realm="bearer-registry""#),
        (probe.bearer_auth("wrong"), r#"Bearer realm="bearer-registry",error="invalid_token""#),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["www-authenticate"], challenge);
    }
    program.stop();
}
