//! The outputs of a build: in the syntax of the command line's `--output`, as a dict with the same keys, or as the path of a
//! folder.
//!
//! ```text
//!   "type=oci,dest=a.tar"   "type=image,push=true"   "folder"   {"type": "oci", "dest": Path("a.tar")}
//! ```

use hyper_sdk::build::{Output, OutputKind};
use hyper_sdk::dockerfile::csv_fields;
use hyper_sdk::{Error, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyMapping, PyString};
use std::path::PathBuf;

/// One output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutputArgument(pub(crate) Output);

impl<'py> FromPyObject<'_, 'py> for OutputArgument {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return Self::parse(&text.to_cow()?).map_err(|e| crate::failure::exception(&e));
        }
        if let Ok(folder) = object.extract::<PathBuf>() {
            return Ok(Self(OutputKind::Local(folder).into()));
        }
        let Ok(mapping) = object.cast::<PyMapping>() else {
            let kind = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "an output is a `str` such as \"type=oci,dest=FILE\", a dict or the path of a folder, not `{kind}`"
            )));
        };
        let mut fields = Vec::new();
        for item in mapping.items()?.iter() {
            let (key, value) = item.extract::<(String, Bound<'py, PyAny>)>()?;
            let text = if value.is_instance_of::<PyBool>() {
                value.is_truthy()?.to_string()
            } else if let Ok(path) = value.extract::<PathBuf>() {
                path.into_os_string()
                    .into_string()
                    .map_err(|_| PyTypeError::new_err("a path is not UTF-8"))?
            } else if value.is_instance_of::<PyInt>() {
                value.str()?.to_cow()?.into_owned()
            } else {
                let kind = value.get_type().name()?;
                return Err(PyTypeError::new_err(format!(
                    "`{key}` of an output is a `str`, a path, a number or a `bool`, not `{kind}`"
                )));
            };
            fields.push((key, text));
        }
        let has_place = fields.iter().any(|(key, value)| key == "dest" && !value.is_empty());
        Output::from_fields(fields)
            .and_then(|output| Self::with_place(output, has_place))
            .map_err(|e| crate::failure::exception(&e))
    }
}

impl OutputArgument {
    /// Reads the text form.
    fn parse(text: &str) -> Result<Self> {
        let wrong = |e: &Error| Error::new(e.kind(), format!("invalid output `{text}`: {}", e.message()));
        let output = Output::parse(text).map_err(|e| wrong(&e))?;
        let has_place = |field: &String| {
            field == "-" || field.strip_prefix("dest=").is_some_and(|place| !place.is_empty())
        };
        Self::with_place(output, csv_fields(text).is_ok_and(|fields| fields.iter().any(has_place)))
    }

    /// Standard output belongs to the program: an archive goes there only when that is asked for.
    fn with_place(output: Output, has_place: bool) -> Result<Self> {
        if output.is_stdout() && !has_place {
            return Err(Error::invalid("an archive needs `dest`: a file, or `-` for standard output"));
        }
        Ok(Self(output))
    }
}
