//! What a build leaves behind, in the syntax of the command line's `--output` or as a dict with the same keys.
//!
//! ```text
//!   "type=oci,dest=a.tar"   "type=image,push=true"   "folder"   {"type": "oci", "dest": Path("a.tar")}
//! ```

use hyper_sdk::build::{BuildRequest, Destination, Output};
use hyper_sdk::media_type::Compression;
use hyper_sdk::{Error, Reference, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The keys and values of one output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputFields(BTreeMap<String, String>);

impl<'py> FromPyObject<'_, 'py> for OutputFields {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = object.cast::<PyString>() {
            return Self::parse(&text.to_cow()?).map_err(|e| crate::failure::exception(&e));
        }
        let Ok(dict) = object.cast::<PyDict>() else {
            return Err(PyTypeError::new_err("an output is a str such as \"type=oci,dest=FILE\" or a dict"));
        };
        let mut fields = BTreeMap::new();
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
            fields.insert(key.extract::<String>()?, text);
        }
        Ok(Self(fields))
    }
}

impl OutputFields {
    /// Reads the text form.
    fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::invalid(format!("the output `{text}` is not understood: {why}"));
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        if !text.contains('=') {
            let fields = [("type", "local"), ("dest", text)];
            return Ok(Self(fields.map(|(key, value)| (key.to_owned(), value.to_owned())).into()));
        }
        let mut fields = BTreeMap::new();
        for field in split(text).ok_or_else(|| wrong("a quote is not closed"))? {
            let (key, value) = field.split_once('=').ok_or_else(|| wrong("expected KEY=VALUE"))?;
            fields.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self(fields))
    }

    /// Adds the output to a request.
    pub(crate) fn add_to(mut self, request: &mut BuildRequest) -> Result<()> {
        let fields = &mut self.0;
        let kind = fields.remove("type").ok_or_else(|| Error::invalid("an output needs a `type`"))?;
        let missing = || Error::invalid(format!("an output of the type `{kind}` needs `dest`"));
        let mut path =
            || fields.remove("dest").filter(|d| !d.is_empty()).map(PathBuf::from).ok_or_else(missing);
        let output = match kind.as_str() {
            "oci" => {
                let path = path()?;
                let folder = fields.remove("tar").is_some_and(|tar| tar.eq_ignore_ascii_case("false"));
                Output::Oci(if folder { Destination::Folder(path) } else { Destination::File(path) })
            }
            "docker" => Output::Docker(Destination::File(path()?)),
            "tar" => Output::Tar(Destination::File(path()?)),
            "local" => Output::Local(path()?),
            "cacheonly" => Output::CacheOnly,
            "registry" => Output::Image { push: true },
            "image" => Output::Image { push: flag(fields.remove("push"), "push")? },
            _ => {
                return Err(Error::invalid(format!(
                    "`{kind}` is no type of output: image, registry, oci, docker, tar, local or cacheonly"
                )));
            }
        };
        if matches!(output, Output::Image { .. } | Output::Oci(_) | Output::Docker(_)) {
            for name in fields.remove("name").unwrap_or_default().split(',').filter(|n| !n.is_empty()) {
                request.tags.push(Reference::parse(name)?);
            }
            if let Some(name) = fields.remove("compression") {
                request.compression = compression(&name)?;
            }
            if let Some(level) = fields.remove("compression-level") {
                let level = level.parse();
                request.compression_level =
                    Some(level.map_err(|_| Error::invalid("`compression-level` is not a number"))?);
            }
        }
        if let Some(key) = fields.keys().next() {
            return Err(Error::unsupported(format!(
                "`{key}` is not supported for outputs of the type `{kind}`"
            )));
        }
        request.outputs.push(output);
        Ok(())
    }
}

/// The algorithm of a name.
fn compression(name: &str) -> Result<Compression> {
    match name {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        "uncompressed" => Ok(Compression::None),
        _ => Err(Error::unsupported(format!(
            "the compression `{name}` is not supported: gzip, zstd or uncompressed"
        ))),
    }
}

fn flag(text: Option<String>, key: &str) -> Result<bool> {
    match text.map(|text| text.to_ascii_lowercase()).as_deref() {
        Some("true" | "1") => Ok(true),
        None | Some("false" | "0") => Ok(false),
        Some(_) => Err(Error::invalid(format!("`{key}` is true or false"))),
    }
}

/// Splits at commas that are not in double quotes; `""` within quotes is a quote. `None` when a quote is open at the end.
fn split(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                fields.last_mut()?.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut()?.push(other),
        }
    }
    (!quoted).then_some(fields)
}
