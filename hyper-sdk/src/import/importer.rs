//! The import as a whole: repositories one after the other, their roots several at once.

use super::report::{Counts, ImportEvent, ImportObserver, Imported, add};
use super::source::{ImportRoot, ImportSource};
use super::target::{ExistingTags, ImportTarget, Stop};
use super::turns::Turns;
use crate::reference::RepositoryName;
use crate::store::{ChangeContext, TagGuard};
use crate::{Digest, Error, ErrorKind, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// After so many images in a row that a source cannot be asked for, an import gives up.
const UNREACHABLE: u32 = 5;

/// Chooses repositories by their names in the source.
pub type RepositoryFilter = Arc<dyn Fn(&str) -> bool + Send + Sync>;
/// Makes the rule for the tags of a repository.
pub type TagRules = Arc<dyn Fn(&RepositoryName) -> Option<TagGuard> + Send + Sync>;

/// How to import.
#[derive(Clone)]
pub struct ImportOptions {
    /// Chooses repositories by their names in the source; `None` takes all.
    pub only: Option<RepositoryFilter>,
    /// What happens to tags that name another manifest.
    pub existing_tags: ExistingTags,
    /// Says the rule for the tags of a repository, such as one that keeps immutable tags. What a rule refuses is a failure.
    pub guard: Option<TagRules>,
    /// Imports an index of which the source lacks some images for a platform, without these. Otherwise it fails, as a tag
    /// would name an image that is not whole.
    pub sparse: bool,
    /// How many images, and how many blobs, are imported at once.
    pub parallel: usize,
    /// Is called for each step.
    pub observer: Option<ImportObserver>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            only: None,
            existing_tags: ExistingTags::default(),
            guard: None,
            sparse: false,
            parallel: 8,
            observer: None,
        }
    }
}

impl fmt::Debug for ImportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportOptions")
            .field("existing_tags", &self.existing_tags)
            .field("sparse", &self.sparse)
            .field("parallel", &self.parallel)
            .finish_non_exhaustive()
    }
}

/// An import that runs.
pub(super) struct Import {
    pub(super) source: Arc<dyn ImportSource>,
    pub(super) target: ImportTarget,
    pub(super) options: ImportOptions,
    pub(super) counts: Counts,
    pub(super) blob_permits: Semaphore,
    pub(super) blob_turns: Turns<Digest>,
    pub(super) manifest_turns: Turns<(RepositoryName, Digest)>,
    /// Blobs that a dry run has counted.
    pub(super) counted: Mutex<HashSet<Digest>>,
    /// How many tags and manifests the source has named.
    pub(super) roots: AtomicU64,
    /// How many images in a row failed because the source did not answer.
    unreachable: AtomicU32,
}

/// A repository that is imported.
pub(super) struct Repository {
    pub(super) name: RepositoryName,
    /// Manifests that are done, up to a limit.
    pub(super) done: Mutex<HashSet<Digest>>,
}

/// Imports what a source has into a target.
///
/// An import that is dropped, killed or run again goes on where it was: what the target has is not copied again. A tag moves
/// after everything that it needs is stored. Blobs of an image that failed stay for the store's collector.
///
/// ```
/// use hyper_sdk::import::{ImportOptions, ImportTarget, OciFolder, import};
/// use hyper_sdk::store::SharedStore;
/// use hyper_sdk::{RepositoryName, Result};
/// use std::sync::Arc;
///
/// /// Imports the OCI layout in a folder as images of one repository, and says whether all of it could be.
/// async fn bring(folder: &str, name: RepositoryName, store: SharedStore) -> Result<bool> {
///     let source = Arc::new(OciFolder::open(folder, Some(name)).await?);
///     let imported = import(source, ImportTarget::Store(store), ImportOptions::default()).await?;
///     Ok(imported.failed == 0)
/// }
/// ```
///
/// # Errors
/// [`ErrorKind::NotFound`] when the source has no image in any repository that was chosen; those of the target that no other image
/// can avoid, such as [`ErrorKind::StorageFull`]; [`ErrorKind::Unavailable`] when the source does not answer several times in
/// a row. What cannot be imported for another reason is counted in [`Imported::failed`], and the observer gets its error.
pub async fn import(
    source: Arc<dyn ImportSource>,
    target: ImportTarget,
    options: ImportOptions,
) -> Result<Imported> {
    let parallel = options.parallel.max(1);
    let import = Arc::new(Import {
        source,
        target,
        options,
        counts: Counts::default(),
        blob_permits: Semaphore::new(parallel),
        blob_turns: Turns::default(),
        manifest_turns: Turns::default(),
        counted: Mutex::default(),
        roots: AtomicU64::new(0),
        unreachable: AtomicU32::new(0),
    });
    let roots = import.source.repositories().flat_map(|name| import.roots_of(name));
    let outcome = roots
        .map(Ok)
        .try_for_each_concurrent(parallel, |(repository, root)| {
            let import = import.clone();
            // A task of its own: many small images use all processors.
            async move {
                let by = ChangeContext::current().map(|by| ChangeContext::clone(&by)).unwrap_or_default();
                let task = tokio::spawn(by.scope(async move { import.bring_root(&repository, root).await }));
                Aborting(task).await
            }
        })
        .await;
    outcome?;
    let sums = import.counts.sums();
    if import.roots.load(Ordering::Relaxed) == 0 && sums.failed == 0 {
        let why = match (sums.repositories, sums.skipped) {
            (0, 0) => "the source has no repository",
            (0, _) => "none of the repositories of the source is chosen",
            _ => "the source has no image in the repositories that are chosen",
        };
        return Err(Error::new(ErrorKind::NotFound, why)
            .with_context("source", &import.source)
            .with_context("repositories", sums.skipped));
    }
    Ok(sums)
}

/// A task that ends when nobody waits for it.
struct Aborting(tokio::task::JoinHandle<Result<()>>);

impl Future for Aborting {
    type Output = Result<()>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(context).map(|outcome| {
            outcome
                .unwrap_or_else(|e| Err(Error::internal("the import of an image ended early").with_source(e)))
        })
    }
}

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Import {
    pub(super) fn tell(&self, event: &ImportEvent<'_>) {
        if let Some(observer) = &self.options.observer {
            observer(event);
        }
    }

    /// Reports what cannot be imported.
    pub(super) fn fail(&self, name: &str, error: &Error) {
        add(&self.counts.failed, 1);
        self.tell(&ImportEvent::Failed { name, error });
    }

    pub(super) fn leave_out(&self, name: &str, reason: &str) {
        add(&self.counts.left_out, 1);
        self.tell(&ImportEvent::LeftOut { name, reason });
    }

    /// Counts whether the source answers. Too many failures in a row end the import.
    pub(super) fn note_answer(&self, outcome: &Result<(), Stop>) -> Option<Error> {
        match outcome {
            Err(Stop::Image(e)) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                let failures = self.unreachable.fetch_add(1, Ordering::Relaxed) + 1;
                (failures >= UNREACHABLE).then(|| {
                    Error::new(
                        ErrorKind::Unavailable,
                        "the source does not answer: run the import again later",
                    )
                    .with_context("source", &self.source)
                })
            }
            _ => {
                self.unreachable.store(0, Ordering::Relaxed);
                None
            }
        }
    }

    /// The roots of a repository, unless it is not chosen or not accepted.
    fn roots_of(
        &self,
        name: Result<String>,
    ) -> futures::stream::BoxStream<'static, (Arc<Repository>, Result<ImportRoot>)> {
        let none = || futures::stream::empty().boxed();
        let text = match name {
            Ok(text) => text,
            Err(e) => {
                self.fail("the list of repositories", &e);
                return none();
            }
        };
        if self.options.only.as_ref().is_some_and(|only| !only(&text)) {
            add(&self.counts.skipped, 1);
            return none();
        }
        add(&self.counts.repositories, 1);
        match RepositoryName::parse(&text) {
            Ok(name) => {
                let roots = self.source.roots(&name);
                let repository = Arc::new(Repository { name, done: Mutex::default() });
                roots.map(move |root| (repository.clone(), root)).boxed()
            }
            Err(e) => {
                let text: String = text.chars().take(300).flat_map(char::escape_debug).collect();
                self.fail(&text, &e);
                none()
            }
        }
    }
}
