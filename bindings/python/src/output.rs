//! What a build leaves behind, in the syntax of the command line's `--output` or as a dict with the same keys.
//!
//! ```text
//!   "type=oci,dest=a.tar"   "type=image,push=true"   "folder"   {"type": "oci", "dest": Path("a.tar")}
//! ```

use hyper_sdk::build::{Destination, Output, OutputKind};
use hyper_sdk::dockerfile::csv_fields;
use hyper_sdk::{Error, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
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
        let Ok(dict) = object.cast::<PyDict>() else {
            return Err(PyTypeError::new_err("an output is a str such as \"type=oci,dest=FILE\" or a dict"));
        };
        let mut fields = Vec::new();
        for (key, value) in dict.iter() {
            let text = if value.is_instance_of::<PyBool>() {
                value.is_truthy()?.to_string()
            } else if let Ok(path) = value.extract::<PathBuf>() {
                path.into_os_string()
                    .into_string()
                    .map_err(|_| PyTypeError::new_err("a path is not UTF-8"))?
            } else {
                value.str()?.to_cow()?.into_owned()
            };
            fields.push((key.extract::<String>()?, text));
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
        let wrong = |e: &Error| {
            Error::new(e.kind(), format!("the output `{text}` is not understood: {}", e.message()))
        };
        let output = Output::parse(text).map_err(|e| wrong(&e))?;
        let has_place = |field: &String| {
            field == "-" || field.strip_prefix("dest=").is_some_and(|place| !place.is_empty())
        };
        Self::with_place(output, csv_fields(text).is_ok_and(|fields| fields.iter().any(has_place)))
    }

    /// Standard output belongs to the program: an archive goes there only when that is asked for.
    fn with_place(output: Output, has_place: bool) -> Result<Self> {
        let (OutputKind::Oci(to) | OutputKind::Docker(to) | OutputKind::Tar(to)) = &output.kind else {
            return Ok(Self(output));
        };
        if matches!(to, Destination::Stdout(_)) && !has_place {
            return Err(Error::invalid("an output that is an archive needs `dest`: a file, or `-`"));
        }
        Ok(Self(output))
    }
}
