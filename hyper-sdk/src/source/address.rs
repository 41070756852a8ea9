//! Build contexts by their addresses: parses the texts of callers.

use crate::dockerfile::GitReference;
use crate::reference::Reference;
use crate::{Digest, Error, Result};
use std::path::{Path, PathBuf};

/// The source of COPY and ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildContext {
    /// No context: a COPY from the context fails.
    Empty,
    /// A folder of this machine.
    Folder(PathBuf),
    /// The files of a git repository.
    Git(Box<GitReference>),
    /// A tar archive on the web, plain or compressed; or a Dockerfile on the web, which is built without files.
    Web(String),
}

impl BuildContext {
    /// Parses the name of a context: a git repository, a web address, or else a folder.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a git address with options that are not well formed, [`ErrorKind::Unsupported`] for
    /// another scheme.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_or(text, "a folder, a git repository or a web address")
    }

    /// Parses the name of a context. `kinds` names the kinds that the caller can parse, for the error.
    fn parse_or(text: &str, kinds: &str) -> Result<Self> {
        if Path::new(text).is_dir() {
            return Ok(Self::Folder(text.into()));
        }
        if let Some(git) = GitReference::parse_context(text)? {
            return Ok(Self::Git(Box::new(git)));
        }
        match text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).as_deref() {
            Some("http" | "https") => Ok(Self::Web(text.to_owned())),
            Some(scheme) => Err(Error::unsupported(format!(
                "build contexts of the kind `{scheme}://` are not supported: use {kinds}"
            ))),
            None => Ok(Self::Folder(text.into())),
        }
    }
}

/// A named context: the meaning of a name in FROM, COPY `--from` or a mount's `from` instead of an image or stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A folder of this machine.
    Folder(PathBuf),
    /// An OCI image layout: the folder, and the tag or digest within it.
    OciLayout {
        /// The folder with `index.json`.
        path: PathBuf,
        /// The `org.opencontainers.image.ref.name`; the only image of the layout when there is neither tag nor digest.
        tag: Option<String>,
        /// The digest of a manifest or index.
        digest: Option<Digest>,
    },
    /// An image by reference.
    Image(Reference),
    /// Nothing, as in `FROM scratch`.
    Scratch,
    /// The files of a git repository.
    Git(Box<GitReference>),
    /// A tar archive on the web, plain or compressed.
    Web(String),
    /// Another stage of the same Dockerfile, by name or number.
    Stage(String),
    /// A name of a source that was registered with the builder under this scheme.
    Other {
        /// The scheme of the source.
        scheme: String,
        /// The name, which only the source interprets.
        name: String,
    },
}

impl NamedContext {
    /// Like [`NamedContext::parse`], but also accepts `schemes`, the schemes of the sources that are registered with
    /// the builder.
    ///
    /// # Errors
    /// Those of [`NamedContext::parse`].
    pub fn parse_with<'a>(value: &str, schemes: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let schemes: Vec<&str> = schemes.into_iter().collect();
        match value.split_once("://") {
            Some((scheme, name)) if schemes.contains(&scheme) => {
                Ok(Self::Other { scheme: scheme.to_owned(), name: name.to_owned() })
            }
            _ => Self::parse_or(value, &schemes),
        }
    }

    /// Parses the value of `--build-context NAME=VALUE`: a folder, `docker-image://REFERENCE`, also of `scratch`,
    /// `oci-layout://FOLDER[:TAG][@DIGEST]`, `target:STAGE`, the address of a git repository or of a tar archive.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a scheme that is not implemented, [`ErrorKind::Invalid`] for a bad value.
    pub fn parse(value: &str) -> Result<Self> {
        Self::parse_or(value, &[])
    }

    /// Parses a value. `schemes` are those of the caller, for the error.
    fn parse_or(value: &str, schemes: &[&str]) -> Result<Self> {
        if value == "docker-image://scratch" {
            return Ok(Self::Scratch);
        }
        if let Some(reference) = value.strip_prefix("docker-image://") {
            return Ok(Self::Image(Reference::parse(reference)?));
        }
        if let Some(rest) = value.strip_prefix("oci-layout://") {
            let (rest, digest) = match rest.rsplit_once('@') {
                Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
                None => (rest, None),
            };
            let (path, tag) = match rest.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
                _ => (rest, None),
            };
            if path.is_empty() {
                return Err(Error::invalid(
                    "`oci-layout://` needs a folder: oci-layout://FOLDER[:TAG][@DIGEST]",
                ));
            }
            return Ok(Self::OciLayout { path: path.into(), tag, digest });
        }
        if let Some(stage) = value.strip_prefix("target:") {
            if stage.is_empty() {
                return Err(Error::invalid("`target:` needs a stage: target:STAGE"));
            }
            return Ok(Self::Stage(stage.to_owned()));
        }
        let own: String = schemes.iter().map(|scheme| format!(", `{scheme}://`")).collect();
        let kinds = format!(
            "a folder, a git repository, a web address{own}, `docker-image://`, `oci-layout://` or `target:`"
        );
        Ok(match BuildContext::parse_or(value, &kinds)? {
            BuildContext::Git(git) => Self::Git(git),
            BuildContext::Web(url) => Self::Web(url),
            BuildContext::Folder(_) | BuildContext::Empty => Self::Folder(value.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn named_contexts() {
        assert_eq!(
            NamedContext::parse("oci-layout:///a/b:latest").unwrap(),
            NamedContext::OciLayout { path: "/a/b".into(), tag: Some("latest".into()), digest: None }
        );
        assert!(matches!(NamedContext::parse("docker-image://busybox").unwrap(), NamedContext::Image(_)));
        assert_eq!(NamedContext::parse("docker-image://scratch").unwrap(), NamedContext::Scratch);
        assert!(matches!(NamedContext::parse("docker-image://scratch:1").unwrap(), NamedContext::Image(_)));
        assert_eq!(NamedContext::parse("../x").unwrap(), NamedContext::Folder("../x".into()));
        assert!(matches!(NamedContext::parse("https://x/y.git#v1").unwrap(), NamedContext::Git(_)));
        assert!(matches!(NamedContext::parse("https://x/y.tar.gz").unwrap(), NamedContext::Web(_)));
        assert_eq!(NamedContext::parse("target:a").unwrap(), NamedContext::Stage("a".into()));
        assert_eq!(NamedContext::parse("ftp://x/y").unwrap_err().kind(), ErrorKind::Unsupported);
        let told = NamedContext::parse_with("oci-archive://x.tar", ["own"]).unwrap_err().to_string();
        for kind in ["`oci-archive://`", "`own://`", "`docker-image://`", "`oci-layout://`", "`target:`"] {
            assert!(told.contains(kind), "{told}");
        }
        let told = BuildContext::parse("oci-layout://x").unwrap_err().to_string();
        assert!(!told.contains("docker-image"), "{told}");
        let other = NamedContext::Other { scheme: "ftp".into(), name: "x/y".into() };
        assert_eq!(NamedContext::parse_with("ftp://x/y", ["ftp"]).unwrap(), other);
        assert!(matches!(
            NamedContext::parse_with("https://x/y.tar", ["ftp"]).unwrap(),
            NamedContext::Web(_)
        ));
    }
}
