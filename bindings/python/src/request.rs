//! The arguments of `build` and `plan`, and of `check`, `outline` and `targets`, as a request.

use crate::arguments::{Several, Table};
use crate::contexts::{ContextArgument, unpack};
use crate::environment::variable;
use crate::file_object::bytes_of;
use crate::output::OutputArgument;
use crate::session::GRAPH;
use hyper_sdk::build::text;
use hyper_sdk::build::{BuildContext, BuildRequest, EpochPolicy, NamedContext};
use hyper_sdk::exec::{SecretBytes, StepLimits};
use hyper_sdk::session::Session as SdkSession;
use hyper_sdk::source::ContextInput;
use hyper_sdk::{Error, Reference, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::path::PathBuf;

/// A secret, as text or bytes.
pub(crate) struct SecretArgument(SecretBytes);

impl<'py> FromPyObject<'_, 'py> for SecretArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.extract::<String>() {
            return Ok(Self(SecretBytes::new(text.into_bytes())));
        }
        if let Some(bytes) = bytes_of(object)? {
            return Ok(Self(SecretBytes::new(bytes.to_vec())));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("a secret is a `str` or bytes, not `{kind}`")))
    }
}

/// Seconds since 1970, or a policy by name.
pub(crate) enum EpochArgument {
    Seconds(i64),
    Policy(String),
}

impl<'py> FromPyObject<'_, 'py> for EpochArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.extract::<String>() {
            return Ok(Self::Policy(text));
        }
        let kind = object.get_type().name()?;
        object.extract().map(Self::Seconds).map_err(|_| {
            PyTypeError::new_err(format!("a time is a number of seconds or a `str`, not `{kind}`"))
        })
    }
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
    pub(crate) platform: Option<Several<String>>,
}

/// Everything that `build` and `plan` take besides the callback.
pub(crate) struct BuildArguments {
    pub(crate) dockerfile: DockerfileArguments,
    pub(crate) graph: Option<GraphArgument>,
    pub(crate) tags: Several<String>,
    pub(crate) labels: Table<String>,
    pub(crate) annotations: Table<String>,
    pub(crate) secrets: Table<SecretArgument>,
    pub(crate) ssh: Table<Option<PathBuf>>,
    pub(crate) outputs: Option<Several<OutputArgument>>,
    pub(crate) cache_from: Several<String>,
    pub(crate) cache_to: Several<String>,
    pub(crate) no_cache: bool,
    pub(crate) no_cache_filter: Several<String>,
    pub(crate) pull: bool,
    pub(crate) network: Option<String>,
    pub(crate) extra_hosts: Table<String>,
    pub(crate) allow_insecure: bool,
    pub(crate) allow_host_network: bool,
    pub(crate) allow_devices: Several<String>,
    pub(crate) device_folders: Option<Several<PathBuf>>,
    pub(crate) source_date_epoch: Option<EpochArgument>,
    pub(crate) limits: LimitArguments,
}

/// What RUN steps may use.
pub(crate) struct LimitArguments {
    pub(crate) ulimits: Table<String>,
    pub(crate) shm_size: Option<String>,
    pub(crate) resources: Table<String>,
    pub(crate) cgroup_parent: Option<String>,
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
    /// Makes the request. Reads the Dockerfile, and unpacks contexts that are archives. Dropping the future ends the
    /// reading.
    pub(crate) async fn request(self, sdk: &SdkSession) -> Result<Prepared> {
        let scratch = &sdk.scratch()?;
        let mut unpacked = Vec::new();
        let file = self.file.as_deref();
        let mut request = match (self.context, self.dockerfile) {
            (_, Some(_)) if file.is_some() => {
                return Err(Error::invalid("give either `file` or `dockerfile`, not both"));
            }
            (None, None) => {
                return Err(Error::invalid(
                    "there is nothing to build: give a `context`, a `dockerfile` or a `graph`",
                ));
            }
            (None, Some(text)) => BuildRequest::from_text(text, BuildContext::Empty)?,
            (Some(ContextArgument::Stream(stream)), text) => {
                let context = unpack(stream, scratch).await?;
                let request = match (&context, text) {
                    (stream, None) => BuildRequest::from_stream(stream, file)?,
                    (ContextInput::Files { folder, .. }, Some(text)) => {
                        BuildRequest::from_text(text, BuildContext::Folder(folder.path().to_owned()))?
                    }
                    (ContextInput::Dockerfile(_), Some(_)) => {
                        return Err(Error::invalid(
                            "the context is a Dockerfile, not an archive: leave `dockerfile` out",
                        ));
                    }
                };
                unpacked.push(context);
                request
            }
            (Some(place), text) => {
                let context = match place {
                    ContextArgument::Text(text) => BuildContext::parse(&text)?,
                    ContextArgument::Path(path) => BuildContext::Folder(path),
                    ContextArgument::Stream(_) => return Err(Error::internal("a stream has no place")),
                };
                match text {
                    Some(text) => BuildRequest::from_text(text, context)?,
                    None => BuildRequest::from_context(context, file)?,
                }
            }
        };
        for (name, context) in self.build_contexts.0 {
            let context = match context {
                ContextArgument::Text(text) => {
                    let named = text::named_contexts([pair(&name, &text)?], &sdk.schemes())?;
                    request.named_contexts.extend(named);
                    continue;
                }
                ContextArgument::Path(path) if !path.is_dir() => {
                    return Err(Error::invalid("a named context is not a folder")
                        .with_context("context", name)
                        .with_context("path", path.display()));
                }
                ContextArgument::Path(path) => NamedContext::Folder(path),
                ContextArgument::Stream(stream) => {
                    match unpack(stream, scratch).await.map_err(|e| e.with_context("context", &name))? {
                        ContextInput::Dockerfile(_) => {
                            return Err(Error::invalid(
                                "a named context is a Dockerfile: give an archive or a folder",
                            )
                            .with_context("context", name));
                        }
                        files @ ContextInput::Files { .. } => {
                            unpacked.push(files);
                            let Some(ContextInput::Files { folder, .. }) = unpacked.last() else {
                                return Err(Error::internal("a context that was unpacked is gone"));
                            };
                            NamedContext::Folder(folder.path().to_owned())
                        }
                    }
                }
            };
            request.named_contexts.insert(name.to_ascii_lowercase(), context);
        }
        request.platforms = text::platforms(self.platform.map(|several| several.0).unwrap_or_default())?;
        let build_args = self.build_args.0.iter().map(|(name, value)| match value {
            Some(value) => pair(name, value),
            None => Ok(name.clone()),
        });
        request.build_args = text::build_args(build_args.collect::<Result<Vec<_>>>()?, variable)?;
        request.target = self.target;
        Ok(Prepared { request, unpacked })
    }
}

/// `NAME=VALUE`, as the SDK reads it.
fn pair(name: &str, value: &str) -> Result<String> {
    match name.contains('=') {
        true => Err(Error::invalid("a name cannot contain `=`").with_context("name", name)),
        false => Ok(format!("{name}={value}")),
    }
}

fn pairs(table: &Table<String>) -> Result<Vec<String>> {
    table.0.iter().map(|(name, value)| pair(name, value)).collect()
}

impl LimitArguments {
    fn limits(self) -> Result<StepLimits> {
        let mut group = text::resources(self.resources.0)?;
        group.parent = self.cgroup_parent;
        group.validate()?;
        Ok(StepLimits {
            ulimits: text::ulimits(pairs(&self.ulimits)?)?,
            shm_size: self.shm_size.as_deref().map(text::shm_size).transpose()?.flatten(),
            group,
        })
    }
}

impl BuildArguments {
    /// Makes the request: [`DockerfileArguments::request`].
    pub(crate) async fn request(mut self, sdk: &SdkSession) -> Result<Prepared> {
        let is_graph = self.graph.is_some();
        if let Some(GraphArgument(text)) = self.graph {
            let given = &self.dockerfile;
            if given.dockerfile.is_some() || given.file.is_some() || given.target.is_some() {
                return Err(Error::invalid("give either a `graph`, or `dockerfile`, `file` and `target`"));
            }
            self.dockerfile.dockerfile = Some(text);
        }
        let Prepared { mut request, unpacked } = self.dockerfile.request(sdk).await?;
        if is_graph {
            request.frontend = Some(GRAPH.to_owned());
            request.dockerfile_name = "graph".into();
        }
        request.tags = self.tags.0.iter().map(|tag| Reference::parse(tag)).collect::<Result<_>>()?;
        if let Some(outputs) = self.outputs {
            request.outputs = outputs.0.into_iter().map(|output| output.0).collect();
        }
        for (id, secret) in self.secrets.0 {
            request.secrets.insert(id, secret.0);
        }
        for (id, socket) in self.ssh.0 {
            let socket = text::agent(&id, socket.as_deref(), variable)?;
            request.ssh.insert(id, socket);
        }
        if let Some(network) = self.network {
            request.network = network.parse()?;
        }
        request.epoch = match self.source_date_epoch {
            None => EpochPolicy::Auto,
            Some(EpochArgument::Seconds(seconds)) => EpochPolicy::At(seconds),
            Some(EpochArgument::Policy(text)) => text.parse()?,
        };
        request.labels = text::labels(pairs(&self.labels)?)?;
        request.annotations = text::annotations(pairs(&self.annotations)?)?;
        request.cache_from = text::cache_from(&self.cache_from.0)?;
        request.cache_to = text::cache_to(&self.cache_to.0)?;
        request.no_cache = self.no_cache;
        request.no_cache_filter = self.no_cache_filter.0;
        request.pull = self.pull;
        request.extra_hosts = text::hosts(pairs(&self.extra_hosts)?)?;
        request.allow_insecure = self.allow_insecure;
        request.allow_host_network = self.allow_host_network;
        for device in &self.allow_devices.0 {
            request.allow_devices.allow(Some(device.as_str()).filter(|name| *name != "*"))?;
        }
        if let Some(folders) = self.device_folders {
            request.device_folders = folders.0;
        }
        request.limits = Box::new(self.limits.limits()?);
        request.check_outputs()?;
        Ok(Prepared { request, unpacked })
    }
}
