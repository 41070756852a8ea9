//! Artifacts: files in a registry, by themselves or referring to an image.

use crate::arguments::{Several, Table};
use crate::content::location;
use crate::file_object::bytes_of;
use crate::operation::{Operation, Outcome};
use crate::session::Session;
use crate::transfer::transferred;
use hyper_sdk::client::{
    Artifact, ArtifactContent, ArtifactFile, ArtifactOptions, PushOptions, RemoteImage, SharedClient, TITLE,
    copy, save_artifact,
};
use hyper_sdk::{Error, Reference};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// The media type of a file that is given without one.
const ANY_FILE: &str = "application/octet-stream";

/// A file: a path, or a `hyper_sdk.ArtifactFile`.
pub(crate) struct FileArgument(ArtifactFile);

impl<'py> FromPyObject<'_, 'py> for FileArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let class = object.py().import("hyper_sdk.results")?.getattr("ArtifactFile")?;
        if !object.is_instance(&class)? {
            return Ok(Self(ArtifactFile::new(object.extract::<PathBuf>()?, ANY_FILE)));
        }
        let media_type: String = object.getattr("media_type")?.extract()?;
        let title: Option<String> = object.getattr("title")?.extract()?;
        let content = object.getattr("content")?;
        let mut file = match bytes_of(content.as_borrowed())? {
            None => ArtifactFile::new(content.extract::<PathBuf>()?, media_type),
            Some(bytes) => {
                let content = ArtifactContent::Bytes(bytes.to_vec().into());
                ArtifactFile { content, media_type, annotations: BTreeMap::new() }
            }
        };
        if let Some(title) = title {
            file.annotations.insert(TITLE.to_owned(), title);
        }
        file.annotations.extend(object.getattr("annotations")?.extract::<Table<String>>()?.0);
        Ok(Self(file))
    }
}

/// What an artifact is made of.
pub(crate) struct ArtifactArguments {
    pub(crate) files: Several<FileArgument>,
    pub(crate) artifact_type: String,
    pub(crate) annotations: Table<String>,
}

impl Session {
    /// Pushes files to the name `reference`; or, with `attach`, beside the image of that name, as one of its referrers.
    pub(crate) fn push_artifact(
        self: &Arc<Self>,
        reference: String,
        arguments: ArtifactArguments,
        attach: bool,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::with_progress(progress, move |progress| async move {
            let reference = Reference::parse(&reference)?;
            let client = sdk.client(reference.host())?;
            let subject = match attach {
                true => Some(client.resolve(reference.repository(), &reference.manifest()).await?),
                false => None,
            };
            let files = arguments.files.0.into_iter().map(|file| file.0).collect();
            let options = ArtifactOptions {
                artifact_type: arguments.artifact_type,
                annotations: arguments.annotations.0,
                subject: subject.map(|s| hyper_sdk::oci::Descriptor::new(s.media_type, s.digest, s.size)),
            };
            let artifact = Artifact::new(files, options).await?;
            let from = artifact.reference();
            let target = if attach { from.clone() } else { reference.manifest() };
            let artifact: SharedClient = Arc::new(artifact);
            let from = RemoteImage::new(&artifact, reference.repository(), &from);
            let to = RemoteImage::new(&client, reference.repository(), &target);
            let options = PushOptions { progress, ..PushOptions::default() };
            let pushed = copy(&from, &to, &options).await?;
            let name = if attach { reference.at_digest(pushed.digest.clone()) } else { reference };
            Ok(Outcome::Made("Transferred", transferred(&name, &pushed)))
        })
    }

    pub(crate) fn pull_artifact(
        self: &Arc<Self>,
        reference: String,
        folder: PathBuf,
        remote: bool,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::new(async move {
            let found = sdk.find(&Reference::parse(&reference)?, location(remote)).await?;
            let folder = std::path::absolute(&folder)
                .map_err(|e| Error::io("cannot resolve the folder", &folder, e))?;
            let paths = save_artifact(&*found.client, &found.repository, &found.reference, &folder).await?;
            Ok(Outcome::Paths(paths))
        })
    }
}
