//! Artifacts: files in a registry that are not images, or that refer to an image (image-spec, manifest.md,
//! "Guidelines for Artifact Usage").
//!
//! ```text
//!   files ─▶ Artifact (manifest, digests) ─ copy ─▶ registry ─ save_artifact ─▶ files
//! ```
//!
//! A layer is one file, unchanged. Its name is in the annotation `org.opencontainers.image.title`, as other tools write it.

use super::verify::verified;
use super::{ClientCapabilities, RegistryClient};
use crate::beneath::Beneath;
use crate::digest::Hasher;
use crate::oci::{Annotations, Descriptor, ImageManifest, Manifest};
use crate::reference::{ManifestReference, RepositoryName, Tag};
use crate::small_file::{self, Kinds};
use crate::store::{BlobReader, ByteRange, ByteStream, Listing, Page};
use crate::{Digest, Error, ErrorKind, Result, media_type};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

/// The annotation with the name of a file.
pub const TITLE: &str = "org.opencontainers.image.title";
/// The content of the empty config.
const EMPTY: &[u8] = b"{}";
/// What messages call the files.
const WHAT: &str = "a file of the artifact";
const BLOCK: usize = 512 * 1024;

/// Where the content of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactContent {
    /// A regular file.
    File(PathBuf),
    /// Bytes in memory.
    Bytes(Bytes),
}

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFile {
    /// The content.
    pub content: ArtifactContent,
    /// The media type.
    pub media_type: String,
    /// The annotations of its descriptor. [`TITLE`] is its name.
    pub annotations: Annotations,
}

impl ArtifactFile {
    /// A file of this machine, with its name as title.
    pub fn new(path: impl Into<PathBuf>, media_type: impl Into<String>) -> Self {
        let path = path.into();
        let title = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let annotations = title.map(|title| (TITLE.to_owned(), title)).into_iter().collect();
        Self { content: ArtifactContent::File(path), media_type: media_type.into(), annotations }
    }

    /// Bytes under a title.
    pub fn bytes(title: impl Into<String>, media_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self {
            content: ArtifactContent::Bytes(bytes.into()),
            media_type: media_type.into(),
            annotations: [(TITLE.to_owned(), title.into())].into(),
        }
    }
}

/// The type, the annotations and the subject of an artifact.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArtifactOptions {
    /// The type: a media type of its maker's choice, such as `application/spdx+json`.
    pub artifact_type: String,
    /// The annotations of the manifest.
    pub annotations: Annotations,
    /// The manifest that the artifact refers to: it is then one of its referrers.
    pub subject: Option<Descriptor>,
}

/// An artifact that is ready to be pushed. It is a client to copy from, like [`super::Layout`].
///
/// ```
/// use hyper_sdk::client::{Artifact, ArtifactFile, ArtifactOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hyper_sdk::Result<()> {
/// let file = ArtifactFile::bytes("notes.txt", "text/plain", "hello\n");
/// let options = ArtifactOptions { artifact_type: "application/example".to_owned(), ..Default::default() };
/// let artifact = Artifact::new(vec![file], options).await?;
/// assert_eq!(artifact.manifest().artifact_type(), Some("application/example"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Artifact {
    manifest: Manifest,
    blobs: BTreeMap<Digest, (u64, ArtifactContent)>,
}

impl Artifact {
    /// Makes the manifest, and reads every file once for its digest. Equal files and options give an equal manifest.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an artifact type or media type that is not well formed, for two files with one title and
    /// for a file that is not a regular one; those of reading the files, with their paths.
    pub async fn new(files: Vec<ArtifactFile>, options: ArtifactOptions) -> Result<Self> {
        check_type("artifact type", &options.artifact_type)?;
        let empty =
            Descriptor { data: Some("e30=".to_owned()), ..Descriptor::of(media_type::OCI_EMPTY, EMPTY) };
        let mut blobs = BTreeMap::new();
        blobs.insert(empty.digest.clone(), (empty.size, ArtifactContent::Bytes(Bytes::from_static(EMPTY))));
        let mut layers: Vec<Descriptor> = Vec::new();
        for file in files {
            check_type("media type", &file.media_type)?;
            if let Some(title) = file.annotations.get(TITLE) {
                title_path(title)?;
                if layers.iter().any(|layer| layer.annotations.get(TITLE) == Some(title)) {
                    return Err(Error::invalid("two files of the artifact have one title")
                        .with_context("title", title));
                }
            }
            let (digest, size) = measure(file.content.clone()).await?;
            let mut layer = Descriptor::new(file.media_type, digest.clone(), size);
            layer.annotations = file.annotations;
            layers.push(layer);
            blobs.insert(digest, (size, file.content));
        }
        // A manifest has at least one layer.
        if layers.is_empty() {
            layers.push(empty.clone());
        }
        let mut manifest = ImageManifest::new(empty, layers);
        manifest.artifact_type = Some(options.artifact_type);
        manifest.annotations = options.annotations;
        manifest.subject = options.subject;
        let manifest = Manifest::parse(manifest.to_bytes(), media_type::OCI_MANIFEST)?;
        Ok(Self { manifest, blobs })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's digest as a reference, to copy from.
    pub fn reference(&self) -> ManifestReference {
        self.manifest.digest().clone().into()
    }

    fn blob(&self, digest: &Digest) -> Result<&(u64, ArtifactContent)> {
        self.blobs.get(digest).ok_or_else(|| {
            Error::new(ErrorKind::BlobUnknown, "the artifact has no such file").with_context("digest", digest)
        })
    }
}

/// Writes the files of an artifact into a folder, which is made when it is missing, by their titles. Each file is
/// written whole or not at all, and replaces one of its name, also one that is a link. Returns the paths; a layer without
/// a title is left out. Dropping the future leaves the files that are whole.
///
/// # Errors
/// [`ErrorKind::Invalid`] for an index, for a title that leads out of the folder, for two files with one title and for a
/// title that is a folder of another: then nothing is written. [`ErrorKind::Invalid`] for a link in the folder where a
/// title has a folder. Those of the client and of the folder.
pub async fn save_artifact(
    client: &dyn RegistryClient,
    repository: &RepositoryName,
    reference: &ManifestReference,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let manifest = client.get_manifest(repository, reference).await?;
    let image = manifest.image().ok_or_else(|| {
        Error::invalid("an index has no files: name one of its manifests")
            .with_context("digest", manifest.digest())
    })?;
    let (mut files, mut titles) = (Vec::new(), BTreeSet::new());
    for layer in &image.layers {
        if let Some(title) = layer.annotations.get(TITLE) {
            let path = title_path(title)?;
            if !titles.insert(path.clone()) {
                return Err(Error::invalid("two files of the artifact have one title")
                    .with_context("title", title.escape_debug()));
            }
            files.push((path, layer));
        }
    }
    // What lies in a folder comes right after the folder.
    if let Some((folder, _)) = titles.iter().zip(titles.iter().skip(1)).find(|(a, b)| b.starts_with(a)) {
        return Err(Error::invalid("the title of a file of the artifact is a folder of another")
            .with_context("title", folder.display().to_string().escape_debug()));
    }
    let opened = folder.to_owned();
    let folder = Arc::new(blocking(move || Beneath::open(&opened)).await?);
    let mut paths = Vec::new();
    for (path, layer) in files {
        let folder = Arc::clone(&folder);
        let staged = blocking(move || folder.begin(&path)).await?;
        let cannot = |e| staged.cannot_write(e);
        let mut file = tokio::fs::File::from_std(staged.file()?);
        let mut blob = client.get_blob(repository, &layer.digest, None).await?;
        while let Some(bytes) = blob.stream.try_next().await? {
            file.write_all(&bytes).await.map_err(cannot)?;
        }
        file.flush().await.map_err(cannot)?;
        drop(file);
        paths.push(blocking(move || staged.finish()).await?);
    }
    Ok(paths)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal("the task that works on a file failed").with_source(e))?
}

/// No path of the kernel is longer.
const MAX_TITLE: usize = 4095;

/// A title as a path below a folder.
fn title_path(title: &str) -> Result<PathBuf> {
    let path = Path::new(title);
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if title.is_empty()
        || title.len() > MAX_TITLE
        || !is_below
        || title.ends_with('/')
        || title.contains('\0')
    {
        return Err(Error::invalid("the title of a file of the artifact is not a path below a folder")
            .with_context("title", title.chars().take(100).collect::<String>().escape_debug()));
    }
    Ok(path.to_owned())
}

/// Checks `type/subtype` (RFC 6838, section 4.2).
fn check_type(what: &str, text: &str) -> Result<()> {
    let is_name = |name: &str| {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
        first && name.len() <= 127 && name.bytes().all(rest)
    };
    match text.split_once('/') {
        Some((kind, subtype)) if is_name(kind) && is_name(subtype) => Ok(()),
        _ => Err(Error::invalid(format!("the {what} of an artifact has the form `type/subtype`"))
            .with_context("given", text.escape_debug())),
    }
}

/// The digest and the size of a file.
async fn measure(content: ArtifactContent) -> Result<(Digest, u64)> {
    match content {
        ArtifactContent::Bytes(bytes) => Ok((Digest::sha256(&bytes), bytes.len() as u64)),
        ArtifactContent::File(path) => {
            let work = move || {
                let mut file = small_file::open(&path, WHAT, Kinds::Files)?;
                let (mut hasher, mut size, mut block) = (Hasher::sha256(), 0, vec![0; BLOCK]);
                loop {
                    let n = file.read(&mut block).map_err(|e| Error::io("cannot read a file", &path, e))?;
                    if n == 0 {
                        return Ok((hasher.finish(), size));
                    }
                    hasher.update(&block[..n]);
                    size += n as u64;
                }
            };
            blocking(work).await
        }
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "artifact {}", self.manifest.digest().short())
    }
}

#[async_trait]
impl RegistryClient for Artifact {
    fn capabilities(&self) -> ClientCapabilities {
        ClientCapabilities::PULL
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn get_manifest(&self, _: &RepositoryName, reference: &ManifestReference) -> Result<Manifest> {
        match reference {
            ManifestReference::Digest(digest) if digest == self.manifest.digest() => {
                Ok(self.manifest.clone())
            }
            other => Err(Error::new(ErrorKind::ManifestUnknown, "the artifact has another digest")
                .with_context("reference", other)),
        }
    }

    async fn stat_blob(&self, _: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.blobs.get(digest).map(|(size, _)| *size))
    }

    async fn get_blob(
        &self,
        _: &RepositoryName,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobReader> {
        let (size, content) = self.blob(digest)?;
        let (offset, length) = range.map_or(Ok((0, *size)), |range| range.resolve(*size))?;
        let stream: ByteStream = match content {
            ArtifactContent::Bytes(bytes) => {
                let part = bytes.slice(offset as usize..(offset + length) as usize);
                futures::stream::iter([Ok(part)]).boxed()
            }
            ArtifactContent::File(path) => {
                let (opened, shown) = (path.clone(), path.clone());
                let file = blocking(move || small_file::open(&opened, WHAT, Kinds::Files)).await?;
                let mut file = tokio::fs::File::from_std(file);
                file.set_max_buf_size(BLOCK);
                file.seek(std::io::SeekFrom::Start(offset)).await?;
                tokio_util::io::ReaderStream::with_capacity(file.take(length), BLOCK)
                    .map_err(move |e| Error::io("cannot read a file of the artifact", &shown, e))
                    .boxed()
            }
        };
        // The file may have changed since its digest was taken.
        Ok(verified(BlobReader { size: *size, offset, length, stream }, digest))
    }

    async fn list_tags(&self, _: &RepositoryName, _: Page) -> Result<Listing<Tag>> {
        Ok(Listing { items: Vec::new(), more: false })
    }

    async fn list_referrers(
        &self,
        _: &RepositoryName,
        _: &Digest,
        _: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Loopback, PushOptions, RemoteImage, SharedClient, copy};
    use crate::store::{MemoryStore, SharedStore};

    fn options(kind: &str) -> ArtifactOptions {
        ArtifactOptions { artifact_type: kind.to_owned(), ..ArtifactOptions::default() }
    }

    #[tokio::test]
    async fn an_artifact_is_pushed_and_saved_with_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let (source, out) = (folder.path().join("source.txt"), folder.path().join("target"));
        std::fs::write(&source, "from a file").unwrap();
        let files = vec![
            ArtifactFile::new(&source, "text/plain"),
            ArtifactFile::bytes("sub/bytes", "application/octet-stream", "bytes"),
        ];
        let mut wanted = options("application/x");
        wanted.annotations.insert("a".to_owned(), "b".to_owned());
        let artifact = Artifact::new(files, wanted).await.unwrap();
        let image = artifact.manifest().image().unwrap().clone();
        assert_eq!(artifact.manifest().artifact_type(), Some("application/x"));
        assert_eq!((image.config.media_type.as_str(), image.config.size), (media_type::OCI_EMPTY, 2));
        assert_eq!(image.config.data.as_deref(), Some("e30="));
        assert_eq!(image.layers[0].annotations[TITLE], "source.txt");
        let store: SharedStore = Arc::new(MemoryStore::default());
        let to: SharedClient = Arc::new(Loopback::new(store.clone()));
        let (name, tag) = (RepositoryName::parse("a").unwrap(), Tag::parse("1").unwrap());
        let reference = artifact.reference();
        let digest = artifact.manifest().digest().clone();
        let from: SharedClient = Arc::new(artifact);
        let from = RemoteImage::new(&from, &name, &reference);
        let target = RemoteImage::new(&to, &name, &tag.clone().into());
        let pushed = copy(&from, &target, &PushOptions::default()).await.unwrap();
        assert_eq!(pushed.digest, digest);
        let paths = save_artifact(&*to, &name, &tag.into(), &out).await.unwrap();
        assert_eq!(paths, [out.join("source.txt"), out.join("sub/bytes")]);
        assert_eq!(std::fs::read(&paths[0]).unwrap(), b"from a file");
        assert_eq!(std::fs::read(&paths[1]).unwrap(), b"bytes");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn an_artifact_without_files_has_the_empty_layer() {
        let artifact = Artifact::new(Vec::new(), options("application/x")).await.unwrap();
        let image = artifact.manifest().image().unwrap();
        assert_eq!((image.layers.len(), &image.layers[0].digest), (1, &image.config.digest));
    }

    #[tokio::test]
    async fn wrong_files_and_types_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = |title: &str| ArtifactFile::bytes(title, "text/plain", "x");
        for (files, kind, text) in [
            (vec![], "", "type/subtype"),
            (vec![], "a b/c", "type/subtype"),
            (vec![], "a/b/c", "type/subtype"),
            (vec![ArtifactFile::bytes("a", "text", "x")], "a/b", "media type"),
            (vec![bytes("a"), bytes("a")], "a/b", "one title"),
            (vec![bytes("../a")], "a/b", "below a folder"),
            (vec![bytes("/a")], "a/b", "below a folder"),
            (vec![bytes("")], "a/b", "below a folder"),
            (vec![ArtifactFile::new(folder.path(), "text/plain")], "a/b", "is a folder"),
        ] {
            let error = Artifact::new(files, options(kind)).await.unwrap_err();
            assert!(error.to_string().contains(text), "{kind} {text}: {error}");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        let gone = vec![ArtifactFile::new(folder.path().join("none"), "text/plain")];
        assert_eq!(Artifact::new(gone, options("a/b")).await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_title_that_leads_out_or_is_there_twice_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(MemoryStore::default());
        let name = RepositoryName::parse("a").unwrap();
        let config = Descriptor::of(media_type::OCI_EMPTY, EMPTY);
        store.put_blob(&name, &config.digest, Bytes::from_static(EMPTY)).await.unwrap();
        for (title, text) in [
            ("../out", "below a folder"),
            ("/out", "below a folder"),
            ("a/../../out", "below a folder"),
            ("a/", "below a folder"),
            (".", "below a folder"),
            (&"a/".repeat(1 << 20), "below a folder"),
            (&format!("{}a", "a/".repeat(1 << 20)), "below a folder"),
            ("good/file", "one title"),
            ("good//file", "one title"),
            ("good", "a folder of another"),
            ("good/file/below", "a folder of another"),
        ] {
            let mut good = config.clone();
            good.annotations.insert(TITLE.to_owned(), "good/file".to_owned());
            let mut bad = config.clone();
            bad.annotations.insert(TITLE.to_owned(), title.to_owned());
            let manifest = ImageManifest::new(config.clone(), vec![good, bad]);
            let manifest = Manifest::parse(manifest.to_bytes(), media_type::OCI_MANIFEST).unwrap();
            let reference = ManifestReference::from(manifest.digest().clone());
            store.put_manifest(&name, crate::store::PutManifest::new(manifest, [])).await.unwrap();
            let client = Loopback::new(store.clone());
            let target = folder.path().join("target");
            let error = save_artifact(&client, &name, &reference, &target).await.unwrap_err();
            assert!(error.to_string().contains(text), "{title}: {error}");
            assert!(!target.exists(), "{title}");
        }
    }

    #[tokio::test]
    async fn links_in_the_folder_are_not_followed_when_files_are_saved() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("file"), "outside").unwrap();
        let link = |target: &Path, name: &str| {
            std::os::unix::fs::symlink(target, folder.path().join(name)).unwrap();
        };
        link(outside.path(), "sub");
        link(&outside.path().join("file"), "file");
        link(&outside.path().join("none"), "dangling");
        let save = async |title: &str| {
            let files = vec![ArtifactFile::bytes(title, "text/plain", "hostile")];
            let artifact = Artifact::new(files, options("a/b")).await.unwrap();
            let name = RepositoryName::parse("a").unwrap();
            save_artifact(&artifact, &name, &artifact.reference(), folder.path()).await
        };
        for title in ["sub/file", "sub/new", "sub/deep/file", "dangling/file", "file/x"] {
            let error = save(title).await.unwrap_err();
            assert!(error.to_string().contains("in the place of a folder"), "{title}: {error}");
        }
        for title in ["file", "dangling", "own/file"] {
            assert_eq!(save(title).await.unwrap(), [folder.path().join(title)]);
            assert_eq!(std::fs::read_to_string(folder.path().join(title)).unwrap(), "hostile");
            assert!(!folder.path().join(title).is_symlink());
        }
        assert_eq!(std::fs::read_to_string(outside.path().join("file")).unwrap(), "outside");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_changed_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "before").unwrap();
        let artifact =
            Artifact::new(vec![ArtifactFile::new(&path, "text/plain")], options("a/b")).await.unwrap();
        std::fs::write(&path, "behind").unwrap();
        let digest = artifact.manifest().image().unwrap().layers[0].digest.clone();
        let blob = artifact.get_blob(&RepositoryName::parse("a").unwrap(), &digest, None).await.unwrap();
        let error = blob.stream.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestInvalid);
    }
}
