//! Cases about concurrent tasks.

use super::kit::*;
use crate::ErrorKind;
use crate::store::{PutManifest, SharedStore};
use futures::future::join_all;

pub async fn many_tasks_push_one_blob(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let bytes = noise(700_000, 9);
    let digest = crate::Digest::sha256(&bytes);
    let tasks = (0..8).map(|i| {
        let (store, name, bytes, digest) = (store.clone(), name.clone(), bytes.clone(), digest.clone());
        tokio::spawn(async move {
            let mut upload = store.start_upload(&name, Default::default()).await.unwrap();
            let middle = 80_000 * (i + 1);
            upload.append(bytes.slice(..middle)).await.unwrap();
            upload.append(bytes.slice(middle..)).await.unwrap();
            upload.finish(&digest).await.unwrap();
            assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
        })
    });
    join_all(tasks).await.into_iter().for_each(|t| t.unwrap());
}

pub async fn many_tasks_push_many_blobs(store: SharedStore) {
    needs!(store, write);
    let tasks = (0..16u64).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let name = repository(&format!("r{}", i % 3));
            let bytes = noise(1000 + i as usize, i);
            let digest = push(&store, &name, bytes.clone()).await.digest;
            assert!(read(&store, &name, &digest, None).await.unwrap() == bytes);
            push_image(&store, &name, &format!("image {i}"), &[&format!("t{i}")]).await;
        })
    });
    join_all(tasks).await.into_iter().for_each(|t| t.unwrap());
    let mut count = 0;
    for name in ["r0", "r1", "r2"] {
        count += tags(&*store, &repository(name)).await.len();
    }
    assert_eq!(count, 16);
}

pub async fn concurrent_tag_moves_end_at_one_manifest(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let tasks = (0..8).map(|i| {
        let (store, name) = (store.clone(), name.clone());
        tokio::spawn(async move { push_image(&store, &name, &format!("{i}"), &["t", "u"]).await })
    });
    let pushed: Vec<_> = join_all(tasks).await.into_iter().map(|t| t.unwrap()).collect();
    let at_t = store.get_manifest(&name, &by_tag("t")).await.unwrap();
    let at_u = store.get_manifest(&name, &by_tag("u")).await.unwrap();
    assert_eq!(at_t, at_u, "tags of one push move together");
    assert!(pushed.contains(&at_t));
}

pub async fn only_one_conditional_writer_wins(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let old = push_image(&store, &name, "old", &["t"]).await;
    let tasks = (0..8).map(|i| {
        let (store, name, old) = (store.clone(), name.clone(), old.digest().clone());
        tokio::spawn(async move {
            let new = parse(image(&store, &name, &format!("{i}")).await.to_bytes());
            let put = PutManifest { if_match: Some(Some(old)), ..PutManifest::new(new, [tag("t")]) };
            store.put_manifest(&name, put).await
        })
    });
    let outcomes: Vec<_> = join_all(tasks).await.into_iter().map(|t| t.unwrap()).collect();
    let mut won = 0;
    for outcome in outcomes {
        match outcome {
            Ok(_) => won += 1,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict),
        }
    }
    assert_eq!(won, 1);
}

pub async fn a_tag_can_be_read_while_it_moves(store: SharedStore) {
    needs!(store, write);
    let name = repository("a");
    let both = [push_image(&store, &name, "0", &["t"]).await, push_image(&store, &name, "1", &[]).await];
    let writer = {
        let (store, name, both) = (store.clone(), name.clone(), both.clone());
        tokio::spawn(async move {
            for i in 0..20 {
                put(&store, &name, &both[i % 2], &["t"]).await.unwrap();
            }
        })
    };
    for _ in 0..40 {
        assert!(both.contains(&store.get_manifest(&name, &by_tag("t")).await.unwrap()));
    }
    writer.await.unwrap();
}
