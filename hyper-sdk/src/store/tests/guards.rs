//! Rules for tags: several stores on one database, and what a deletion costs.

use crate::oci::{ImageIndex, Manifest};
use crate::reference::{RepositoryName, Tag};
use crate::store::blob::MemoryBlobs;
use crate::store::meta::SqlMeta;
use crate::store::{
    Composed, DeleteTarget, PutManifest, RegistryStore as _, SharedStore, TagChange, TagGuard,
};
use crate::{Error, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn index(text: &str) -> Manifest {
    let mut index = ImageIndex::new(vec![]);
    index.annotations.insert("text".to_owned(), text.to_owned());
    Manifest::sniff(index.to_bytes()).unwrap()
}

fn name() -> RepositoryName {
    RepositoryName::parse("a").unwrap()
}

fn immutable() -> TagGuard {
    TagGuard::new(|tag, change| match change == TagChange::Create || !tag.as_str().starts_with('v') {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Denied, "immutable")),
    })
}

/// Of eight writers on two stores of one database, one creates each immutable tag.
async fn one_writer_creates(stores: [SharedStore; 2]) {
    for round in 0..5 {
        let tag = Tag::parse(&format!("v{round}")).unwrap();
        let pushes = (0..8).map(|n| {
            let (store, tag) = (stores[n % 2].clone(), tag.clone());
            tokio::spawn(async move {
                let put = PutManifest::new(index(&n.to_string()), [tag]);
                store.put_manifest(&name(), PutManifest { guard: Some(immutable()), ..put }).await
            })
        });
        let replies: Vec<_> =
            futures::future::join_all(pushes).await.into_iter().map(Result::unwrap).collect();
        let refused = replies.iter().filter_map(|reply| reply.as_ref().err()).map(Error::kind);
        assert_eq!(refused.collect::<Vec<_>>(), [ErrorKind::Denied; 7]);
        let winner = replies.iter().flatten().next().unwrap();
        for store in &stores {
            let now = store.get_manifest(&name(), &tag.clone().into()).await.unwrap();
            assert_eq!(*now.digest(), winner.digest);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_stores_on_one_file_create_an_immutable_tag_once() {
    let folder = tempfile::tempdir().unwrap();
    let (path, blobs) = (folder.path().join("db"), MemoryBlobs::default());
    let open = async || Composed::new(blobs.clone(), SqlMeta::open(path.clone()).await.unwrap());
    one_writer_creates([Arc::new(open().await), Arc::new(open().await)]).await;
}

#[cfg(feature = "store-postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_servers_on_postgres_create_an_immutable_tag_once() {
    use super::postgres::{connect, server};
    let Some(server) = server("two servers create an immutable tag") else { return };
    let (url, blobs) = (server.url("immutable"), MemoryBlobs::default());
    let open = async || Composed::new(blobs.clone(), connect(&url).await);
    one_writer_creates([Arc::new(open().await), Arc::new(open().await)]).await;
}

/// The search for the tags of a manifest uses indexes: with ten thousand tags of other manifests, and as many of the
/// deleted one, a deletion takes little longer when it asks. The bound is loose, for slow machines; the figures are
/// printed.
#[tokio::test]
async fn a_manifest_with_many_tags_is_deleted_soon() {
    const TAGS: usize = 10_000;
    let folder = tempfile::tempdir().unwrap();
    let meta = SqlMeta::open(folder.path().join("db")).await.unwrap();
    let store = Composed::new(MemoryBlobs::default(), meta);
    let put = async |text: &str, first: usize| {
        let tags = (first..first + TAGS).map(|n| Tag::parse(&format!("t{n}")).unwrap());
        store.put_manifest(&name(), PutManifest::new(index(text), tags)).await.unwrap().digest
    };
    put("other", TAGS).await;
    for (what, guard) in
        [("each tag is asked about", immutable()), ("no tag is", immutable().without_deletions())]
    {
        let digest = put("many", 0).await;
        let start = Instant::now();
        let target = DeleteTarget::Manifest(digest.into());
        store.delete_guarded(&name(), target, guard).await.unwrap();
        let time = start.elapsed();
        println!("{TAGS} tags are deleted in {time:?} when {what}");
        assert!(time < Duration::from_secs(5), "{time:?}");
    }
}
