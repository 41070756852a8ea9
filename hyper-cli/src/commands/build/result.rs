//! The result of a build: in the files that were asked for, and on standard output.

use crate::args::Format;
use crate::terminal::{print_json, print_line};
use hyper_sdk::build::BuildOutput;
use hyper_sdk::export::write_file;
use hyper_sdk::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the result is written.
#[derive(Debug)]
pub(super) struct Report<'a> {
    /// The file that gets the digest.
    pub(super) iidfile: Option<&'a Path>,
    /// The file that gets everything, as JSON.
    pub(super) metadata_file: Option<&'a Path>,
    /// The id of the build in the history.
    pub(super) id: Option<&'a str>,
    /// How it is printed on standard output; not at all when the image went there.
    pub(super) print: Option<Format>,
}

impl Report<'_> {
    pub(super) fn write(&self, output: &BuildOutput) -> Result<()> {
        let digest = output.image.as_ref().map(|image| image.digest.to_string());
        if let Some(path) = self.iidfile {
            let digest =
                digest.as_deref().ok_or_else(|| Error::invalid("--iidfile: the build made no image"))?;
            write_file(path, digest.as_bytes())?;
        }
        if let Some(path) = self.metadata_file {
            write_file(path, metadata(output, self.id)?.as_bytes())?;
        }
        match (self.print, digest) {
            (Some(Format::Json), _) => print_json(output),
            (Some(Format::Text | Format::Sarif), Some(digest)) => print_line(&digest),
            (Some(Format::Text | Format::Sarif), None) | (None, _) => Ok(()),
        }
    }
}

/// The content of a metadata file, with the fields of BuildKit.
pub(in crate::commands) fn metadata(output: &BuildOutput, id: Option<&str>) -> Result<String> {
    let mut fields = BTreeMap::new();
    if let Some(image) = &output.image {
        fields.insert("containerimage.digest", json!(image.digest));
        fields.insert("containerimage.descriptor", json!(image));
    }
    if let Some(config) = &output.config {
        fields.insert("containerimage.config.digest", json!(config));
    }
    if !output.tags.is_empty() {
        fields.insert("image.name", json!(output.tags.join(",")));
    }
    if let Some(id) = id {
        // As BuildKit has it: builder, node, build.
        fields.insert("buildx.build.ref", json!(format!("hyper/local/{id}")));
    }
    let text = serde_json::to_string_pretty(&fields)
        .map_err(|e| Error::internal("the result cannot be written as JSON").with_source(e))?;
    Ok(format!("{text}\n"))
}
