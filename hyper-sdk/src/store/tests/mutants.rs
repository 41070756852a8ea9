//! Tests of the suites: backends with an injected fault, and the cases that must fail for each fault.

mod blobs;
mod deletions;
mod meta;

use self::blobs::{BlobFault, BlobMutant};
use self::meta::{MetaFault, MetaMutant};
use crate::store::blob::{BlobBackend, DiskBlobs, MemoryBlobs};
use crate::store::conformance::{self, Opener};
use crate::store::meta::{MemoryMeta, MetaBackend, SqlMeta};
use crate::store::{Composed, SharedStore};
use std::sync::Arc;

/// Runs a case, and returns whether it failed.
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
async fn the_blob_suite_catches_every_fault() {
    caught! { blob, blobs, BlobFault:
        SecondWriter by one_area_has_one_writer;
        DiscardKeeps by discarded_bytes_cannot_be_restored, a_discarded_area_stays_discarded_after_reopening;
        BlobsLostOnReopen by put_blobs_survive_reopening, committed_blobs_survive_reopening;
        UploadsLostOnReopen by a_saved_area_is_resumed_after_reopening;
        DeletedComeBack by deleted_content_stays_deleted_after_reopening;
        NoDigestCheck by verify_rejects_a_wrong_digest;
        NoVerify by commit_requires_verify, appended_bytes_must_be_verified_again;
        AdoptKeepsFile by an_adopted_file_becomes_a_blob, an_existing_blob_can_be_adopted_again;
        PathLies by a_path_names_a_file_with_the_bytes;
        ShortRead by put_bytes_can_be_read, a_read_returns_the_requested_bytes;
        AnySize by a_read_with_a_wrong_size_is_corrupt;
        SizesReversed by sizes_are_in_the_order_of_the_keys;
        DeleteKeeps by deleted_bytes_cannot_be_read;
        DeleteTellsNothing by deleting_missing_bytes_returns_false;
        ListMisses by the_list_has_each_key_once;
        ListRepeats by the_list_has_each_key_once;
        UnsavedStay by unsaved_bytes_are_discarded;
        WholeIsDamaged by intact_bytes_are_not_removed_as_damaged, damaged_bytes_are_set_aside;
        DamagedIsWhole by damaged_bytes_are_removed_and_put_again, damaged_bytes_are_set_aside;
        NoLeftovers by idle_areas_are_listed;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metadata_suite_catches_every_fault() {
    caught! { meta, meta, MetaFault:
        EdgesUnchecked by a_required_edge_must_exist, an_edge_must_have_the_size_of_its_target;
        OneTag by tags_move_together;
        NoCondition by a_condition_is_checked_for_every_tag;
        NoGuard by a_guard_is_asked_about_tags_that_change, a_guard_protects_what_a_tag_needs;
        MountUnchecked by a_mount_needs_the_link_of_its_source;
        UnlinkUnchecked by an_unlinked_blob_keeps_its_row;
        KeyForgotten by keys_are_recorded, linking_again_replaces_size_and_key;
        VersionStands by the_version_changes_with_every_change;
        VersionRuns by the_version_changes_with_every_change;
        NoLease by a_lease_keeps_a_link;
        LeaseUntold by the_end_of_a_lease_is_told;
        PushNoLease by a_new_link_has_a_lease;
        LeaseUnchecked by a_lease_needs_a_link;
        CollectsReferenced by a_referenced_link_is_not_collected, a_deleted_manifest_keeps_its_blobs;
        LeasesIgnored by a_lease_keeps_a_link;
        LinksRepeat by unreferenced_links_are_paged;
        ManifestsRepeat by unkept_manifests_are_paged;
        YoungUnkept by a_young_manifest_is_kept;
        UndatedUnkept by a_manifest_that_is_stored_again_is_young;
        KeptCollected by a_tag_keeps_a_manifest, an_index_keeps_its_entries, a_subject_keeps_its_referrers,
            what_a_tag_has_lost_is_kept;
        NothingKept by what_is_deleted_is_kept_for_the_window, a_deleted_manifest_keeps_its_blobs,
            what_a_tag_has_lost_is_kept, a_deleted_index_keeps_its_entries, a_deleted_subject_keeps_its_referrers,
            the_window_of_the_last_deletion_counts;
        KeptForever by without_a_window_nothing_is_kept, the_window_of_the_last_deletion_counts;
        PurgeForgotten by what_is_purged_is_not_kept, a_deleted_manifest_keeps_its_blobs;
        AnythingUndeleted by only_what_was_deleted_is_undeleted;
        DeletionsOfAnyRepository by what_is_deleted_is_kept_for_the_window;
        DeletionsEnd by deletions_are_paged;
        FirstLoss by the_last_loss_of_a_tag_is_the_one_that_is_told;
        StillDeleted by a_push_ends_a_deletion, what_is_deleted_is_kept_for_the_window;
        EndedKept by what_was_kept_is_garbage_when_its_window_has_ended;
        EndedTold by what_was_kept_is_garbage_when_its_window_has_ended;
        ForgetsNothing by what_was_kept_is_garbage_when_its_window_has_ended;
        ForgetsAll by what_was_kept_is_garbage_when_its_window_has_ended, what_is_deleted_is_kept_for_the_window;
        KeptUncounted by quotas_count_what_is_kept;
        CondemnsLinked by only_a_blob_without_links_is_condemned;
        CondemnedLinked by a_condemned_key_cannot_be_linked;
        RemovalUnnamed by a_condemned_key_cannot_be_linked, bytes_without_a_row_are_condemned;
        AnyMark by only_the_latest_mark_removes_a_blob;
        OneRepository by repositories_with_a_blob_are_listed, repositories_with_a_blob_are_paged;
        NoMore by repositories_are_paged_in_byte_order;
        AllStale by stale_sessions_are_listed;
        AllExpire by only_stale_sessions_expire;
        SaveForgets by a_saved_session_has_its_state;
        SaveUnchecked by saving_an_ended_session_is_rejected;
        LastSaveWins by one_of_two_writers_saves_a_session;
        SessionStays by a_link_ends_its_session;
        SealIgnored by a_session_is_sealed_with_one_content;
        AnySeals by a_session_is_sealed_with_one_content;
        ClaimIgnored by a_session_has_one_claim;
        LostClaimRenewed by a_session_has_one_claim;
        EndedLinked by a_link_of_an_ended_session_is_rejected;
        KeysReordered by keys_in_use_are_found;
        KeysOfFirstPage by keys_in_use_are_found;
        KeysDeduplicated by keys_in_use_are_found;
        BlobsRepeat by linked_blobs_are_listed_in_byte_order;
        AnyKeyQuarantined by a_quarantined_blob_is_nowhere_until_it_has_another_key;
        QuarantineForgotten by a_quarantined_blob_is_nowhere_until_it_has_another_key;
        EverybodyScrubs by one_holder_scrubs_at_a_time;
        PlaceForgotten by one_holder_scrubs_at_a_time;
        TimesForgotten by tags_are_listed_with_the_time_of_their_last_push;
        AnyTagExpires by a_tag_expires_if_it_is_what_it_was;
        PushedAgainExpires by a_tag_expires_if_it_is_what_it_was, a_tag_that_is_pushed_again_does_not_expire;
        EverybodyRetains by one_holder_deletes_old_tags_at_a_time;
        LastRunForgotten by one_holder_deletes_old_tags_at_a_time;
        PulledExpires by a_tag_that_was_pulled_since_does_not_expire;
        PullsUnnoted by pulls_are_noted, a_tag_that_was_pulled_since_does_not_expire;
        DigestsUnnoted by pulls_are_noted;
        LossForgotten by notes_of_pulls_begin_once;
        NotesNeverBegin by notes_of_pulls_begin_once;
        ExpiresByAnyTime by no_tag_expires_by_a_time_to_come;
        ManifestsOfAnyRepository by manifests_are_found_without_their_bytes;
        AuthorForgotten by the_author_of_a_change_is_recorded;
        HoldIgnored by held_bytes_are_not_condemned;
        HoldUntold by held_bytes_are_not_condemned;
        LostOnReopen by content_survives_reopening, sessions_survive_reopening,
            marks_and_leases_survive_reopening;
    }
}

/// A store that claims to be durable and loses its content when it is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_suite_catches_a_false_claim_of_durability() {
    let open = || {
        Opener::new(|_| async {
            let blobs = BlobMutant::new(MemoryBlobs::default(), BlobFault::ClaimsDurable);
            let meta = MetaMutant::new(MemoryMeta::default(), MetaFault::ClaimsDurable);
            (Arc::new(Composed::new(blobs, meta)) as SharedStore, ())
        })
    };
    assert!(fails(conformance::acknowledged_content_survives_reopening(open())).await);
    assert!(fails(conformance::deleted_content_stays_deleted_after_reopening(open())).await);
    assert!(fails(conformance::a_saved_upload_is_resumed_after_reopening(open())).await);
}
