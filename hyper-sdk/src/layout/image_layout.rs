//! The content of a layout: its index, manifests and blobs.

use super::files::Files;
use super::layout_file::LayoutFile;
use super::{INDEX, MARKER, blob_path, is_tagged};
use crate::oci::{Descriptor, ImageIndex, Manifest, ManifestBody};
use crate::platform::Platform;
use crate::reference::ManifestReference;
use crate::{Digest, Error, ErrorKind, Result};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest size of the manifests that the search for an image reads, in bytes.
const MAX_MANIFESTS: u64 = 64 << 20;

/// An OCI image layout in a folder or in an archive, to read from.
///
/// Content is not cached: each call reads the files. Clones are cheap. The functions block.
#[derive(Clone, Debug)]
pub struct ImageLayout {
    files: Files,
    generated: Option<Arc<Generated>>,
}

/// The generated files of a layout, for an archive in another format.
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) index: ImageIndex,
    pub(super) blobs: HashMap<Digest, GeneratedBlob>,
}

#[derive(Debug)]
pub(super) enum GeneratedBlob {
    #[cfg_attr(
        not(feature = "build"),
        expect(dead_code, reason = "only image archives have generated blobs")
    )]
    Bytes(Bytes),
    /// A file of the archive.
    #[cfg(feature = "build")]
    File(String),
}

impl ImageLayout {
    /// The layout in a folder. Reads nothing yet.
    pub fn in_folder(root: impl Into<PathBuf>) -> Self {
        Self { files: Files::Folder(root.into()), generated: None }
    }

    #[cfg(feature = "build")]
    pub(super) fn of_files(files: Files, generated: Option<Generated>) -> Self {
        Self { files, generated: generated.map(Arc::new) }
    }

    /// The folder or the archive.
    pub fn path(&self) -> &Path {
        self.files.path()
    }

    /// Checks the marker of a layout, the file `oci-layout`. Programs that use the format for a cache omit it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a marker, [`ErrorKind::Unsupported`] when its version is not 1.
    pub fn check_version(&self) -> Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Marker {
            image_layout_version: String,
        }
        if self.generated.is_some() {
            return Ok(());
        }
        let marker: Marker = serde_json::from_slice(&self.files.read(MARKER)?).map_err(|e| {
            Error::invalid("`oci-layout` is not the JSON of a layout marker")
                .with_context("path", self.path().display())
                .with_source(e)
        })?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(Error::unsupported("the version of the image layout is not known")
                .with_context("version", marker.image_layout_version.escape_debug()));
        }
        Ok(())
    }

    /// The index of the layout, with the tags.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without an index, [`ErrorKind::ManifestInvalid`] for a damaged one.
    pub fn index(&self) -> Result<ImageIndex> {
        if let Some(generated) = &self.generated {
            return Ok(generated.index.clone());
        }
        serde_json::from_slice(&self.files.read(INDEX)?).map_err(|e| {
            Error::new(
                ErrorKind::ManifestInvalid,
                "`index.json` of the OCI layout is not the JSON of an image index",
            )
            .with_context("path", self.path().display())
            .with_source(e)
        })
    }

    /// Takes the platforms out of the index of a layout in a folder, so that its image is found for every platform.
    ///
    /// # Errors
    /// Those of [`ImageLayout::index`]; [`ErrorKind::Io`] when it cannot be written.
    #[cfg(feature = "build")]
    pub(crate) fn forget_platforms(&self) -> Result<()> {
        let mut index = self.index()?;
        for image in &mut index.manifests {
            image.platform = None;
        }
        crate::atomic_file::write_file(&self.path().join(INDEX), &index.to_bytes())
    }

    fn generated_blob(&self, digest: &Digest) -> Option<&GeneratedBlob> {
        self.generated.as_ref()?.blobs.get(digest)
    }

    /// Reads a small blob: a manifest or a config.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the layout does not have it, [`ErrorKind::DigestInvalid`] for content that does not
    /// match, [`ErrorKind::TooLarge`] above 16 MiB.
    pub fn read_blob(&self, digest: &Digest) -> Result<Bytes> {
        let bytes = match self.generated_blob(digest) {
            Some(GeneratedBlob::Bytes(bytes)) => return Ok(bytes.clone()),
            #[cfg(feature = "build")]
            Some(GeneratedBlob::File(name)) => self.files.read(name)?,
            None => self.files.read(&blob_path(digest))?,
        };
        let got = digest.algorithm().digest(&bytes);
        if got != *digest {
            return Err(Error::new(ErrorKind::DigestInvalid, "the content does not match its digest")
                .with_context("expected", digest)
                .with_context("got", got));
        }
        Ok(bytes.into())
    }

    /// Opens a blob of any size.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the layout does not have it.
    pub fn open_blob(&self, digest: &Digest) -> Result<LayoutFile> {
        match self.generated_blob(digest) {
            Some(GeneratedBlob::Bytes(bytes)) => Ok(LayoutFile::of_bytes(bytes.clone())),
            #[cfg(feature = "build")]
            Some(GeneratedBlob::File(name)) => self.files.open(name),
            None => self.files.open(&blob_path(digest)),
        }
    }

    /// A manifest or an index by its digest. `media_type` is that of its descriptor; without it the bytes decide.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestUnknown`] when the layout does not have it; those of [`Manifest::parse`].
    pub fn manifest(&self, digest: &Digest, media_type: Option<&str>) -> Result<Manifest> {
        let bytes = self.read_blob(digest).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::ManifestUnknown, "the image layout does not have this manifest")
                    .with_context("digest", digest)
            }
            _ => e,
        })?;
        let manifest = match media_type {
            Some(media_type) => Manifest::parse(bytes, media_type)?,
            None => Manifest::sniff(bytes)?,
        };
        manifest.with_digest(digest)
    }

    /// The manifest with a tag of the index, or with a digest. Of several entries with one tag the last counts, as for
    /// a moved tag.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestUnknown`] when there is none; those of [`ImageLayout::manifest`].
    pub fn find(&self, reference: &ManifestReference) -> Result<Manifest> {
        let index = self.index()?;
        let entry = match reference {
            ManifestReference::Digest(digest) => index.manifests.iter().find(|d| d.digest == *digest),
            ManifestReference::Tag(tag) => index.manifests.iter().rev().find(|d| is_tagged(d, tag.as_str())),
        };
        match (entry, reference) {
            (Some(entry), _) => self.manifest(&entry.digest, Some(&entry.media_type)),
            (None, ManifestReference::Digest(digest)) => self.manifest(digest, None),
            (None, ManifestReference::Tag(tag)) => {
                Err(Error::new(ErrorKind::ManifestUnknown, "the image layout does not have this tag")
                    .with_context("tag", tag))
            }
        }
    }

    /// The image for a platform, by digest, or else by tag, or else under any name. Nested indexes are followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none or one of its manifests is missing; [`ErrorKind::TooLarge`] when too
    /// many manifests would have to be read.
    pub fn find_image(
        &self,
        tag: Option<&str>,
        digest: Option<&Digest>,
        platform: &Platform,
    ) -> Result<Manifest> {
        let named = |d: &&Descriptor| match (digest, tag) {
            (Some(digest), _) => d.digest == *digest,
            (None, Some(tag)) => is_tagged(d, tag),
            (None, None) => true,
        };
        // What is found, by its rank; of several with one rank, what was added last comes first.
        let (mut found, mut added) = (BTreeMap::new(), 0_usize);
        let mut add = |found: &mut BTreeMap<_, Descriptor>, descriptor: Descriptor| {
            let rank = descriptor.platform.as_ref().map(|offered| platform.rank(offered));
            added += 1;
            found.insert((rank.unwrap_or_default(), added), descriptor);
        };
        for descriptor in self.index()?.manifests.into_iter().filter(|d| named(&d)) {
            add(&mut found, descriptor);
        }
        // A digest may name something below the top level.
        if let (true, Some(digest)) = (found.is_empty(), digest) {
            add(&mut found, Descriptor::new(crate::media_type::OCI_MANIFEST, digest.clone(), 0));
        }
        // An index that names another one a thousand times does not make a thousand times the work.
        let (mut seen, mut bytes_read) = (HashSet::new(), 0);
        while let Some((_, descriptor)) = found.pop_last() {
            if descriptor.platform.as_ref().is_some_and(|p| p.os != "unknown" && !platform.matches(p))
                || !seen.insert(descriptor.digest.clone())
            {
                continue;
            }
            let bytes = self.read_blob(&descriptor.digest)?;
            bytes_read += bytes.len() as u64;
            if bytes_read > MAX_MANIFESTS {
                let message = format!(
                    "the manifests of the OCI layout are larger than {} MiB together, the limit",
                    MAX_MANIFESTS >> 20
                );
                return Err(Error::new(ErrorKind::TooLarge, message));
            }
            let manifest = Manifest::sniff(bytes)?.with_digest(&descriptor.digest)?;
            match manifest.body() {
                ManifestBody::Image(_) => return Ok(manifest),
                ManifestBody::Index(index) => {
                    let is_image = |d: &&Descriptor| !d.annotations.contains_key("vnd.docker.reference.type");
                    for image in index.manifests.iter().rev().filter(is_image) {
                        add(&mut found, image.clone());
                    }
                }
            }
        }
        let wanted = match (digest, tag) {
            (Some(digest), _) => format!("the digest {digest}"),
            (None, Some(tag)) => format!("the tag `{tag}`"),
            (None, None) => "any name".to_owned(),
        };
        let message = format!("the OCI layout has no image for {platform} under {wanted}");
        Err(Error::new(ErrorKind::NotFound, message))
    }
}
