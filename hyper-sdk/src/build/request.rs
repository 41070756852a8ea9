//! The request and the result of a build.

use super::CacheTo;
use super::{BuildContext, NamedContext, Output, PlacedAnnotations};
use crate::cache::CacheFrom;
use crate::exec::{DevicePermissions, Executor, Network, SecretBytes};
use crate::oci::Descriptor;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::solve::{OnError, StepRecorder, StepReport};
use crate::source::ContextInput;
use crate::{Digest, Error, ErrorKind, MissingInput, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The epoch of a build: `created`, the history and new files have at most this time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EpochPolicy {
    /// The build argument SOURCE_DATE_EPOCH, else the commit time of the git work tree that the context is in, else
    /// the newest mtime of the context files in use, else the newest creation time of the base images, else 0.
    #[default]
    Auto,
    /// These seconds since 1970.
    At(i64),
    /// The time of the build: the result is not reproducible.
    Now,
}

/// A request to build an image.
///
/// ```
/// use hyper_sdk::build::{BuildContext, BuildRequest};
///
/// let mut request = BuildRequest::new("FROM scratch\nCOPY . /\n", BuildContext::Folder("site".into()));
/// request.tags.push("registry.example.com/site:1".parse()?);
/// request.build_args.insert("VERSION".into(), "1".into());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The name of the Dockerfile in messages.
    pub dockerfile_name: PathBuf,
    /// The file of the Dockerfile, to find `NAME.dockerignore` in the same folder. A text from standard input has no file.
    pub dockerfile_path: Option<PathBuf>,
    /// The text of the Dockerfile. Without, the builder reads the file `dockerfile_name` of a context that it fetches, or the
    /// default names when that is empty.
    pub dockerfile: Option<String>,
    /// The name of the frontend of the text. Without, `# syntax=` of the text names it, and the default is that of
    /// Dockerfiles.
    pub frontend: Option<String>,
    /// Where COPY and ADD read from.
    pub context: BuildContext,
    /// Named contexts, by their names in lower case: they replace images in FROM, COPY `--from` and mounts.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Values of ARG.
    pub build_args: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the image of every output.
    pub annotations: PlacedAnnotations,
    /// The stage to build, by name or number; without, the last one.
    pub target: Option<String>,
    /// The platforms to build for; without, that of the host. With several, each counts once, and the image is an index of
    /// one image for each, in this order.
    pub platforms: Vec<Platform>,
    /// The names of the image in every output that has no names.
    pub tags: Vec<Reference>,
    /// The outputs.
    pub outputs: Vec<Output>,
    /// Caches of other machines. What the cache of this machine has counts first, then the order here. One that cannot be
    /// read is a warning.
    pub cache_from: Vec<CacheFrom>,
    /// Caches that are written for other machines when the outputs are made.
    pub cache_to: Vec<CacheTo>,
    /// Whether every step runs, even when its result is cached.
    pub no_cache: bool,
    /// The names of the stages whose steps always run.
    pub no_cache_filter: Vec<String>,
    /// Whether registries are asked for base images even when the store has them.
    pub pull: bool,
    /// The network of RUN steps without `--network`.
    pub network: Network,
    /// The best isolation of RUN steps that is tried. [`crate::sandbox::Isolation::None`] is used only when it is asked for.
    pub isolation: crate::sandbox::Isolation,
    /// What each RUN step may use. It changes no key of the cache and no result.
    pub limits: Box<crate::exec::StepLimits>,
    /// Secrets by id, for RUN `--mount=type=secret`.
    pub secrets: BTreeMap<String, SecretBytes>,
    /// Sockets of ssh agents by id, for RUN `--mount=type=ssh`. Git over ssh uses the one of `default`.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Extra entries of /etc/hosts in RUN steps: name and address, or [`HOST_GATEWAY`].
    pub extra_hosts: Vec<(String, String)>,
    /// Whether RUN `--security=insecure` is permitted.
    pub allow_insecure: bool,
    /// Whether RUN `--network=host` is permitted in a build whose network is another.
    pub allow_host_network: bool,
    /// The devices of this machine that RUN `--device` may use.
    pub allow_devices: DevicePermissions,
    /// The folders that describe the devices of this machine. A later folder overrides an earlier one. The defaults are
    /// `/etc/cdi` and `/var/run/cdi`.
    pub device_folders: Vec<PathBuf>,
    /// The epoch of the result.
    pub epoch: EpochPolicy,
    /// What is run in the files of the first RUN step that fails. The build fails all the same.
    pub on_error: Option<OnError>,
    /// The RUN step in whose result the command of `on_error` is run, by its name or a part of it. The build then goes as far
    /// as this step, makes no output, and fails when the command has ended.
    pub exec_in: Option<String>,
    /// Who keeps what the keys of the steps that run are made of, for the history: `session::Recording::steps`.
    pub recorder: Option<StepRecorder>,
}

impl BuildRequest {
    /// A request with defaults for everything else: the image is kept in the store, under the names in `tags`.
    pub fn new(dockerfile: impl Into<String>, context: BuildContext) -> Self {
        Self {
            dockerfile_name: "Dockerfile".into(),
            dockerfile_path: None,
            dockerfile: Some(dockerfile.into()),
            frontend: None,
            context,
            named_contexts: BTreeMap::new(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: PlacedAnnotations::default(),
            target: None,
            platforms: Vec::new(),
            tags: Vec::new(),
            outputs: vec![Output::store()],
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            no_cache: false,
            no_cache_filter: Vec::new(),
            pull: false,
            network: Network::Host,
            isolation: crate::sandbox::Isolation::Full,
            limits: Box::default(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            extra_hosts: Vec::new(),
            allow_insecure: false,
            allow_host_network: false,
            allow_devices: DevicePermissions::default(),
            device_folders: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
            epoch: EpochPolicy::Auto,
            on_error: None,
            exec_in: None,
            recorder: None,
        }
    }

    /// A request for a context and the Dockerfile in it: [`BuildRequest::from_folder`] for a folder of this machine, else
    /// [`BuildRequest::from_remote`].
    ///
    /// # Errors
    /// Those of [`BuildRequest::from_folder`].
    pub fn from_context(context: BuildContext, file: Option<&Path>) -> Result<Self> {
        match context {
            BuildContext::Folder(folder) => Self::from_folder(folder, file),
            other => Ok(Self::from_remote(other, file)),
        }
    }

    /// A request for a context, and for the text of a Dockerfile outside of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the context is a folder that does not exist.
    pub fn from_text(dockerfile: impl Into<String>, context: BuildContext) -> Result<Self> {
        if let BuildContext::Folder(folder) = &context
            && !folder.is_dir()
        {
            return Err(Error::new(ErrorKind::NotFound, "the build context is not a folder")
                .with_context("path", folder.display()));
        }
        Ok(Self::new(dockerfile, context))
    }

    /// A request for a context that was read from a stream: an archive with `file` in it, or a Dockerfile. Keep `stream` until
    /// the build has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when `file` is given and the stream was a Dockerfile.
    pub fn from_stream(stream: &ContextInput, file: Option<&Path>) -> Result<Self> {
        match (stream, file) {
            (ContextInput::Dockerfile(text), None) => Ok(Self::new(text.as_str(), BuildContext::Empty)),
            (ContextInput::Dockerfile(_), Some(_)) => Err(Error::invalid(
                "the stream is a Dockerfile, not an archive in which a file could be named",
            )),
            (ContextInput::Files { folder, .. }, file) => {
                Ok(Self::from_remote(BuildContext::Folder(folder.path().to_owned()), file))
            }
        }
    }

    /// A request for the Dockerfile of a remote context: `file` in it, or one of the default names.
    pub fn from_remote(context: BuildContext, file: Option<&Path>) -> Self {
        let mut request = Self::new("", context);
        request.dockerfile = None;
        request.dockerfile_name = file.unwrap_or(Path::new("")).to_owned();
        request
    }

    /// A request for the Dockerfile of a context folder: `file`, or without it the first of `Dockerfile`, `dockerfile` and
    /// `Containerfile` in the folder.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such file, [`ErrorKind::Invalid`] when it is not UTF-8: see
    /// [`crate::dockerfile::decode`]; those of [`crate::source::read_dockerfile`].
    pub fn from_folder(context: impl Into<PathBuf>, file: Option<&Path>) -> Result<Self> {
        let context = context.into();
        let name = find_dockerfile(&context, file)?;
        let text = crate::source::read_dockerfile(&context, &name)?;
        let mut request = Self::new(text, BuildContext::Folder(context));
        request.dockerfile_path = Some(name.clone());
        request.dockerfile_name = name;
        Ok(request)
    }
}

/// The address of an extra host that stands for this machine. Steps share its network, so it is the loopback address. A step
/// without a network cannot reach it, and a build with the network `private` refuses it.
pub const HOST_GATEWAY: &str = "host-gateway";

/// Refuses the network `private` where the executor cannot make it, and a name for this machine, which is not reached there.
pub(super) fn check_network(request: &BuildRequest, executor: &dyn Executor) -> Result<()> {
    if request.network != Network::Private {
        return Ok(());
    }
    if !executor.capabilities().build_network {
        return Err(crate::exec::no_build_network(executor));
    }
    match request.extra_hosts.iter().find(|(_, address)| address == HOST_GATEWAY) {
        Some((name, _)) => Err(Error::invalid(format!(
            "the extra host `{name}:{HOST_GATEWAY}` is this machine, which a build with the network `private` does not reach: \
             leave it out, or choose the network `host`"
        ))),
        None => Ok(()),
    }
}

/// The extra hosts with their addresses.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a host that is not one line of /etc/hosts.
pub(super) fn addresses(hosts: &[(String, String)]) -> Result<Vec<(String, String)>> {
    let one = |(name, address): &(String, String)| {
        let address = if address == HOST_GATEWAY { "127.0.0.1" } else { address.as_str() };
        let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
        if !is_name || address.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid("an extra host needs a name and an address")
                .with_context("name", name)
                .with_context("address", address));
        }
        Ok((name.clone(), address.to_owned()))
    };
    hosts.iter().map(one).collect()
}

/// Finds the Dockerfile of a context: `file`, which is not relative to the context, or without it the first of `Dockerfile`,
/// `dockerfile` and `Containerfile` in the folder.
///
/// # Errors
/// [`ErrorKind::NotFound`] with the name of the missing file or folder.
fn find_dockerfile(context: &Path, file: Option<&Path>) -> Result<PathBuf> {
    if !context.is_dir() {
        let what = if context.exists() {
            "the build context is not a folder"
        } else {
            "there is no such build context"
        };
        return Err(Error::new(ErrorKind::NotFound, what).with_context("path", context.display()));
    }
    if let Some(file) = file {
        let inside = context.join(file);
        // The caller may name a pipe, too.
        for path in [file, &inside].into_iter().take(if file.is_relative() { 2 } else { 1 }) {
            if path.exists() && !path.is_dir() {
                return Ok(path.to_owned());
            }
        }
        let what = match file.is_dir() || inside.is_dir() {
            true => "this is a folder and not a Dockerfile: name the file in it",
            false => "there is no such Dockerfile",
        };
        return Err(Error::new(ErrorKind::NotFound, what).with_context("path", file.display()));
    }
    ["Dockerfile", "dockerfile", "Containerfile"]
        .iter()
        .map(|name| context.join(name))
        .find(|path| path.exists() && !path.is_dir())
        .ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "there is no Dockerfile, dockerfile or Containerfile in the build context",
            )
            .with_missing(MissingInput::Dockerfile)
            .with_context("path", context.display())
        })
}

/// The result of a build.
#[derive(Clone, Debug, Serialize)]
pub struct BuildOutput {
    /// The manifest of the image, or its index when it is for several platforms; `None` when no output is an image, as with files alone. Outputs with other compression,
    /// media types or annotations have other manifests: this is the one of the first.
    pub image: Option<Descriptor>,
    /// The digest of the image's config: Docker's image ID. `None` for an index of several platforms, too.
    pub config: Option<Digest>,
    /// The steps in the order of the Dockerfile.
    pub steps: Vec<StepReport>,
    /// The names that the outputs gave the image.
    pub tags: Vec<String>,
    /// The epoch of the image, in seconds since 1970.
    pub epoch: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_made_of_a_folder_a_text_or_a_stream() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
        let context = || BuildContext::Folder(folder.path().to_owned());
        let of_folder = BuildRequest::from_context(context(), None).unwrap();
        assert_eq!(of_folder.dockerfile.as_deref(), Some("FROM scratch\n"));
        assert_eq!(of_folder.outputs, [Output::store()]);
        let web = BuildContext::Web("https://x.example/a.tar".to_owned());
        assert_eq!(BuildRequest::from_context(web.clone(), None).unwrap().context, web);
        assert!(BuildRequest::from_text("FROM scratch\n", context()).is_ok());
        let gone = BuildContext::Folder(folder.path().join("gone"));
        for made in [BuildRequest::from_text("", gone.clone()), BuildRequest::from_context(gone, None)] {
            assert_eq!(made.unwrap_err().kind(), ErrorKind::NotFound);
        }
        let text = ContextInput::Dockerfile("FROM x\n".to_owned());
        let of_text = BuildRequest::from_stream(&text, None).unwrap();
        assert_eq!((of_text.dockerfile.as_deref(), of_text.context), (Some("FROM x\n"), BuildContext::Empty));
        let named = BuildRequest::from_stream(&text, Some(Path::new("file")));
        assert_eq!(named.unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn an_extra_host_is_one_line_with_an_address() {
        let host = |name: &str, address: &str| addresses(&[(name.to_owned(), address.to_owned())]);
        assert_eq!(host("a", "::1").unwrap(), [("a".to_owned(), "::1".to_owned())]);
        assert_eq!(host("a", HOST_GATEWAY).unwrap()[0].1, "127.0.0.1");
        for (name, address) in
            [("", "::1"), ("a b", "::1"), ("a", "1.2.3.4\n6.6.6.6 x"), ("a", "b"), ("a\nb", "::1")]
        {
            assert_eq!(host(name, address).unwrap_err().kind(), ErrorKind::Invalid, "{name:?} {address:?}");
        }
    }
}
