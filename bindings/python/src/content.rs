//! Images, names, tags, manifests and blobs, in the local store or in a registry.

use crate::file_object::{BytesArgument, bytes_of};
use crate::operation::{Operation, Outcome};
use crate::session::Session;
use crate::transfer::transferred;
use hyper_sdk::build::text::platform;
use hyper_sdk::client::RegistryClientExt as _;
use hyper_sdk::oci::Manifest;
use hyper_sdk::session::{ImageDetails, Location};
use hyper_sdk::{Digest, Error, ErrorKind, Reference, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};
use serde_json::{Value, json};
use std::sync::Arc;

/// Where `remote` says that something is.
pub(crate) fn location(remote: bool) -> Location {
    if remote { Location::Remote } else { Location::Local }
}

/// A value of the SDK, serialised.
pub(crate) fn plain(value: serde_json::Result<Value>) -> Result<Value> {
    value.map_err(|e| Error::internal("a result is not plain data").with_source(e))
}

impl Session {
    pub(crate) fn images(self: &Arc<Self>) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            Ok(Outcome::Made("Image", plain(serde_json::to_value(sdk.images(None).await?))?))
        })
    }

    pub(crate) fn inspect(
        self: &Arc<Self>,
        reference: String,
        wanted: Option<String>,
        remote: bool,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let wanted = wanted.as_deref().map(platform).transpose()?;
            let found = sdk.inspect(&reference, wanted.as_ref(), location(remote)).await?;
            details(&found).map(|details| Outcome::Made("ImageDetails", details))
        })
    }

    pub(crate) fn tag(self: &Arc<Self>, reference: String, name: String) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            sdk.tag(&Reference::parse(&reference)?, &Reference::parse(&name)?).await?;
            Ok(Outcome::Nothing)
        })
    }

    pub(crate) fn remove(self: &Arc<Self>, reference: String, remote: bool) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            if !remote {
                sdk.remove(&reference).await?;
                return Ok(Outcome::Nothing);
            }
            let found = sdk.find(&reference, Location::Remote).await?;
            found.client.delete_manifest(&found.repository, &found.reference).await?;
            Ok(Outcome::Nothing)
        })
    }

    pub(crate) fn exists(self: &Arc<Self>, reference: String, remote: bool) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let found = sdk.exists(&Reference::parse(&reference)?, location(remote)).await?;
            Ok(Outcome::Plain(Value::Bool(found)))
        })
    }

    pub(crate) fn list_tags(self: &Arc<Self>, repository: String, remote: bool) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let found = sdk.find(&Reference::parse(&repository)?, location(remote)).await?;
            let tags = found.client.all_tags(&found.repository).await?;
            Ok(Outcome::Plain(json!(tags.iter().map(ToString::to_string).collect::<Vec<_>>())))
        })
    }

    pub(crate) fn referrers(
        self: &Arc<Self>,
        reference: String,
        artifact_type: Option<String>,
        remote: bool,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let found = sdk.find(&Reference::parse(&reference)?, location(remote)).await?;
            let subject = found.client.resolve(&found.repository, &found.reference).await?.digest;
            let listed = found.client.list_referrers(&found.repository, &subject, artifact_type.as_deref());
            Ok(Outcome::Plain(plain(serde_json::to_value(listed.await?))?))
        })
    }

    pub(crate) fn get_manifest(self: &Arc<Self>, reference: String, remote: bool) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let manifest = sdk.manifest(&reference, None, location(remote)).await?;
            Ok(Outcome::Bytes(manifest.bytes().to_vec()))
        })
    }

    pub(crate) fn get_blob(
        self: &Arc<Self>,
        repository: String,
        digest: String,
        max_size: u64,
        remote: bool,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let digest = Digest::parse(&digest)?;
            let found = sdk.find(&Reference::parse(&repository)?, location(remote)).await?;
            let read = found.client.read_blob(&found.repository, &digest, max_size).await;
            let bytes = read.map_err(|e| match e.kind() {
                ErrorKind::TooLarge => Error::new(e.kind(), "the blob is larger than `max_size`")
                    .with_context("digest", &digest)
                    .with_context("limit", max_size),
                _ => e,
            })?;
            Ok(Outcome::Bytes(bytes.to_vec()))
        })
    }
}

/// A manifest to put into a repository: its bytes, or a mapping that becomes its JSON.
pub(crate) struct ManifestArgument(Vec<u8>);

impl<'py> FromPyObject<'_, 'py> for ManifestArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Some(bytes) = bytes_of(object)? {
            return Ok(Self(bytes.to_vec()));
        }
        if object.cast::<PyMapping>().is_err() {
            let kind = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!("a manifest is bytes or a mapping, not `{kind}`")));
        }
        let py = object.py();
        let fields = py.get_type::<PyDict>().call1((object,))?;
        let text: String = py.import("json")?.getattr("dumps")?.call1((fields,))?.extract()?;
        Ok(Self(text.into_bytes()))
    }
}

impl Session {
    pub(crate) fn put_manifest(
        self: &Arc<Self>,
        reference: String,
        manifest: ManifestArgument,
        media_type: Option<String>,
        remote: bool,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let mut manifest = match media_type {
                Some(media_type) => Manifest::parse(manifest.0, &media_type)?,
                None => Manifest::sniff(manifest.0)?,
            };
            if let Some(digest) = reference.digest() {
                manifest = manifest.with_digest(digest)?;
            }
            let to = sdk.target(&reference, location(remote)).await?;
            let put = to.client.put_manifest(&to.repository, &to.reference, &manifest).await?;
            Ok(Outcome::Made("Transferred", transferred(&reference, &put)))
        })
    }

    pub(crate) fn put_blob(
        self: &Arc<Self>,
        repository: String,
        content: BytesArgument,
        media_type: String,
        remote: bool,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let to = sdk.target(&Reference::parse(&repository)?, location(remote)).await?;
            let content = content.0.to_vec().into();
            let put = to.client.put_bytes(&to.repository, &media_type, content).await?;
            Ok(Outcome::Plain(plain(serde_json::to_value(put))?))
        })
    }
}

fn details(found: &ImageDetails) -> Result<Value> {
    Ok(json!({
        "reference": found.reference.to_string(),
        "digest": found.manifest.digest(),
        "media_type": found.manifest.media_type(),
        "size": found.manifest.bytes().len(),
        "manifest": found.manifest_json()?,
        "config": found.config,
    }))
}
