//! A file operation as data, so that it runs equally in this process and in the sandbox's helper.

use super::{CopySpec, Destination, EmptyDestination, Plan, Planner, SourceKind, SourceRoot};
use crate::layer::Owner;
use crate::layer::{EntryTimes, FileTime, LayerIndex, LayerWriter, TreeIndex};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
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

    /// Writes the layer of the operation, reading its sources from folders of this machine. For snapshotters that have
    /// their trees in folders; call it where the owners of the files can be seen.
    ///
    /// ```
    /// use hyper_sdk::layer::copy::{CopyRequest, CopySpec, CopyStep, SourceKind};
    /// use hyper_sdk::layer::{ApplyOptions, ApplyStyle, LayerWriter, OwnerPolicy, apply};
    ///
    /// let (context, target) = (tempfile::tempdir()?, tempfile::tempdir()?);
    /// std::fs::write(context.path().join("notes"), "text")?;
    /// let spec = CopySpec::new(["notes"], "/app/");
    /// let plan = CopyRequest { steps: vec![CopyStep::Copy { source: 0, spec }], ..CopyRequest::default() };
    ///
    /// let mut writer = LayerWriter::exact(Vec::new());
    /// plan.write_layer(&[(context.path().to_owned(), SourceKind::Context)], &mut writer)?;
    /// let (layer, _index) = writer.finish()?;
    ///
    /// let mut options = ApplyOptions::new(ApplyStyle::Plain);
    /// options.owners = OwnerPolicy::Ignore;
    /// apply(layer.as_slice(), target.path(), &options)?;
    /// assert_eq!(std::fs::read_to_string(target.path().join("app/notes"))?, "text");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for a source that does not exist, and those of reading and of the writer.
    pub fn write_layer<W: Write>(
        &self,
        sources: &[(PathBuf, SourceKind)],
        writer: &mut LayerWriter<W>,
    ) -> Result<()> {
        let open = |(path, kind): &(PathBuf, SourceKind)| SourceRoot::open(path, *kind, None).map(Arc::new);
        let roots = sources.iter().map(open).collect::<Result<Vec<_>>>()?;
        self.run(&roots, writer).map(drop)
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
        layers.push(Arc::new(index_of(path)?));
    }
    Ok(TreeIndex::new(layers))
}

/// The index of a layer in a file.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] or [`crate::ErrorKind::Io`] when it cannot be read.
pub(crate) fn index_of(path: &Path) -> Result<LayerIndex> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("cannot read the index of a layer", path, e))?;
    LayerIndex::from_bytes(&bytes)
}
