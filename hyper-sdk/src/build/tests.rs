//! The suite of builders, with a fake executor; and on builders with injected faults, which it must find.

mod exporters;
mod frontends;
mod sources;

use super::conformance as cases;
use super::*;
use crate::progress::{Event, Outcome};
use crate::testing::{FakeExecutor, FakeRun, assert_suite_finds, fake_builder, is_caught};
use crate::{Digest, Error, ErrorDetail, ErrorKind};
use std::sync::Mutex;

/// A builder with a fake executor for the commands of the suite.
fn scripted() -> (Arc<LocalBuilder>, tempfile::TempDir) {
    let executor = FakeExecutor::new()
        .on(cases::MAKES, FakeRun::new().writes("/made", "made\n"))
        .on(cases::FAILS, FakeRun::new().prints("said\n").exits(7))
        .on(cases::COUNTS, FakeRun::new().writes("/length", "30\n"))
        .on(cases::HANGS_ON, FakeRun::new().prints("started\n").hangs());
    let (parts, folder) = fake_builder(executor).unwrap();
    (Arc::new(parts.open().unwrap()), folder)
}

mod local {
    use super::*;

    async fn fixture() -> Option<(SharedBuilder, tempfile::TempDir)> {
        let (builder, folder) = scripted();
        Some((builder, folder))
    }
    crate::builder_conformance!(fixture);
}

mod dry {
    use super::*;

    async fn fixture() -> Option<(SharedBuilder, tempfile::TempDir)> {
        let (builder, folder) = scripted();
        Some((Arc::new(DryRun::new(builder)), folder))
    }
    crate::builder_conformance!(fixture);
}

/// An injected fault of a builder.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    LosesTheImage,
    LosesTheConfig,
    GivesFilesADigest,
    LosesNames,
    WritesNothing,
    WritesOneOutput,
    ReadsIgnoredFiles,
    LosesContexts,
    LosesArguments,
    LosesTheTarget,
    LosesLabels,
    LosesTheTime,
    MakesOthers,
    NeverCaches,
    CachesAlways,
    RemembersByText,
    ReportsNoProblem,
    ReportsOneProblem,
    HasOneKindOfError,
    ForgetsTheStep,
    RefusesLate,
    LeavesUnfinishedFiles,
    DestroysBefore,
    FailsForever,
    SendsNothing,
    LosesEnds,
    EndsTwice,
    EndsWell,
    LosesWarnings,
    LosesOutput,
    ReportsSecrets,
    WritesSecrets,
    PermitsEverything,
    GoesOn,
    ChangesCapabilities,
    HidesThatItMakesNothing,
    HasNoName,
}

#[derive(Debug)]
struct Faulty {
    fault: Fault,
    inner: SharedBuilder,
    failed: Mutex<bool>,
    known: Mutex<Option<(String, BuildOutput)>>,
    _folder: tempfile::TempDir,
}

impl Faulty {
    fn with(fault: Fault) -> SharedBuilder {
        let (inner, _folder) = scripted();
        Arc::new(Self { fault, inner, failed: Mutex::default(), known: Mutex::default(), _folder })
    }

    /// Changes the request by the fault.
    fn change_request(&self, request: &mut BuildRequest) {
        match self.fault {
            Fault::LosesNames => request.tags.truncate(1),
            Fault::WritesNothing => request.outputs = vec![OutputKind::CacheOnly.into()],
            Fault::WritesOneOutput => request.outputs.truncate(1),
            Fault::ReadsIgnoredFiles => {
                if let BuildContext::Folder(folder) = &request.context {
                    let _ = std::fs::remove_file(folder.join(".dockerignore"));
                }
            }
            Fault::LosesContexts => {
                let main = match &request.context {
                    BuildContext::Folder(folder) => NamedContext::Folder(folder.clone()),
                    _ => return,
                };
                request.named_contexts.values_mut().for_each(|context| *context = main.clone());
            }
            Fault::LosesArguments => request.build_args.clear(),
            Fault::LosesTheTarget => request.target = None,
            Fault::LosesLabels => request.labels.clear(),
            Fault::LosesTheTime => request.epoch = EpochPolicy::At(1_500_000_000),
            Fault::MakesOthers if request.no_cache => {
                request.labels.insert("again".to_owned(), "true".to_owned());
            }
            Fault::NeverCaches => request.no_cache = true,
            Fault::CachesAlways => {
                request.no_cache = false;
                request.no_cache_filter.clear();
            }
            Fault::PermitsEverything => request.allow_insecure = true,
            _ => {}
        }
    }

    fn spoil(&self, error: Error) -> Error {
        let again = |kind: ErrorKind| Error::new(kind, error.message());
        match (self.fault, error.detail()) {
            (Fault::ReportsNoProblem, _) => again(error.kind()),
            (Fault::ReportsOneProblem, Some(ErrorDetail::Dockerfile(problems))) => {
                again(error.kind()).with_detail(ErrorDetail::Dockerfile(problems[..1].to_vec()))
            }
            (Fault::HasOneKindOfError, _) => error.with_kind(ErrorKind::Internal),
            (Fault::ForgetsTheStep, Some(detail)) => again(error.kind()).with_detail(detail.clone()),
            (Fault::ForgetsTheStep, None) => again(error.kind()),
            _ => error,
        }
    }
}

/// A file that is written when a build is dropped.
struct Unfinished(Option<std::path::PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            std::fs::write(path, "half").unwrap();
        }
    }
}

/// Progress whose events are changed by the fault.
fn change_events(fault: Fault, progress: &Progress, secrets: Vec<String>) -> Progress {
    let inner = progress.clone();
    if fault == Fault::ReportsSecrets {
        secrets.iter().for_each(|secret| progress.warn(secret.as_str()));
    }
    Progress::new(move |event: Event| {
        let event = match (fault, event) {
            (Fault::SendsNothing, _)
            | (Fault::LosesEnds, Event::Finished { .. })
            | (Fault::LosesWarnings, Event::Warning { .. })
            | (Fault::LosesOutput, Event::Log { .. }) => return,
            (Fault::EndsWell, Event::Finished { task, milliseconds, .. }) => {
                Event::Finished { task, milliseconds, outcome: Outcome::Done }
            }
            (_, event) => event,
        };
        if fault == Fault::EndsTwice && matches!(event, Event::Finished { .. }) {
            inner.send(event.clone());
        }
        inner.send(event);
    })
}

impl Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.fault == Fault::HasNoName { "" } else { "faulty builder" })
    }
}

#[async_trait]
impl Builder for Faulty {
    async fn capabilities(&self) -> Result<BuilderCapabilities> {
        let capabilities = self.inner.capabilities().await?;
        Ok(match self.fault {
            Fault::ChangesCapabilities if self.known.lock().unwrap().is_some() => {
                capabilities.without_all_owners().without_results()
            }
            Fault::HidesThatItMakesNothing => capabilities.without_results(),
            _ => capabilities,
        })
    }

    async fn build(&self, mut request: BuildRequest, progress: &Progress) -> Result<BuildOutput> {
        let secrets: Vec<String> =
            request.secrets.values().map(|s| String::from_utf8_lossy(s.expose()).into_owned()).collect();
        let text = request.dockerfile.clone().unwrap_or_default();
        if self.fault == Fault::RemembersByText
            && let Some((_, output)) = self.known.lock().unwrap().as_ref().filter(|(known, _)| *known == text)
        {
            return Ok(output.clone());
        }
        if self.fault == Fault::FailsForever && *self.failed.lock().unwrap() {
            return Err(Error::internal("it failed before"));
        }
        let first = request.outputs.first().and_then(Output::destination).map(std::path::Path::to_owned);
        let last = request.outputs.last().and_then(Output::destination).map(std::path::Path::to_owned);
        self.change_request(&mut request);
        if self.fault == Fault::RefusesLate {
            progress.start("begin", None).done();
        }
        if self.fault == Fault::DestroysBefore
            && let Some(path) = &last
        {
            let _ = std::fs::remove_file(path);
        }
        let mut half = Unfinished(first.clone().filter(|_| self.fault == Fault::GoesOn));
        let changed = change_events(self.fault, progress, secrets.clone());
        let result = self.inner.build(request, &changed).await;
        half.0 = None;
        match result {
            Ok(mut output) => {
                match self.fault {
                    Fault::LosesTheImage => output.image = None,
                    Fault::GivesFilesADigest => {
                        let image = crate::oci::Descriptor::of(crate::media_type::OCI_MANIFEST, b"{}");
                        output.image.get_or_insert(image);
                    }
                    Fault::LosesTheConfig => output.config = output.image.as_ref().map(|i| i.digest.clone()),
                    Fault::WritesSecrets => {
                        if let Some(path) = last.filter(|_| !secrets.is_empty()) {
                            let bytes =
                                [std::fs::read(&path).unwrap(), secrets.concat().into_bytes()].concat();
                            std::fs::write(path, bytes).unwrap();
                        }
                    }
                    _ => {}
                }
                *self.known.lock().unwrap() = Some((text, output.clone()));
                Ok(output)
            }
            Err(error) => {
                *self.failed.lock().unwrap() = true;
                if let Some(folder) = first.filter(|_| self.fault == Fault::LeavesUnfinishedFiles) {
                    std::fs::create_dir_all(&folder).unwrap();
                    std::fs::write(folder.join("f"), "half").unwrap();
                }
                Err(self.spoil(error))
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_finds_every_fault() {
    assert_suite_finds! { cases, Faulty::with, Fault;
        LosesTheImage by an_image_has_a_digest_and_its_names, equal_concurrent_builds_give_one_image;
        LosesTheConfig by an_image_has_a_digest_and_its_names;
        GivesFilesADigest by files_alone_have_no_digest;
        LosesNames by an_image_has_a_digest_and_its_names;
        WritesNothing by files_have_the_paths_and_modes_of_the_text, a_tar_has_the_files, a_layout_has_the_image,
            concurrent_builds_do_not_mix;
        WritesOneOutput by every_output_is_written;
        ReadsIgnoredFiles by an_ignored_file_is_not_copied;
        LosesContexts by a_named_context_is_read;
        LosesArguments by a_build_argument_reaches_the_text;
        LosesTheTarget by a_target_is_built_and_no_other_stage, an_unknown_target_is_named;
        LosesLabels by labels_are_in_the_config;
        LosesTheTime by the_epoch_of_the_request_is_used, a_tar_has_the_files;
        MakesOthers by equal_requests_give_equal_images;
        NeverCaches by a_second_build_is_cached, a_cached_command_does_not_run_again, a_step_is_a_task;
        CachesAlways by steps_run_again_without_the_cache;
        RemembersByText by changed_content_is_seen;
        ReportsNoProblem by all_problems_of_a_text_are_reported, an_impossible_output_is_rejected_before_any_step,
            a_required_secret_that_is_missing_is_named;
        ReportsOneProblem by all_problems_of_a_text_are_reported;
        HasOneKindOfError by all_problems_of_a_text_are_reported, an_unknown_frontend_is_named,
            a_missing_file_is_not_found, an_unknown_target_is_named;
        ForgetsTheStep by a_missing_file_is_not_found, a_failed_command_reports_its_code_and_output;
        RefusesLate by an_impossible_output_is_rejected_before_any_step;
        LeavesUnfinishedFiles by a_failed_build_writes_nothing;
        DestroysBefore by a_failed_build_keeps_existing_files;
        FailsForever by a_failed_build_does_not_break_later_builds;
        SendsNothing by a_step_is_a_task, a_finding_of_the_linter_is_a_warning;
        LosesEnds by every_task_that_starts_ends;
        EndsTwice by every_task_that_starts_ends;
        EndsWell by a_failed_step_is_a_failed_task;
        LosesWarnings by a_finding_of_the_linter_is_a_warning;
        ChangesCapabilities by capabilities_do_not_change;
        HidesThatItMakesNothing by capabilities_without_results_nothing_is_written;
        HasNoName by a_builder_has_a_name;
    }
    let folder = tempfile::tempdir().unwrap();
    if !crate::testing::busybox_root(folder.path()).unwrap() {
        return;
    }
    assert_suite_finds! { cases, Faulty::with, Fault;
        WritesNothing by a_command_changes_the_files;
        ReportsNoProblem by a_failed_command_reports_its_code_and_output;
        LosesOutput by output_of_a_command_is_an_event;
        ReportsSecrets by a_secret_is_visible_to_its_command_alone;
        WritesSecrets by a_secret_is_visible_to_its_command_alone;
        PermitsEverything by a_privileged_command_needs_permission;
        GoesOn by a_dropped_build_writes_nothing;
    }
}

#[tokio::test]
async fn a_builder_without_commands_must_reject_them() {
    /// Builds nothing and returns an image.
    #[derive(Debug)]
    struct Silent;

    impl Display for Silent {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("silent")
        }
    }

    #[async_trait]
    impl Builder for Silent {
        async fn capabilities(&self) -> Result<BuilderCapabilities> {
            Ok(BuilderCapabilities::new())
        }

        async fn build(&self, _: BuildRequest, _: &Progress) -> Result<BuildOutput> {
            let image = crate::oci::Descriptor::of(crate::media_type::OCI_MANIFEST, b"{}");
            let config = Some(Digest::sha256("config"));
            Ok(BuildOutput { image: Some(image), config, steps: Vec::new(), tags: Vec::new(), epoch: 0 })
        }
    }
    assert!(is_caught(cases::capabilities_without_commands_run_is_rejected(Arc::new(Silent))).await);
}
