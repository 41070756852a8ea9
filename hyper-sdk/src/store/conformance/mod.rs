//! The suites that every registry store and every backend of one must pass, one function a case.
//!
//! ```text
//!   store_conformance!     RegistryStore: the semantics, as a client or a server sees them
//!     blob_conformance!    BlobBackend: bytes, staging areas, and what is there after reopening       (blob)
//!     meta_conformance!    MetaBackend: each change, each question, and what is there after reopening (meta)
//! ```
//!
//! A macro makes a named test of every case. The fixture opens the store or the backend on a folder; a case may close it
//! and open it again ([`Opener`]), which alone can tell whether `durable` is true.
//!
//! [`store_conformance!`](crate::store_conformance): a case takes a fresh store, uses only [`RegistryStore`](crate::store::RegistryStore) and assumes no error kinds but the documented ones, so that it
//! also holds for a store at the other end of a network. A case that needs a power which
//! [`capabilities`](crate::store::RegistryStore::capabilities) denies ends at once; the `capabilities_` cases check that
//! what is denied is refused and that what is claimed works.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

pub mod blob;
mod blobs;
mod capabilities;
mod concurrency;
mod kit;
mod manifests;
pub mod meta;
mod opener;
mod reopened;
mod tags;
mod uploads;

pub use blobs::*;
pub use capabilities::*;
pub use concurrency::*;
pub use manifests::*;
pub use opener::{Opened, Opener};
pub use reopened::*;
pub use tags::*;
pub use uploads::*;

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn(PathBuf) -> (SharedStore, G)`: the store of a folder that does not exist at
/// first, and whatever must live as long as it (a server). A case may open the store again after it has dropped both. The
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
            a_blob_comes_back_whole, an_empty_blob_is_a_blob, a_large_blob_comes_back_whole,
            a_sha512_blob_is_found_under_sha512, an_unknown_blob_is_blob_unknown,
            the_same_blob_twice_is_one_blob, ranges_are_clipped_and_inclusive,
            ranges_outside_are_range_invalid, a_range_of_a_large_blob_is_exact, put_blob_checks_the_digest,
            a_file_becomes_a_blob, a_blob_path_holds_the_bytes, a_deleted_blob_is_gone,
            deleting_an_unknown_blob_is_blob_unknown, a_deleted_blob_can_be_pushed_again,
            a_mounted_blob_can_be_read, mounting_from_where_it_is_not_is_blob_unknown,
            repositories_do_not_leak_blobs, deleting_in_one_repository_keeps_the_other,
            streamed_blobs_are_hashed_on_the_way,

            chunks_add_up, an_upload_says_where_it_stands, a_wrong_digest_is_refused_and_ends_the_upload,
            sha512_may_be_learnt_at_the_end, an_announced_algorithm_may_be_another_at_the_end,
            a_saved_upload_is_resumed, a_resumed_upload_can_finish_in_sha512, a_new_upload_can_be_resumed,
            unsaved_bytes_never_corrupt, saving_twice_is_harmless, an_aborted_upload_is_gone,
            a_finished_upload_is_gone, an_unknown_upload_is_upload_unknown,
            a_foreign_upload_is_upload_unknown, a_second_writer_does_not_corrupt,
            an_overtaken_writer_is_refused, empty_appends_are_harmless, upload_names_differ,
            an_upload_makes_no_repository, resting_uploads_expire_and_busy_ones_do_not,

            a_manifest_keeps_its_bytes, a_manifest_is_found_by_tag_and_digest, a_manifest_may_have_no_tag,
            a_sha512_manifest_keeps_its_digest, an_unknown_manifest_is_manifest_unknown,
            docker_manifests_are_kept, random_images_come_back_whole, a_missing_config_is_refused, a_missing_layer_is_refused,
            a_refused_manifest_leaves_no_trace, a_blob_of_another_repository_does_not_count,
            foreign_layers_need_not_exist, an_index_needs_its_manifests, an_index_of_indexes,
            an_index_may_hold_blobs, a_descriptor_of_another_size_is_refused,
            the_same_bytes_keep_their_media_type,
            a_sparse_index_is_accepted, a_missing_subject_is_accepted, the_same_manifest_twice_is_one,
            manifests_do_not_leak, deleting_by_digest_takes_the_tags, deleting_unknown_is_manifest_unknown,
            referrers_are_listed_with_type_and_annotations, referrers_are_filtered,
            referrers_of_nothing_are_none, a_deleted_referrer_is_not_listed, an_index_may_be_a_referrer,

            deleting_a_tag_keeps_the_manifest, a_tag_moves, several_tags_at_once, tags_are_listed_in_byte_order,
            tags_are_paged, a_page_may_start_after_what_is_not_there, a_page_of_none_is_empty,
            tags_of_no_repository_are_name_unknown, a_repository_without_tags_lists_none,
            an_emptied_repository_is_not_listed, repositories_are_listed_in_byte_order, repositories_are_paged,
            a_condition_that_holds_moves_the_tag, a_condition_that_fails_is_a_conflict,
            a_condition_of_absence, a_conflict_moves_no_tag_at_all,

            one_blob_by_many_tasks, many_blobs_by_many_tasks, racing_tags_end_at_one_of_them,
            only_one_conditional_writer_wins, reading_while_tags_move,

            repositories_with_a_blob_are_those_that_have_it, the_version_tells_of_every_change,

            capabilities_what_is_denied_is_unsupported, capabilities_what_is_claimed_works, a_store_has_a_name,
        );
        $crate::store_conformance!(@reopened $fixture;
            what_was_acknowledged_is_there_after_reopening, what_was_deleted_is_gone_after_reopening,
            a_saved_upload_is_resumed_after_reopening, an_ended_upload_stays_ended_after_reopening,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new($fixture);
                let store = opener.open().await;
                $crate::store::conformance::$case((*store).clone()).await;
            }
        )*
    };
    (@reopened $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::store::conformance::$case($crate::store::conformance::Opener::new($fixture)).await;
            }
        )*
    };
}
