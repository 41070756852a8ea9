//! Brings the build contexts of a request to this machine.

use super::{BuildContext, BuildRequest, NamedContext};
use crate::dockerfile::GitReference;
use crate::frontend::Lowered;
use crate::graph::{Op, Source, WebSource};
use crate::layer::copy::{SourceKind, SourceRoot};
use crate::source::{Fetched, RemoteSources, StreamContext, context_of_stream, git_source, open_context};
use crate::{Digest, Error, ErrorKind, Result, ResultExt as _};
use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// The name of a web context's file where it is kept.
const FILE: &str = "context";

/// How contexts are brought here.
#[derive(Clone, Debug)]
pub(super) struct Contexts {
    pub(super) remotes: RemoteSources,
    /// Where archives are unpacked for one build.
    pub(super) scratch: PathBuf,
}

/// The main context, and the Dockerfile.
#[derive(Debug)]
pub(super) struct MainContext {
    folder: Option<PathBuf>,
    /// The time that the context has by itself: seconds since 1970.
    pub(super) time: Option<i64>,
    /// What messages call the Dockerfile.
    pub(super) name: PathBuf,
    /// The text of the Dockerfile.
    pub(super) text: String,
    unpacked: Option<TempDir>,
}

impl MainContext {
    /// The ignore file of the context, when there is a context and it can be read.
    pub(super) fn ignore(&self, request: &BuildRequest) -> Option<crate::dockerfile::IgnoreSet> {
        let folder = self.folder.as_deref()?;
        crate::source::ignore_file(folder, self.beside(request, folder).as_deref()).ok()?
    }

    /// Where the Dockerfile is, to find the ignore file beside it; nowhere when its text is from elsewhere.
    fn beside(&self, request: &BuildRequest, folder: &Path) -> Option<PathBuf> {
        match request.dockerfile {
            Some(_) => request.dockerfile_path.clone(),
            None => Some(folder.join(&self.name)),
        }
    }

    /// The request with this context in place of the one that was fetched.
    pub(super) fn apply(&self, mut request: BuildRequest) -> BuildRequest {
        request.dockerfile_path = self.folder.as_deref().and_then(|folder| self.beside(&request, folder));
        request.dockerfile_name = self.name.clone();
        request.dockerfile = Some(self.text.clone());
        request.context = self.folder.clone().map_or(BuildContext::Empty, BuildContext::Folder);
        request
    }
}

/// What steps copy from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Contexts by name, the main one by the empty name.
    pub(super) folders: BTreeMap<String, Arc<SourceRoot>>,
    /// What was fetched, by the address of its vertex.
    pub(super) fetched: HashMap<Digest, Arc<SourceRoot>>,
    /// The newest time of what was fetched: seconds since 1970.
    pub(super) newest: Option<i64>,
    unpacked: Vec<TempDir>,
}

impl Contexts {
    /// Brings the main context.
    pub(super) async fn main(&self, request: &BuildRequest) -> Result<MainContext> {
        let mut main = MainContext {
            folder: None,
            time: None,
            name: request.dockerfile_name.clone(),
            text: String::new(),
            unpacked: None,
        };
        let mut only_text = None;
        match &request.context {
            BuildContext::Empty => {}
            BuildContext::Folder(path) => main.folder = Some(path.clone()),
            BuildContext::Git(address) => {
                let fetched = self.remotes.git(&git_context(address, request)?).await?;
                main.time = fetched.time;
                main.folder = Some(fetched.path);
            }
            BuildContext::Web(url) => {
                let fetched = self.remotes.web(&web_context(url)).await?;
                main.time = fetched.time;
                match self.unpack(&fetched.path).await? {
                    StreamContext::Files { folder, newest } => {
                        main.time = main.time.or(newest);
                        main.folder = Some(folder.path().to_owned());
                        main.unpacked = Some(folder);
                    }
                    StreamContext::Dockerfile(text) => only_text = Some(text),
                }
            }
        }
        main.text = match (&request.dockerfile, only_text, &main.folder) {
            (Some(text), _, _) => text.clone(),
            (None, Some(text), _) => {
                if main.name.as_os_str().is_empty() {
                    main.name = "Dockerfile".into();
                }
                text
            }
            (None, None, Some(folder)) => {
                let (name, text) = dockerfile_in(folder, &request.dockerfile_name)?;
                main.name = name;
                text
            }
            (None, None, None) => {
                return Err(Error::invalid("a build without a context needs the text of a Dockerfile"));
            }
        };
        Ok(main)
    }

    async fn unpack(&self, folder: &Path) -> Result<StreamContext> {
        let (path, scratch) = (folder.join(FILE), self.scratch.clone());
        crate::solve::blocking(move || {
            let file = std::fs::File::open(&path).at("cannot open what was fetched", &path)?;
            context_of_stream(file, &scratch)
        })
        .await
    }

    /// Brings everything that the target needs, all at once.
    pub(super) async fn bring(
        &self,
        request: &BuildRequest,
        main: &MainContext,
        lowered: &Lowered,
    ) -> Result<Sources> {
        let mut sources = Sources::default();
        if let Some(folder) = &main.folder {
            let root =
                open_context(folder, main.beside(request, folder).as_deref()).op("open the build context")?;
            if matches!(request.context, BuildContext::Git(_)) {
                root.mark_fetched();
            }
            sources.folders.insert(String::new(), root);
        }
        for (name, context) in &request.named_contexts {
            if let NamedContext::Folder(path) = context {
                let root = open_context(path, None).context("build context", name)?;
                sources.folders.insert(name.clone(), root);
            }
        }
        let needed = lowered.graph.reachable(lowered.root).into_iter().filter_map(|id| {
            let vertex = lowered.graph.vertex(id);
            match &vertex.op {
                Op::Source(source) => Some((vertex.address().clone(), source.clone())),
                _ => None,
            }
        });
        let fetches = needed.map(async |(address, source)| {
            let context = match &source {
                Source::Folder { name } => request.named_contexts.get(name).map(|context| (name, context)),
                _ => None,
            };
            let remote = match context {
                Some((_, context)) => named_source(context)?,
                None => Some(source.clone()),
            };
            let Some(remote) = remote else { return Ok(None) };
            let Some(fetched) = self.remotes.fetch(&remote).await? else { return Ok(None) };
            let mut time = fetched.time;
            let archive = match (context, &remote) {
                (Some((name, _)), Source::Web(web)) => match self.unpack(&fetched.path).await? {
                    StreamContext::Files { folder, newest } => {
                        time = time.or(newest);
                        Some(folder)
                    }
                    StreamContext::Dockerfile(_) => {
                        let shown = crate::dockerfile::without_password(&web.url);
                        let message = format!("the build context `{name}` is no tar archive: {shown}");
                        return Err(Error::invalid(message));
                    }
                },
                _ => None,
            };
            let fetched = Fetched { time, ..fetched };
            let is_git = matches!(remote, Source::Git(_));
            Ok(Some((address, context.map(|(name, _)| name.clone()), fetched, archive, is_git)))
        });
        for (address, name, fetched, archive, is_git) in
            futures::future::try_join_all(fetches).await?.into_iter().flatten()
        {
            let path = archive.as_ref().map_or(fetched.path.as_path(), TempDir::path);
            match name {
                Some(name) => {
                    let root = open_context(path, None)?;
                    if is_git {
                        root.mark_fetched();
                    }
                    sources.folders.insert(name, root);
                }
                None => {
                    let root = SourceRoot::open(path, SourceKind::Context, None)?;
                    if is_git {
                        root.mark_fetched();
                    }
                    sources.fetched.insert(address, Arc::new(root));
                }
            }
            sources.newest = sources.newest.max(fetched.time);
            sources.unpacked.extend(archive);
        }
        Ok(sources)
    }
}

/// What is fetched for a named context; nothing when it is here already.
pub(super) fn named_source(context: &NamedContext) -> Result<Option<Source>> {
    Ok(match context {
        NamedContext::Git(address) => Some(Source::Git(git_source(address, None, None)?)),
        NamedContext::Web(url) => Some(Source::Web(web_context(url))),
        _ => None,
    })
}

fn web_context(url: &str) -> WebSource {
    WebSource { url: url.to_owned(), file_name: FILE.to_owned(), checksum: None }
}

fn git_context(address: &GitReference, request: &BuildRequest) -> Result<crate::graph::GitSource> {
    let name = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
    let keep = match request.build_args.get(name) {
        Some(text) => Some(crate::dockerfile::parse_bool(text).ok_or_else(|| {
            Error::invalid(format!("the build argument {name} is `{text}`: it is true or false"))
        })?),
        None => None,
    };
    git_source(address, keep, None)
}

/// Reads the Dockerfile of a context that came from elsewhere: nothing outside of it is read.
fn dockerfile_in(folder: &Path, file: &Path) -> Result<(PathBuf, String)> {
    let root = SourceRoot::open(folder, SourceKind::Context, None)?;
    let usual = ["Dockerfile", "dockerfile", "Containerfile"].map(Path::new);
    let names = if file.as_os_str().is_empty() { &usual[..] } else { &[file][..] };
    for name in names {
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str());
        let Ok(path) = root.resolve(bytes) else { continue };
        let Ok(opened) = root.open_file(&path) else { continue };
        let mut bytes = Vec::new();
        let cannot = |e| Error::io("cannot read the Dockerfile", name, e);
        opened.take(crate::dockerfile::MAX_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(cannot)?;
        let text = crate::dockerfile::decode(bytes, &name.to_string_lossy())?;
        return Ok((name.to_path_buf(), text));
    }
    let shown: Vec<String> = names.iter().map(|n| format!("`{}`", n.display())).collect();
    let message = format!("the build context has no {}: name the Dockerfile with --file", shown.join(", "));
    Err(Error::new(ErrorKind::NotFound, message))
}
