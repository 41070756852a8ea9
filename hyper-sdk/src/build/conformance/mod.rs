//! The conformance suite of builders, one function for each case.
//!
//! [`builder_conformance!`](crate::builder_conformance) makes a test of every case. A case gets a builder that has built
//! nothing, writes its own context, and checks the result, the events and the outputs. A case ends early when the builder
//! lacks a capability that it needs ([`capabilities`](crate::build::Builder::capabilities)); the `capabilities_` cases check
//! that the builder then rejects or skips the work. Commands run in a root file system of
//! [`busybox_root`](crate::testing::busybox_root); their cases end early when this machine cannot make one.
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
/// The fixture is the path of an `async fn() -> Option<(SharedBuilder, G)>`: a builder that has built nothing, and a guard
/// that lives as long as the builder. It is `None` when this machine cannot run the builder: every case then prints `SKIPPED:`.
/// The calling crate needs `tokio` with `macros` and `rt-multi-thread`.
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
            an_image_has_a_digest_and_its_names, files_have_the_paths_and_modes_of_the_text, a_tar_has_the_files,
            a_layout_has_the_image, every_output_is_written, files_alone_have_no_digest,
            an_ignored_file_is_not_copied,
            a_named_context_is_read, a_build_argument_reaches_the_text, a_target_is_built_and_no_other_stage,
            labels_are_in_the_config, the_epoch_of_the_request_is_used, equal_requests_give_equal_images,
            a_second_build_is_cached, steps_run_again_without_the_cache, changed_content_is_seen,
            concurrent_builds_do_not_mix, equal_concurrent_builds_give_one_image,

            all_problems_of_a_text_are_reported, an_unknown_target_is_named, a_missing_file_is_not_found,
            an_unknown_frontend_is_named, an_impossible_output_is_rejected_before_any_step,
            a_failed_build_writes_nothing, a_failed_build_keeps_existing_files, a_failed_build_does_not_break_later_builds,

            every_task_that_starts_ends, a_step_is_a_task, a_failed_step_is_a_failed_task,
            a_finding_of_the_linter_is_a_warning,

            a_command_changes_the_files, a_failed_command_reports_its_code_and_output,
            output_of_a_command_is_an_event, a_cached_command_does_not_run_again,
            a_secret_is_visible_to_its_command_alone, a_required_secret_that_is_missing_is_named,
            a_privileged_command_needs_permission, a_dropped_build_writes_nothing,

            capabilities_do_not_change, capabilities_without_results_nothing_is_written,
            capabilities_without_commands_run_is_rejected, a_builder_has_a_name,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((builder, _guard)) = given else { return };
                $crate::build::conformance::$case(builder).await;
            }
        )*
    };
}
