//! Capabilities tell the truth.

use super::kit::*;
use crate::store::{PutManifest, SharedStore, UploadId};
use crate::{Digest, ErrorKind};
use bytes::Bytes;

const REFUSED: &[ErrorKind] = &[ErrorKind::Unsupported];

pub async fn capabilities_what_is_denied_is_unsupported(store: SharedStore) {
    let capabilities = store.capabilities();
    let (name, digest) = (repository("a"), Digest::sha256("x"));
    if !capabilities.write {
        fails(store.start_upload(&name, Default::default()).await, REFUSED);
        fails(store.put_blob(&name, &digest, Bytes::from_static(b"x")).await, REFUSED);
        let path = std::env::temp_dir().join(format!("hyper-capabilities-{}", UploadId::random().unwrap()));
        std::fs::write(&path, "x").unwrap();
        fails(store.put_blob_file(&name, &digest, &path).await, REFUSED);
        assert!(path.exists(), "what is refused is not consumed");
        std::fs::remove_file(path).unwrap();
        fails(store.mount_blob(&name, &digest, &repository("b")).await, REFUSED);
        let manifest = parse(r#"{"schemaVersion":2,"manifests":[]}"#);
        fails(store.put_manifest(&name, PutManifest::new(manifest, [tag("t")])).await, REFUSED);
    }
    if !capabilities.delete {
        fails(store.delete_blob(&name, &digest).await, REFUSED);
        for reference in [by_tag("t"), by_digest(&digest)] {
            fails(store.delete_manifest(&name, &reference).await, REFUSED);
        }
    }
    if !capabilities.resume {
        fails(store.resume_upload(&name, &UploadId::random().unwrap()).await, REFUSED);
    }
}

pub async fn capabilities_what_is_claimed_works(store: SharedStore) {
    let capabilities = store.capabilities();
    let name = repository("a");
    if capabilities.write {
        push_image(&store, &name, "x", &["t"]).await;
    }
    if capabilities.write && capabilities.resume {
        let upload = store.start_upload(&name, Default::default()).await.unwrap();
        store.resume_upload(&name, upload.id()).await.unwrap();
        upload.abort().await.unwrap();
    }
    if capabilities.write && capabilities.delete {
        store.delete_manifest(&name, &by_tag("t")).await.unwrap();
    }
    assert_eq!(store.capabilities(), capabilities, "capabilities do not change");
}

pub async fn a_store_has_a_name(store: SharedStore) {
    assert!(!store.to_string().is_empty());
}
