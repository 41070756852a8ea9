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

/// The argument of a case: it opens a new backend.
pub type BlobOpener = Opener<Arc<dyn BlobBackend>>;

/// What the fixture gives: a backend, or an `Option` of one.
///
/// ```
/// use hyper_sdk::store::conformance::blob::BlobFixture as _;
/// use hyper_sdk::store::blob::MemoryBlobs;
///
/// assert!(MemoryBlobs::default().backend().is_some());
/// assert!(None::<MemoryBlobs>.backend().is_none());
/// ```
pub trait BlobFixture {
    /// The backend; `None` where this machine cannot run it.
    fn backend(self) -> Option<Arc<dyn BlobBackend>>;
}

impl<B: BlobBackend> BlobFixture for B {
    fn backend(self) -> Option<Arc<dyn BlobBackend>> {
        Some(Arc::new(self))
    }
}

impl<B: BlobBackend> BlobFixture for Option<B> {
    fn backend(self) -> Option<Arc<dyn BlobBackend>> {
        self.map(|backend| Arc::new(backend) as Arc<dyn BlobBackend>)
    }
}

/// Emits one `#[tokio::test]` for each case of the suite of blob backends.
///
/// The fixture is the path of an `async fn(PathBuf) -> impl BlobBackend`, which opens a backend on a folder that does not exist
/// at first; or of one that gives an `Option` of it, which is `None` where this machine cannot run it: then every case says
/// that it is skipped. A case may open it again after it has dropped the backend. The calling crate needs `tokio` with
/// `macros` and `rt-multi-thread`.
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
            put_bytes_can_be_read, an_empty_blob_is_stored, a_sha512_digest_is_a_different_key, a_blob_can_be_put_twice,
            sizes_are_in_the_order_of_the_keys, a_read_returns_the_requested_bytes, concurrent_readers_get_all_bytes, a_read_of_missing_bytes_is_corrupt,
            a_read_with_a_wrong_size_is_corrupt, an_adopted_file_becomes_a_blob,
            an_existing_blob_can_be_adopted_again, a_path_names_a_file_with_the_bytes,
            intact_bytes_are_not_removed_as_damaged, damaged_bytes_are_removed_and_put_again, damaged_bytes_are_set_aside,
            deleted_bytes_cannot_be_read, deleting_missing_bytes_returns_false, deleting_a_blob_keeps_the_others,
            the_list_has_each_key_once, one_collector_may_delete_bytes_under_digests, a_backend_displays_a_name,

            staged_parts_become_a_blob, a_committed_blob_has_the_verified_key,
            commit_requires_verify, verify_rejects_a_wrong_digest, verify_accepts_another_algorithm,
            appended_bytes_must_be_verified_again, a_saved_area_is_resumed, unsaved_bytes_are_discarded,
            one_area_has_one_writer, areas_are_independent, discarded_bytes_cannot_be_restored,
            committed_bytes_are_no_longer_staged, a_state_without_bytes_is_upload_unknown,
            idle_areas_are_listed, staged_bytes_are_not_listed_as_blobs, a_blob_staged_twice_is_stored_once,

            put_blobs_survive_reopening, committed_blobs_survive_reopening,
            deleted_content_stays_deleted_after_reopening, a_saved_area_is_resumed_after_reopening,
            a_discarded_area_stays_discarded_after_reopening,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let opener = $crate::store::conformance::Opener::new(|folder| async move {
                    let given = $fixture(folder).await;
                    $crate::store::conformance::blob::BlobFixture::backend(given).map(|backend| (backend, ()))
                });
                let given = $crate::testing::given::<$crate::store::conformance::Opener<_>>(stringify!($case), opener.ready().await);
                let Some(opener) = given else { return };
                $crate::store::conformance::blob::$case(opener).await;
            }
        )*
    };
}
