//! The client against a registry of others, when one is installed: Distribution (`docker-registry`), with and without
//! a password file; `skopeo` looks at what was pushed.

use super::*;
use crate::client::{
    Layout, LocalImage, LocalTarget, PullOptions, PushOptions, RemoteImage, copy, pull, push,
};
use crate::oci::ImageConfig;
use crate::platform::Platform;
use crate::reference::Tag;
use crate::store::{ByteRange, MemoryStore, Page, PutManifest, RegistryStoreExt, SharedStore};
use bytes::Bytes;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The password `pass` of `joe`, in bcrypt.
const HTPASSWD: &str = "joe:$2b$05$abcdefghijklmnopqrstuuZFBUbfXoM8LFiPx8LYlO/sXZB/Cwk3K\n";

struct Peer {
    host: RegistryHost,
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn start(with_password: bool) -> Option<Peer> {
    let program = Path::new("/usr/bin/docker-registry");
    if !program.exists() {
        println!("SKIPPED: docker-registry is not installed");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let root = folder.path().display();
    let mut config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\n  \
         delete:\n    enabled: true\nhttp:\n  addr: {address}\n"
    );
    if with_password {
        std::fs::write(folder.path().join("htpasswd"), HTPASSWD).unwrap();
        config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n");
    }
    let path = folder.path().join("config.yml");
    std::fs::write(&path, config).unwrap();
    let child = Command::new(program)
        .arg("serve")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let peer = Peer { host: RegistryHost::parse(&address.to_string()).unwrap(), child, folder };
    for _ in 0..200 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Some(peer);
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("docker-registry does not listen");
}

async fn image() -> (SharedStore, RepositoryName, Manifest) {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let name = RepositoryName::parse("local").unwrap();
    let config = ImageConfig::empty(&Platform::new("linux", "amd64", None)).to_bytes();
    let config = store.put_bytes(&name, media_type::OCI_CONFIG, config.into()).await.unwrap();
    let mut layers = Vec::new();
    for n in 0..3u8 {
        let bytes: Vec<u8> = (0..700_000u32).map(|i| (i >> (n + 3)) as u8 ^ n).collect();
        layers.push(store.put_bytes(&name, media_type::OCI_LAYER, bytes.into()).await.unwrap());
    }
    let manifest = Manifest::sniff(ImageManifest::new(config, layers).to_bytes()).unwrap();
    store.put_manifest(&name, PutManifest::new(manifest.clone(), [Tag::latest()])).await.unwrap();
    (store, name, manifest)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pushed_to_distribution_and_pulled_back() {
    let Some(peer) = start(false).await else { return };
    let client: SharedClient = Arc::new(HttpClient::builder(peer.host.clone()).build().unwrap());
    client.ping().await.unwrap();
    let (store, local, manifest) = image().await;
    for chunk_length in [None, Some(100_000)] {
        let there = RepositoryName::parse(if chunk_length.is_some() { "chunked" } else { "whole" }).unwrap();
        let options = PushOptions { chunk_length, ..PushOptions::default() };
        let pushed = push(
            &LocalImage::new(&store, &local, &latest()),
            &RemoteImage::new(&client, &there, &latest()),
            &options,
        )
        .await
        .unwrap();
        assert_eq!(&pushed.digest, manifest.digest());
        assert_eq!(client.resolve(&there, &latest()).await.unwrap().digest, pushed.digest);
        let back: SharedStore = Arc::new(MemoryStore::default());
        let tag = Tag::latest();
        let pulled = pull(
            &RemoteImage::new(&client, &there, &latest()),
            &LocalTarget::new(&back, &local, Some(&tag)),
            &PullOptions::default(),
        )
        .await
        .unwrap();
        assert_eq!(pulled.digest, pushed.digest);
    }
    let (whole, copied) =
        (RepositoryName::parse("whole").unwrap(), RepositoryName::parse("x/copied").unwrap());
    let v1 = Tag::parse("v1").unwrap().into();
    copy(
        &RemoteImage::new(&client, &whole, &latest()),
        &RemoteImage::new(&client, &copied, &v1),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    let layer = &manifest.image().unwrap().layers[1];
    let part = client.get_blob(&copied, &layer.digest, Some(ByteRange::Suffix(9))).await.unwrap();
    assert_eq!((part.size, part.offset, part.length), (700_000, 699_991, 9));
    let first = client.list_repositories(Page { limit: Some(2), after: None }).await.unwrap();
    assert_eq!((first.items.len(), first.more), (2, true));
    let after = first.items.last().map(ToString::to_string);
    let second = client.list_repositories(Page { limit: Some(2), after }).await.unwrap();
    assert_eq!((second.items, second.more), (vec![copied.clone()], false));
    assert_eq!(client.list_tags(&copied, Page::default()).await.unwrap().items.len(), 1);

    // A session that broke off is found again, and one that was given up is not.
    let bytes = Bytes::from_static(b"hello, world");
    let mut upload = client.start_upload(&whole).await.unwrap();
    upload.append(bytes.slice(..5)).await.unwrap();
    let token = upload.token().unwrap();
    drop(upload);
    let mut upload = client.resume_upload(&whole, &token).await.unwrap();
    assert_eq!(upload.offset(), 5);
    upload.cancel().await.unwrap();
    assert_eq!(upload.refresh().await.unwrap_err().kind(), ErrorKind::UploadUnknown);

    // Distribution 2 has no referrers: the fallback tag is kept up and copied.
    let empty = Bytes::from_static(b"{}");
    let mut upload = client.start_upload(&whole).await.unwrap();
    upload.append(empty.clone()).await.unwrap();
    upload.finish(&Digest::sha256(&empty), None).await.unwrap();
    let mut referrer = ImageManifest::new(Descriptor::of(media_type::OCI_EMPTY, &empty), vec![]);
    referrer.subject = Some(manifest.descriptor());
    let referrer = Manifest::sniff(referrer.to_bytes()).unwrap();
    client.put_manifest(&whole, &referrer.digest().clone().into(), &referrer).await.unwrap();
    let options = PushOptions { referrers: true, ..PushOptions::default() };
    copy(&RemoteImage::new(&client, &whole, &latest()), &RemoteImage::new(&client, &copied, &v1), &options)
        .await
        .unwrap();
    let found = client.list_referrers(&copied, manifest.digest(), None).await.unwrap();
    assert_eq!(found.iter().map(|d| &d.digest).collect::<Vec<_>>(), [referrer.digest()]);

    client.delete_manifest(&copied, &manifest.digest().clone().into()).await.unwrap();
    assert_eq!(client.resolve(&copied, &v1).await.unwrap_err().kind(), ErrorKind::ManifestUnknown);
    check_with_skopeo(&peer, &manifest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn distribution_mounts_what_it_has_in_another_repository() {
    let Some(peer) = start(false).await else { return };
    let client: SharedClient = Arc::new(HttpClient::builder(peer.host.clone()).build().unwrap());
    let (store, local, manifest) = image().await;
    let named = |name: &str| {
        let text = format!("{}/{name}", peer.host);
        crate::store::local_repository(&crate::reference::Reference::parse(&text).unwrap()).unwrap()
    };
    let local_client: SharedClient = Arc::new(crate::client::Loopback::new(store.clone()));
    for name in ["a", "team/b"] {
        let options = PushOptions::default();
        copy(
            &RemoteImage::new(&local_client, &local, &latest()),
            &RemoteImage::new(&local_client, &named(name), &latest()),
            &options,
        )
        .await
        .unwrap();
    }
    for (name, mounted) in [("a", 0), ("team/b", 4)] {
        let (progress, mut events) = crate::progress::Progress::channel();
        let options = PushOptions { progress, ..PushOptions::default() };
        let there = RepositoryName::parse(name).unwrap();
        push(
            &LocalImage::new(&store, &named(name), &latest()),
            &RemoteImage::new(&client, &there, &latest()),
            &options,
        )
        .await
        .unwrap();
        let all: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let cached = all.iter().filter(|e| {
            matches!(e, crate::progress::Event::Finished { outcome: crate::progress::Outcome::Cached, .. })
        });
        assert_eq!(cached.count(), mounted, "{name}: {all:?}");
        assert_eq!(&client.resolve(&there, &latest()).await.unwrap().digest, manifest.digest());
    }
}

/// Lets skopeo copy the pushed image into a layout, and reads that layout.
async fn check_with_skopeo(peer: &Peer, manifest: &Manifest) {
    if !Path::new("/usr/bin/skopeo").exists() {
        println!("SKIPPED: skopeo is not installed");
        return;
    }
    let layout = peer.folder.path().join("layout");
    let status = Command::new("/usr/bin/skopeo")
        .args(["--insecure-policy", "--tmpdir"])
        .arg(peer.folder.path())
        .args(["copy", "--quiet", "--preserve-digests", "--src-tls-verify=false", "--src-no-creds"])
        .arg(format!("docker://{}/whole:latest", peer.host))
        .arg(format!("oci:{}:v1", layout.display()))
        .status()
        .unwrap();
    assert!(status.success());
    let client: SharedClient = Arc::new(Layout::open(&layout).await.unwrap());
    let back: SharedStore = Arc::new(MemoryStore::default());
    let v1 = Tag::parse("v1").unwrap().into();
    let pulled = pull(
        &RemoteImage::new(&client, &repository(), &v1),
        &LocalTarget::new(&back, &repository(), None),
        &PullOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(&pulled.digest, manifest.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn distribution_with_a_password_file() {
    let Some(peer) = start(true).await else { return };
    let joe = |password: &str| -> SharedClient {
        let keychain = StaticKeychain::default().with(peer.host.clone(), Credentials::basic("joe", password));
        Arc::new(HttpClient::builder(peer.host.clone()).keychain(Arc::new(keychain)).build().unwrap())
    };
    let (store, local, _) = image().await;
    let anonymous: SharedClient = Arc::new(HttpClient::builder(peer.host.clone()).build().unwrap());
    let options = PushOptions::default();
    for client in [anonymous, joe("wrong")] {
        let e = push(
            &LocalImage::new(&store, &local, &latest()),
            &RemoteImage::new(&client, &local, &latest()),
            &options,
        )
        .await
        .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unauthorized);
    }
    push(
        &LocalImage::new(&store, &local, &latest()),
        &RemoteImage::new(&joe("pass"), &local, &latest()),
        &options,
    )
    .await
    .unwrap();
    joe("pass").resolve(&local, &latest()).await.unwrap();
    let check = async |password: &str| {
        let keychain = StaticKeychain::default().with(peer.host.clone(), Credentials::basic("joe", password));
        let client = HttpClient::builder(peer.host.clone()).keychain(Arc::new(keychain)).build().unwrap();
        client.check_credentials().await
    };
    assert_eq!(check("pass").await.unwrap(), crate::client::CredentialCheck::Accepted);
    assert_eq!(check("wrong").await.unwrap_err().kind(), ErrorKind::Unauthorized);
}
