//! Copies whole images between two clients: the common part of push, pull and copy.
//!
//! ```text
//!   plan      manifests read from the source, subjects before referrers, children before their index
//!   blobs     in parallel: present, mounted, or uploaded and resumed
//!   manifests in the order of the plan, by digest; the tag last
//! ```
//!
//! # Invariants
//! - A blob is streamed from source to target; no more of it is in memory than a chunk.
//! - The tag moves after everything it names is in place, so dropping the future at any point publishes nothing.
//! - A second transfer sends nothing that the target has.

use super::location::Endpoint;
use super::sibling_repositories::SiblingRepositories;
use super::upload::{self, UploadPlan};
use crate::oci::{Descriptor, Manifest, ManifestBody};
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::{ManifestReference, RepositoryName};
use crate::{Digest, Error, ErrorKind, Result, ResultExt, media_type};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use std::collections::HashSet;

/// How deep indexes may contain indexes.
const MAX_DEPTH: usize = 8;
/// How many manifests one image may have.
const MAX_MANIFESTS: usize = 10_000;
/// How many bytes they may have together: all are in memory.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Which images of an index are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Platforms {
    /// All that the source has; the index itself is the result.
    #[default]
    All,
    /// The image for one platform; its manifest is the result, without the index.
    One(Platform),
    /// The images for some platforms, under the unchanged index, which is then sparse.
    Only(Vec<Platform>),
}

impl Platforms {
    /// What a pull takes: all images, or the one for a platform, which is that of this machine unless it is named.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for all images and a platform at once.
    pub fn wanted(platform: Option<Platform>, all: bool) -> Result<Self> {
        match (all, platform) {
            (true, Some(_)) => Err(Error::invalid("choose one platform or all of them, not both")),
            (true, None) => Ok(Self::All),
            (false, platform) => Ok(Self::One(platform.unwrap_or_else(Platform::host))),
        }
    }
}

/// The options of push, pull and copy.
#[derive(Clone, Debug)]
pub(super) struct TransferOptions {
    pub(super) verb: &'static str,
    pub(super) platforms: Platforms,
    pub(super) referrers: bool,
    pub(super) parallel: usize,
    pub(super) chunk_length: Option<u64>,
    pub(super) mount_from: Vec<RepositoryName>,
    /// Other repositories of the target's registry, to mount blobs from.
    pub(super) siblings: SiblingRepositories,
    /// Blobs that the target is known to have.
    pub(super) known: HashSet<Digest>,
    /// The target is local: manifests are looked up there before the source is asked.
    pub(super) target_is_local: bool,
    pub(super) progress: Progress,
}

/// Copies the image of `reference` to `target_reference`, or without one to its digest.
pub(super) fn transfer<'a>(
    source: &'a Endpoint,
    reference: &'a ManifestReference,
    target: &'a Endpoint,
    target_reference: Option<&'a ManifestReference>,
    options: &'a TransferOptions,
) -> BoxFuture<'a, Result<Descriptor>> {
    // Boxed: programs that call this do not compile it again.
    Box::pin(async move {
        let plan = Plan::make(source, reference, target, options).await?;
        if let Some(ManifestReference::Digest(wanted)) = target_reference
            && wanted != plan.root.manifest.digest()
        {
            return Err(Error::new(
                ErrorKind::DigestInvalid,
                "the image has another digest than the target names",
            )
            .with_context("expected", wanted)
            .with_context("got", plan.root.manifest.digest()));
        }
        // Boxed here, where their lifetimes are known: callers need the whole transfer to be `Send`.
        let mut uploads: Vec<Result<BoxFuture<'_, Result<()>>>> = Vec::new();
        for blob in plan.blobs.iter().filter(|blob| !options.known.contains(&blob.digest)) {
            uploads.push(Ok(Box::pin(upload::send_blob(UploadPlan {
                source,
                target,
                blob,
                verb: options.verb,
                mount_from: &options.mount_from,
                siblings: &options.siblings,
                chunk_length: options.chunk_length,
                progress: &options.progress,
            }))));
        }
        futures::stream::iter(uploads)
            .try_buffer_unordered(options.parallel.max(1))
            .try_for_each(|()| std::future::ready(Ok(())))
            .await?;
        for manifest in &plan.manifests {
            put(target, &manifest.digest().clone().into(), manifest).await?;
        }
        let by_digest = ManifestReference::Digest(plan.root.manifest.digest().clone());
        let named = target_reference.unwrap_or(&by_digest);
        if !plan.referrers.is_empty() {
            put(target, &by_digest, &plan.root.manifest).await?;
        }
        for manifest in &plan.referrers {
            put(target, &manifest.digest().clone().into(), manifest).await?;
        }
        put(target, named, &plan.root.manifest).await?;
        // The local side has another name there; users know the name at the registry.
        let (place, named) = if options.target_is_local { (source, reference) } else { (target, named) };
        let name = match named {
            ManifestReference::Tag(tag) => format!("{}/{}:{tag}", place.client, place.repository),
            ManifestReference::Digest(_) => format!("{}/{}", place.client, place.repository),
        };
        let digest = plan.root.manifest.digest().clone();
        options.progress.send(Event::Result { name, digest });
        let mut descriptor = plan.root.manifest.descriptor();
        descriptor.platform = plan.root.platform;
        Ok(descriptor)
    })
}

async fn put(target: &Endpoint, reference: &ManifestReference, manifest: &Manifest) -> Result<()> {
    target
        .client()
        .put_manifest(&target.repository, reference, manifest)
        .await
        .map(|_| ())
        .op("push manifest")
}

struct Root {
    manifest: Manifest,
    platform: Option<Platform>,
}

/// What the target must have.
struct Plan {
    root: Root,
    /// The manifests below the root, children first.
    manifests: Vec<Manifest>,
    /// The referrers of any of them, subjects first.
    referrers: Vec<Manifest>,
    blobs: Vec<Descriptor>,
}

impl Plan {
    async fn make(
        source: &Endpoint,
        reference: &ManifestReference,
        target: &Endpoint,
        options: &TransferOptions,
    ) -> Result<Self> {
        let mut walk =
            Walk { source, target, options, seen: HashSet::new(), bytes: 0, missing: 0, blobs: Vec::new() };
        let mut root = Root { manifest: walk.root(reference).await?, platform: None };
        if let Platforms::One(wanted) = &options.platforms {
            for _ in 0..MAX_DEPTH {
                let Some(index) = root.manifest.index() else { break };
                let chosen = choose(&index.manifests, wanted).context("registry", source.client())?;
                root = Root { manifest: walk.child(&chosen).await?, platform: chosen.platform };
            }
            if root.manifest.index().is_some() {
                return Err(too_deep(&root.manifest));
            }
        }
        let mut manifests = Vec::new();
        walk.collect(root.manifest.clone(), 0, &mut manifests).await?;
        manifests.pop();
        let mut referrers = Vec::new();
        if options.referrers {
            let mut subjects: Vec<Digest> = manifests.iter().map(|m| m.digest().clone()).collect();
            subjects.push(root.manifest.digest().clone());
            while let Some(subject) = subjects.pop() {
                for found in source
                    .client()
                    .list_referrers(&source.repository, &subject, None)
                    .await
                    .op("list referrers")?
                {
                    if walk.seen.contains(&found.digest) {
                        continue;
                    }
                    let manifest = walk.child(&found).await?;
                    let from = referrers.len();
                    walk.collect(manifest, 0, &mut referrers).await?;
                    subjects.extend(referrers[from..].iter().map(|m| m.digest().clone()));
                }
            }
        }
        Ok(Self { root, manifests, referrers, blobs: walk.blobs })
    }
}

/// The image of an index for a platform.
pub(crate) fn choose(entries: &[Descriptor], wanted: &Platform) -> Result<Descriptor> {
    let offered = entries.iter().filter_map(|d| Some((d, d.platform.as_ref()?)));
    wanted.choose(offered).cloned().ok_or_else(|| {
        let have: Vec<String> = entries
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .map(ToString::to_string)
            .collect();
        Error::new(ErrorKind::ManifestUnknown, format!("the image is not there for the platform {wanted}"))
            .with_context("platforms", have.join(" "))
    })
}

struct Walk<'a> {
    source: &'a Endpoint,
    target: &'a Endpoint,
    options: &'a TransferOptions,
    /// Manifests and blobs that are in the plan.
    seen: HashSet<Digest>,
    /// The bytes of the manifests that were read.
    bytes: u64,
    /// How many entries of indexes the source does not have.
    missing: usize,
    blobs: Vec<Descriptor>,
}

impl Walk<'_> {
    async fn root(&self, reference: &ManifestReference) -> Result<Manifest> {
        if self.options.target_is_local {
            let digest = match reference {
                ManifestReference::Digest(digest) => digest.clone(),
                // Registries that count pulls count this one less.
                tag => self.source.client().resolve(&self.source.repository, tag).await?.digest,
            };
            return self.by_digest(&digest).await;
        }
        self.source.client().get_manifest(&self.source.repository, reference).await
    }

    async fn by_digest(&self, digest: &Digest) -> Result<Manifest> {
        let reference = ManifestReference::Digest(digest.clone());
        if self.options.target_is_local
            && let Ok(manifest) = self.target.client().get_manifest(&self.target.repository, &reference).await
        {
            return Ok(manifest);
        }
        self.source.client().get_manifest(&self.source.repository, &reference).await
    }

    async fn child(&mut self, descriptor: &Descriptor) -> Result<Manifest> {
        if self.missing > MAX_MANIFESTS {
            return Err(Error::new(ErrorKind::TooLarge, "the source does not have most of the index"));
        }
        let manifest = self.by_digest(&descriptor.digest).await?;
        self.bytes += manifest.bytes().len() as u64;
        if self.bytes > MAX_MANIFEST_BYTES {
            return Err(Error::new(ErrorKind::TooLarge, "the manifests of the image are too large together")
                .with_context("limit", MAX_MANIFEST_BYTES));
        }
        if manifest.bytes().len() as u64 != descriptor.size {
            return Err(Error::new(
                ErrorKind::SizeInvalid,
                "a manifest has another size than its index says",
            )
            .with_context("digest", &descriptor.digest));
        }
        Ok(manifest)
    }

    /// Puts a manifest and all below it into the plan: into `order` after its children, its blobs into the list.
    async fn collect(&mut self, manifest: Manifest, depth: usize, order: &mut Vec<Manifest>) -> Result<()> {
        if depth > MAX_DEPTH || self.seen.len() > MAX_MANIFESTS {
            return Err(too_deep(&manifest));
        }
        match manifest.body() {
            ManifestBody::Image(image) => {
                for blob in std::iter::once(&image.config).chain(&image.layers) {
                    // Registries need not have layers that may not be distributed (image-spec, "Non-Distributable Layers").
                    if !media_type::is_non_distributable(&blob.media_type)
                        && self.seen.insert(blob.digest.clone())
                    {
                        self.blobs.push(blob.clone());
                    }
                }
            }
            ManifestBody::Index(index) => {
                for entry in &index.manifests {
                    if !self.wants(entry) || self.seen.contains(&entry.digest) {
                        continue;
                    }
                    match self.child(entry).await {
                        Ok(child) => Box::pin(self.collect(child, depth + 1, order)).await?,
                        Err(e) if e.kind() == ErrorKind::ManifestUnknown => {
                            self.missing += 1;
                            let what = entry.platform.as_ref().map_or_else(
                                || entry.digest.to_string(),
                                |p| format!("{p} ({})", entry.digest.short()),
                            );
                            self.options.progress.warn(format!("the source does not have {what}: left out"));
                        }
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        self.seen.insert(manifest.digest().clone());
        order.push(manifest);
        Ok(())
    }

    fn wants(&self, entry: &Descriptor) -> bool {
        match (&self.options.platforms, &entry.platform) {
            (Platforms::Only(wanted), Some(platform)) => wanted.iter().any(|w| w.matches(platform)),
            _ => true,
        }
    }
}

fn too_deep(manifest: &Manifest) -> Error {
    Error::new(ErrorKind::TooLarge, "the image nests too many indexes and manifests")
        .with_context("digest", manifest.digest())
}
