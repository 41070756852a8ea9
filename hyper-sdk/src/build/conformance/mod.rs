//! The suite that every builder must pass, one function a case.
//!
//! [`builder_conformance!`](crate::builder_conformance) makes a named test of every case. A case takes a builder that has
//! built nothing, writes a context of its own, and looks at what the build gives back, at the events and at the files that
//! were asked for. A case that needs a power which [`capabilities`](crate::build::Builder::capabilities) denies ends at
//! once; the `capabilities_` cases check that what is denied is refused or left out. Cases that run commands do so in a
//! root file system as [`busybox_root`](crate::testing::busybox_root) makes it, and end where this machine has none.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

mod capabilities;
mod commands;
mod events;
mod images;
mod kit;
mod refusals;

pub use capabilities::*;
pub use commands::*;
#[cfg(test)]
pub(in crate::build) use commands::{COUNTS, FAILS, HANGS_ON, MAKES};
pub use events::*;
pub use images::*;
pub use refusals::*;

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> Option<(SharedBuilder, G)>`: a builder that has built nothing, and whatever
/// must live as long as it; `None` where this machine cannot run it, which the fixture should print. The calling crate
/// needs `tokio` with `macros` and `rt-multi-thread`.
///
/// ```
/// # #[cfg(test)]
/// mod dry {
///     use hyper_sdk::build::{DryRun, LocalBuilder, SharedBuilder};
///     use hyper_sdk::client::{Loopback, SharedClient};
///     use hyper_sdk::source::ClientFactory;
///     use hyper_sdk::store::MemoryStore;
///     use hyper_sdk::testing::{FakeExecutor, PlainSnapshotter};
///     use std::sync::Arc;
///
///     async fn fixture() -> Option<(SharedBuilder, tempfile::TempDir)> {
///         let folder = tempfile::tempdir().ok()?;
///         let store = Arc::new(MemoryStore::default());
///         let registry = store.clone();
///         let clients =
///             ClientFactory::new(move |_| Ok(Arc::new(Loopback::new(registry.clone())) as SharedClient));
///         let builder = LocalBuilder::builder(folder.path().join("root"), store, clients)
///             .executor(Arc::new(FakeExecutor::new()))
///             .snapshotter(Arc::new(PlainSnapshotter::new().ok()?))
///             .open()
///             .ok()?;
///         Some((Arc::new(DryRun::new(Arc::new(builder))), folder))
///     }
///     hyper_sdk::builder_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! builder_conformance {
    ($fixture:path) => {
        $crate::builder_conformance!(@cases $fixture;
            an_image_has_a_digest_and_its_names, files_are_as_the_text_says, a_tar_has_the_files,
            a_layout_has_the_image, every_output_is_made, an_ignored_file_is_not_copied,
            a_named_context_is_read, a_build_argument_reaches_the_text, a_target_is_built_and_no_other_stage,
            labels_are_in_the_config, the_time_is_the_given_one, equal_requests_give_equal_images,
            a_second_build_is_cached, steps_run_again_when_asked, changed_content_is_seen,
            builds_at_once_do_not_mix, equal_builds_at_once_agree,

            every_problem_of_a_text_is_told, an_unknown_target_is_named, a_missing_file_is_not_found,
            an_unknown_frontend_is_named, an_impossible_output_is_refused_before_anything_runs,
            a_failed_build_writes_nothing, a_failed_build_keeps_what_was_there, a_failure_spoils_no_later_build,

            every_task_that_starts_ends, a_step_is_a_task, a_failed_step_is_a_failed_task,
            a_finding_of_the_linter_is_a_warning,

            a_command_changes_the_files, a_failed_command_tells_its_code_and_output,
            output_of_a_command_is_an_event, a_cached_command_does_not_run_again,
            a_secret_is_for_the_command_alone, a_required_secret_that_is_missing_is_named,
            a_command_with_all_rights_needs_permission, a_dropped_build_writes_nothing,

            capabilities_do_not_change, capabilities_without_results_nothing_is_made,
            capabilities_without_commands_they_are_refused, a_builder_has_a_name,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let Some((builder, _guard)) = $fixture().await else { return };
                $crate::build::conformance::$case(builder).await;
            }
        )*
    };
}
