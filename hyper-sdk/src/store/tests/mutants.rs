//! Every fault that a backend can have is caught by a case of its suite: backends that are wrong on purpose, and the cases
//! that must fail for each.

mod blobs;
mod meta;

use self::blobs::{BlobFault, BlobMutant};
use self::meta::{MetaFault, MetaMutant};
use crate::store::blob::{BlobBackend, DiskBlobs, MemoryBlobs};
use crate::store::conformance::{self, Opener};
use crate::store::meta::{MemoryMeta, MetaBackend, SqlMeta};
use crate::store::{Composed, SharedStore};
use std::sync::Arc;

/// Runs a case; whether it failed.
async fn fails(case: impl Future<Output = ()> + Send + 'static) -> bool {
    match tokio::spawn(case).await {
        Ok(()) => false,
        Err(e) => {
            assert!(e.is_panic(), "{e}");
            true
        }
    }
}

fn blobs(fault: BlobFault) -> Opener<Arc<dyn BlobBackend>> {
    Opener::new(move |folder| async move {
        if let Some(lost) = fault.lost_on_reopen() {
            let _ = std::fs::remove_dir_all(folder.join(lost));
        }
        let backend = BlobMutant::new(DiskBlobs::open(folder).await.unwrap(), fault);
        (Arc::new(backend) as Arc<dyn BlobBackend>, ())
    })
}

fn meta(fault: MetaFault) -> Opener<Arc<dyn MetaBackend>> {
    Opener::new(move |path| async move {
        if fault == MetaFault::LostOnReopen {
            for part in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{part}", path.display()));
            }
        }
        let backend = MetaMutant::new(SqlMeta::open(path).await.unwrap(), fault);
        (Arc::new(backend) as Arc<dyn MetaBackend>, ())
    })
}

macro_rules! caught {
    ($suite:ident, $open:ident, $faults:ident: $($fault:ident by $($case:ident),+;)+) => {
        $($(
            assert!(!fails(conformance::$suite::$case($open($faults::None))).await, "{} is right", stringify!($case));
            assert!(
                fails(conformance::$suite::$case($open($faults::$fault))).await,
                "{} does not catch {}",
                stringify!($case),
                stringify!($fault)
            );
        )+)+
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_a_blob_backend_is_caught() {
    caught! { blob, blobs, BlobFault:
        SecondWriter by one_area_has_one_writer;
        DiscardKeeps by discarded_bytes_are_gone, a_discarded_area_is_gone_after_reopening;
        BlobsLostOnReopen by what_was_put_is_there_after_reopening, what_was_committed_is_there_after_reopening;
        UploadsLostOnReopen by a_saved_area_goes_on_after_reopening;
        DeletedComeBack by what_was_deleted_is_gone_after_reopening;
        NoDigestCheck by verify_refuses_another_digest;
        NoVerify by commit_needs_verify, bytes_after_verify_need_it_again;
        AdoptKeepsFile by an_adopted_file_is_taken_over, an_adopted_file_may_be_there_already;
        PathLies by a_path_holds_exactly_the_bytes;
        ShortRead by bytes_come_back, reads_are_exact;
        AnySize by bytes_of_another_size_are_corrupt;
        SizesReversed by sizes_are_in_the_order_asked;
        DeleteKeeps by deleted_bytes_are_gone;
        DeleteTellsNothing by deleting_nothing_says_so;
        ListMisses by the_list_has_everything_once;
        ListRepeats by the_list_has_everything_once;
        UnsavedStay by unsaved_bytes_are_forgotten;
        WholeIsDamaged by whole_bytes_are_not_removed_as_damaged;
        DamagedIsWhole by damaged_bytes_are_removed_and_put_again;
        NoLeftovers by resting_areas_are_named;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_a_metadata_backend_is_caught() {
    caught! { meta, meta, MetaFault:
        EdgesUnchecked by a_required_edge_must_be_there, an_edge_has_the_size_of_its_target;
        OneTag by tags_move_together;
        NoCondition by a_condition_is_checked_for_every_tag;
        MountUnchecked by a_mount_needs_the_link_of_its_source;
        UnlinkUnchecked by an_unlinked_blob_is_known_and_not_there;
        KeyForgotten by keys_are_recorded, linking_again_replaces_size_and_key;
        VersionStands by the_version_follows_every_change;
        VersionRuns by the_version_follows_every_change;
        NoLease by a_lease_keeps_a_link;
        PushNoLease by a_pushed_link_has_its_lease;
        LeaseUnchecked by a_lease_needs_a_link;
        CollectsReferenced by a_referenced_link_is_not_collected;
        LeasesIgnored by a_lease_keeps_a_link;
        CondemnsLinked by only_a_blob_without_links_is_condemned;
        CondemnedLinked by a_condemned_blob_is_not_linked_by_its_key;
        AnyMark by a_blob_is_removed_by_the_latest_mark;
        OneRepository by repositories_with_a_blob_are_listed, repositories_with_a_blob_are_paged;
        NoMore by repositories_are_paged_in_byte_order;
        AllStale by stale_sessions_are_named;
        AllExpire by only_stale_sessions_expire;
        SaveForgets by a_saved_session_says_where_it_stands;
        SaveUnchecked by saving_a_session_that_ended_is_refused;
        SessionStays by a_link_ends_its_session;
        LostOnReopen by what_was_written_is_there_after_reopening, a_session_is_there_after_reopening,
            marks_and_leases_are_there_after_reopening;
    }
}

/// A store that loses all when it is closed, and says that it is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_durable_in_name_only_is_caught() {
    let open = || {
        Opener::new(|_| async {
            let blobs = BlobMutant::new(MemoryBlobs::default(), BlobFault::ClaimsDurable);
            let meta = MetaMutant::new(MemoryMeta::default(), MetaFault::ClaimsDurable);
            (Arc::new(Composed::new(blobs, meta)) as SharedStore, ())
        })
    };
    assert!(fails(conformance::what_was_acknowledged_is_there_after_reopening(open())).await);
    assert!(fails(conformance::what_was_deleted_is_gone_after_reopening(open())).await);
    assert!(fails(conformance::a_saved_upload_is_resumed_after_reopening(open())).await);
}
