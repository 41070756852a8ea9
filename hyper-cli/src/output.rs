//! `--output`: what a build leaves behind, in the syntax of `docker buildx build`.
//!
//! ```text
//!   type=image[,name=REF][,push=true]     the local store          type=registry = image,push=true
//!   type=oci,dest=FILE[,tar=false]        an OCI layout            type=docker,dest=FILE
//!   type=tar,dest=FILE   type=local,dest=DIR   type=cacheonly      DIR = local, - = tar on standard output
//! ```
//! Further fields of all that hold an image: `compression=`, `compression-level=`, `oci-mediatypes=true`.

use crate::failure::Failure;
use crate::values::{fields, key_value, unsupported};
use hyper_sdk::Reference;
use hyper_sdk::build::{Destination, Output};
use hyper_sdk::layer::{CompressOptions, LayerCompressor};
use hyper_sdk::media_type::Compression;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Fields that other tools know.
const UNSUPPORTED: [&str; 9] = [
    "attestation-manifest",
    "buildinfo",
    "dangling-name-prefix",
    "force-compression",
    "name-canonical",
    "platform-split",
    "registry.insecure",
    "rewrite-timestamp",
    "unpack",
];

/// The open file that standard output is.
const STDOUT: &str = "/dev/stdout";

/// One parsed `--output`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutputSpec {
    /// What to make.
    pub(crate) output: Output,
    /// More names of the image.
    pub(crate) names: Vec<Reference>,
    /// How its layers are to be compressed, when it says so.
    pub(crate) compression: Option<Compression>,
    /// The level.
    pub(crate) level: Option<i32>,
}

impl OutputSpec {
    /// An output with nothing else said.
    pub(crate) fn plain(output: Output) -> Self {
        Self { output, names: Vec::new(), compression: None, level: None }
    }

    /// Whether it writes to standard output.
    pub(crate) fn uses_stdout(&self) -> bool {
        let (Output::Oci(d) | Output::Docker(d) | Output::Tar(d)) = &self.output else { return false };
        matches!(d, Destination::Stdout(_))
    }

    /// Says why the destination cannot be written, before there is something to write.
    /// `made` are the folders that other outputs make.
    pub(crate) fn check_place(&self, made: &[PathBuf]) -> Result<(), String> {
        match &self.output {
            Output::Oci(to) | Output::Docker(to) | Output::Tar(to) => match to {
                Destination::File(path) => check_replaced_file(path, made),
                Destination::Folder(path) => check_folder(path),
                Destination::Stdout(_) => Ok(()),
            },
            Output::Local(path) => check_folder(path),
            Output::Image { .. } | Output::CacheOnly => Ok(()),
        }
    }

    /// The folder that it makes.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.output {
            Output::Local(path)
            | Output::Oci(Destination::Folder(path))
            | Output::Docker(Destination::Folder(path))
            | Output::Tar(Destination::Folder(path)) => Some(path),
            _ => None,
        }
    }

    /// Parses the value of one `--output`.
    pub(crate) fn parse(value: &str) -> Result<Self, Failure> {
        let usage = |why: String| Failure::usage(format!("--output `{value}`: {why}"));
        let fields = fields(value).map_err(usage)?;
        if let [only] = fields.as_slice()
            && !only.starts_with("type=")
        {
            return match only.as_str() {
                "" => Err(usage("it is empty".into())),
                "-" => Ok(Self::plain(Output::Tar(Destination::Stdout(STDOUT.into())))),
                folder => Ok(Self::plain(Output::Local(folder.into()))),
            };
        }
        let mut given = Given::default();
        for field in &fields {
            let (key, Some(text)) = key_value(field) else {
                return Err(usage(format!("`{field}` is not KEY=VALUE")));
            };
            given.take(key, text).map_err(|why| match why {
                Refusal::Usage(why) => usage(why),
                Refusal::Unsupported(what) => unsupported(format!("--output: {what} is not supported yet")),
            })?;
        }
        given.finish().map_err(usage)
    }
}

/// Says why a file cannot be written that is replaced when it is there.
fn check_replaced_file(path: &Path, made: &[PathBuf]) -> Result<(), String> {
    // Open files are under these, too, and they are written as they stand.
    let is_open = ["/dev", "/proc"].iter().any(|place| path.starts_with(place));
    match path.canonicalize() {
        Ok(found) if found.is_file() && !is_open => {
            check_access(found.parent().unwrap_or(Path::new("/")), Access::WRITE_OK | Access::EXEC_OK)
        }
        _ => check_file(path, made),
    }
}

/// Says why a file cannot be written, as it stands or as a new one.
pub(crate) fn check_file(path: &Path, made: &[PathBuf]) -> Result<(), String> {
    let is_named_as_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if is_named_as_folder || path.is_dir() {
        return Err(format!("{} is a folder: name a file", path.display()));
    }
    if path.exists() {
        return check_access(path, Access::WRITE_OK);
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        check_access(folder, Access::WRITE_OK | Access::EXEC_OK)
    } else if made.iter().any(|made| folder == made) {
        Ok(())
    } else {
        Err(format!("there is no folder {}", folder.display()))
    }
}

/// Says why files cannot be written into a folder, which is made with those it is in where they are missing.
fn check_folder(path: &Path) -> Result<(), String> {
    let there = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_ok());
    let there = there.unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(format!("{} is no folder", there.display()));
    }
    // The owner of the folder lets himself in where its mode does not: an image before this one may have set it.
    let access = Access::WRITE_OK | Access::EXEC_OK;
    match accessat(CWD, there, access, AtFlags::EACCESS) {
        Err(Errno::ACCESS) if there == path && is_own(there) => Ok(()),
        _ => check_access(there, access),
    }
}

fn is_own(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw())
}

fn check_access(path: &Path, access: Access) -> Result<(), String> {
    accessat(CWD, path, access, AtFlags::EACCESS)
        .map_err(|e| format!("{} cannot be written to: {}", path.display(), std::io::Error::from(e)))
}

enum Refusal {
    Usage(String),
    Unsupported(String),
}

#[derive(Default)]
struct Given {
    kind: Option<String>,
    destination: Option<String>,
    tar: Option<bool>,
    push: Option<bool>,
    names: Vec<Reference>,
    compression: Option<Compression>,
    level: Option<i32>,
}

impl Given {
    fn take(&mut self, key: &str, text: &str) -> Result<(), Refusal> {
        let flag = || match text {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Refusal::Usage(format!("`{key}` is true or false, not `{text}`"))),
        };
        match key {
            "type" => self.kind = Some(text.to_owned()),
            "dest" => self.destination = Some(text.to_owned()),
            "tar" => self.tar = Some(flag()?),
            "push" => self.push = Some(flag()?),
            "name" => {
                for name in text.split(',').filter(|n| !n.is_empty()) {
                    let name = Reference::parse(name).map_err(|e| Refusal::Usage(e.to_string()))?;
                    self.names.push(name);
                }
            }
            "compression" => {
                self.compression = Some(match text {
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "uncompressed" => Compression::None,
                    "estargz" => return Err(Refusal::Unsupported("compression=estargz".into())),
                    _ => {
                        return Err(Refusal::Usage(format!(
                            "compression is gzip, zstd or uncompressed, not `{text}`"
                        )));
                    }
                });
            }
            "compression-level" => {
                let level = text.parse().map_err(|_| Refusal::Usage(format!("`{text}` is not a level")))?;
                self.level = Some(level);
            }
            // What we do anyway; the opposite is not offered.
            "oci-mediatypes" | "store" if flag()? => {}
            "oci-mediatypes" | "store" => return Err(Refusal::Unsupported(format!("`{key}={text}`"))),
            _ if UNSUPPORTED.contains(&key) || key.starts_with("annotation") => {
                return Err(Refusal::Unsupported(format!("`{key}={text}`")));
            }
            _ => {
                return Err(Refusal::Usage(format!(
                    "`{key}={text}` is not supported: known are type, dest, tar, push, name, compression and compression-level"
                )));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<OutputSpec, String> {
        let kind = self.kind.ok_or("`type` is missing: image, oci, docker, tar, local or cacheonly")?;
        let image = matches!(kind.as_str(), "image" | "registry");
        let of_image = image || matches!(kind.as_str(), "oci" | "docker");
        let misplaced = [
            ("dest", self.destination.is_some(), !image && kind != "cacheonly"),
            ("tar", self.tar.is_some(), kind == "oci"),
            ("push", self.push.is_some(), kind == "image"),
            ("name", !self.names.is_empty(), of_image),
            ("compression", self.compression.is_some(), of_image),
            ("compression-level", self.level.is_some(), of_image),
        ];
        if let Some((key, ..)) = misplaced.iter().find(|(_, given, fits)| *given && !fits) {
            return Err(format!("`{key}` has no meaning for type={kind}"));
        }
        if self.level.is_some() {
            let mut options = CompressOptions::new(self.compression.unwrap_or_default());
            options.level = self.level;
            LayerCompressor::new(std::io::sink(), options).map_err(|e| e.to_string())?;
        }
        let destination = |what: &str| {
            self.destination.clone().filter(|d| !d.is_empty()).ok_or(format!("type={kind} needs dest={what}"))
        };
        let file = || {
            destination("FILE").map(|d| match d.as_str() {
                "-" | STDOUT => Destination::Stdout(STDOUT.into()),
                _ => Destination::File(PathBuf::from(d)),
            })
        };
        let output = match kind.as_str() {
            "image" => Output::Image { push: self.push == Some(true) },
            "registry" => Output::Image { push: true },
            "oci" if self.tar == Some(false) => Output::Oci(Destination::Folder(destination("DIR")?.into())),
            "oci" => Output::Oci(file()?),
            "docker" => Output::Docker(file()?),
            "tar" => Output::Tar(file()?),
            "local" => Output::Local(destination("DIR")?.into()),
            "cacheonly" => Output::CacheOnly,
            _ => {
                return Err(format!(
                    "`{kind}` is no type: image, registry, oci, docker, tar, local or cacheonly"
                ));
            }
        };
        Ok(OutputSpec { output, names: self.names, compression: self.compression, level: self.level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(value: &str) -> Output {
        OutputSpec::parse(value).unwrap().output
    }

    fn refusal(value: &str) -> String {
        match OutputSpec::parse(value).unwrap_err() {
            Failure::Usage(message) => message,
            Failure::Work { error, .. } => error.to_string(),
            Failure::Interrupted(_) | Failure::Findings => String::new(),
        }
    }

    #[test]
    fn every_form() {
        let file = |name: &str| Destination::File(name.into());
        let stdout = || Destination::Stdout(STDOUT.into());
        for (value, expected) in [
            ("out", Output::Local("out".into())),
            ("-", Output::Tar(stdout())),
            ("type=oci,dest=a.tar", Output::Oci(file("a.tar"))),
            ("type=oci,dest=a,tar=false", Output::Oci(Destination::Folder("a".into()))),
            ("type=oci,dest=-", Output::Oci(stdout())),
            ("type=docker,\"dest=a,b.tar\"", Output::Docker(file("a,b.tar"))),
            ("type=tar,dest=a.tar", Output::Tar(file("a.tar"))),
            ("dest=out,type=local", Output::Local("out".into())),
            ("type=image", Output::Image { push: false }),
            ("type=image,push=true", Output::Image { push: true }),
            ("type=registry", Output::Image { push: true }),
            ("type=cacheonly", Output::CacheOnly),
        ] {
            assert_eq!(output(value), expected, "{value}");
        }
    }

    #[test]
    fn places_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let check = |kind: &str, path: &Path| {
            OutputSpec::parse(&format!("{kind}={}", path.display())).unwrap().check_place(&[])
        };
        for kind in ["type=oci,dest", "type=docker,dest", "type=tar,dest"] {
            assert_eq!(check(kind, &folder.path().join("new")), Ok(()));
            assert_eq!(check(kind, &file), Ok(()));
            assert!(check(kind, folder.path()).unwrap_err().contains("is a folder: name a file"), "{kind}");
            assert!(check(kind, &folder.path().join("no/x")).unwrap_err().contains("there is no folder"));
            assert!(check(kind, &file.join("x")).unwrap_err().contains("there is no folder"));
        }
        for kind in ["type=local,dest", "type=oci,tar=false,dest"] {
            assert_eq!(check(kind, folder.path()), Ok(()));
            assert_eq!(check(kind, &folder.path().join("a/b")), Ok(()));
            assert!(check(kind, &file).unwrap_err().contains("is no folder"), "{kind}");
            assert!(check(kind, &file.join("x")).unwrap_err().contains("is no folder"), "{kind}");
        }
        assert_eq!(check("type=tar,dest", Path::new("/dev/null")), Ok(()));
        assert!(check("type=tar,dest", &folder.path().join("new/")).unwrap_err().contains("is a folder"));
        let made = [folder.path().join("made")];
        assert_eq!(check_file(&made[0].join("x"), &made), Ok(()));
        assert!(check_file(&folder.path().join("other/x"), &made).is_err());
        assert_eq!(check("type=local,dest", Path::new("relative/folder")), Ok(()));
    }

    #[test]
    fn compression_is_read() {
        let spec = OutputSpec::parse("type=oci,dest=a,compression=zstd,compression-level=9").unwrap();
        assert_eq!((spec.compression, spec.level), (Some(Compression::Zstd), Some(9)));
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        for (value, text) in [
            ("type=oci", "needs dest=FILE"),
            ("type=local,dest=", "needs dest=DIR"),
            ("type=elephant", "`elephant` is no type"),
            ("dest=a,b=c", "b=c` is not supported"),
            ("type=oci,dest=a,push=true", "`push` has no meaning for type=oci"),
            ("type=tar,dest=a,compression=gzip", "`compression` has no meaning"),
            ("type=oci,dest=a,compression=estargz", "estargz is not supported yet"),
            ("type=oci,dest=a,force-compression=true", "`force-compression=true` is not supported yet"),
            ("type=oci,dest=a,oci-mediatypes=false", "`oci-mediatypes=false` is not supported yet"),
            ("type=image,compression-level=13", "1 to 12 for gzip"),
            ("type=image,compression=zstd,compression-level=20", "1 to 19 for zstd"),
            ("type=image,push=maybe", "true or false"),
            ("type=image,name=UPPER", "UPPER"),
            ("", "empty"),
        ] {
            let message = refusal(value);
            assert!(message.contains(text), "{value}: {message}");
        }
    }
}
