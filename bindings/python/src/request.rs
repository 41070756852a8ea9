//! The arguments of `build`, `check`, `outline` and `targets` as a request.

use crate::arguments::{Several, Table};
use crate::contexts::{ContextArgument, unpack};
use crate::environment::variable;
use crate::output::OutputArgument;
use crate::session::GRAPH;
use hyper_sdk::build::text;
use hyper_sdk::build::{BuildContext, BuildRequest, EpochPolicy, NamedContext, Output};
use hyper_sdk::exec::SecretBytes;
use hyper_sdk::session::Session as SdkSession;
use hyper_sdk::source::ContextInput;
use hyper_sdk::{Error, ErrorKind, Reference, Result};
use pyo3::prelude::*;
use std::path::{Path, PathBuf};

/// A secret, as text or bytes.
#[derive(FromPyObject)]
pub(crate) enum SecretArgument {
    Text(String),
    Bytes(Vec<u8>),
}

/// Seconds since 1970, or a policy by name.
#[derive(FromPyObject)]
pub(crate) enum EpochArgument {
    Seconds(i64),
    Policy(String),
}

/// A graph of `hyper_sdk.graph`, as the text of its frontend.
pub(crate) struct GraphArgument(String);

impl<'py> FromPyObject<'_, 'py> for GraphArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let make = object.py().import("hyper_sdk.graph")?.getattr("_to_json")?;
        make.call1((object,))?.extract().map(Self)
    }
}

/// What says which Dockerfile is meant, and what it is read with.
pub(crate) struct DockerfileArguments {
    pub(crate) context: Option<ContextArgument>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) dockerfile: Option<String>,
    pub(crate) build_args: Table<Option<String>>,
    pub(crate) build_contexts: Table<ContextArgument>,
    pub(crate) target: Option<String>,
    pub(crate) platform: Option<String>,
}

/// Everything that `build` takes besides the callback.
pub(crate) struct BuildArguments {
    pub(crate) dockerfile: DockerfileArguments,
    pub(crate) graph: Option<GraphArgument>,
    pub(crate) tags: Several<String>,
    pub(crate) labels: Table<String>,
    pub(crate) annotations: Table<String>,
    pub(crate) secrets: Table<SecretArgument>,
    pub(crate) ssh: Table<PathBuf>,
    pub(crate) outputs: Option<Several<OutputArgument>>,
    pub(crate) no_cache: bool,
    pub(crate) no_cache_filter: Several<String>,
    pub(crate) pull: bool,
    pub(crate) network: String,
    pub(crate) extra_hosts: Table<String>,
    pub(crate) allow_insecure: bool,
    pub(crate) allow_host_network: bool,
    pub(crate) allow_devices: Several<String>,
    pub(crate) device_folders: Option<Several<PathBuf>>,
    pub(crate) source_date_epoch: Option<EpochArgument>,
}

/// A request, and the folders that its contexts were unpacked into: they are there as long as this value is.
pub(crate) struct Prepared {
    pub(crate) request: BuildRequest,
    unpacked: Vec<ContextInput>,
}

impl Prepared {
    /// The request and what has to outlive it.
    pub(crate) fn split(self) -> (BuildRequest, impl Send) {
        (self.request, self.unpacked)
    }
}

impl DockerfileArguments {
    /// Makes the request. Reads the Dockerfile, and unpacks contexts that are archives.
    pub(crate) async fn request(self, sdk: &SdkSession) -> Result<Prepared> {
        let scratch = &sdk.scratch()?;
        let mut unpacked = Vec::new();
        let mut request = match (self.context, self.dockerfile) {
            (_, Some(_)) if self.file.is_some() => {
                return Err(Error::invalid(
                    "`file` and `dockerfile` exclude each other: the text, or where it is",
                ));
            }
            (None, Some(text)) => BuildRequest::new(text, BuildContext::Empty),
            (None, None) => {
                return Err(Error::invalid(
                    "nothing to build: give a `context`, a `dockerfile` or a `graph`",
                ));
            }
            (Some(stream @ (ContextArgument::Bytes(_) | ContextArgument::Stream(_))), text) => {
                let context = unpack(stream, scratch).await?;
                let request = match (&context, text) {
                    (ContextInput::Files { folder, .. }, Some(text)) => {
                        BuildRequest::new(text, BuildContext::Folder(folder.path().to_owned()))
                    }
                    (ContextInput::Files { folder, .. }, None) => {
                        let folder = BuildContext::Folder(folder.path().to_owned());
                        BuildRequest::from_remote(folder, self.file.as_deref())
                    }
                    (ContextInput::Dockerfile(text), None) if self.file.is_none() => {
                        BuildRequest::new(text.as_str(), BuildContext::Empty)
                    }
                    (ContextInput::Dockerfile(_), _) => {
                        return Err(Error::invalid(
                            "the context is the text of a Dockerfile, and no archive",
                        ));
                    }
                };
                unpacked.push(context);
                request
            }
            (Some(place), text) => of_place(place, text, self.file.as_deref())?,
        };
        for (name, context) in self.build_contexts.0 {
            let context = match context {
                ContextArgument::Text(text) => {
                    let named = text::named_contexts([format!("{name}={text}")], &sdk.schemes())?;
                    request.named_contexts.extend(named);
                    continue;
                }
                ContextArgument::Path(path) => NamedContext::Folder(path),
                stream => {
                    match unpack(stream, scratch).await.map_err(|e| e.with_context("context", &name))? {
                        ContextInput::Dockerfile(_) => {
                            return Err(Error::invalid(
                                "a named context that is a file has to be an archive",
                            )
                            .with_context("context", name));
                        }
                        ContextInput::Files { folder, newest } => {
                            let path = folder.path().to_owned();
                            unpacked.push(ContextInput::Files { folder, newest });
                            NamedContext::Folder(path)
                        }
                    }
                }
            };
            request.named_contexts.insert(name.to_ascii_lowercase(), context);
        }
        request.platform = self.platform.as_deref().map(text::platform).transpose()?;
        let build_args = self.build_args.0.into_iter();
        let build_args =
            build_args.map(|(name, value)| value.map_or(name.clone(), |value| format!("{name}={value}")));
        request.build_args = text::build_args(build_args, variable)?;
        request.target = self.target;
        Ok(Prepared { request, unpacked })
    }
}

/// The request for a context that is a folder or an address.
fn of_place(place: ContextArgument, text: Option<String>, file: Option<&Path>) -> Result<BuildRequest> {
    let context = match place {
        ContextArgument::Text(text) => BuildContext::parse(&text)?,
        ContextArgument::Path(path) => match path.to_str() {
            Some(text) => BuildContext::parse(text)?,
            None => BuildContext::Folder(path),
        },
        ContextArgument::Bytes(_) | ContextArgument::Stream(_) => {
            return Err(Error::internal("a stream is no place"));
        }
    };
    match (text, context) {
        (Some(_), BuildContext::Folder(folder)) if !folder.is_dir() => {
            Err(Error::new(ErrorKind::NotFound, "the build context is not a folder")
                .with_context("path", folder.display()))
        }
        (Some(text), context) => Ok(BuildRequest::new(text, context)),
        (None, BuildContext::Folder(folder)) => BuildRequest::from_folder(folder, file),
        (None, context) => Ok(BuildRequest::from_remote(context, file)),
    }
}

impl BuildArguments {
    /// Makes the request: [`DockerfileArguments::request`].
    pub(crate) async fn request(mut self, sdk: &SdkSession) -> Result<Prepared> {
        let is_graph = self.graph.is_some();
        if let Some(GraphArgument(text)) = self.graph {
            let given = &self.dockerfile;
            if given.dockerfile.is_some() || given.file.is_some() || given.target.is_some() {
                return Err(Error::invalid("`graph` excludes `dockerfile`, `file` and `target`"));
            }
            self.dockerfile.dockerfile = Some(text);
        }
        let Prepared { mut request, unpacked } = self.dockerfile.request(sdk).await?;
        if is_graph {
            request.frontend = Some(GRAPH.to_owned());
            request.dockerfile_name = "graph".into();
        }
        for tag in &self.tags.0 {
            let tag = Reference::parse(tag)?;
            if tag.digest().is_some() {
                return Err(Error::invalid("a tag of a build cannot have a digest").with_context("tag", tag));
            }
            request.tags.push(tag);
        }
        request.outputs = match self.outputs {
            None => vec![Output::store()],
            Some(outputs) => outputs.0.into_iter().map(|output| output.0).collect(),
        };
        for (id, secret) in self.secrets.0 {
            let bytes = match secret {
                SecretArgument::Text(text) => text.into_bytes(),
                SecretArgument::Bytes(bytes) => bytes,
            };
            request.secrets.insert(id, SecretBytes::new(bytes));
        }
        request.ssh = self.ssh.0;
        request.network = self.network.parse()?;
        request.epoch = match self.source_date_epoch {
            None => EpochPolicy::Auto,
            Some(EpochArgument::Seconds(seconds)) => EpochPolicy::At(seconds),
            Some(EpochArgument::Policy(text)) => text.parse()?,
        };
        request.labels = self.labels.0;
        request.annotations = self.annotations.0.into();
        request.no_cache = self.no_cache;
        request.no_cache_filter = self.no_cache_filter.0;
        request.pull = self.pull;
        request.extra_hosts = self.extra_hosts.0.into_iter().collect();
        request.allow_insecure = self.allow_insecure;
        request.allow_host_network = self.allow_host_network;
        for device in &self.allow_devices.0 {
            request.allow_devices.allow(Some(device.as_str()).filter(|name| *name != "*"))?;
        }
        if let Some(folders) = self.device_folders {
            request.device_folders = folders.0;
        }
        Ok(Prepared { request, unpacked })
    }
}
