//! The suite that every metadata backend must pass, one function a case.
//!
//! [`meta_conformance!`](crate::meta_conformance) makes a named test of every case. A case uses only
//! [`MetaBackend`](crate::store::meta::MetaBackend).

mod blobs;
mod collection;
mod kit;
mod manifests;
mod reopened;
mod uploads;

pub use blobs::*;
pub use collection::*;
pub use manifests::*;
pub use reopened::*;
pub use uploads::*;

use super::Opener;
use crate::store::meta::MetaBackend;
use std::sync::Arc;

/// What a case gets: it opens a fresh backend.
pub type MetaOpener = Opener<Arc<dyn MetaBackend>>;

/// Emits one `#[tokio::test]` for each case of the suite of metadata backends.
///
/// The fixture is the path of an `async fn(PathBuf) -> impl MetaBackend`, which opens a backend on a path where nothing is
/// at first; a case may open it again after it has dropped the backend. The calling crate needs `tokio` with `macros` and
/// `rt-multi-thread`.
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
            a_linked_blob_is_in_its_repository, linking_again_replaces_size_and_key, a_link_says_the_size,
            keys_are_recorded, a_mount_needs_the_link_of_its_source, an_unlinked_blob_is_known_and_not_there,
            repositories_with_a_blob_are_listed, repositories_with_a_blob_are_paged,
            links_come_and_go_in_the_list,

            a_manifest_is_found_by_tag_and_digest, a_required_edge_must_be_there,
            an_edge_has_the_size_of_its_target, bytes_that_are_not_stored_do_not_count,
            a_refused_manifest_changes_nothing, another_media_type_is_refused,
            a_condition_is_checked_for_every_tag, tags_move_together, tags_are_paged_in_byte_order,
            repositories_are_paged_in_byte_order, an_emptied_repository_is_not_listed,
            a_deleted_manifest_takes_its_tags, a_deleted_tag_leaves_the_manifest, referrers_are_listed,
            the_version_follows_every_change, changes_of_many_tasks_are_all_applied,
            a_backend_has_a_name,

            a_session_is_found_until_it_ends, a_saved_session_says_where_it_stands,
            saving_a_session_that_ended_is_refused, a_link_ends_its_session, stale_sessions_are_named,
            only_stale_sessions_expire,

            a_link_without_manifest_is_unreferenced, a_lease_keeps_a_link, a_shorter_lease_changes_nothing,
            a_lease_needs_a_link, a_referenced_link_is_not_collected, a_manifest_elsewhere_keeps_nothing,
            an_index_keeps_the_blobs_that_it_names, a_link_is_collected_once, a_pushed_link_has_its_lease,
            blobs_without_links_are_named, only_a_blob_without_links_is_condemned,
            a_condemned_blob_is_not_linked_by_its_key, a_condemned_blob_lives_on_under_a_new_key,
            a_blob_is_removed_by_the_latest_mark, keys_in_use_are_known,

            what_was_written_is_there_after_reopening, a_session_is_there_after_reopening,
            marks_and_leases_are_there_after_reopening,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new(|folder| async move {
                    let meta: ::std::sync::Arc<dyn $crate::store::meta::MetaBackend> =
                        ::std::sync::Arc::new($fixture(folder).await);
                    (meta, ())
                });
                $crate::store::conformance::meta::$case(opener).await;
            }
        )*
    };
}
