//! The suite that every registry client must pass: one function for each case.
//!
//! [`client_conformance!`](crate::client_conformance) makes a named test of every case. A case takes a client of an
//! empty registry and uses only [`RegistryClient`](crate::client::RegistryClient), so the suite tests a client and the
//! registry behind it together. A case that needs a capability which the client lacks ends at once; the cases with
//! `capabilities_` in their names check the capabilities.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

mod blobs;
mod images;
mod kit;
mod manifests;
mod uploads;

pub use blobs::*;
pub use images::*;
pub use manifests::*;
pub use uploads::*;

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> (SharedClient, G)`: a client of an empty registry, and a value that is kept
/// until the case ends (a folder, a server); or an `Option` of them that is `None` if this machine cannot run the suite:
/// every case then prints `SKIPPED:`. The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
///
/// ```
/// mod loopback {
///     use hyper_sdk::client::{Loopback, SharedClient};
///     use hyper_sdk::store::MemoryStore;
///     use std::sync::Arc;
///
///     async fn fixture() -> (SharedClient, ()) {
///         (Arc::new(Loopback::new(Arc::new(MemoryStore::default()))), ())
///     }
///     hyper_sdk::client_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! client_conformance {
    ($fixture:path) => {
        $crate::client_conformance!(@cases $fixture;
            the_registry_answers, a_blob_comes_back_whole, a_large_blob_comes_back_whole,
            a_sha512_blob_comes_back, an_unknown_blob_is_none_and_blob_unknown, ranges_are_exact,
            a_range_outside_is_range_invalid, the_same_blob_twice_is_one, a_deleted_blob_is_gone,
            a_blob_is_read_up_to_a_limit, a_dropped_stream_ends_nothing_else,

            an_empty_blob_is_a_blob, chunks_add_up, chunks_and_a_rest_add_up, appending_nothing_changes_nothing,
            an_upload_says_how_far_it_is, an_unfinished_upload_is_not_a_blob, a_dropped_upload_is_resumed,
            an_upload_without_bytes_is_resumed, an_upload_belongs_to_its_repository,
            an_unknown_token_is_upload_unknown, two_uploads_beside_each_other_do_not_mix,
            two_handles_of_one_upload_do_not_mix, a_wrong_digest_is_digest_invalid, a_cancelled_upload_is_gone,
            a_finished_upload_is_gone, a_stream_that_fails_stores_nothing, a_broken_upload_goes_on,
            a_mount_brings_the_blob, a_mount_of_nothing_is_an_upload, an_offer_is_a_mount_or_an_upload,

            a_manifest_comes_back_by_tag_and_digest, a_manifest_keeps_its_bytes, resolving_names_what_getting_gives,
            an_unknown_manifest_is_manifest_unknown, a_manifest_without_its_blobs_is_refused,
            a_manifest_under_a_wrong_digest_is_refused, a_tag_moves, tags_are_paged_in_order,
            repositories_are_paged_in_order, every_page_of_a_list_is_read, deleting_a_tag_keeps_the_manifest,
            deleting_a_manifest_takes_its_tags, referrers_are_listed_and_filtered,
            referrers_of_nothing_are_none, an_image_is_found_by_platform,

            an_image_is_pushed_and_pulled, an_index_is_pushed_with_all_its_images,
            random_images_come_back_whole, a_random_index_is_pushed_and_pulled,
            one_platform_is_pulled_alone, a_copy_within_a_registry, a_copy_brings_the_referrers,
            pushing_twice_sends_nothing, dropping_a_push_leaves_no_tag_on_half_an_image, many_requests_at_once,

            capabilities_what_is_denied_is_unsupported, capabilities_what_is_claimed_is_there,
            capabilities_a_client_has_a_name,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((client, _guard)) = given else { return };
                $crate::client::conformance::$case(client).await;
            }
        )*
    };
}
