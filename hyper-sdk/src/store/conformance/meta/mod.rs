//! The suite that every metadata backend must pass, one function a case.
//!
//! [`meta_conformance!`](crate::meta_conformance) makes a named test of every case. A case uses only
//! [`MetaBackend`](crate::store::meta::MetaBackend).

mod blobs;
mod collection;
mod deletions;
mod events;
mod guards;
mod kit;
mod manifests;
mod pulls;
mod reopened;
mod scrub;
mod tags;
mod uploads;

pub use blobs::*;
pub use collection::*;
pub use deletions::*;
pub use events::*;
pub use guards::*;
pub use manifests::*;
pub use pulls::*;
pub use reopened::*;
pub use scrub::*;
pub use tags::*;
pub use uploads::*;

use super::Opener;
use crate::store::meta::MetaBackend;
use std::sync::Arc;

/// The argument of a case: it opens a new backend.
pub type MetaOpener = Opener<Arc<dyn MetaBackend>>;

/// What the fixture gives: a backend, or an `Option` of one.
///
/// ```
/// use hyper_sdk::store::conformance::meta::MetaFixture as _;
/// use hyper_sdk::store::meta::MemoryMeta;
///
/// assert!(MemoryMeta::default().backend().is_some());
/// assert!(None::<MemoryMeta>.backend().is_none());
/// ```
pub trait MetaFixture {
    /// The backend; `None` where this machine cannot run it.
    fn backend(self) -> Option<Arc<dyn MetaBackend>>;
}

impl<B: MetaBackend> MetaFixture for B {
    fn backend(self) -> Option<Arc<dyn MetaBackend>> {
        Some(Arc::new(self))
    }
}

impl<B: MetaBackend> MetaFixture for Option<B> {
    fn backend(self) -> Option<Arc<dyn MetaBackend>> {
        self.map(|backend| Arc::new(backend) as Arc<dyn MetaBackend>)
    }
}

/// Emits one `#[tokio::test]` for each case of the suite of metadata backends.
///
/// The fixture is the path of an `async fn(PathBuf) -> impl MetaBackend`, which opens a backend on a path where nothing is
/// at first; or of one that gives an `Option` of it, which is `None` where this machine cannot run it: then every case says
/// that it is skipped. A case may open it again after it has dropped the backend. The calling crate needs `tokio` with
/// `macros` and `rt-multi-thread`.
///
/// ```no_run
/// use hyper_sdk::store::meta::MemoryMeta;
///
/// async fn fixture(_: std::path::PathBuf) -> MemoryMeta {
///     MemoryMeta::default()
/// }
/// hyper_sdk::meta_conformance!(fixture);
/// ```
#[macro_export]
macro_rules! meta_conformance {
    ($fixture:path) => {
        $crate::meta_conformance!(@cases $fixture;
            a_linked_blob_is_found_in_its_repository, linking_again_replaces_size_and_key, a_link_returns_the_size,
            keys_are_recorded, a_mount_needs_the_link_of_its_source, an_unlinked_blob_keeps_its_row,
            repositories_with_a_blob_are_listed, repositories_with_a_blob_are_paged,
            the_list_of_repositories_follows_the_links,

            a_manifest_is_found_by_tag_and_digest, a_required_edge_must_exist,
            an_edge_must_have_the_size_of_its_target, an_edge_requires_stored_bytes,
            a_rejected_manifest_changes_nothing, another_media_type_is_rejected,
            a_condition_is_checked_for_every_tag, tags_move_together, tags_are_paged_in_byte_order,
            repositories_are_paged_in_byte_order, an_emptied_repository_is_not_listed,
            tags_are_listed_with_the_time_of_their_last_push, a_tag_expires_if_it_is_what_it_was,
            a_tag_that_is_pushed_again_does_not_expire, no_tag_expires_by_a_time_to_come,
            pulls_are_noted, a_tag_that_was_pulled_since_does_not_expire, notes_of_pulls_begin_once,
            notes_of_pulls_go_with_what_was_pulled, many_pulls_are_noted_at_once,
            manifests_are_found_without_their_bytes, one_holder_deletes_old_tags_at_a_time,
            a_guard_is_asked_about_tags_that_change, a_guard_protects_what_a_tag_needs,
            deleting_a_manifest_deletes_its_tags, deleting_a_tag_keeps_the_manifest, referrers_are_listed,
            the_version_changes_with_every_change, changes_of_many_tasks_are_all_applied,
            a_backend_displays_a_name,

            a_session_exists_until_it_ends, a_saved_session_has_its_state, one_of_two_writers_saves_a_session,
            saving_an_ended_session_is_rejected, a_session_is_sealed_with_one_content, a_session_has_one_claim, a_link_ends_its_session,
            a_link_of_an_ended_session_is_rejected, stale_sessions_are_listed, only_stale_sessions_expire,

            a_link_without_manifest_is_unreferenced, a_lease_keeps_a_link, the_end_of_a_lease_is_told, a_lease_is_never_shortened,
            a_lease_needs_a_link, a_referenced_link_is_not_collected, a_manifest_protects_only_links_of_its_repository,
            an_index_protects_its_blobs, a_link_is_collected_once, a_new_link_has_a_lease,
            unlinked_blobs_are_listed, only_a_blob_without_links_is_condemned,
            a_condemned_key_cannot_be_linked, a_condemned_blob_can_be_linked_under_a_new_key,
            only_the_latest_mark_removes_a_blob, keys_in_use_are_found, unreferenced_links_are_paged,
            a_tag_keeps_a_manifest, an_index_keeps_its_entries, a_subject_keeps_its_referrers,
            manifests_that_keep_each_other_alone_are_unkept, a_young_manifest_is_kept, a_manifest_that_is_stored_again_is_young, unkept_manifests_are_paged,
            an_entry_of_very_many_indexes_is_kept_by_those_of_its_repository,
            a_blob_of_very_many_manifests_is_referenced_in_their_repositories_alone,
            bytes_without_a_row_are_condemned,

            what_is_deleted_is_kept_for_the_window, without_a_window_nothing_is_kept, deletions_are_paged,
            a_deleted_manifest_keeps_its_blobs, what_a_tag_has_lost_is_kept, a_deleted_index_keeps_its_entries,
            a_deleted_subject_keeps_its_referrers, only_what_was_deleted_is_undeleted, a_push_ends_a_deletion,
            what_is_purged_is_not_kept, the_window_of_the_last_deletion_counts,
            the_last_loss_of_a_tag_is_the_one_that_is_told, what_was_kept_is_garbage_when_its_window_has_ended,
            quotas_count_what_is_kept,

            linked_blobs_are_listed_in_byte_order, a_quarantined_blob_is_nowhere_until_it_has_another_key,
            a_blob_that_is_removed_is_not_quarantined, one_holder_scrubs_at_a_time,
            held_bytes_are_not_condemned,

            a_push_has_its_events, an_event_is_small, a_deletion_has_its_events, events_of_blobs_are_recorded_if_they_are_wanted,
            what_is_not_changed_has_no_event, the_author_of_a_change_is_recorded, events_are_read_from_a_place_on,
            old_events_go, the_history_of_a_tag_is_told, a_consumer_has_one_holder, what_a_consumer_gives_up_is_counted, a_consumer_begins_again,

            content_survives_reopening, sessions_survive_reopening,
            marks_and_leases_survive_reopening,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new(|folder| async move {
                    let given = $fixture(folder).await;
                    $crate::store::conformance::meta::MetaFixture::backend(given).map(|backend| (backend, ()))
                });
                let given = $crate::testing::given::<$crate::store::conformance::Opener<_>>(stringify!($case), opener.ready().await);
                let Some(opener) = given else { return };
                $crate::store::conformance::meta::$case(opener).await;
            }
        )*
    };
}
