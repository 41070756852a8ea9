//! The suite that every blob backend must pass, one function a case.
//!
//! [`blob_conformance!`](crate::blob_conformance) makes a named test of every case. A case uses only
//! [`BlobBackend`](crate::store::blob::BlobBackend) and [`BlobStaging`](crate::store::blob::BlobStaging).

mod content;
mod reopened;
mod staging;

pub use content::*;
pub use reopened::*;
pub use staging::*;

use super::Opener;
use crate::store::blob::BlobBackend;
use std::sync::Arc;

/// What a case gets: it opens a fresh backend.
pub type BlobOpener = Opener<Arc<dyn BlobBackend>>;

/// Emits one `#[tokio::test]` for each case of the suite of blob backends.
///
/// The fixture is the path of an `async fn(PathBuf) -> impl BlobBackend`, which opens a backend on a folder that does not
/// exist at first; a case may open it again after it has dropped the backend. The calling crate needs `tokio` with `macros`
/// and `rt-multi-thread`.
///
/// ```no_run
/// use hyper_sdk::store::blob::DiskBlobs;
///
/// async fn fixture(folder: std::path::PathBuf) -> DiskBlobs {
///     DiskBlobs::open(folder).await.unwrap()
/// }
/// hyper_sdk::blob_conformance!(fixture);
/// ```
#[macro_export]
macro_rules! blob_conformance {
    ($fixture:path) => {
        $crate::blob_conformance!(@cases $fixture;
            bytes_come_back, the_empty_blob_is_a_blob, sha512_is_another_key, putting_twice_is_harmless,
            sizes_are_in_the_order_asked, reads_are_exact, many_readers_read_at_once, missing_bytes_are_corrupt,
            bytes_of_another_size_are_corrupt, an_adopted_file_is_taken_over,
            an_adopted_file_may_be_there_already, a_path_holds_exactly_the_bytes,
            whole_bytes_are_not_removed_as_damaged, damaged_bytes_are_removed_and_put_again,
            deleted_bytes_are_gone, deleting_nothing_says_so, deleting_one_blob_keeps_the_others,
            the_list_has_everything_once, a_backend_has_a_name,

            staged_parts_become_a_blob, a_committed_blob_is_under_the_key_that_was_said,
            commit_needs_verify, verify_refuses_another_digest, verify_learns_another_algorithm,
            bytes_after_verify_need_it_again, a_saved_area_is_continued, unsaved_bytes_are_forgotten,
            one_area_has_one_writer, areas_do_not_mix, discarded_bytes_are_gone,
            committed_bytes_are_not_staged_any_more, a_state_without_bytes_is_upload_unknown,
            resting_areas_are_named, nothing_staged_is_listed, the_same_blob_staged_twice_is_one,

            what_was_put_is_there_after_reopening, what_was_committed_is_there_after_reopening,
            what_was_deleted_is_gone_after_reopening, a_saved_area_goes_on_after_reopening,
            a_discarded_area_is_gone_after_reopening,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new(|folder| async move {
                    let blobs: ::std::sync::Arc<dyn $crate::store::blob::BlobBackend> =
                        ::std::sync::Arc::new($fixture(folder).await);
                    (blobs, ())
                });
                $crate::store::conformance::blob::$case(opener).await;
            }
        )*
    };
}
