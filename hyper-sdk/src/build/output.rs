//! The outputs of a build, and their options.

use super::PlacedAnnotations;
use crate::client::Engine;
use crate::media_type::Compression;
use crate::reference::Reference;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where an archive or a tar is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file, which is replaced when the new content is complete.
    File(PathBuf),
    /// A folder.
    Folder(PathBuf),
    /// Standard output of the program, as the path of the open file, such as `/dev/stdout`.
    Stdout(PathBuf),
}

impl Destination {
    /// The path.
    pub fn path(&self) -> &Path {
        let (Self::File(path) | Self::Folder(path) | Self::Stdout(path)) = self;
        path
    }
}

/// Options of an image in the local store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Whether every name is pushed to its registry.
    pub push: bool,
    /// Whether the image is kept and pushed by its digest alone, without tags.
    pub by_digest: bool,
    /// Whether the names with the digest are reported as further names.
    pub canonical: bool,
    /// Whether the registry may speak plain HTTP or show any certificate.
    pub insecure: bool,
    /// Whether the layers are unpacked, too.
    pub unpack: bool,
    /// The repository that keeps an image without a name, by its digest.
    pub nameless: Option<Reference>,
    /// Whether the local store keeps no name of the image, so that it is only pushed.
    pub push_only: bool,
}

/// How the image of one output is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// The names of the image; without any, those of the request.
    pub names: Vec<Reference>,
    /// The compression of the layers that the build makes.
    pub compression: Compression,
    /// Whether gzip layers are written as eStargz: with a table of contents, by which a snapshotter fetches single files.
    pub estargz: bool,
    /// The compression level; without, the default of the algorithm.
    pub level: Option<i32>,
    /// Whether the layers of base images are recompressed, too.
    pub force_compression: bool,
    /// Whether manifest, config and layers have Docker's media types in place of those of OCI.
    pub docker_types: bool,
    /// Whether files in the layers that the build makes keep the times that steps see, instead of at most the epoch. Every
    /// build that makes a layer again then has another image.
    pub keep_times: bool,
    /// Annotations, in addition to those of the request.
    pub annotations: PlacedAnnotations,
}

/// How files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Whether the files are in a folder named after the platform; without, when the build is for several platforms.
    pub split: Option<bool>,
    /// Whether everything else in the folder is removed.
    pub delete: bool,
}

/// What an output makes of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// The image in the local store under its names.
    Image(StoreOptions),
    /// An OCI image layout, as a tar file or a folder.
    Oci(Destination),
    /// A tar for `docker load`.
    Docker(Destination),
    /// The image in an engine that runs containers, such as docker or podman, under its names.
    Load(Engine),
    /// The root file system as a tar.
    Tar(Destination),
    /// The root file system as files.
    Local(PathBuf),
    /// Nothing: the build only fills the cache.
    CacheOnly,
    /// The output of an exporter that the builder was given.
    Other {
        /// The type under which the builder has the exporter.
        kind: String,
        /// The attributes, which only the exporter reads.
        attributes: BTreeMap<String, String>,
    },
}

/// One output of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The kind of output.
    pub kind: OutputKind,
    /// How an image is written; ignored for files.
    pub image: ImageOptions,
    /// How files are written; ignored for images.
    pub files: FileOptions,
    /// The epoch of the result in seconds since 1970; without, that of the request.
    pub epoch: Option<i64>,
}

impl From<OutputKind> for Output {
    fn from(kind: OutputKind) -> Self {
        Self { kind, image: ImageOptions::default(), files: FileOptions::default(), epoch: None }
    }
}

impl Output {
    /// The image in the local store under its names, with the defaults for everything else.
    pub fn store() -> Self {
        OutputKind::Image(StoreOptions::default()).into()
    }

    /// The image in the local store and at the registries of its names.
    pub fn push() -> Self {
        OutputKind::Image(StoreOptions { push: true, ..StoreOptions::default() }).into()
    }

    /// Whether the options in [`Output::image`] count: it is an image in the store, at a registry or in an archive.
    pub(crate) fn has_image(&self) -> bool {
        match self.kind {
            OutputKind::Image(_) | OutputKind::Oci(_) | OutputKind::Docker(_) | OutputKind::Load(_) => true,
            OutputKind::Tar(_) | OutputKind::Local(_) | OutputKind::CacheOnly | OutputKind::Other { .. } => {
                false
            }
        }
    }

    /// Whether it writes the files of the image, and not the image.
    pub(super) fn has_files(&self) -> bool {
        match self.kind {
            OutputKind::Tar(_) | OutputKind::Local(_) => true,
            OutputKind::Image(_)
            | OutputKind::Oci(_)
            | OutputKind::Docker(_)
            | OutputKind::Load(_)
            | OutputKind::CacheOnly
            | OutputKind::Other { .. } => false,
        }
    }

    /// Whether it is an image, so that the build has a digest: all but files and [`OutputKind::CacheOnly`].
    pub fn makes_image(&self) -> bool {
        self.has_image() || matches!(self.kind, OutputKind::Other { .. })
    }

    /// The path of an archive or of files.
    pub fn destination(&self) -> Option<&Path> {
        match &self.kind {
            OutputKind::Oci(to) | OutputKind::Docker(to) | OutputKind::Tar(to) => Some(to.path()),
            OutputKind::Local(folder) => Some(folder),
            OutputKind::Image(_) | OutputKind::Load(_) | OutputKind::CacheOnly | OutputKind::Other { .. } => {
                None
            }
        }
    }

    /// The folder that it is written into, when it is files.
    pub fn folder(&self) -> Option<&Path> {
        match &self.kind {
            OutputKind::Local(folder)
            | OutputKind::Oci(Destination::Folder(folder))
            | OutputKind::Docker(Destination::Folder(folder))
            | OutputKind::Tar(Destination::Folder(folder)) => Some(folder),
            OutputKind::Oci(_)
            | OutputKind::Docker(_)
            | OutputKind::Tar(_)
            | OutputKind::Image(_)
            | OutputKind::Load(_)
            | OutputKind::CacheOnly
            | OutputKind::Other { .. } => None,
        }
    }

    /// Whether it is written to standard output, by any name of it.
    pub fn is_stdout(&self) -> bool {
        match &self.kind {
            OutputKind::Oci(to) | OutputKind::Docker(to) | OutputKind::Tar(to) => match to {
                Destination::Stdout(_) => true,
                Destination::File(path) => is_stdout(path),
                Destination::Folder(_) => false,
            },
            OutputKind::Local(_)
            | OutputKind::Image(_)
            | OutputKind::Load(_)
            | OutputKind::CacheOnly
            | OutputKind::Other { .. } => false,
        }
    }
}

/// Whether a path is a name of standard output.
pub(super) fn is_stdout(path: &Path) -> bool {
    ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}
