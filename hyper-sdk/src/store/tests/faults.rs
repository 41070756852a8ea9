//! Every operation of a push fails once: no dangling reference is left, and the push succeeds when it is repeated.

use crate::media_type;
use crate::oci::{Descriptor, ImageManifest, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::{BlobBackend, MemoryBlobs};
use crate::store::meta::{MemoryMeta, MetaBackend};
use crate::store::wrap::{FaultPlan, FaultyBlobs, FaultyMeta};
use crate::store::{Composed, PutManifest, RegistryStore, RegistryStoreExt as _};
use crate::{Digest, ErrorKind, Result};
use bytes::Bytes;

fn name() -> RepositoryName {
    RepositoryName::parse("a/b").unwrap()
}

/// Pushes blobs in both ways: from memory, and by an upload that is saved and resumed.
async fn push(store: &dyn RegistryStore, version: &str) -> Result<()> {
    let name = name();
    let config =
        store.put_bytes(&name, media_type::OCI_CONFIG, Bytes::from(format!("{{\"{version}\":1}}"))).await?;
    let content = Bytes::from(format!("layer of {version}").repeat(50_000));
    let mut upload = store.start_upload(&name, Default::default()).await?;
    upload.append(content.slice(..1000)).await?;
    upload.save().await?;
    let id = upload.id().clone();
    drop(upload);
    let mut upload = store.resume_upload(&name, &id).await?;
    upload.append(content.slice(1000..)).await?;
    let layer = upload.finish(&Digest::sha256(&content)).await?;
    let other = RepositoryName::parse("other").unwrap();
    store.mount_blob(&other, &layer.digest, &name).await?;
    let layer = Descriptor::new(media_type::OCI_LAYER, layer.digest, layer.size);
    let manifest = Manifest::sniff(ImageManifest::new(config, vec![layer]).to_bytes())?;
    let tags = ["latest", "v"].map(|tag| Tag::parse(tag).unwrap());
    store.put_manifest(&name, PutManifest::new(manifest, tags)).await.map(drop)
}

/// Follows every tag to the last byte.
async fn check(store: &dyn RegistryStore) -> Vec<String> {
    let name = name();
    let tags = match store.all_tags(&name).await {
        Ok(tags) => tags,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::NameUnknown, "{e}");
            Vec::new()
        }
    };
    for tag in &tags {
        let manifest = store.get_manifest(&name, &tag.clone().into()).await.unwrap();
        let image = manifest.image().unwrap();
        for blob in image.layers.iter().chain([&image.config]) {
            let bytes = store.read_blob(&name, &blob.digest, 1 << 30).await.unwrap();
            assert_eq!(bytes.len() as u64, blob.size);
        }
    }
    tags.iter().map(ToString::to_string).collect()
}

async fn sweep<B, M>(after: bool, backends: impl AsyncFn() -> (B, M))
where
    B: BlobBackend + Clone,
    M: MetaBackend + Clone,
{
    for k in 1.. {
        let (blobs, meta) = backends().await;
        let plan = FaultPlan::none();
        let sound = Composed::new(blobs.clone(), meta.clone());
        let faulty =
            Composed::new(FaultyBlobs::new(blobs, plan.clone()), FaultyMeta::new(meta, plan.clone()));
        push(&faulty, "one").await.unwrap();
        plan.after_the_operation(after);
        plan.fail_at(k);
        let outcome = push(&faulty, "two").await;
        if !plan.has_failed() {
            outcome.unwrap();
            assert!(k > 12, "the push has more operations than {k}");
            return;
        }
        assert!(outcome.is_err(), "fault {k} was swallowed");
        assert_eq!(check(&sound).await, ["latest", "v"], "fault {k}");
        push(&faulty, "two").await.unwrap_or_else(|e| panic!("after fault {k}: {e}"));
        check(&sound).await;
    }
}

#[tokio::test]
async fn no_fault_leaves_a_dangling_reference_in_memory() {
    for after in [false, true] {
        sweep(after, async || (MemoryBlobs::default(), MemoryMeta::default())).await;
    }
}

#[cfg(feature = "store-sql")]
#[tokio::test]
async fn no_fault_leaves_a_dangling_reference_on_disk() {
    use crate::store::{blob::DiskBlobs, meta::SqlMeta};
    // The test makes hundreds of syncs, so it uses a folder in memory if there is one.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    for after in [false, true] {
        sweep(after, async || {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let root = folder.path().join(n.to_string());
            let blobs = DiskBlobs::open(&root).await.unwrap();
            (blobs, SqlMeta::open(root.join("m.db")).await.unwrap())
        })
        .await;
    }
}

/// A fault in the middle of an append leaves the offset unchanged, so the same handle can continue.
#[cfg(feature = "store-sql")]
#[tokio::test]
async fn a_short_write_is_not_counted() {
    use crate::store::blob::{DiskBlobs, StagedState};
    let folder = tempfile::tempdir().unwrap();
    let blobs = DiskBlobs::open(folder.path()).await.unwrap();
    let id = crate::store::UploadId::random().unwrap();
    let mut staging = blobs.stage(&id).await.unwrap();
    staging.restore(&StagedState::default(), crate::digest::Algorithm::Sha256).await.unwrap();
    staging.append(Bytes::from_static(b"good")).await.unwrap();
    let saved = staging.save().await.unwrap();
    // What a failed write or a power failure leaves.
    std::fs::OpenOptions::new()
        .append(true)
        .open(folder.path().join("uploads").join(id.as_str()))
        .map(|mut file| std::io::Write::write_all(&mut file, b"half a chunk").unwrap())
        .unwrap();
    drop(staging);
    let mut staging = blobs.stage(&id).await.unwrap();
    staging.restore(&saved, crate::digest::Algorithm::Sha256).await.unwrap();
    staging.append(Bytes::from_static(b" end")).await.unwrap();
    let digest = Digest::sha256("good end");
    assert_eq!(staging.commit(&digest).await.unwrap_err().kind(), ErrorKind::Internal, "not checked yet");
    assert_eq!(staging.verify(&digest).await.unwrap().size, 8);
    staging.commit(&digest).await.unwrap();
    let path = blobs.path(&Digest::sha256("good end").into()).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"good end");
}
