//! What a build leaves behind.

use super::PlacedAnnotations;
use crate::media_type::Compression;
use crate::reference::Reference;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a file output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file, made whole or not at all.
    File(PathBuf),
    /// A folder.
    Folder(PathBuf),
    /// Standard output of the program; the frontend passes it as a path to an open file, such as `/dev/stdout`.
    Stdout(PathBuf),
}

impl Destination {
    /// The path, whatever is there.
    pub fn path(&self) -> &Path {
        let (Self::File(path) | Self::Folder(path) | Self::Stdout(path)) = self;
        path
    }
}

/// What is done with an image beside keeping it in the local store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Whether every name is pushed to its registry.
    pub push: bool,
    /// Whether it is kept and pushed by its digest alone, without tags.
    pub by_digest: bool,
    /// Whether the names with the digest count as names, too.
    pub canonical: bool,
    /// Whether the registry may speak plain HTTP or show any certificate.
    pub insecure: bool,
    /// Whether its layers are unpacked, too.
    pub unpack: bool,
    /// The repository of an image without a name, where it is found by its digest.
    pub nameless: Option<Reference>,
    /// Whether the local store has it under no name, so that it is only pushed.
    pub passing: bool,
}

/// How the image of one output is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// The names of the image in this output; those of the request without.
    pub names: Vec<Reference>,
    /// How the layers that the build makes are compressed.
    pub compression: Compression,
    /// The compression level; the algorithm's usual one without.
    pub level: Option<i32>,
    /// Whether the layers of base images are compressed so, too.
    pub force_compression: bool,
    /// Whether manifest, config and layers have Docker's media types in place of those of OCI.
    pub docker_types: bool,
    /// Whether the files of the layers that the build makes keep the times that steps see, and are not held to the time
    /// of the image. The image is another one in every build that makes a layer anew.
    pub keep_times: bool,
    /// Annotations, beside those of the request for the manifest.
    pub annotations: PlacedAnnotations,
}

/// How files are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Whether they go into a folder of their own that has the name of the platform.
    pub split: bool,
    /// Whether the folder that gets them loses what they are not.
    pub delete: bool,
}

/// What to make of the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// The image in the local store under its names.
    Image(StoreOptions),
    /// An OCI image layout, as a tar file or a folder.
    Oci(Destination),
    /// A tar for `docker load`.
    Docker(Destination),
    /// The root file system as a tar.
    Tar(Destination),
    /// The root file system as files.
    Local(PathBuf),
    /// Nothing: fill the cache only.
    CacheOnly,
    /// What an exporter of this type makes: one that was given to the builder.
    Other {
        /// The type that the exporter was given with.
        kind: String,
        /// The attributes, which the exporter alone reads.
        attributes: BTreeMap<String, String>,
    },
}

/// One output of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What to make.
    pub kind: OutputKind,
    /// How an image is written; without meaning for files.
    pub image: ImageOptions,
    /// How files are written; without meaning for images.
    pub files: FileOptions,
    /// The time of the result, in seconds since 1970; that of the request without.
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

    /// Whether it has a manifest.
    pub fn has_image(&self) -> bool {
        matches!(self.kind, OutputKind::Image(_) | OutputKind::Oci(_) | OutputKind::Docker(_))
    }

    /// Where it is written, when it is an archive or files.
    pub fn destination(&self) -> Option<&Path> {
        match &self.kind {
            OutputKind::Oci(to) | OutputKind::Docker(to) | OutputKind::Tar(to) => Some(to.path()),
            OutputKind::Local(folder) => Some(folder),
            OutputKind::Image(_) | OutputKind::CacheOnly | OutputKind::Other { .. } => None,
        }
    }

    /// The folder that it is written into, when it is files.
    pub fn folder(&self) -> Option<&Path> {
        match &self.kind {
            OutputKind::Local(folder)
            | OutputKind::Oci(Destination::Folder(folder))
            | OutputKind::Docker(Destination::Folder(folder))
            | OutputKind::Tar(Destination::Folder(folder)) => Some(folder),
            _ => None,
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
            _ => false,
        }
    }
}

/// Whether a path is a name of standard output.
pub(super) fn is_stdout(path: &Path) -> bool {
    ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}
