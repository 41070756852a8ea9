//! The suite on builders whose commands are a script, and on builders with a fault that it must find.

mod exporters;
mod frontends;
mod sources;

use super::conformance as cases;
use super::*;
use crate::progress::{Event, Outcome};
use crate::testing::{FakeExecutor, FakeRun, fake_builder, is_caught};
use crate::{Digest, Error, ErrorDetail, ErrorKind};
use std::sync::Mutex;

/// A builder without a sandbox, whose executor plays the commands of the suite.
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

/// What a builder does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    LosesTheImage,
    LosesTheConfig,
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
    TellsNoProblem,
    TellsOneProblem,
    HasOneKindOfError,
    ForgetsTheStep,
    RefusesLate,
    LeavesHalves,
    DestroysBefore,
    FailsForEver,
    TellsNothing,
    LosesEnds,
    EndsTwice,
    EndsWell,
    LosesWarnings,
    LosesOutput,
    TellsSecrets,
    WritesSecrets,
    PermitsEverything,
    GoesOn,
    ChangesCapabilities,
    MakesNothingInSecret,
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

    /// The request as the faulty builder understands it.
    fn misread(&self, request: &mut BuildRequest) {
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
            (Fault::TellsNoProblem, _) => again(error.kind()),
            (Fault::TellsOneProblem, Some(ErrorDetail::Dockerfile(problems))) => {
                again(error.kind()).with_detail(ErrorDetail::Dockerfile(problems[..1].to_vec()))
            }
            (Fault::HasOneKindOfError, _) => error.with_kind(ErrorKind::Internal),
            (Fault::ForgetsTheStep, Some(detail)) => again(error.kind()).with_detail(detail.clone()),
            (Fault::ForgetsTheStep, None) => again(error.kind()),
            _ => error,
        }
    }
}

/// What is written when a build is given up.
struct Half(Option<std::path::PathBuf>);

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            std::fs::write(path, "half").unwrap();
        }
    }
}

/// The events as the faulty builder tells them.
fn retold(fault: Fault, progress: &Progress, secrets: Vec<String>) -> Progress {
    let inner = progress.clone();
    if fault == Fault::TellsSecrets {
        secrets.iter().for_each(|secret| progress.warn(secret.as_str()));
    }
    Progress::new(move |event: Event| {
        let event = match (fault, event) {
            (Fault::TellsNothing, _)
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
            Fault::MakesNothingInSecret => capabilities.without_results(),
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
        if self.fault == Fault::FailsForEver && *self.failed.lock().unwrap() {
            return Err(Error::internal("it failed before"));
        }
        let first = request.outputs.first().and_then(Output::destination).map(std::path::Path::to_owned);
        let last = request.outputs.last().and_then(Output::destination).map(std::path::Path::to_owned);
        self.misread(&mut request);
        if self.fault == Fault::RefusesLate {
            progress.start("begin", None).done();
        }
        if self.fault == Fault::DestroysBefore
            && let Some(path) = &last
        {
            let _ = std::fs::remove_file(path);
        }
        let mut half = Half(first.clone().filter(|_| self.fault == Fault::GoesOn));
        let told = retold(self.fault, progress, secrets.clone());
        let result = self.inner.build(request, &told).await;
        half.0 = None;
        match result {
            Ok(mut output) => {
                match self.fault {
                    Fault::LosesTheImage => output.image = None,
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
                if let Some(folder) = first.filter(|_| self.fault == Fault::LeavesHalves) {
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
    macro_rules! caught {
        ($($fault:ident by $($case:ident),+;)+) => {$($(
            assert!(
                !is_caught(cases::$case(Faulty::with(Fault::None))).await,
                "{} fails without a fault", stringify!($case)
            );
            assert!(
                is_caught(cases::$case(Faulty::with(Fault::$fault))).await,
                "{} does not find the fault {}", stringify!($case), stringify!($fault)
            );
        )+)+};
    }
    caught! {
        LosesTheImage by an_image_has_a_digest_and_its_names, equal_builds_at_once_agree;
        LosesTheConfig by an_image_has_a_digest_and_its_names;
        LosesNames by an_image_has_a_digest_and_its_names;
        WritesNothing by files_are_as_the_text_says, a_tar_has_the_files, a_layout_has_the_image,
            builds_at_once_do_not_mix;
        WritesOneOutput by every_output_is_made;
        ReadsIgnoredFiles by an_ignored_file_is_not_copied;
        LosesContexts by a_named_context_is_read;
        LosesArguments by a_build_argument_reaches_the_text;
        LosesTheTarget by a_target_is_built_and_no_other_stage, an_unknown_target_is_named;
        LosesLabels by labels_are_in_the_config;
        LosesTheTime by the_time_is_the_given_one, a_tar_has_the_files;
        MakesOthers by equal_requests_give_equal_images;
        NeverCaches by a_second_build_is_cached, a_cached_command_does_not_run_again, a_step_is_a_task;
        CachesAlways by steps_run_again_when_asked;
        RemembersByText by changed_content_is_seen;
        TellsNoProblem by every_problem_of_a_text_is_told, an_impossible_output_is_refused_before_anything_runs,
            a_required_secret_that_is_missing_is_named;
        TellsOneProblem by every_problem_of_a_text_is_told;
        HasOneKindOfError by every_problem_of_a_text_is_told, an_unknown_frontend_is_named,
            a_missing_file_is_not_found, an_unknown_target_is_named;
        ForgetsTheStep by a_missing_file_is_not_found, a_failed_command_tells_its_code_and_output;
        RefusesLate by an_impossible_output_is_refused_before_anything_runs;
        LeavesHalves by a_failed_build_writes_nothing;
        DestroysBefore by a_failed_build_keeps_what_was_there;
        FailsForEver by a_failure_spoils_no_later_build;
        TellsNothing by a_step_is_a_task, a_finding_of_the_linter_is_a_warning;
        LosesEnds by every_task_that_starts_ends;
        EndsTwice by every_task_that_starts_ends;
        EndsWell by a_failed_step_is_a_failed_task;
        LosesWarnings by a_finding_of_the_linter_is_a_warning;
        ChangesCapabilities by capabilities_do_not_change;
        MakesNothingInSecret by capabilities_without_results_nothing_is_made;
        HasNoName by a_builder_has_a_name;
    }
    let folder = tempfile::tempdir().unwrap();
    if !crate::testing::busybox_root(folder.path()).unwrap() {
        return;
    }
    caught! {
        WritesNothing by a_command_changes_the_files;
        TellsNoProblem by a_failed_command_tells_its_code_and_output;
        LosesOutput by output_of_a_command_is_an_event;
        TellsSecrets by a_secret_is_for_the_command_alone;
        WritesSecrets by a_secret_is_for_the_command_alone;
        PermitsEverything by a_command_with_all_rights_needs_permission;
        GoesOn by a_dropped_build_writes_nothing;
    }
}

#[tokio::test]
async fn a_builder_that_runs_nothing_says_so() {
    /// Builds nothing and claims to have built.
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
    assert!(is_caught(cases::capabilities_without_commands_they_are_refused(Arc::new(Silent))).await);
}
