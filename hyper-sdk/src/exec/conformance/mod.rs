//! The suite that every executor must pass, one function a case.
//!
//! [`executor_conformance!`](crate::executor_conformance) makes a named test of every case. A case takes an executor
//! and a fresh root file system, runs commands there and checks their output. A case that needs something that
//! [`capabilities`](crate::exec::Executor::capabilities) lacks ends at once. The `capabilities_` cases check that what
//! is missing is refused before anything runs, and that what is claimed works.
//!
//! The root file system is one that [`busybox_root`](crate::testing::busybox_root) made.
#![allow(clippy::unwrap_used, reason = "a case is a test: it fails by panicking")]
#![allow(missing_docs, reason = "the name of a case is its description")]

mod capabilities;
mod commands;
mod endings;
mod kit;
mod mounts;

pub use capabilities::*;
pub use commands::*;
pub use endings::*;
pub use mounts::*;

/// Emits one `#[tokio::test]` for each case of the suite.
///
/// The fixture is the path of an `async fn() -> Option<(Arc<dyn Executor>, RootFs, G)>`. It returns the executor, a
/// fresh writable root file system that [`busybox_root`](crate::testing::busybox_root) made, and a guard that must
/// outlive both. It returns `None` if this machine cannot run the suite: every case then prints `SKIPPED:`. The calling crate needs
/// `tokio` with `macros` and `rt-multi-thread`.
///
/// ```
/// # #[cfg(test)]
/// mod native {
///     use hyper_sdk::exec::{Executor, HelperCommand, NativeExecutor, RootFs};
///     use std::sync::Arc;
///
///     async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
///         let folder = tempfile::tempdir().ok()?;
///         if !hyper_sdk::testing::busybox_root(folder.path()).ok()? {
///             println!("SKIPPED: there is no static busybox");
///             return None;
///         }
///         // Two lines: `fn main() { hyper_sdk::exec::init(); }`
///         let helper = HelperCommand::with_init(env!("CARGO_BIN_EXE_exec-helper"));
///         let executor = NativeExecutor::start(helper).await.ok()?;
///         Some((Arc::new(executor), RootFs::Folder { path: folder.path().to_owned(), writable: true }, folder))
///     }
///     hyper_sdk::executor_conformance!(fixture);
/// }
/// ```
#[macro_export]
macro_rules! executor_conformance {
    ($fixture:path) => {
        $crate::executor_conformance!(@cases $fixture;
            an_exit_code_is_passed_on, a_signal_gives_128_plus_its_number, output_is_split_by_stream,
            large_output_is_complete, output_without_a_line_end_is_complete, output_waits_for_its_reader,
            a_command_has_an_empty_input, arguments_are_unchanged, the_environment_is_the_given_one,
            the_last_of_several_variables_is_used, a_program_is_found_in_the_path,
            a_missing_program_is_invalid, an_empty_command_is_invalid, a_relative_working_folder_is_invalid,
            a_command_starts_in_its_working_folder, a_missing_working_folder_is_made,
            a_made_working_folder_belongs_to_its_user, a_user_is_found_by_name, a_user_is_found_by_number,
            a_group_is_found_by_name_and_number, supplementary_groups_are_added, a_missing_user_is_not_found,
            a_command_writes_to_its_root, a_command_does_not_see_the_host, a_read_only_root_is_not_changed,
            errors_contain_no_secrets,

            a_dropped_command_is_killed, processes_of_a_command_end_with_it, commands_run_at_once,
            a_failed_command_leaves_the_executor_usable,

            a_tree_is_mounted, writes_to_a_mounted_tree_are_discarded, a_file_of_the_host_is_mounted,
            a_cache_keeps_what_is_written, a_cache_is_packed_and_another_is_filled,
            a_broken_archive_fills_no_cache, a_read_only_cache_is_not_written, a_secret_is_a_file_with_its_mode,
            tmpfs_content_is_discarded, an_inline_file_is_mounted, the_last_of_two_mounts_at_one_target_is_used,
            a_mount_may_be_relative_to_the_working_folder, a_missing_source_is_an_error,
            mounts_leave_nothing_in_the_root, a_command_has_the_given_host_names,

            capabilities_what_is_denied_is_unsupported, capabilities_a_private_network_has_only_a_loopback,
            capabilities_an_insecure_command_may_mount, capabilities_a_limit_is_that_of_the_command,
            capabilities_do_not_change, an_executor_has_a_name,
        );
    };
    (@cases $fixture:path; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let given = $crate::testing::given(stringify!($case), $fixture().await);
                let Some((executor, rootfs, _guard)) = given else { return };
                $crate::exec::conformance::$case(executor, rootfs).await;
            }
        )*
    };
}
