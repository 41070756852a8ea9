//! Clean-ups of a state folder with snapshots of several kinds.

use super::kinds::{Kinds, Snapshots, Stuck};
use super::tests::State;
use super::{PruneOptions, SpaceKind};
use crate::cache::CacheRecord;
use crate::oci::Descriptor;
use crate::snapshot::{Snapshotter as _, UnpackOptions};
use crate::testing::{PlainSnapshotter, RandomImage};
use crate::uses::Cleaning;
use crate::{Digest, media_type};
use std::sync::Arc;

/// A record whose files are in snapshots alone is lost with the last of them, and what keeps one kind does not keep another.
#[tokio::test]
async fn a_result_is_lost_with_its_last_snapshot() {
    let state = State::new();
    let copies = Arc::new(PlainSnapshotter::new().unwrap());
    let chain = Digest::sha256("chain");
    let own = Arc::clone(&state.space.snapshotter);
    for snapshots in [&own, &(copies.clone() as crate::snapshot::SharedSnapshotter)] {
        let layer = std::io::Cursor::new(RandomImage::new(1).layers.remove(0).tar);
        snapshots.apply(None, &chain, UnpackOptions::default(), Box::new(layer)).await.unwrap();
    }
    let layer = Descriptor::of(media_type::OCI_LAYER, b"layer");
    let repository = crate::reference::RepositoryName::parse(crate::solve::LAYERS_REPOSITORY).unwrap();
    let record = CacheRecord {
        layer: None,
        snapshot: Some(chain.clone()),
        ..CacheRecord::of_blob(layer, Digest::sha256("diff"), repository)
    };
    let key = Digest::sha256("key");
    state.space.cache.put(&key, &record).await.unwrap();
    let kinds = Kinds {
        tool: Arc::clone(&own),
        open: vec![
            Snapshots { variant: None, snapshotter: Arc::clone(&own) },
            Snapshots { variant: Some("copy"), snapshotter: copies.clone() },
        ],
        stuck: vec![Stuck {
            variant: "overlay",
            folder: state.space.root.join("none"),
            reason: "another user's".into(),
        }],
    };
    let options = PruneOptions { filters: vec!["type=snapshot".parse().unwrap()], ..PruneOptions::default() };
    let cleaning = Cleaning::begin_blocking(&state.space.root, true).unwrap().unwrap();
    let step = copies.prepare(Some(&chain)).await.unwrap();
    let (pruned, _) = state.space.prune_alone(&options, &kinds, &cleaning).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.in_use), (1, 1), "{pruned:?}");
    assert!(pruned.removed[0].variant.is_none() && pruned.removed[0].kind == SpaceKind::Snapshot);
    assert_eq!(pruned.warnings, ["another user's"]);
    assert_eq!(state.space.records().await.unwrap().len(), 1, "the copy has the files");
    copies.abandon(step).await.unwrap();
    let (pruned, _) = state.space.prune_alone(&options, &kinds, &cleaning).await.unwrap();
    assert_eq!(pruned.removed[0].variant.as_deref(), Some("copy"));
    assert!(state.space.records().await.unwrap().is_empty(), "nothing has the files");
    let others = PruneOptions { filters: vec!["type=layer".parse().unwrap()], ..PruneOptions::default() };
    let (pruned, _) = state.space.prune_alone(&others, &kinds, &cleaning).await.unwrap();
    assert!(pruned.warnings.is_empty());
}
