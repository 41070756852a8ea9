//! What a build leaves behind.

use super::{AnnotatedPart, BuildRequest, EpochPolicy, PlacedAnnotations};
use crate::media_type::Compression;
use crate::platform::Platform;
use crate::reference::{Reference, Tag};
use crate::{Error, Result};
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

    /// The names of the image in this output of a request.
    pub(super) fn names<'a>(&'a self, request: &'a BuildRequest) -> &'a [Reference] {
        match self.image.names.as_slice() {
            [] => &request.tags,
            own => own,
        }
    }
}

impl BuildRequest {
    /// Refuses outputs that cannot be made as they are asked for, before anything is done.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] when options exclude each other or a name is missing, and
    /// [`crate::ErrorKind::Unsupported`] for different times in one build.
    pub fn check_outputs(&self) -> Result<()> {
        let platform = self.built_for();
        for output in self.outputs.iter().filter(|output| output.has_image()) {
            let names = output.names(self);
            if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
                return Err(Error::invalid(format!("the name `{name}` of an output cannot have a digest")));
            }
            if let OutputKind::Image(store) = &output.kind {
                if store.push && names.is_empty() {
                    return Err(Error::invalid("an image needs a name to be pushed: give one with --tag"));
                }
                if store.passing && store.nameless.is_some() {
                    return Err(Error::invalid(
                        "`dangling-name-prefix` names an image of the local store, and `store=false` keeps none there",
                    ));
                }
                let tagged = |name: &&Reference| name.tag().is_some_and(|tag| *tag != Tag::latest());
                if let Some(name) = names.iter().find(tagged).filter(|_| store.by_digest) {
                    return Err(Error::invalid(format!(
                        "`push-by-digest` gives no tag, and `{name}` has one: leave the tag out"
                    )));
                }
            }
            let (image, annotations) = (&output.image, self.annotations_of(output));
            if let Some(place) = annotations.elsewhere(&platform) {
                return Err(Error::invalid(format!(
                    "an annotation for `{place}` is for a platform that is not built: the build is for {platform}"
                )));
            }
            if annotations.need_index() && matches!(output.kind, OutputKind::Docker(_)) {
                return Err(Error::invalid(
                    "annotations of an index are not for type=docker, whose archive has none: use type=oci",
                ));
            }
            if image.docker_types {
                let why = if image.compression == Compression::Zstd {
                    "layers that are compressed with zstd"
                } else if !annotations.is_empty() {
                    "annotations"
                } else {
                    continue;
                };
                return Err(Error::invalid(format!(
                    "Docker's media types have no {why}: leave `oci-mediatypes=false` out"
                )));
            }
        }
        self.epoch_policy().map(drop)
    }

    /// The annotations of the image of an output: those of the request, then its own, which count. Files have an image,
    /// too, whose digest is told: its manifest alone has annotations.
    pub(super) fn annotations_of(&self, output: &Output) -> PlacedAnnotations {
        let mut all = self.annotations.clone();
        if !output.has_image() {
            all.keep(AnnotatedPart::Manifest);
        }
        all.extend(output.image.annotations.clone());
        all
    }

    /// The platform that the build is for.
    pub(super) fn built_for(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }

    /// Which time the result carries, by the request and its outputs.
    pub(super) fn epoch_policy(&self) -> Result<EpochPolicy> {
        let mut times: Vec<Option<i64>> =
            self.outputs.iter().filter(|o| o.kind != OutputKind::CacheOnly).map(|o| o.epoch).collect();
        times.dedup();
        match (times.as_slice(), self.epoch) {
            ([] | [None], policy) => Ok(policy),
            ([Some(time)], EpochPolicy::Auto) => Ok(EpochPolicy::At(*time)),
            ([Some(time)], EpochPolicy::At(asked)) if asked == *time => Ok(self.epoch),
            _ => Err(Error::unsupported(
                "outputs with different `source-date-epoch` in one build are not supported: give the build one with --source-date-epoch",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::BuildContext;

    fn request(outputs: &[&str]) -> BuildRequest {
        let mut request = BuildRequest::new("FROM scratch\n", BuildContext::Empty);
        request.outputs = outputs.iter().map(|text| Output::parse(text).unwrap()).collect();
        request
    }

    #[test]
    fn every_output_has_its_own_names() {
        let mut request = request(&[
            "type=image,name=r.example/a:1,push=true",
            "type=oci,dest=o",
            "type=oci,dest=p,name=b",
        ]);
        request.tags = vec![Reference::parse("t:1").unwrap()];
        let names = |at: usize| -> Vec<String> {
            request.outputs[at].names(&request).iter().map(Reference::familiar).collect()
        };
        assert_eq!(
            (names(0), names(1), names(2)),
            (vec!["r.example/a:1".to_owned()], vec!["t:1".to_owned()], vec!["b:latest".to_owned()])
        );
    }

    #[test]
    fn outputs_that_cannot_be_made_are_told_before_the_build() {
        for (outputs, text) in [
            (&["type=image,push=true", "type=oci,dest=a,name=b"][..], "needs a name to be pushed"),
            (&["type=registry"], "needs a name to be pushed"),
            (&["type=image,push-by-digest=true,name=r.example/a:1"], "`r.example/a:1` has one"),
            (&["type=oci,dest=a,compression=zstd,oci-mediatypes=false"], "zstd"),
            (&["type=oci,dest=a,annotation.a=b,oci-mediatypes=false"], "no annotations"),
            (&["type=oci,dest=a,annotation-index.a=b,oci-mediatypes=false"], "no annotations"),
            (&["type=docker,dest=a,annotation-index.a=b"], "use type=oci"),
            (
                &["type=oci,dest=a,annotation[plan9/386].a=b"],
                "`manifest[plan9/386]` is for a platform that is not",
            ),
            (&["type=image,store=false,dangling-name-prefix=a"], "keeps none there"),
            (&["type=image,store=false,push=true"], "needs a name to be pushed"),
            (&["type=oci,dest=a,source-date-epoch=1", "type=tar,dest=b"], "different `source-date-epoch`"),
        ] {
            let error = request(outputs).check_outputs().unwrap_err().to_string();
            assert!(error.contains(text), "{outputs:?}: {error}");
        }
        let mut request = request(&["type=oci,dest=a,source-date-epoch=1", "type=cacheonly"]);
        assert_eq!(request.epoch_policy().unwrap(), EpochPolicy::At(1));
        request.epoch = EpochPolicy::Now;
        assert!(request.check_outputs().is_err());
    }
}
