//! The suites that every registry store and every backend must pass, one function for each case.
//!
//! ```text
//!   store_conformance!     RegistryStore: the semantics, as clients and servers see them
//!     blob_conformance!    BlobBackend: bytes, staging areas, and durability                       (blob)
//!     meta_conformance!    MetaBackend: each change, each query, and durability                    (meta)
//!   token_conformance!     TokenStore: API tokens, beside a store                                  (tokens)
//! ```
//!
//! A macro makes a named test of every case. The fixture opens the store or the backend on a folder. A case may close
//! it and open it again ([`Opener`]), which tests whether `durable` is true.
//!
//! [`store_conformance!`](crate::store_conformance): a case takes a fresh store, uses only
//! [`RegistryStore`](crate::store::RegistryStore) and assumes no error kinds but the documented ones, so that it also
//! holds for a store at the other end of a network. A case that needs a capability which
//! [`capabilities`](crate::store::RegistryStore::capabilities) excludes ends immediately; the `capabilities_` cases
//! check that excluded operations are rejected and that the others work.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

pub mod blob;
mod blobs;
mod capabilities;
mod concurrency;
mod guards;
mod kit;
mod manifests;
pub mod meta;
mod opener;
mod quotas;
mod reopened;
mod tags;
pub mod tokens;
mod uploads;

pub use blobs::*;
pub use capabilities::*;
pub use concurrency::*;
pub use guards::*;
pub use manifests::*;
pub use opener::{Opened, Opener};
pub use quotas::*;
pub use reopened::*;
pub use tags::*;
pub use uploads::*;

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn(PathBuf) -> (SharedStore, G)`: the store of a folder that does not exist at
/// first, and whatever must live as long as it (a server); or of one that gives an `Option` of these, which is `None` where
/// this machine cannot run it: then every case says that it is skipped. A case may open the store again after it has dropped both. The
/// calling crate needs `tokio` with `macros` and `rt-multi-thread`.
///
/// ```no_run
/// use hyper_sdk::store::{DiskStore, SharedStore};
/// use std::sync::Arc;
///
/// async fn fixture(folder: std::path::PathBuf) -> (SharedStore, ()) {
///     (Arc::new(DiskStore::open(folder).await.unwrap()), ())
/// }
/// hyper_sdk::store_conformance!(fixture);
/// ```
#[macro_export]
macro_rules! store_conformance {
    ($fixture:path) => {
        $crate::store_conformance!(@cases $fixture;
            a_blob_can_be_read, an_empty_blob_can_be_read, a_large_blob_can_be_read,
            a_sha512_blob_is_found_under_sha512, an_unknown_blob_is_blob_unknown,
            a_blob_pushed_twice_is_stored_once, ranges_are_clipped_and_inclusive,
            a_range_outside_of_the_blob_is_range_invalid, a_range_of_a_large_blob_can_be_read, put_blob_checks_the_digest,
            a_file_becomes_a_blob, a_blob_path_names_a_file_with_the_bytes, a_deleted_blob_is_blob_unknown,
            deleting_an_unknown_blob_is_blob_unknown, a_deleted_blob_can_be_pushed_again,
            a_mounted_blob_can_be_read, a_mount_without_the_blob_is_blob_unknown,
            repositories_do_not_leak_blobs, deleting_a_blob_keeps_it_in_other_repositories,
            streamed_blobs_are_verified,

            chunks_become_one_blob, an_upload_has_an_offset, a_wrong_digest_is_rejected_and_ends_the_upload,
            finish_may_use_sha512, finish_may_use_an_algorithm_that_was_not_announced,
            a_saved_upload_is_resumed, a_resumed_upload_may_finish_with_sha512, a_new_upload_can_be_resumed,
            unsaved_bytes_do_not_corrupt_a_blob, an_upload_can_be_saved_twice, an_aborted_upload_is_upload_unknown,
            a_finished_upload_is_upload_unknown, an_unknown_upload_is_upload_unknown,
            an_upload_of_another_repository_is_upload_unknown, a_second_writer_does_not_corrupt_the_upload,
            an_outdated_writer_is_rejected, empty_appends_are_accepted, upload_ids_are_unique,
            an_upload_creates_no_repository, only_idle_uploads_expire,

            a_manifest_keeps_its_bytes, a_manifest_is_found_by_tag_and_digest, a_manifest_may_have_no_tag,
            a_sha512_manifest_keeps_its_digest, an_unknown_manifest_is_manifest_unknown,
            docker_manifests_keep_their_media_type, random_images_can_be_read, a_missing_config_is_rejected, a_missing_layer_is_rejected,
            a_rejected_manifest_changes_nothing, a_blob_of_another_repository_does_not_count,
            non_distributable_layers_may_be_missing, an_index_needs_its_manifests, an_index_may_contain_indexes,
            an_index_may_contain_blobs, a_descriptor_with_a_wrong_size_is_rejected,
            the_same_bytes_keep_their_media_type,
            a_sparse_index_is_accepted, a_missing_subject_is_accepted, a_manifest_pushed_twice_is_stored_once,
            repositories_do_not_leak_manifests, deleting_a_digest_deletes_its_tags, deleting_an_unknown_manifest_is_manifest_unknown,
            referrers_are_listed_with_type_and_annotations, referrers_are_filtered,
            an_unknown_subject_has_no_referrers, a_deleted_referrer_is_not_listed, an_index_may_be_a_referrer,

            deleting_a_tag_keeps_the_manifest, a_tag_can_be_moved, one_push_can_set_several_tags, tags_are_listed_in_byte_order,
            tags_are_paged, a_page_may_start_after_a_missing_entry, a_page_without_entries_is_empty,
            the_tags_of_an_unknown_repository_are_name_unknown, a_repository_without_tags_has_an_empty_list,
            an_emptied_repository_is_not_listed, repositories_are_listed_in_byte_order, repositories_are_paged,
            a_tag_moves_if_its_condition_holds, a_condition_that_fails_is_a_conflict,
            a_condition_can_require_that_a_tag_is_missing, a_conflict_moves_no_tag,
            a_guard_rejects_a_whole_push, a_guard_keeps_what_a_tag_needs, a_guard_sees_one_repository,
            a_guard_that_panics_harms_no_other_change,

            many_tasks_push_one_blob, many_tasks_push_many_blobs, concurrent_tag_moves_end_at_one_manifest,
            only_one_conditional_writer_wins, a_tag_can_be_read_while_it_moves,

            a_blob_of_a_namespace_counts_once, a_quota_is_not_passed_by_one_byte, a_full_namespace_takes_what_adds_nothing,
            a_quota_counts_tags_and_manifests, every_quota_of_a_repository_holds, a_lower_quota_deletes_nothing,
            deleted_content_makes_room, each_first_component_has_its_own_quota, an_upload_without_room_is_refused_early,
            many_tasks_do_not_pass_a_quota, the_counts_of_a_namespace_are_right,

            repositories_with_a_blob_are_found, the_version_changes_with_every_change,

            capabilities_excluded_operations_are_unsupported, capabilities_claimed_operations_work, a_store_displays_a_name,
        );
        $crate::store_conformance!(@reopened $fixture;
            acknowledged_content_survives_reopening, deleted_content_stays_deleted_after_reopening,
            a_saved_upload_is_resumed_after_reopening, an_ended_upload_stays_ended_after_reopening,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new($fixture).ready().await;
                let given = $crate::testing::given::<$crate::store::conformance::Opener<_>>(stringify!($case), opener);
                let Some(opener) = given else { return };
                let store = opener.open().await;
                $crate::store::conformance::$case((*store).clone()).await;
            }
        )*
    };
    (@reopened $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new($fixture).ready().await;
                let given = $crate::testing::given::<$crate::store::conformance::Opener<_>>(stringify!($case), opener);
                let Some(opener) = given else { return };
                $crate::store::conformance::$case(opener).await;
            }
        )*
    };
}
