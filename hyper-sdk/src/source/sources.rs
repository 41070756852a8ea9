//! The sources of one build: each name is resolved once and each source is opened once, only when it is needed.

use super::remote::{CONTEXT_FILE, context_source};
use super::{
    ContextInput, Fetched, LayoutSource, NamedContext, RemoteSources, SharedSource, SourceContent,
    SourceFiles, SourceImage, git_source, newest_in_archive, open_context,
};
use crate::graph::SourceOp;
use crate::layer::copy::{SourceKind, SourceRoot};
use crate::oci::Descriptor;
use crate::platform::Platform;
use crate::store::BlobReader;
use crate::{Digest, Error, Result, ResultExt as _};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The scheme of images by reference, which FROM uses for names without a named context.
const IMAGES: &str = "docker-image";
/// The scheme of image layouts.
const LAYOUTS: &str = "oci-layout";

/// The options of the sources of a build.
#[derive(Clone, Debug)]
pub(crate) struct SourcesOptions {
    /// The source of images by reference.
    pub images: SharedSource,
    /// The fetcher of git repositories and files from the web.
    pub remotes: RemoteSources,
    /// The folder where the archives of one build are unpacked.
    pub scratch: PathBuf,
    /// The main build context, if it has files.
    pub main: Option<MainFolder>,
    /// The named contexts.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Additional sources by their schemes. A source for `docker-image` or `oci-layout` replaces the default one.
    pub others: BTreeMap<String, SharedSource>,
}

/// The folder of the main build context.
#[derive(Clone, Debug)]
pub(crate) struct MainFolder {
    /// The folder.
    pub folder: PathBuf,
    /// The Dockerfile, whose own ignore file is next to it; `None` when its text comes from elsewhere.
    pub dockerfile: Option<PathBuf>,
    /// Whether the files were fetched from a git repository.
    pub is_checkout: bool,
    /// Whether another program may change the files while the build runs.
    pub is_local: bool,
}

/// The sources of one build. Clones share the resolved and opened sources.
#[derive(Clone, Debug)]
pub(crate) struct Sources(Arc<Inner>);

/// The key of a resolved name: scheme, name and platform.
type Asked = (String, String, String);

#[derive(Debug)]
struct Inner {
    options: SourcesOptions,
    layouts: SharedSource,
    resolved: Mutex<HashMap<Asked, Arc<OnceCell<SourceContent>>>>,
    /// The resolved images by manifest.
    images: Mutex<HashMap<Digest, Arc<LayerOrigin>>>,
    folders: Mutex<HashMap<String, Arc<OnceCell<OpenFolder>>>>,
}

/// An image, and the source of its layers.
#[derive(Debug)]
pub(crate) struct LayerOrigin {
    source: SharedSource,
    image: SourceImage,
}

impl LayerOrigin {
    /// The image.
    pub(crate) fn image(&self) -> &SourceImage {
        &self.image
    }

    /// Opens the blob of a layer at the source.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) async fn open_layer(&self, layer: &Descriptor) -> Result<BlobReader> {
        self.source.open_layer(&self.image, layer).await
    }
}

/// An opened source of a graph.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    /// Nothing.
    Nothing,
    /// An image. Its layers are not fetched.
    Image(Arc<LayerOrigin>),
    /// Files.
    Folder(Arc<SourceRoot>),
}

#[derive(Clone, Debug)]
struct OpenFolder {
    root: Arc<SourceRoot>,
    /// The time of the fetched source.
    time: Option<i64>,
    /// Whether another program may change the files while the build runs.
    is_local: bool,
    /// Keeps a temporary folder of this build.
    _files: Option<SourceFiles>,
}

impl Sources {
    /// Sources of which nothing is resolved or opened yet.
    pub(crate) fn new(options: SourcesOptions) -> Self {
        let layouts = options.others.get(LAYOUTS).cloned().unwrap_or_else(|| Arc::new(LayoutSource));
        Self(Arc::new(Inner {
            options,
            layouts,
            resolved: Mutex::default(),
            images: Mutex::default(),
            folders: Mutex::default(),
        }))
    }

    /// The folder of the main build context.
    pub(crate) fn main_folder(&self) -> Option<&Path> {
        self.0.options.main.as_ref().map(|main| main.folder.as_path())
    }

    /// Opens the folders of this machine, used or not, so that an unreadable folder is an error.
    ///
    /// # Errors
    /// Those of [`open_context`].
    pub(crate) async fn open_local(&self) -> Result<()> {
        if self.0.options.main.is_some() {
            self.folder("").await?;
        }
        for (name, context) in self.contexts() {
            if matches!(context, NamedContext::Folder(_)) {
                self.folder(name).await?;
            }
        }
        Ok(())
    }

    /// Whether the build context of a source of a graph exists.
    pub(crate) fn has_folder(&self, op: &SourceOp) -> bool {
        match op {
            SourceOp::Folder { name } if name.is_empty() => self.0.options.main.is_some(),
            SourceOp::Folder { name } => self.contexts().contains_key(name),
            _ => false,
        }
    }

    /// The named contexts.
    pub(crate) fn contexts(&self) -> &BTreeMap<String, NamedContext> {
        &self.0.options.contexts
    }

    /// Resolves a reference to an image.
    ///
    /// # Errors
    /// Those of the source of images.
    pub(crate) async fn image(&self, reference: &str, platform: &Platform) -> Result<SourceImage> {
        match self.resolve(IMAGES, reference, platform).await? {
            SourceContent::Image(image) => Ok(*image),
            SourceContent::Files => Err(no_image(reference)),
        }
    }

    /// Resolves a named context; `None` for contexts that are not sources: stages and `scratch`.
    ///
    /// # Errors
    /// Those of the source; [`crate::ErrorKind::Unsupported`] for a scheme without a source.
    pub(crate) async fn context(
        &self,
        context: &NamedContext,
        platform: &Platform,
    ) -> Result<Option<SourceContent>> {
        Ok(Some(match context {
            NamedContext::Stage(_) | NamedContext::Scratch => return Ok(None),
            NamedContext::Folder(_) | NamedContext::Git(_) | NamedContext::Web(_) => SourceContent::Files,
            NamedContext::Image(reference) => self.resolve(IMAGES, &reference.to_string(), platform).await?,
            NamedContext::OciLayout { path, tag, digest } => {
                let mut name = path
                    .to_str()
                    .ok_or_else(|| {
                        Error::invalid("the path of an OCI layout is not UTF-8")
                            .with_context("layout", path.display())
                    })?
                    .to_owned();
                name.extend(tag.iter().flat_map(|tag| [":", tag]));
                name.extend(digest.iter().flat_map(|digest| ["@", digest.as_str()]));
                self.resolve(LAYOUTS, &name, platform).await?
            }
            NamedContext::Other { scheme, name } => self.resolve(scheme, name, platform).await?,
        }))
    }

    fn source(&self, scheme: &str) -> Result<&SharedSource> {
        let options = &self.0.options;
        match (options.others.get(scheme), scheme) {
            (Some(source), _) => Ok(source),
            (None, IMAGES) => Ok(&options.images),
            (None, LAYOUTS) => Ok(&self.0.layouts),
            (None, _) => {
                Err(Error::unsupported(format!("build contexts of the kind `{scheme}://` are not supported")))
            }
        }
    }

    async fn resolve(&self, scheme: &str, name: &str, platform: &Platform) -> Result<SourceContent> {
        let source = self.source(scheme)?;
        let key = (scheme.to_owned(), name.to_owned(), platform.to_string());
        let cell = {
            let mut resolved = self.0.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(resolved.entry(key).or_default())
        };
        let content = cell.get_or_try_init(|| source.resolve(name, platform)).await?;
        if let SourceContent::Image(image) = content {
            let mut images = self.0.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.entry(image.manifest.clone()).or_insert_with(|| {
                Arc::new(LayerOrigin { source: Arc::clone(source), image: (**image).clone() })
            });
        }
        Ok(content.clone())
    }

    /// Opens a source of a graph; fetches a remote one. The layers of an image are not fetched.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) async fn open(&self, op: &SourceOp) -> Result<Opened> {
        Ok(match op {
            SourceOp::Scratch => Opened::Nothing,
            SourceOp::Image { manifest, reference } => Opened::Image(self.origin(reference, manifest).await?),
            SourceOp::Folder { name } => Opened::Folder(self.folder(name).await?.root),
            SourceOp::Web(_) | SourceOp::Git(_) => Opened::Folder(self.fetched(op).await?.root),
        })
    }

    async fn origin(&self, reference: &str, manifest: &Digest) -> Result<Arc<LayerOrigin>> {
        let known = || {
            let images = self.0.images.lock().unwrap_or_else(PoisonError::into_inner);
            images.get(manifest).cloned()
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        // A graph that was not made by a frontend may name an image that is not resolved yet.
        let name = crate::reference::Reference::parse(reference)?.at_digest(manifest.clone()).to_string();
        self.image(&name, &Platform::host()).await?;
        known().ok_or_else(|| no_image(&name))
    }

    fn cell(&self, key: String) -> Arc<OnceCell<OpenFolder>> {
        let mut folders = self.0.folders.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(folders.entry(key).or_default())
    }

    async fn folder(&self, name: &str) -> Result<OpenFolder> {
        let cell = self.cell(format!("context {name}"));
        cell.get_or_try_init(|| self.open_folder(name)).await.cloned()
    }

    async fn fetched(&self, op: &SourceOp) -> Result<OpenFolder> {
        let key = serde_json::to_string(op)
            .map_err(|e| Error::internal("a source cannot be written as JSON").with_source(e))?;
        let fetch = async || {
            let fetched = self.0.options.remotes.fetch(op).await?;
            let Some(fetched) = fetched else {
                return Err(Error::internal("a local source was fetched as a remote one"));
            };
            let root = SourceRoot::open(&fetched.path, SourceKind::Context, None)?;
            if matches!(op, SourceOp::Git(_)) {
                root.mark_fetched();
            }
            Ok(OpenFolder { root: Arc::new(root), time: fetched.time, is_local: false, _files: None })
        };
        self.cell(key).get_or_try_init(fetch).await.cloned()
    }

    /// Opens a build context; the main context has an empty name.
    async fn open_folder(&self, name: &str) -> Result<OpenFolder> {
        let options = &self.0.options;
        let opened = |root, time, is_local, files| Ok(OpenFolder { root, time, is_local, _files: files });
        if name.is_empty() {
            let main = options.main.as_ref().ok_or_else(|| {
                Error::invalid("there is no build context to copy from: name a folder as the context")
            })?;
            let root = open_context(&main.folder, main.dockerfile.as_deref()).op("open the build context")?;
            if main.is_checkout {
                root.mark_fetched();
            }
            return opened(root, None, main.is_local, None);
        }
        match options.contexts.get(name) {
            Some(NamedContext::Folder(path)) => {
                opened(open_context(path, None).context("build context", name)?, None, true, None)
            }
            Some(NamedContext::Git(address)) => {
                let fetched = options.remotes.git(&git_source(address, None, None)?).await?;
                let root = open_context(&fetched.path, None)?;
                root.mark_fetched();
                opened(root, fetched.time, false, None)
            }
            Some(NamedContext::Web(url)) => {
                let files = self.archive(name, url).await?;
                opened(open_context(&files.folder, None)?, files.time, false, Some(files))
            }
            Some(NamedContext::Other { scheme, name }) => {
                let files = self.source(scheme)?.open_files(name).await?;
                opened(open_context(&files.folder, None)?, files.time, false, Some(files))
            }
            _ => Err(Error::internal("the build context has no files").with_context("build context", name)),
        }
    }

    /// The files of an archive from the web.
    async fn archive(&self, name: &str, url: &str) -> Result<SourceFiles> {
        let (fetched, context) = self.0.options.remotes.context(url, &self.0.options.scratch).await?;
        match context {
            ContextInput::Files { folder, newest } => {
                Ok(SourceFiles::temporary(folder).with_time(fetched.time.or(newest)))
            }
            ContextInput::Dockerfile(_) => {
                let shown = crate::dockerfile::without_password(url);
                Err(Error::invalid(format!("the build context `{name}` is not a tar archive: {shown}")))
            }
        }
    }

    /// Whether opening a source of a graph fetches files with their own time.
    pub(crate) fn is_remote(&self, op: &SourceOp) -> bool {
        match op {
            SourceOp::Web(_) | SourceOp::Git(_) => true,
            SourceOp::Folder { name } => {
                let context = self.contexts().get(name);
                matches!(context, Some(NamedContext::Git(_) | NamedContext::Web(_)))
            }
            SourceOp::Scratch | SourceOp::Image { .. } => false,
        }
    }

    /// The time of a source of a graph, in seconds since 1970; fetches a remote source.
    ///
    /// # Errors
    /// Those of the fetch.
    pub(crate) async fn time(&self, op: &SourceOp) -> Result<Option<i64>> {
        let is_other = |context: &NamedContext| matches!(context, NamedContext::Other { .. });
        match op {
            SourceOp::Folder { name } if self.contexts().get(name).is_some_and(is_other) => {}
            op if self.is_remote(op) => {}
            _ => return Ok(None),
        }
        let remotes = &self.0.options.remotes;
        let (fetched, file): (Fetched, _) = match op {
            SourceOp::Folder { name } => match self.contexts().get(name) {
                Some(NamedContext::Web(url)) => {
                    (remotes.web(&context_source(url)).await?, Some(CONTEXT_FILE))
                }
                _ => return Ok(self.folder(name).await?.time),
            },
            SourceOp::Web(web) => (remotes.web(web).await?, Some(web.file_name.as_str())),
            _ => return Ok(self.fetched(op).await?.time),
        };
        match (fetched.time, file) {
            (None, Some(file)) => {
                // The server does not give a time, but the files of an archive have times.
                let path = fetched.path.join(file);
                let newest = move || File::open(path).ok().and_then(newest_in_archive);
                tokio::task::spawn_blocking(newest)
                    .await
                    .map_err(|e| Error::internal("reading an archive panicked").with_source(e))
            }
            (time, _) => Ok(time),
        }
    }

    /// The newest time of the sources that were fetched so far, in seconds since 1970.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.opened().into_iter().filter_map(|folder| folder.time).max()
    }

    fn opened(&self) -> Vec<OpenFolder> {
        let folders = self.0.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.values().filter_map(|cell| cell.get().cloned()).collect()
    }

    /// Whether another program may change the files of a folder while the build runs.
    pub(crate) fn may_change(&self, root: &Arc<SourceRoot>) -> bool {
        self.opened().iter().any(|folder| folder.is_local && Arc::ptr_eq(&folder.root, root))
    }

    /// Clears the cached listings of the folders, which may have changed.
    pub(crate) fn forget_listings(&self) {
        self.opened().iter().for_each(|folder| folder.root.forget_listings());
    }
}

fn no_image(reference: &str) -> Error {
    Error::invalid("a source of images returned files").with_context("image", reference)
}
