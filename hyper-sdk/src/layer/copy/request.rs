//! A file operation as data, so that it runs equally in this process and in the sandbox's helper.

use super::{CopySpec, Destination, EmptyDestination, Plan, Planner, SourceRoot};
use crate::layer::Owner;
use crate::layer::{EntryTimes, FileTime, LayerIndex, LayerWriter, TreeIndex};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

/// One step of a file operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CopyStep {
    /// Copies from a source.
    Copy {
        /// The number of the source.
        source: usize,
        /// The files and how to copy them.
        spec: CopySpec,
    },
    /// Makes a directory unless it exists.
    MakeDirectory {
        /// The path, absolute.
        path: String,
        /// The mode.
        mode: u32,
        /// The owner; `None` for root.
        owner: Option<Owner>,
    },
    /// Writes a file.
    MakeFile {
        /// The name of the file if the destination is a directory.
        name: String,
        /// The content.
        content: String,
        /// The destination, owner and mode.
        spec: CopySpec,
    },
}

/// A file operation: its steps and its destination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyRequest {
    /// The steps, in order.
    pub steps: Vec<CopyStep>,
    /// The index files of the destination's layers, lowest first.
    pub destination: Vec<PathBuf>,
    /// The time of new entries without a source.
    pub now: FileTime,
    /// A folder for decompressed archives while they are unpacked.
    pub scratch: PathBuf,
}

impl CopyRequest {
    /// The merged view of the destination.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] or [`crate::ErrorKind::Io`] when an index cannot be read.
    pub(crate) fn destination_tree(&self) -> Result<TreeIndex> {
        tree_of(&self.destination)
    }

    /// Plans the operation on the merged view of the destination.
    ///
    /// # Errors
    /// Those of [`CopyRequest::destination_tree`] and of the [`Planner`].
    pub(crate) fn plan_here(&self, sources: &[Arc<SourceRoot>]) -> Result<Plan> {
        if self.destination.is_empty() {
            return self.plan(&EmptyDestination, sources);
        }
        self.plan(&self.destination_tree()?, sources)
    }

    /// Plans the operation.
    ///
    /// # Errors
    /// Those of the [`Planner`].
    pub(crate) fn plan(&self, destination: &dyn Destination, sources: &[Arc<SourceRoot>]) -> Result<Plan> {
        let mut planner = Planner::new(destination, self.now).with_scratch(&self.scratch);
        for step in &self.steps {
            match step {
                CopyStep::Copy { source, spec } => {
                    let root =
                        sources.get(*source).ok_or_else(|| Error::internal("a copy without its source"))?;
                    planner.copy(root, spec)?;
                }
                CopyStep::MakeDirectory { path, mode, owner } => {
                    planner.make_directory(path, *mode, *owner)?
                }
                CopyStep::MakeFile { name, content, spec } => {
                    planner.inline_file(name, content.as_bytes().to_vec(), spec)?;
                }
            }
        }
        Ok(planner.finish())
    }

    /// Plans the operation and writes its layer. Returns the exact times of its entries.
    ///
    /// # Errors
    /// Those of the planner and of the writer.
    pub(crate) fn run<W: Write>(
        &self,
        sources: &[Arc<SourceRoot>],
        writer: &mut LayerWriter<W>,
    ) -> Result<EntryTimes> {
        let plan = self.plan_here(sources)?;
        plan.write(writer)?;
        Ok(plan.times())
    }
}

/// The merged view of the layers with these index files, lowest first.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] or [`crate::ErrorKind::Io`] when one cannot be read.
pub(crate) fn tree_of(indexes: &[PathBuf]) -> Result<TreeIndex> {
    let mut layers = Vec::new();
    for path in indexes {
        let bytes =
            std::fs::read(path).map_err(|e| Error::io("cannot read the index of a layer", path, e))?;
        layers.push(Arc::new(LayerIndex::from_bytes(&bytes)?));
    }
    Ok(TreeIndex::new(layers))
}
