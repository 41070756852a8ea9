//! The arguments of `build` as a request.

use crate::arguments::{Several, Table};
use crate::output::OutputArgument;
use hyper_sdk::build::{BuildContext, BuildRequest, EpochPolicy, NamedContext, Output};
use hyper_sdk::exec::{Network, SecretBytes};
use hyper_sdk::platform::Platform;
use hyper_sdk::{Error, ErrorKind, Reference, Result};
use pyo3::prelude::*;
use std::path::PathBuf;

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

/// Where a named context comes from: text as on the command line, or a path.
#[derive(FromPyObject)]
pub(crate) enum ContextArgument {
    Text(String),
    Path(PathBuf),
}

/// Everything that `build` takes besides the callback.
pub(crate) struct BuildArguments {
    pub(crate) context: Option<PathBuf>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) dockerfile: Option<String>,
    pub(crate) tags: Several<String>,
    pub(crate) build_args: Table<String>,
    pub(crate) labels: Table<String>,
    pub(crate) annotations: Table<String>,
    pub(crate) build_contexts: Table<ContextArgument>,
    pub(crate) secrets: Table<SecretArgument>,
    pub(crate) ssh: Table<PathBuf>,
    pub(crate) target: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) outputs: Option<Several<OutputArgument>>,
    pub(crate) no_cache: bool,
    pub(crate) pull: bool,
    pub(crate) network: String,
    pub(crate) extra_hosts: Table<String>,
    pub(crate) allow_insecure: bool,
    pub(crate) allow_host_network: bool,
    pub(crate) allow_devices: Several<String>,
    pub(crate) source_date_epoch: Option<EpochArgument>,
}

impl BuildArguments {
    /// Makes the request. Reads the Dockerfile.
    pub(crate) fn request(self) -> Result<BuildRequest> {
        let context = match self.context {
            None => None,
            Some(path) => Some(match path.to_str() {
                Some(text) => BuildContext::parse(text)?,
                None => BuildContext::Folder(path),
            }),
        };
        let mut request = match (self.dockerfile, context) {
            (Some(_), _) if self.file.is_some() => {
                return Err(Error::invalid(
                    "`file` and `dockerfile` exclude each other: the text, or where it is",
                ));
            }
            (Some(_), Some(BuildContext::Folder(folder))) if !folder.is_dir() => {
                return Err(Error::new(ErrorKind::NotFound, "the build context is not a folder")
                    .with_context("path", folder.display()));
            }
            (Some(text), context) => BuildRequest::new(text, context.unwrap_or(BuildContext::Empty)),
            (None, Some(BuildContext::Folder(folder))) => {
                BuildRequest::from_folder(folder, self.file.as_deref())?
            }
            (None, Some(context)) => BuildRequest::from_remote(context, self.file.as_deref()),
            (None, None) => {
                return Err(Error::invalid("nothing to build: give a `context` or a `dockerfile`"));
            }
        };
        for tag in &self.tags.0 {
            let tag = Reference::parse(tag)?;
            if tag.digest().is_some() {
                return Err(Error::invalid("a tag of a build cannot have a digest").with_context("tag", tag));
            }
            request.tags.push(tag);
        }
        match self.outputs {
            None => request.outputs.push(Output::store()),
            Some(outputs) => request.outputs.extend(outputs.0.into_iter().map(|output| output.0)),
        }
        for (name, context) in self.build_contexts.0 {
            let context = match context {
                ContextArgument::Text(text) => NamedContext::parse(&text)?,
                ContextArgument::Path(path) => NamedContext::Folder(path),
            };
            request.named_contexts.insert(name.to_ascii_lowercase(), context);
        }
        for (id, secret) in self.secrets.0 {
            let bytes = match secret {
                SecretArgument::Text(text) => text.into_bytes(),
                SecretArgument::Bytes(bytes) => bytes,
            };
            request.secrets.insert(id, SecretBytes::new(bytes));
        }
        request.ssh = self.ssh.0;
        request.network = match self.network.as_str() {
            "host" | "default" => Network::Host,
            "none" => Network::None,
            other => {
                return Err(Error::unsupported(format!(
                    "the network `{other}` is not supported: host or none"
                )));
            }
        };
        request.epoch = match self.source_date_epoch {
            None => EpochPolicy::Auto,
            Some(EpochArgument::Seconds(seconds)) => EpochPolicy::At(seconds),
            Some(EpochArgument::Policy(name)) => match name.as_str() {
                "auto" => EpochPolicy::Auto,
                "now" => EpochPolicy::Now,
                _ => {
                    return Err(Error::invalid(
                        "`source_date_epoch` is seconds since 1970, \"auto\" or \"now\"",
                    ));
                }
            },
        };
        request.platform = self.platform.as_deref().map(platform).transpose()?;
        request.build_args = self.build_args.0;
        request.labels = self.labels.0;
        request.annotations = self.annotations.0.into();
        request.target = self.target;
        request.no_cache = self.no_cache;
        request.pull = self.pull;
        request.extra_hosts = self.extra_hosts.0.into_iter().collect();
        request.allow_insecure = self.allow_insecure;
        request.allow_host_network = self.allow_host_network;
        for device in &self.allow_devices.0 {
            request.allow_devices.allow(Some(device.as_str()).filter(|name| *name != "*"))?;
        }
        Ok(request)
    }
}

/// One platform.
pub(crate) fn platform(text: &str) -> Result<Platform> {
    if text.contains(',') {
        return Err(Error::unsupported("several platforms at once are not supported: take them one by one"));
    }
    text.parse()
}
