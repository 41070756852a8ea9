//! Images as archives: `save` and `load`.

use crate::arguments::Several;
use crate::file_object::{Stream, blocking, write_to};
use crate::operation::{Operation, Outcome};
use crate::session::Session;
use crate::transfer::transferred;
use hyper_sdk::build::text::platform;
use hyper_sdk::client::PullOptions;
use hyper_sdk::layout::ImageLayout;
use hyper_sdk::session::SaveOptions;
use hyper_sdk::{Reference, Result, private_folder};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

/// The folder in the scratch folder that an archive is kept in on its way, and its name there.
const FOLDER: &str = "archive-";
const FILE: &str = "archive.tar";

/// Where an archive goes: a path, or an object with a method `write`.
pub(crate) enum Destination {
    Path(PathBuf),
    Stream(Py<PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Destination {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(path) = object.extract::<PathBuf>() {
            return Ok(Self::Path(path));
        }
        if object.hasattr("write")? {
            return Ok(Self::Stream(object.to_owned().unbind()));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("a destination is a path or a binary file, not `{kind}`")))
    }
}

/// An archive to load: a path, bytes, or an object with a method `read`.
pub(crate) enum Source {
    Path(PathBuf),
    Stream(Stream),
}

impl<'py> FromPyObject<'_, 'py> for Source {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(path) = object.extract::<PathBuf>() {
            return Ok(Self::Path(path));
        }
        if let Some(stream) = Stream::of(object)? {
            return Ok(Self::Stream(stream));
        }
        let kind = object.get_type().name()?;
        Err(PyTypeError::new_err(format!("an archive is a path, bytes or a binary file, not `{kind}`")))
    }
}

impl Session {
    pub(crate) fn save(
        self: &Arc<Self>,
        references: Several<String>,
        destination: Destination,
        wanted: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::with_progress(progress, move |progress| async move {
            let names = references.0.iter().map(|name| Reference::parse(name)).collect::<Result<Vec<_>>>()?;
            let platform = wanted.as_deref().map(platform).transpose()?;
            let options = SaveOptions { platform, progress };
            match destination {
                Destination::Path(path) => sdk.save(&names, &path, &options).await?,
                Destination::Stream(stream) => {
                    let folder = private_folder::temporary(FOLDER, Some(&sdk.scratch()?))?;
                    let path = folder.path().join(FILE);
                    sdk.save(&names, &path, &options).await?;
                    blocking(move |cancelled| write_to(&stream, cancelled, &path)).await?;
                }
            }
            Ok(Outcome::Nothing)
        })
    }

    pub(crate) fn load(
        self: &Arc<Self>,
        source: Source,
        name: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let sdk = self.sdk.clone();
        Operation::with_progress(progress, move |progress| async move {
            let name = name.as_deref().map(Reference::parse).transpose()?;
            let scratch = sdk.scratch()?;
            let folder = private_folder::temporary(FOLDER, Some(&scratch))?;
            let path = match source {
                Source::Path(path) => path,
                Source::Stream(stream) => {
                    let path = folder.path().join(FILE);
                    let spooled = path.clone();
                    blocking(move |cancelled| stream.spool(cancelled, &spooled)).await?;
                    path
                }
            };
            let layout = ImageLayout::open_archive(&path, &scratch).await?;
            let options = PullOptions { progress, ..PullOptions::default() };
            let loaded = sdk.load(&layout, name.as_ref(), &options).await?;
            drop(folder);
            let loaded = loaded.iter().map(|(name, image)| transferred(name, image)).collect();
            Ok(Outcome::Made("Transferred", loaded))
        })
    }
}
