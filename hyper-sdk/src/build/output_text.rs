//! Outputs as text, in the syntax of `docker buildx build --output`.
//!
//! ```text
//!   type=image[,name=REF][,push=true]     the local store          type=registry = image,push=true
//!   type=oci,dest=FILE[,tar=false]        an OCI layout            type=docker,dest=FILE
//!   type=tar,dest=FILE   type=local,dest=DIR   type=cacheonly      DIR = local, - = tar on standard output
//! ```

use super::output::{Destination, FileOptions, ImageOptions, Output, OutputKind, StoreOptions};
use crate::dockerfile::{csv_fields, parse_bool};
use crate::layer::{CompressOptions, LayerCompressor};
use crate::media_type::Compression;
use crate::reference::Reference;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Fields that other tools know. They are ignored when they are switched off.
const UNSUPPORTED: [&str; 9] = [
    "attestation-inline",
    "attestation-manifest",
    "attestation-prefix",
    "buildinfo",
    "buildinfo-attrs",
    "context",
    "oci-artifact",
    "prefer-image-digest",
    "prefer-nondist-layers",
];

/// The path of the open standard output.
const STDOUT: &str = "/dev/stdout";

/// The types that take a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Types {
    /// Images in the local store.
    Store,
    /// Images in the store or in an archive.
    Images,
    /// Archives, which can also be a folder.
    Layouts,
    /// Files.
    Files,
    /// Files in a folder.
    Folders,
    /// Outputs that are written to a path.
    Places,
    /// All but `cacheonly`.
    Results,
}

/// The fields, and the types that take them.
const KNOWN: [(&str, Types); 18] = [
    ("dest", Types::Places),
    ("tar", Types::Layouts),
    ("name", Types::Images),
    ("push", Types::Store),
    ("push-by-digest", Types::Store),
    ("name-canonical", Types::Store),
    ("dangling-name-prefix", Types::Store),
    ("registry.insecure", Types::Store),
    ("unpack", Types::Store),
    ("store", Types::Store),
    ("compression", Types::Images),
    ("compression-level", Types::Images),
    ("force-compression", Types::Images),
    ("oci-mediatypes", Types::Images),
    ("rewrite-timestamp", Types::Images),
    ("source-date-epoch", Types::Results),
    ("platform-split", Types::Files),
    ("mode", Types::Folders),
];

/// The types of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Image,
    Registry,
    Oci,
    Docker,
    Tar,
    Local,
    CacheOnly,
}

impl Type {
    const ALL: [Self; 7] =
        [Self::Image, Self::Registry, Self::Oci, Self::Docker, Self::Tar, Self::Local, Self::CacheOnly];

    fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Registry => "registry",
            Self::Oci => "oci",
            Self::Docker => "docker",
            Self::Tar => "tar",
            Self::Local => "local",
            Self::CacheOnly => "cacheonly",
        }
    }

    /// Which fields have a meaning for it.
    fn takes(self) -> &'static [Types] {
        match self {
            Self::Image | Self::Registry => &[Types::Store, Types::Images, Types::Results],
            Self::Oci | Self::Docker => &[Types::Images, Types::Layouts, Types::Places, Types::Results],
            Self::Tar => &[Types::Files, Types::Places, Types::Results],
            Self::Local => &[Types::Files, Types::Folders, Types::Places, Types::Results],
            Self::CacheOnly => &[],
        }
    }

    /// The names of all, for messages.
    fn names() -> String {
        let names = Self::ALL.map(Self::name);
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        format!("{} or {last}", others.join(", "))
    }
}

impl Output {
    /// Parses the text form. A text without `type` is a folder, and `-` is a tar on standard output.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a malformed text, and [`crate::ErrorKind::Unsupported`] for a field that the type
    /// does not take or that only other tools know.
    pub fn parse(text: &str) -> Result<Self> {
        let fields = csv_fields(text).map_err(Error::invalid)?;
        if let [only] = fields.as_slice()
            && !only.starts_with("type=")
        {
            return match only.as_str() {
                "" => Err(Error::invalid("it is empty")),
                "-" => Ok(OutputKind::Tar(Destination::Stdout(STDOUT.into())).into()),
                folder => Ok(OutputKind::Local(folder.into()).into()),
            };
        }
        let pairs = fields.iter().map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::invalid(format!("`{field}` is not KEY=VALUE"))),
        });
        Self::from_fields(pairs.collect::<Result<Vec<_>>>()?)
    }

    /// Parses the text form. Its type may also be one of `types`, those of exporters that the builder was given: all other
    /// fields are then attributes of the exporter.
    ///
    /// # Errors
    /// Those of [`Output::parse`].
    pub fn parse_with<'a>(text: &str, types: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let fields = csv_fields(text).map_err(Error::invalid)?;
        let kind = fields.iter().filter_map(|field| field.strip_prefix("type=")).next_back();
        match kind.filter(|kind| types.into_iter().any(|known| known == *kind)) {
            None => Self::parse(text),
            Some(kind) => {
                let mut attributes = BTreeMap::new();
                for field in fields.iter().filter(|field| !field.starts_with("type=")) {
                    let (key, value) = field
                        .split_once('=')
                        .ok_or_else(|| Error::invalid(format!("`{field}` is not KEY=VALUE")))?;
                    attributes.insert(key.to_owned(), value.to_owned());
                }
                Ok(OutputKind::Other { kind: kind.to_owned(), attributes }.into())
            }
        }
    }

    /// Makes an output of its fields. The last field of a key counts. An archive without `dest` goes to standard output.
    ///
    /// # Errors
    /// Those of [`Output::parse`].
    pub fn from_fields(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut fields = Fields::default();
        for (key, value) in pairs {
            fields.take(key.trim(), value)?;
        }
        fields.finish()
    }
}

/// The fields of one output.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    values: BTreeMap<&'static str, String>,
    image: ImageOptions,
}

impl Fields {
    fn take(&mut self, key: &str, value: String) -> Result<()> {
        if let Some(place) = key.strip_prefix("annotation")
            // The version of a platform may contain full stops.
            && let Some((place, name)) = place.split_once("].").or_else(|| place.split_once('.'))
        {
            let closed = place.contains('[');
            let place = if closed { format!("{place}]") } else { place.to_owned() };
            let place = place.as_str();
            return self.annotate(key, place, name, value);
        }
        // Keys are case-insensitive, except for those of annotations.
        let lower = key.to_ascii_lowercase();
        match lower.as_str() {
            "type" => self.kind = Some(value),
            known => match KNOWN.iter().find(|(name, _)| *name == known) {
                Some((name, _)) => {
                    self.values.insert(name, value);
                }
                None if UNSUPPORTED.contains(&known) && parse_bool(&value) == Some(false) => {}
                None if UNSUPPORTED.contains(&known) => return Err(not_yet(&format!("`{known}={value}`"))),
                None => {
                    let known = KNOWN.map(|(name, _)| name).join(", ");
                    return Err(Error::invalid(format!(
                        "`{key}={value}` is not supported: known are type, {known} and annotation.KEY"
                    )));
                }
            },
        }
        Ok(())
    }

    /// Adds an annotation. The key is `annotation`, then `-PART` and `[PLATFORM]`, which may be missing, then `.NAME`.
    fn annotate(&mut self, key: &str, place: &str, name: &str, value: String) -> Result<()> {
        if name.is_empty() {
            return Err(Error::invalid(format!("`{key}` has no name of an annotation")));
        }
        let place = place
            .strip_prefix('-')
            .filter(|part| !part.is_empty() && !part.starts_with('['))
            .unwrap_or(place);
        let place = place.parse().map_err(|e: Error| Error::invalid(format!("`{key}`: {}", e.message())))?;
        self.image.annotations.add(place, name, value);
        Ok(())
    }

    /// A switch. Without a value it is on.
    fn switch(&self, key: &'static str) -> Result<Option<bool>> {
        let Some(text) = self.values.get(key) else { return Ok(None) };
        match parse_bool(text) {
            Some(value) => Ok(Some(value)),
            None if text.is_empty() => Ok(Some(true)),
            None => Err(Error::invalid(format!("`{key}` is true or false, not `{text}`"))),
        }
    }

    fn is_on(&self, key: &'static str) -> Result<bool> {
        Ok(self.switch(key)? == Some(true))
    }

    fn text(&self, key: &'static str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    fn folder(&self, kind: &str) -> Result<&str> {
        self.text("dest").ok_or_else(|| Error::invalid(format!("type={kind} needs dest=DIR")))
    }

    fn file(&self) -> Destination {
        match self.text("dest") {
            None | Some("-" | STDOUT) => Destination::Stdout(STDOUT.into()),
            Some(path) => Destination::File(path.into()),
        }
    }

    fn layout(&self, kind: &str) -> Result<Destination> {
        Ok(match self.switch("tar")? {
            Some(false) => Destination::Folder(self.folder(kind)?.into()),
            _ => self.file(),
        })
    }

    fn finish(mut self) -> Result<Output> {
        let name = self
            .kind
            .take()
            .ok_or_else(|| Error::invalid(format!("`type` is missing: {}", Type::names())))?;
        let kind = Type::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind
            .ok_or_else(|| Error::invalid(format!("`{name}` is not a type of output: {}", Type::names())))?;
        let is_misplaced = |of: Types| !kind.takes().contains(&of);
        let misplaced = KNOWN.iter().find(|(key, of)| self.values.contains_key(key) && is_misplaced(*of));
        let annotated = !self.image.annotations.is_empty();
        let misplaced = misplaced
            .map(|(key, _)| *key)
            .or_else(|| (annotated && is_misplaced(Types::Images)).then_some("annotation"));
        if let Some(key) = misplaced {
            return Err(Error::unsupported(format!("`{key}` has no meaning for type={name}")));
        }
        let files = FileOptions {
            split: self.switch("platform-split")?,
            delete: match self.text("mode").map(|mode| mode.trim().to_ascii_lowercase()).as_deref() {
                // Other files in the folder stay.
                None | Some("copy") => false,
                Some("delete") => true,
                Some(other) => {
                    return Err(Error::invalid(format!("`mode` is copy or delete, not `{other}`")));
                }
            },
        };
        let output = match kind {
            Type::Oci => OutputKind::Oci(self.layout(&name)?),
            Type::Docker => OutputKind::Docker(self.layout(&name)?),
            Type::Tar => OutputKind::Tar(self.file()),
            Type::Local => OutputKind::Local(self.folder(&name)?.into()),
            Type::CacheOnly => OutputKind::CacheOnly,
            Type::Image | Type::Registry => OutputKind::Image(self.store(kind == Type::Registry)?),
        };
        let epoch = match self.text("source-date-epoch") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                Error::invalid(format!("`source-date-epoch` is seconds since 1970, not `{text}`"))
            })?),
        };
        Ok(Output { kind: output, image: self.image()?, files, epoch })
    }

    fn store(&self, is_registry: bool) -> Result<StoreOptions> {
        Ok(StoreOptions {
            push: self.switch("push")?.unwrap_or(is_registry),
            by_digest: self.is_on("push-by-digest")?,
            canonical: self.is_on("name-canonical")?,
            insecure: self.is_on("registry.insecure")?,
            unpack: self.is_on("unpack")?,
            nameless: self.text("dangling-name-prefix").map(Reference::parse).transpose()?,
            push_only: self.switch("store")? == Some(false),
        })
    }

    fn image(mut self) -> Result<ImageOptions> {
        let mut image = std::mem::take(&mut self.image);
        for name in self.text("name").unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
            image.names.push(Reference::parse(name)?);
        }
        image.compression = match self.text("compression") {
            None | Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            Some("uncompressed") => Compression::None,
            Some("estargz") => {
                image.estargz = true;
                Compression::Gzip
            }
            Some("nydus") => return Err(not_yet("compression=nydus")),
            Some(other) => {
                return Err(Error::invalid(format!(
                    "`compression` is gzip, estargz, zstd or uncompressed, not `{other}`"
                )));
            }
        };
        if let Some(level) = self.text("compression-level") {
            let level = level.parse().map_err(|_| Error::invalid(format!("`{level}` is not a level")))?;
            image.level = Some(level);
            let options = CompressOptions { level: image.level, ..CompressOptions::new(image.compression) };
            LayerCompressor::new(std::io::sink(), options)?;
        }
        image.force_compression = self.is_on("force-compression")?;
        image.docker_types = self.switch("oci-mediatypes")? == Some(false);
        image.keep_times = self.switch("rewrite-timestamp")? == Some(false);
        Ok(image)
    }
}

fn not_yet(what: &str) -> Error {
    Error::unsupported(format!("{what} is not supported yet"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::build::AnnotatedPart;
    use crate::platform::Platform;

    #[test]
    fn every_form_is_parsed() {
        let file = |name: &str| Destination::File(name.into());
        let stdout = || Destination::Stdout(STDOUT.into());
        let local = |folder: &str| OutputKind::Local(folder.into());
        let store = |change: fn(&mut StoreOptions)| {
            let mut options = StoreOptions::default();
            change(&mut options);
            OutputKind::Image(options)
        };
        for (value, expected) in [
            ("out", local("out")),
            ("-", OutputKind::Tar(stdout())),
            ("type=oci,dest=a.tar", OutputKind::Oci(file("a.tar"))),
            ("type=oci,dest=a,tar=false", OutputKind::Oci(Destination::Folder("a".into()))),
            ("type=oci,dest=a,tar=0", OutputKind::Oci(Destination::Folder("a".into()))),
            ("type=docker,dest=a,TAR=F", OutputKind::Docker(Destination::Folder("a".into()))),
            ("type=oci,dest=-", OutputKind::Oci(stdout())),
            ("type=oci", OutputKind::Oci(stdout())),
            ("type=tar", OutputKind::Tar(stdout())),
            ("type=docker,dest=", OutputKind::Docker(stdout())),
            ("type=docker,\"dest=a,b.tar\"", OutputKind::Docker(file("a,b.tar"))),
            ("type=tar,dest=a.tar,platform-split=false", OutputKind::Tar(file("a.tar"))),
            ("dest=out,type=local,mode=copy", local("out")),
            ("type=image,store=false", store(|o| o.push_only = true)),
            ("type=image", store(|_| {})),
            ("type=image,push=true", store(|o| o.push = true)),
            ("type=registry", store(|o| o.push = true)),
            ("type=registry,push=false", store(|_| {})),
            (
                "type=image,push-by-digest=true,name-canonical=true,push=true,registry.insecure=1,unpack=true",
                store(|o| {
                    (o.push, o.by_digest, o.canonical) = (true, true, true);
                    (o.insecure, o.unpack) = (true, true);
                }),
            ),
            ("type=image,store=true,rewrite-timestamp=true,attestation-inline=false", store(|_| {})),
            ("type=cacheonly", OutputKind::CacheOnly),
        ] {
            assert_eq!(Output::parse(value).unwrap().kind, expected, "{value}");
        }
    }

    #[test]
    fn files_take_options() {
        for (value, split, delete) in [
            ("out", None, false),
            ("type=local,dest=out,platform-split=true", Some(true), false),
            ("type=tar,platform-split=1", Some(true), false),
            ("type=tar,platform-split=false", Some(false), false),
            ("type=local,dest=out,mode=delete", None, true),
            ("type=local,dest=out,mode=Delete,platform-split", Some(true), true),
            ("type=local,dest=out,mode=", None, false),
        ] {
            let value = value.replace("split,", "split=,");
            let value = value.strip_suffix("split").map_or(value.clone(), |start| format!("{start}split="));
            assert_eq!(Output::parse(&value).unwrap().files, FileOptions { split, delete }, "{value}");
        }
    }

    #[test]
    fn images_take_options() {
        let text = "type=oci,dest=a,compression=zstd,compression-level=9,force-compression=true,name=b:1,source-date-epoch=7,annotation.Org.X=1,annotation-manifest.y=2,annotation-manifest-descriptor.z=3";
        let Output { image, epoch, .. } = Output::parse(text).unwrap();
        assert_eq!((image.compression, image.level, epoch), (Compression::Zstd, Some(9), Some(7)));
        assert!(image.force_compression && !image.docker_types);
        assert_eq!(image.names[0].familiar(), "b:1");
        let of =
            |image: &ImageOptions, part| format!("{:?}", image.annotations.for_part(part, &Platform::host()));
        assert_eq!(of(&image, AnnotatedPart::Manifest), r#"{"Org.X": "1", "y": "2"}"#);
        assert_eq!(of(&image, AnnotatedPart::ManifestDescriptor), r#"{"z": "3"}"#);
        let text = "type=oci,annotation-index.a.b=1,annotation-index-descriptor.c=2,annotation-manifest[linux/amd64].d.e=3,annotation[windows(10.0.1)/amd64].f=4,annotation-manifest-descriptor[linux/arm64].g=5";
        let Output { image, .. } = Output::parse(text).unwrap();
        let on = |part, platform: &str| {
            format!("{:?}", image.annotations.for_part(part, &platform.parse().unwrap()))
        };
        assert_eq!(on(AnnotatedPart::Index, "linux/amd64"), r#"{"a.b": "1"}"#);
        assert_eq!(on(AnnotatedPart::IndexDescriptor, "linux/amd64"), r#"{"c": "2"}"#);
        assert_eq!(on(AnnotatedPart::Manifest, "linux/amd64"), r#"{"d.e": "3"}"#);
        assert_eq!(on(AnnotatedPart::Manifest, "windows/amd64"), r#"{"f": "4"}"#);
        assert_eq!(on(AnnotatedPart::ManifestDescriptor, "linux/arm64"), r#"{"g": "5"}"#);
        let kept = |text: &str| Output::parse(text).unwrap().image.keep_times;
        assert!(kept("type=oci,rewrite-timestamp=false") && !kept("type=oci,rewrite-timestamp=true"));
        assert!(!kept("type=oci"));
        let Output { image, .. } =
            Output::parse("type=oci,compression=estargz,compression-level=12").unwrap();
        assert_eq!((image.compression, image.estargz, image.level), (Compression::Gzip, true, Some(12)));
        let quoted = Output::parse("type=image,\"name=a:1,b:2\",oci-mediatypes=false").unwrap();
        assert_eq!((quoted.image.names.len(), quoted.image.docker_types), (2, true));
    }

    #[test]
    fn errors_name_the_wrong_field() {
        for (value, text) in [
            ("type=local,dest=", "needs dest=DIR"),
            ("type=oci,tar=false", "needs dest=DIR"),
            ("type=elephant", "`elephant` is not a type of output"),
            ("dest=a,b=c", "b=c` is not supported"),
            ("dest=a,name=b", "`type` is missing"),
            ("type=oci,dest=a,compression=lzma", "not `lzma`"),
            ("type=image,compression-level=13", "1 to 12 for gzip"),
            ("type=image,compression=zstd,compression-level=20", "1 to 19 for zstd"),
            ("type=image,compression-level=x", "not a level"),
            ("type=image,push=maybe", "true or false"),
            ("type=image,source-date-epoch=context", "not `context`"),
            ("type=image,name=UPPER", "UPPER"),
            ("type=image,annotation.=b", "has no name of an annotation"),
            ("type=image,annotation-layer.a=b", "`annotation-layer.a`: `layer` is not a place"),
            ("type=image,annotation-.a=b", "`annotation-.a`: `-` is not a place"),
            ("type=image,annotation[x!].a=b", "`annotation[x!].a`: `x!` is not a platform"),
            ("type=image,annotation-index[linux/amd64].a=b", "for all of them"),
            ("type=local,dest=a,mode=move", "copy or delete, not `move`"),
            ("type=oci,rewrite-timestamp=maybe", "true or false"),
            ("type=image,\"dest=a", "not closed"),
            ("", "empty"),
        ] {
            let error = Output::parse(value).unwrap_err();
            assert!(error.to_string().contains(text), "{value}: {error}");
            assert_ne!(error.kind(), ErrorKind::Unsupported, "{value}");
        }
        for (value, text) in [
            ("type=oci,dest=a,push=true", "`push` has no meaning for type=oci"),
            ("type=local,dest=a,name=b", "`name` has no meaning for type=local"),
            ("type=tar,dest=a,compression=gzip", "`compression` has no meaning"),
            ("type=tar,dest=a,annotation.a=b", "`annotation` has no meaning"),
            ("type=image,platform-split=true", "`platform-split` has no meaning"),
            ("type=cacheonly,source-date-epoch=1", "`source-date-epoch` has no meaning"),
            ("type=oci,dest=a,compression=nydus", "compression=nydus is not supported yet"),
            ("type=oci,store=false", "`store` has no meaning for type=oci"),
            (
                "type=local,dest=a,rewrite-timestamp=false",
                "`rewrite-timestamp` has no meaning for type=local",
            ),
            ("type=tar,mode=delete", "`mode` has no meaning for type=tar"),
            ("type=image,attestation-inline=true", "`attestation-inline=true` is not supported yet"),
            ("type=docker,context=other", "`context=other` is not supported yet"),
        ] {
            let error = Output::parse(value).unwrap_err();
            assert!(error.to_string().contains(text), "{value}: {error}");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{value}");
        }
    }
}
