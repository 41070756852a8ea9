//! The suites of executors and snapshotters on those of the SDK, and on executors with a fault that the suite must find.

use crate::sandbox::helper;
use async_trait::async_trait;
use hyper_sdk::exec::conformance as cases;
use hyper_sdk::exec::{
    ExecCapabilities, ExecSpec, Executor, ExitStatus, LogSink, MountSource, NativeExecutor, Network,
    OciRuntime, RootFs, Security,
};
use hyper_sdk::progress::LogStream;
use hyper_sdk::sandbox::{Isolation, Sandbox, SandboxOptions};
use hyper_sdk::snapshot::{LocalSnapshotter, SharedSnapshotter, Style};
use hyper_sdk::testing::{busybox_root, is_caught};
use hyper_sdk::{ErrorKind, Result};
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Our sandbox; `None`, with a word why, where it cannot be tested.
async fn native() -> Option<NativeExecutor> {
    match NativeExecutor::start(helper()).await {
        Ok(executor) => Some(executor),
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            println!("SKIPPED: {e}");
            None
        }
        Err(e) => panic!("{e:?}"),
    }
}

/// A folder that steps of other users may pass, with a root file system in `root`.
fn root_folder() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["root", "upper", "work"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    if busybox_root(&folder.path().join("root")).unwrap() {
        return Some(folder);
    }
    println!("SKIPPED: there is no static busybox to make a root file system of");
    None
}

fn overlay(folder: &Path) -> RootFs {
    let upper = Some((folder.join("upper"), folder.join("work")));
    RootFs::Overlay { lowers: vec![folder.join("root")], upper }
}

mod on_an_overlay {
    use super::*;

    async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
        let (executor, folder) = (native().await?, root_folder()?);
        if !executor.capabilities().overlays {
            println!("SKIPPED: overlays cannot be mounted here");
            return None;
        }
        // The folder in which a step makes what the suite looks for on the host.
        std::fs::create_dir(folder.path().join("upper/tmp")).unwrap();
        let open = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(folder.path().join("upper/tmp"), open).unwrap();
        Some((Arc::new(executor), overlay(folder.path()), folder))
    }
    hyper_sdk::executor_conformance!(fixture);
}

/// An executor with a runtime of this machine; `None`, with a word why, where it cannot be tested.
async fn with_runtime(name: &str, folder: &Path) -> Option<OciRuntime> {
    let native = native().await?;
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = std::env::split_paths(&folders).map(|at| at.join(name)).find(|path| path.is_file())
    else {
        println!("SKIPPED: there is no {name}");
        return None;
    };
    let executor = OciRuntime::new(native.sandbox().clone(), program, folder.join("runtime"));
    let root = RootFs::Folder { path: folder.join("root"), writable: true };
    match executor.run(&root, ExecSpec::new(["/bin/true"]), Arc::new(|_: LogStream, _: &[u8]| {})).await {
        Ok(_) => Some(executor),
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            println!("SKIPPED: {e} {:?}", e.context_value("detail"));
            None
        }
        Err(e) => panic!("{e:?}"),
    }
}

mod with_runc_on_an_overlay {
    use super::*;

    async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
        let folder = root_folder()?;
        let executor = with_runtime("runc", folder.path()).await?;
        std::fs::create_dir(folder.path().join("upper/tmp")).unwrap();
        let open = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(folder.path().join("upper/tmp"), open).unwrap();
        Some((Arc::new(executor), overlay(folder.path()), folder))
    }
    hyper_sdk::executor_conformance!(fixture);
}

mod with_runc_in_a_folder {
    use super::*;

    async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
        let folder = root_folder()?;
        let executor = with_runtime("runc", folder.path()).await?;
        let root = RootFs::Folder { path: folder.path().join("root"), writable: true };
        Some((Arc::new(executor), root, folder))
    }
    hyper_sdk::executor_conformance!(fixture);
}

mod with_crun {
    use super::*;

    async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
        let folder = root_folder()?;
        let executor = with_runtime("crun", folder.path()).await?;
        let root = RootFs::Folder { path: folder.path().join("root"), writable: true };
        Some((Arc::new(executor), root, folder))
    }
    hyper_sdk::executor_conformance!(fixture);
}

mod in_a_folder {
    use super::*;

    async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
        let (executor, folder) = (native().await?, root_folder()?);
        let root = RootFs::Folder { path: folder.path().join("root"), writable: true };
        Some((Arc::new(executor), root, folder))
    }
    hyper_sdk::executor_conformance!(fixture);
}

/// The sandbox with less isolation; `None`, with a word why, where it cannot be tested.
async fn with_isolation(isolation: Isolation) -> Option<NativeExecutor> {
    let sandbox = Sandbox::start_with(helper(), SandboxOptions::with_isolation(isolation)).await.unwrap();
    if sandbox.isolation() != isolation {
        println!("SKIPPED: namespaces cannot be made here");
        return None;
    }
    if isolation == Isolation::None && !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root runs steps without isolation");
        return None;
    }
    Some(NativeExecutor::new(sandbox))
}

mod with_the_processes_of_the_machine {
    use super::*;

    async fn fixture() -> Option<(Arc<dyn Executor>, RootFs, tempfile::TempDir)> {
        let (executor, folder) = (with_isolation(Isolation::SharedProcesses).await?, root_folder()?);
        let root = RootFs::Folder { path: folder.path().join("root"), writable: true };
        Some((Arc::new(executor), root, folder))
    }
    hyper_sdk::executor_conformance!(fixture);
}

/// The cases that hold without isolation: all but those of commands at once, of a host name and a network of its own, of
/// mounts that cannot be written to, of a limited tmpfs, and of secrets in files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_isolation_a_step_does_what_it_does_with() {
    let Some(executor) = with_isolation(Isolation::None).await else { return };
    let executor: Arc<dyn Executor> = Arc::new(executor);
    macro_rules! hold {
        ($($case:ident)+) => {$(
            let Some(folder) = root_folder() else { return };
            let root = RootFs::Folder { path: folder.path().join("root"), writable: true };
            println!("{}", stringify!($case));
            cases::$case(Arc::clone(&executor), root).await;
        )+};
    }
    hold! {
        an_exit_code_is_passed_on a_signal_gives_128_plus_its_number a_dropped_command_is_killed
        processes_of_a_command_end_with_it a_failed_command_leaves_the_executor_usable
        writes_to_a_mounted_tree_are_discarded a_file_of_the_host_is_mounted a_cache_keeps_what_is_written
        an_inline_file_is_mounted the_last_of_two_mounts_at_one_target_is_used
        a_mount_may_be_relative_to_the_working_folder a_missing_source_is_an_error
        capabilities_do_not_change an_executor_has_a_name
    }
}

async fn snapshots(folder: &Path, executor: &NativeExecutor, style: Style) -> SharedSnapshotter {
    Arc::new(LocalSnapshotter::open_as(folder, executor.sandbox().clone(), style).await.unwrap())
}

mod snapshots_on_overlays {
    use super::*;

    type Guard = (tempfile::TempDir, NativeExecutor);

    async fn fixture() -> Option<(SharedSnapshotter, Guard)> {
        let (executor, folder) = (native().await?, tempfile::tempdir().unwrap());
        Some((snapshots(folder.path(), &executor, Style::Overlay).await, (folder, executor)))
    }

    async fn reopen((folder, executor): &Guard) -> SharedSnapshotter {
        snapshots(folder.path(), executor, Style::Overlay).await
    }
    hyper_sdk::snapshotter_conformance!(fixture, reopen);
}

mod snapshots_in_folders {
    use super::*;

    type Guard = (tempfile::TempDir, NativeExecutor);

    async fn fixture() -> Option<(SharedSnapshotter, Guard)> {
        let (executor, folder) = (native().await?, tempfile::tempdir().unwrap());
        Some((snapshots(folder.path(), &executor, Style::Copy).await, (folder, executor)))
    }

    async fn reopen((folder, executor): &Guard) -> SharedSnapshotter {
        snapshots(folder.path(), executor, Style::Copy).await
    }
    hyper_sdk::snapshotter_conformance!(fixture, reopen);
}

mod snapshots_without_namespaces {
    use super::*;

    type Guard = (tempfile::TempDir, NativeExecutor);

    async fn fixture() -> Option<(SharedSnapshotter, Guard)> {
        let options = SandboxOptions::with_isolation(Isolation::None);
        let executor = NativeExecutor::new(Sandbox::start_with(helper(), options).await.unwrap());
        let folder = tempfile::tempdir().unwrap();
        Some((snapshots(folder.path(), &executor, Style::Copy).await, (folder, executor)))
    }

    async fn reopen((folder, executor): &Guard) -> SharedSnapshotter {
        snapshots(folder.path(), executor, Style::Copy).await
    }
    hyper_sdk::snapshotter_conformance!(fixture, reopen);
}

/// What an executor does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    AlwaysSucceeds,
    CutsCodes,
    SignalsAreOne,
    JoinsTheStreams,
    LosesTheEnd,
    LosesLargeOutput,
    LogsWithoutAsking,
    SplitsArguments,
    AddsVariables,
    TheFirstVariableCounts,
    LosesEmptyVariables,
    ExpectsAShell,
    MissingIs127,
    StartsInTheRoot,
    EveryoneIsRoot,
    HasNoGroups,
    IgnoresTheGroup,
    UnknownUsersAreRoot,
    TellsTheEnvironment,
    SurvivesDropping,
    OneAtATime,
    BreaksAfterAFailure,
    HasNoMounts,
    WritesToSources,
    LosesTheCache,
    CachesAreWritable,
    SecretsAreOpen,
    TheFirstMountCounts,
    MountsFromTheRoot,
    IgnoresMissingSources,
    HasNoHosts,
    HasNoLimits,
    LeavesThings,
    DeniesWhatItDoes,
    ClaimsWhatItHasNot,
    HasNoPrivateNetwork,
    InsecureIsSafe,
    ChangesItsMind,
    HasNoName,
}

struct Faulty {
    fault: Fault,
    inner: NativeExecutor,
    turn: tokio::sync::Mutex<()>,
    failed: Mutex<bool>,
    calls: Mutex<usize>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?})", self.fault)
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fault == Fault::HasNoName { "" } else { "faulty executor" })
    }
}

/// A sink that passes on what a fault leaves.
struct FaultySink(Fault, Arc<dyn LogSink>, Mutex<usize>);

impl LogSink for FaultySink {
    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let mut passed = self.2.lock().unwrap();
        match self.0 {
            Fault::JoinsTheStreams => self.1.log(LogStream::Stdout, bytes),
            Fault::LosesTheEnd => {
                self.1.log(stream, &bytes[..bytes.len() - usize::from(!bytes.ends_with(b"\n"))])
            }
            Fault::LosesLargeOutput if *passed > 100_000 => {}
            _ => self.1.log(stream, bytes),
        }
        *passed += bytes.len();
    }

    fn ready(&self) -> futures::future::BoxFuture<'_, ()> {
        match self.0 {
            Fault::LogsWithoutAsking => Box::pin(std::future::ready(())),
            _ => self.1.ready(),
        }
    }
}

impl Faulty {
    fn change(&self, spec: &mut ExecSpec) {
        match self.fault {
            Fault::SplitsArguments => {
                spec.args = spec.args.iter().flat_map(|arg| arg.split('\n').map(str::to_owned)).collect();
            }
            Fault::AddsVariables => spec.env.extend(std::env::vars()),
            Fault::TheFirstVariableCounts => spec.env.reverse(),
            Fault::LosesEmptyVariables => spec.env.retain(|(_, value)| !value.is_empty()),
            Fault::StartsInTheRoot if spec.cwd.starts_with('/') => spec.cwd = "/".into(),
            Fault::EveryoneIsRoot => spec.user.clear(),
            Fault::HasNoGroups => spec.groups.clear(),
            Fault::IgnoresTheGroup => spec.user = spec.user.split(':').next().unwrap_or_default().to_owned(),
            Fault::HasNoMounts => spec.mounts.clear(),
            Fault::TheFirstMountCounts => spec.mounts.reverse(),
            Fault::MountsFromTheRoot => spec.cwd = "/".into(),
            Fault::HasNoHosts => spec.extra_hosts.clear(),
            Fault::HasNoLimits => spec.limits.ulimits.clear(),
            Fault::HasNoPrivateNetwork => spec.network = Network::Host,
            Fault::InsecureIsSafe => spec.security = Security::Sandbox,
            Fault::LeavesThings if !spec.mounts.is_empty() => spec.cwd = "/left/behind".into(),
            _ => {}
        }
        for mount in &mut spec.mounts {
            match (self.fault, &mut mount.source) {
                (
                    Fault::WritesToSources,
                    MountSource::Tree { tree: RootFs::Folder { path: root, .. }, .. }
                    | MountSource::Host { root, .. },
                ) => mount.source = MountSource::HostPath { path: root.clone(), options: Vec::new() },
                (Fault::LosesTheCache, MountSource::Cache(_)) => {
                    mount.source = MountSource::Tmpfs { size: None, read_only: false };
                }
                (Fault::CachesAreWritable, MountSource::Cache(cache)) => cache.read_only = false,
                (Fault::SecretsAreOpen, MountSource::Secret { mode, .. }) => *mode = 0o644,
                _ => {}
            }
        }
    }

    fn is_missing(source: &MountSource) -> bool {
        match source {
            MountSource::Tree { tree: RootFs::Folder { path: root, .. }, path, .. }
            | MountSource::Host { root, path, .. } => !root.join(path.trim_start_matches('/')).exists(),
            _ => false,
        }
    }
}

#[async_trait]
impl Executor for Faulty {
    fn capabilities(&self) -> ExecCapabilities {
        let capabilities = self.inner.capabilities();
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        match self.fault {
            Fault::DeniesWhatItDoes => capabilities.without_private_network(),
            Fault::ClaimsWhatItHasNot => capabilities.with_insecure(),
            Fault::ChangesItsMind if *calls > 1 => capabilities.without_overlays(),
            _ => capabilities,
        }
    }

    async fn run(&self, rootfs: &RootFs, mut spec: ExecSpec, log: Arc<dyn LogSink>) -> Result<ExitStatus> {
        let (fault, env) = (self.fault, spec.env.clone());
        self.change(&mut spec);
        let _turn = if fault == Fault::OneAtATime { Some(self.turn.lock().await) } else { None };
        if fault == Fault::BreaksAfterAFailure && *self.failed.lock().unwrap() {
            return Err(hyper_sdk::Error::internal("an earlier command failed"));
        }
        if fault == Fault::IgnoresMissingSources {
            spec.mounts.retain(|mount| !Self::is_missing(&mount.source));
        }
        if fault == Fault::ExpectsAShell {
            spec.args = vec!["/bin/sh".into(), "-c".into(), spec.args.join(" ")];
        }
        let log: Arc<dyn LogSink> = Arc::new(FaultySink(fault, log, Mutex::new(0)));
        let run = {
            let (inner, rootfs, spec, log) =
                (self.inner.clone(), rootfs.clone(), spec.clone(), Arc::clone(&log));
            async move { inner.run(&rootfs, spec, log).await }
        };
        let ran = match fault {
            Fault::SurvivesDropping => tokio::spawn(run).await.unwrap(),
            _ => run.await,
        };
        match (fault, ran) {
            (Fault::AlwaysSucceeds, Ok(_)) => Ok(ExitStatus::new(0)),
            (Fault::CutsCodes, Ok(status)) => Ok(ExitStatus::new(status.code & 0x7f)),
            (Fault::SignalsAreOne, Ok(status)) if status.code > 128 => Ok(ExitStatus::new(1)),
            (Fault::MissingIs127, Err(e)) if e.kind() == ErrorKind::Invalid => Ok(ExitStatus::new(127)),
            (Fault::UnknownUsersAreRoot, Err(_)) => {
                spec.user.clear();
                self.inner.run(rootfs, spec, log).await
            }
            (Fault::TellsTheEnvironment, Err(e)) => Err(e.with_context("environment", format!("{env:?}"))),
            (_, ran) => {
                *self.failed.lock().unwrap() |= ran.is_err();
                ran
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_finds_every_fault() {
    let Some(inner) = native().await else { return };
    let capabilities = inner.capabilities();
    let faulty = |fault| Faulty {
        fault,
        inner: inner.clone(),
        turn: tokio::sync::Mutex::default(),
        failed: Mutex::default(),
        calls: Mutex::default(),
    };
    macro_rules! caught {
        ($($fault:ident by $($case:ident),+;)+) => {$($(
            let Some(folder) = root_folder() else { return };
            let root = RootFs::Folder { path: folder.path().join("root"), writable: true };
            assert!(
                is_caught(cases::$case(Arc::new(faulty(Fault::$fault)), root)).await,
                "{} does not find the fault {}", stringify!($case), stringify!($fault)
            );
        )+)+};
    }
    caught! {
        AlwaysSucceeds by an_exit_code_is_passed_on, a_signal_gives_128_plus_its_number;
        CutsCodes by an_exit_code_is_passed_on;
        SignalsAreOne by a_signal_gives_128_plus_its_number;
        JoinsTheStreams by output_is_split_by_stream, large_output_is_complete;
        LosesTheEnd by output_without_a_line_end_is_complete;
        LosesLargeOutput by large_output_is_complete;
        LogsWithoutAsking by output_waits_for_its_reader;
        SplitsArguments by arguments_are_unchanged;
        AddsVariables by the_environment_is_the_given_one;
        TheFirstVariableCounts by the_last_of_several_variables_is_used;
        LosesEmptyVariables by the_environment_is_the_given_one;
        ExpectsAShell by a_missing_program_is_invalid, arguments_are_unchanged;
        MissingIs127 by a_missing_program_is_invalid, an_empty_command_is_invalid, a_relative_working_folder_is_invalid;
        StartsInTheRoot by a_command_starts_in_its_working_folder, a_missing_working_folder_is_made;
        EveryoneIsRoot by a_user_is_found_by_name, a_user_is_found_by_number, a_made_working_folder_belongs_to_its_user;
        HasNoGroups by supplementary_groups_are_added;
        IgnoresTheGroup by a_group_is_found_by_name_and_number;
        UnknownUsersAreRoot by a_missing_user_is_not_found;
        TellsTheEnvironment by errors_contain_no_secrets;
        SurvivesDropping by a_dropped_command_is_killed;
        BreaksAfterAFailure by a_failed_command_leaves_the_executor_usable;
        HasNoMounts by a_tree_is_mounted, a_file_of_the_host_is_mounted, a_cache_keeps_what_is_written,
            a_secret_is_a_file_with_its_mode, tmpfs_content_is_discarded, an_inline_file_is_mounted;
        WritesToSources by writes_to_a_mounted_tree_are_discarded;
        LosesTheCache by a_cache_keeps_what_is_written;
        CachesAreWritable by a_read_only_cache_is_not_written;
        SecretsAreOpen by a_secret_is_a_file_with_its_mode;
        TheFirstMountCounts by the_last_of_two_mounts_at_one_target_is_used;
        MountsFromTheRoot by a_mount_may_be_relative_to_the_working_folder;
        IgnoresMissingSources by a_missing_source_is_an_error;
        HasNoHosts by a_command_has_the_given_host_names;
        LeavesThings by mounts_leave_nothing_in_the_root;
        DeniesWhatItDoes by capabilities_what_is_denied_is_unsupported;
        HasNoLimits by capabilities_a_limit_is_that_of_the_command;
        HasNoPrivateNetwork by capabilities_a_private_network_has_only_a_loopback;
        ChangesItsMind by capabilities_do_not_change;
        HasNoName by an_executor_has_a_name;
    }
    // What hangs fails its case by the guard of the case, which is too long for this test.
    let Some(folder) = root_folder() else { return };
    let root = RootFs::Folder { path: folder.path().join("root"), writable: true };
    let case = cases::commands_run_at_once(Arc::new(faulty(Fault::OneAtATime)), root);
    assert!(tokio::time::timeout(Duration::from_secs(3), case).await.is_err());
    // Only where the rights are there can a lie about them be told.
    if capabilities.insecure {
        caught! { InsecureIsSafe by capabilities_an_insecure_command_may_mount; }
    } else {
        caught! { ClaimsWhatItHasNot by capabilities_an_insecure_command_may_mount; }
    }
}
