//! Cases about durable backends: what they keep when they are closed and opened again.

use super::MetaOpener;
use super::kit::*;
use super::uploads::{FUTURE, record, state};
use crate::store::blob::BlobKey;
use crate::store::meta::Change;

pub async fn content_survives_reopening(opener: MetaOpener) {
    let meta = opener.open().await;
    if !meta.durable() {
        return;
    }
    let [a, b] = ["a", "b"].map(repository);
    let manifest = put_image(&**meta, &a, ("c", "l"), &["t", "u"]).await;
    meta.write(link_own(&b, "y", "k1")).await.unwrap();
    meta.write(Change::DeleteTag { repository: a.clone(), tag: tag("u") }).await.unwrap();
    drop(meta);
    let meta = opener.open().await;
    assert_eq!(meta.manifest(&a, &by_tag("t")).await.unwrap(), Some(manifest));
    assert_eq!(tags(&**meta, &a).await, ["t"]);
    let record = meta.blob(&b, &digest("y")).await.unwrap().unwrap();
    assert_eq!((record.size, record.key), (5, BlobKey::Own("k1".to_owned())));
    assert_eq!(meta.repositories_with(&digest("l"), None, 10).await.unwrap().items, [a]);
}

pub async fn sessions_survive_reopening(opener: MetaOpener) {
    let meta = opener.open().await;
    if !meta.durable() {
        return;
    }
    let [saved, ended] = ["a", "b"].map(record);
    for record in [&saved, &ended] {
        meta.write(Change::StartUpload { record: record.clone(), resends: None }).await.unwrap();
    }
    meta.write(Change::SaveUpload {
        id: saved.id.clone(),
        from: 0,
        state: state(),
        writer: None,
        keeps_claim: false,
    })
    .await
    .unwrap();
    meta.write(Change::EndUpload { id: ended.id.clone(), writer: None }).await.unwrap();
    drop(meta);
    let meta = opener.open().await;
    let found = meta.upload(&saved.id).await.unwrap().unwrap();
    assert_eq!(
        (found.repository, found.algorithm, found.state),
        (saved.repository, saved.algorithm, state())
    );
    assert!(meta.upload(&ended.id).await.unwrap().is_none());
    assert_eq!(meta.stale_uploads(FUTURE).await.unwrap(), [saved.id]);
}

pub async fn marks_and_leases_survive_reopening(opener: MetaOpener) {
    let meta = opener.open().await;
    if !meta.durable() {
        return;
    }
    let a = repository("a");
    meta.write(link(&a, "x", 500)).await.unwrap();
    meta.write(link(&a, "y", 0)).await.unwrap();
    meta.write(unlink(&a, "y")).await.unwrap();
    meta.write(condemn("y", 3)).await.unwrap();
    drop(meta);
    let meta = opener.open().await;
    assert!(meta.unreferenced_links(499, None, 10).await.unwrap().is_empty());
    assert_eq!(meta.unreferenced_links(500, None, 10).await.unwrap().len(), 1);
    assert_eq!(meta.unlinked_blobs(None, 10).await.unwrap()[0].condemned, Some(3));
    assert_eq!(meta.write(remove("y", 3)).await.unwrap(), 1);
}
