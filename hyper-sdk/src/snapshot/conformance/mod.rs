//! The suite that every snapshotter must pass, one function a case.
//!
//! [`snapshotter_conformance!`](crate::snapshotter_conformance) makes a named test of every case. A case takes an empty
//! snapshotter and uses only [`Snapshotter`](crate::snapshot::Snapshotter) and the folders of its trees. It needs no
//! executor: it writes the files of a step itself. The layers are those of [`RandomImage`](crate::testing::RandomImage)
//! and small ones of the suite. Cases that need a second handle on the same snapshots, like that of another process,
//! run only if the caller names a function that opens one.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

mod active;
mod committed;
mod copying;
mod kit;
mod unpacking;

pub use active::*;
pub use committed::*;
pub use copying::*;
pub use unpacking::*;

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> Option<(SharedSnapshotter, G)>`. It returns an empty snapshotter and a
/// guard that must outlive it, or `None` if this machine cannot run the suite: every case then prints
/// `SKIPPED:`. The optional
/// second argument is for a snapshotter that several processes can open: the path of an `async fn(&G) ->
/// SharedSnapshotter` that opens the same snapshots again. The calling crate needs `tokio` with `macros` and
/// `rt-multi-thread`.
///
/// ```
/// # #[cfg(test)]
/// mod plain {
///     use hyper_sdk::snapshot::SharedSnapshotter;
///     use hyper_sdk::testing::PlainSnapshotter;
///
///     async fn fixture() -> Option<(SharedSnapshotter, ())> {
///         Some((std::sync::Arc::new(PlainSnapshotter::new().ok()?), ()))
///     }
///     hyper_sdk::snapshotter_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! snapshotter_conformance {
    ($fixture:path) => {
        $crate::snapshotter_conformance!(@cases $fixture;
            an_unknown_chain_does_not_exist, an_unpacked_layer_can_be_read, a_random_image_is_unpacked_unchanged,
            whiteouts_hide_lower_files, a_whiteout_of_the_lowest_layer_hides_nothing,
            an_opaque_folder_hides_its_lower_content, a_file_replaces_a_folder,
            a_layer_leaves_its_parent_alone, two_children_do_not_mix, a_missing_parent_is_not_found,
            a_layer_is_unpacked_once, equal_calls_unpack_once, a_layer_is_read_to_its_end,
            a_layer_whose_reader_fails_leaves_nothing, a_truncated_layer_leaves_nothing,
            a_dropped_unpacking_leaves_nothing, a_hostile_layer_changes_nothing_outside,
            several_layers_are_unpacked_on_one_another, nothing_above_a_failed_layer_exists,
            given_times_are_set_on_the_files, sharing_unknown_files_is_declined, shared_files_are_visible,

            an_unchanged_tree_has_no_difference, written_files_are_the_difference,
            a_difference_unpacks_to_the_committed_tree, a_tree_may_begin_with_nothing, a_commit_can_be_read,
            a_commit_leaves_its_parent_alone, a_second_commit_keeps_the_first, an_abandoned_tree_is_removed,
            a_dropped_tree_is_removed, a_foreign_tree_is_refused, trees_of_one_parent_do_not_mix,
            a_layer_is_packed_as_it_was, a_layer_of_other_files_is_not_packed,

            a_copy_takes_files_of_trees_and_of_the_host, a_copy_sees_the_whole_of_a_tree,
            a_copy_follows_links_within_its_tree, a_copy_makes_folders_and_files,
            a_copy_of_a_missing_path_is_not_found, the_indexes_of_a_copy_describe_its_destination,

            a_view_shows_the_files, a_view_of_nothing_is_empty, a_file_is_read_within_its_tree,
            only_regular_files_are_read, a_large_file_is_refused, an_export_is_the_whole_tree,
            an_export_of_a_folder_is_below_it, an_export_of_a_missing_path_fails,
            an_export_unpacks_as_the_same_tree, every_chain_is_listed_with_its_parent,
            a_chain_is_removed, chains_are_removed_while_others_list, a_parent_is_removed_after_its_children, removing_an_unknown_chain_is_not_an_error,
            a_tree_in_use_keeps_its_chain, many_layers_are_unpacked_at_once, a_snapshotter_has_a_name,
        );
    };
    ($fixture:path, $reopen:path) => {
        $crate::snapshotter_conformance!($fixture);
        $crate::snapshotter_conformance!(@reopened $fixture, $reopen;
            a_snapshot_exists_after_reopening, two_handles_see_the_same_snapshots,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((snapshots, _guard)) = given else { return };
                $crate::snapshot::conformance::$case(snapshots).await;
            }
        )*
    };
    (@reopened $fixture:path, $reopen:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((snapshots, guard)) = given else { return };
                let other = $reopen(&guard).await;
                $crate::snapshot::conformance::$case(snapshots, other).await;
            }
        )*
    };
}
