//! Brings the main build context of a request to this machine, with the Dockerfile.

use super::{BuildContext, BuildRequest};
use crate::dockerfile::GitReference;
use crate::layer::copy::{SourceKind, SourceRoot};
use crate::private_folder::TemporaryFolder;
use crate::source::{ContextInput, MainFolder, RemoteSources, git_source};
use crate::{Error, ErrorKind, MissingInput, Result};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How the main context is brought here.
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
    unpacked: Option<TemporaryFolder>,
}

impl MainContext {
    /// The ignore file of the context, when there is a context and it can be read.
    pub(super) fn ignore(&self, request: &BuildRequest) -> Option<crate::dockerfile::IgnoreSet> {
        let folder = self.folder.as_deref()?;
        crate::source::ignore_file(folder, self.beside(request, folder).as_deref()).ok()?
    }

    /// The folder of the context.
    pub(super) fn files(&self, request: &BuildRequest) -> Option<MainFolder> {
        let folder = self.folder.clone()?;
        Some(MainFolder {
            dockerfile: self.beside(request, &folder),
            is_checkout: matches!(request.context, BuildContext::Git(_)),
            is_local: matches!(request.context, BuildContext::Folder(_)),
            folder,
        })
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
                let (fetched, context) = self.remotes.context(url, &self.scratch).await?;
                main.time = fetched.time;
                match context {
                    ContextInput::Files { folder, newest } => {
                        main.time = main.time.or(newest);
                        main.folder = Some(folder.path().to_owned());
                        main.unpacked = Some(folder);
                    }
                    ContextInput::Dockerfile(text) => only_text = Some(text),
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
    let message = format!("the build context has no {}", shown.join(", "));
    Err(Error::new(ErrorKind::NotFound, message).with_missing(MissingInput::Dockerfile))
}
