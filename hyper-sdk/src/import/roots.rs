//! One root: a tag, or a manifest without one, with everything below it.

use super::importer::{Import, Repository};
use super::report::{ImportEvent, TagOutcome, add};
use super::source::{ImportRoot, SourceManifest};
use super::target::{ExistingTags, Stop};
use crate::oci::{Descriptor, Manifest, ManifestBody};
use crate::reference::Tag;
use crate::store::PutManifest;
use crate::{Digest, Error, ErrorKind, Result, media_type};
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use std::collections::HashSet;
use std::sync::PoisonError;

/// How deep indexes may contain indexes.
const MAX_DEPTH: usize = 8;
/// How many manifests one root may need, with the referrers of each.
const MAX_MANIFESTS: usize = 10_000;
/// How many manifests of a repository are remembered as done.
const REMEMBERED: usize = 50_000;
/// How often a tag is looked up again that moved meanwhile.
const MOVES: usize = 3;

/// What one root needs.
#[derive(Default)]
struct Walk {
    /// The manifests of the root.
    seen: HashSet<Digest>,
    /// The same, in the order in which they were found.
    order: Vec<Digest>,
}

impl Import {
    /// Imports a root, and reports what became of it.
    ///
    /// # Errors
    /// Those that end the whole import.
    pub(super) async fn bring_root(&self, repository: &Repository, root: Result<ImportRoot>) -> Result<()> {
        add(&self.roots, 1);
        let (name, outcome) = match root {
            Err(e) => (repository.name.to_string(), Err(Stop::Image(e))),
            Ok(ImportRoot::Tag(text, entry)) => {
                let shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
                let name = format!("{}:{shown}", repository.name);
                let outcome = match Tag::parse(&text) {
                    Ok(tag) => self.bring_tag(repository, &tag, entry, &name).await,
                    Err(e) => Err(Stop::Image(e)),
                };
                (name, outcome)
            }
            Ok(ImportRoot::Manifest(wanted)) => {
                let name = format!("{}@{}", repository.name, wanted.digest);
                (name, self.bring_manifest(repository, &wanted).await)
            }
        };
        if let Some(e) = self.note_answer(&outcome) {
            return Err(e);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(Stop::Image(e)) => {
                self.fail(&name, &e);
                Ok(())
            }
            Err(Stop::All(e)) => Err(e.with_context("import", name)),
        }
    }

    async fn bring_manifest(&self, repository: &Repository, wanted: &SourceManifest) -> Result<(), Stop> {
        let mut walk = Walk::default();
        let is_new = self.bring(repository, wanted, 0, &mut walk, None).await?;
        if is_new {
            let event = ImportEvent::Manifest { repository: &repository.name, digest: &wanted.digest };
            self.tell(&event);
        }
        self.bring_referrers(repository, walk).await
    }

    async fn bring_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        mut entry: Option<SourceManifest>,
        name: &str,
    ) -> Result<(), Stop> {
        let mut tries = 0;
        loop {
            let wanted = match entry.take() {
                Some(wanted) => wanted,
                None => match self.source.resolve(&repository.name, tag).await? {
                    Some(wanted) => wanted,
                    None => {
                        self.leave_out(name, "the source does not have the tag any more");
                        return Ok(());
                    }
                },
            };
            let mut walk = Walk::default();
            match self.bring(repository, &wanted, 0, &mut walk, Some(tag)).await {
                Ok(_) => return self.bring_referrers(repository, walk).await,
                // The tag may have moved meanwhile, and its manifest may be gone.
                Err(Stop::Image(e)) if e.kind() == ErrorKind::ManifestUnknown && tries < MOVES => {
                    tries += 1;
                    let now = self.source.resolve(&repository.name, tag).await?;
                    if now.as_ref() == Some(&wanted) {
                        return Err(Stop::Image(e));
                    }
                    entry = now;
                    if entry.is_none() {
                        self.leave_out(name, "the source does not have the tag any more");
                        return Ok(());
                    }
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Imports a manifest with everything below it, and moves a tag to it. Returns whether the target got it now.
    fn bring<'a>(
        &'a self,
        repository: &'a Repository,
        wanted: &'a SourceManifest,
        depth: usize,
        walk: &'a mut Walk,
        tag: Option<&'a Tag>,
    ) -> BoxFuture<'a, Result<bool, Stop>> {
        Box::pin(async move {
            let digest = &wanted.digest;
            if depth > MAX_DEPTH || walk.seen.len() >= MAX_MANIFESTS {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    "the image nests too many indexes and manifests",
                )
                .with_context("digest", digest)
                .into());
            }
            if !walk.seen.insert(digest.clone()) {
                return Ok(false);
            }
            walk.order.push(digest.clone());
            let _turn = self.manifest_turns.take((repository.name.clone(), digest.clone())).await;
            if tag.is_none() && repository.is_done(digest) {
                return Ok(false);
            }
            let stored = self.target.manifest(&repository.name, digest).await?;
            let is_new = stored.is_none();
            let manifest = match stored {
                Some(manifest) => manifest,
                None => self.source.manifest(&repository.name, wanted).await?,
            };
            if !repository.is_done(digest) {
                self.bring_parts(repository, &manifest, depth, walk).await?;
            }
            let tag = tag.map(|tag| (tag, &manifest));
            self.put(repository, &manifest, is_new, tag).await?;
            let count = match (repository.set_done(digest), is_new) {
                (false, _) => return Ok(is_new),
                (true, true) => &self.counts.manifests,
                (true, false) => &self.counts.manifests_present,
            };
            add(count, 1);
            Ok(is_new)
        })
    }

    /// Imports what a manifest references.
    async fn bring_parts(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        depth: usize,
        walk: &mut Walk,
    ) -> Result<(), Stop> {
        let mut blobs: Vec<(&Descriptor, bool)> = Vec::new();
        match manifest.body() {
            ManifestBody::Image(image) => {
                blobs.push((&image.config, true));
                blobs.extend(image.layers.iter().map(|layer| {
                    let may_lack =
                        media_type::is_non_distributable(&layer.media_type) || !layer.urls.is_empty();
                    (layer, !may_lack)
                }));
            }
            ManifestBody::Index(index) => {
                for entry in &index.manifests {
                    if !is_manifest(entry) {
                        blobs.push((entry, entry.platform.is_none() || !self.options.sparse));
                        continue;
                    }
                    let kind = Some(entry.media_type.clone()).filter(|kind| !kind.is_empty());
                    let wanted = SourceManifest { digest: entry.digest.clone(), media_type: kind };
                    match self.bring(repository, &wanted, depth + 1, walk, None).await {
                        Ok(_) => {}
                        Err(Stop::Image(e))
                            if e.kind() == ErrorKind::ManifestUnknown
                                && entry.platform.is_some()
                                && self.options.sparse =>
                        {
                            let name = format!("{}@{}", repository.name, entry.digest);
                            self.leave_out(&name, "the source has its index, and not this image of it");
                        }
                        // Only a manifest that is missing itself is unknown to whoever asked for it.
                        Err(Stop::Image(e)) if e.kind() == ErrorKind::ManifestUnknown => {
                            return Err(Stop::Image(e.with_kind(ErrorKind::ManifestBlobUnknown)));
                        }
                        Err(stop) => return Err(stop),
                    }
                }
            }
        }
        // Boxed where their lifetimes are known.
        let mut work: Vec<Result<BoxFuture<'_, Result<(), Stop>>, Stop>> = Vec::new();
        for (blob, is_needed) in blobs {
            work.push(Ok(Box::pin(async move {
                match self.bring_blob(&repository.name, blob).await {
                    Err(Stop::Image(e)) if !is_needed && e.kind() == ErrorKind::BlobUnknown => {
                        let name = format!("{}@{}", repository.name, blob.digest);
                        self.leave_out(&name, "the source does not have the blob, which may lie elsewhere");
                        Ok(())
                    }
                    outcome => outcome,
                }
            })));
        }
        futures::stream::iter(work)
            .try_buffer_unordered(self.options.parallel.max(1))
            .try_for_each(|()| std::future::ready(Ok(())))
            .await
    }

    /// Stores a manifest that is new, and moves a tag to it.
    async fn put(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        is_new: bool,
        tag: Option<(&Tag, &Manifest)>,
    ) -> Result<(), Stop> {
        let name = &repository.name;
        let plain = || PutManifest::new(manifest.clone(), []);
        let Some((tag, _)) = tag else {
            return if is_new { self.target.put(name, plain()).await } else { Ok(()) };
        };
        let digest = manifest.digest();
        let now = self.target.tagged(name, tag).await?;
        let (outcome, count) = match now {
            Some(now) if now == *digest => (TagOutcome::Unchanged, &self.counts.tags_unchanged),
            Some(now) if self.options.existing_tags == ExistingTags::Keep => {
                (TagOutcome::Kept(now), &self.counts.tags_kept)
            }
            Some(now) => (TagOutcome::Moved(now), &self.counts.tags_moved),
            None => (TagOutcome::Created, &self.counts.tags_created),
        };
        match &outcome {
            TagOutcome::Created | TagOutcome::Moved(_) => {
                let guard = self.options.guard.as_ref().and_then(|rules| rules(name));
                if self.target.is_dry_run()
                    && let Some(guard) = &guard
                {
                    let before =
                        if let TagOutcome::Moved(now) = &outcome { Some(now.as_str()) } else { None };
                    guard.check_put(tag, before, digest)?;
                }
                // A tag that somebody pushed meanwhile is not replaced where tags are kept.
                let if_match = (self.options.existing_tags == ExistingTags::Keep).then_some(None);
                let put = PutManifest { tags: vec![tag.clone()], guard, if_match, ..plain() };
                self.target.put(name, put).await?;
            }
            _ if is_new => self.target.put(name, plain()).await?,
            _ => {}
        }
        add(count, 1);
        self.tell(&ImportEvent::Tag { repository: name, tag, digest, outcome: &outcome });
        Ok(())
    }

    /// Imports the referrers of what a root needed, and theirs. One that cannot be imported fails alone.
    async fn bring_referrers(&self, repository: &Repository, mut walk: Walk) -> Result<(), Stop> {
        let mut next = 0;
        while let Some(subject) = walk.order.get(next).cloned() {
            next += 1;
            let found = match self.source.referrers(&repository.name, &subject).await {
                Ok(found) => found,
                Err(e) => {
                    self.fail(&format!("the referrers of {}@{subject}", repository.name), &e);
                    continue;
                }
            };
            for referrer in found {
                if walk.seen.contains(&referrer.digest) {
                    continue;
                }
                let wanted = SourceManifest {
                    digest: referrer.digest.clone(),
                    media_type: Some(referrer.media_type).filter(|kind| !kind.is_empty()),
                };
                match self.bring(repository, &wanted, 0, &mut walk, None).await {
                    Ok(true) => {
                        let event =
                            ImportEvent::Manifest { repository: &repository.name, digest: &wanted.digest };
                        self.tell(&event);
                    }
                    Ok(false) => {}
                    Err(Stop::Image(e)) => {
                        self.fail(&format!("{}@{}", repository.name, wanted.digest), &e);
                    }
                    Err(stop) => return Err(stop),
                }
            }
        }
        Ok(())
    }
}

impl Repository {
    fn is_done(&self, digest: &Digest) -> bool {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Remembers a manifest as done. Returns whether it was not known to be.
    fn set_done(&self, digest: &Digest) -> bool {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() >= REMEMBERED {
            done.clear();
        }
        done.insert(digest.clone())
    }
}

/// Whether an entry of an index is a manifest, and not a blob.
fn is_manifest(entry: &Descriptor) -> bool {
    let kind = entry.media_type.as_str();
    kind.is_empty()
        || media_type::is_manifest(kind)
        || media_type::is_index(kind)
        || matches!(kind, media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED)
}
