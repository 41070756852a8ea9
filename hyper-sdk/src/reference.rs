//! Registry hosts, repository names, tags and references.
//!
//! The grammar of names and tags is that of the distribution specification (spec.md, "Pulling manifests"). As usual, a
//! reference without a host means Docker Hub, and a name of one component there means `library/NAME`.

mod pattern;

pub use pattern::{RepositoryPattern, TextPattern};

use crate::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The host of a reference without a host.
pub const DEFAULT_HOST: &str = "docker.io";
/// The tag of a reference without a tag and a digest.
pub const DEFAULT_TAG: &str = "latest";

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(s: &str) -> Result<Self> {
                Self::parse(s)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = String::deserialize(d)?;
                Self::parse(&s).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The host of a registry, with its port when it has one: `docker.io`, `localhost:5000`, `[::1]:5000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// Parses a host name, an IPv4 or a bracketed IPv6 address, with an optional port.
    ///
    /// # Errors
    /// [`ErrorKind::NameInvalid`] when it is neither.
    pub fn parse(s: &str) -> Result<Self> {
        let bad = |why: &str| name_error(s, "registry host", why);
        let (host, port) = match s.strip_prefix('[') {
            Some(rest) => {
                let (address, after) =
                    rest.split_once(']').ok_or_else(|| bad("the bracket of the address is not closed"))?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| bad("not an IPv6 address"))?;
                (address, (!after.is_empty()).then(|| after.strip_prefix(':').unwrap_or("")))
            }
            None if s.parse::<std::net::Ipv6Addr>().is_ok() => {
                return Err(bad(&format!("an IPv6 address has brackets: `[{s}]`")));
            }
            None => match s.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (s, None),
            },
        };
        if let Some(port) = port
            && (port.parse::<u16>().is_err() || !port.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(bad("the port is not a number from 0 to 65535"));
        }
        if !s.starts_with('[') {
            let label = |l: &str| {
                !l.is_empty()
                    && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && !l.starts_with('-')
                    && !l.ends_with('-')
            };
            if !host.split('.').all(label) {
                return Err(bad("expected letters, digits, dots and inner hyphens"));
            }
        }
        Ok(Self(s.to_owned()))
    }

    /// Parses the address of a registry: a host, or the URL of its root (`https://HOST/`, `HOST/v2/`). The scheme is
    /// ignored: it is configured elsewhere. Other names of Docker Hub mean `docker.io`.
    ///
    /// # Errors
    /// Those of [`RegistryHost::parse`]; [`ErrorKind::NameInvalid`] for a URL with a path or a user.
    pub fn from_address(s: &str) -> Result<Self> {
        let bad = |why: &str| name_error(s, "registry host", why);
        let text = s.trim();
        let lower = text.to_ascii_lowercase();
        let scheme = ["https://", "http://"].into_iter().find(|scheme| lower.starts_with(scheme));
        let rest = &text[scheme.map_or(0, str::len)..];
        if let Some((scheme, _)) = rest.split_once("://") {
            return Err(bad(&format!("the scheme `{}` is not one of a registry", scheme.escape_debug())));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(path.trim_matches('/'), "" | "v1" | "v2") {
            return Err(bad("it has a path: credentials are kept for a whole registry"));
        }
        if host.contains('@') {
            return Err(name_error(
                "…",
                "registry host",
                "it has a user: give the name and the password apart",
            ));
        }
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" | "hub.docker.com" => DEFAULT_HOST,
            host => host,
        };
        Self::parse(host)
    }

    /// The host without its port, an IPv6 address without brackets.
    pub fn name(&self) -> &str {
        match self.0.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.0.split(':').next().unwrap_or_default(),
        }
    }

    /// Whether the host is this machine, for which plain HTTP is usual.
    pub fn is_loopback(&self) -> bool {
        let name = self.name();
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<std::net::IpAddr>().is_ok_and(|a| a.to_canonical().is_loopback())
    }
}

text_newtype!(RegistryHost);

/// The name of a repository within its registry: `library/busybox`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// The longest name that is accepted, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Parses a name of path components, each of lower-case letters and digits joined by `.`, `_`, `__` or hyphens.
    ///
    /// # Errors
    /// [`ErrorKind::NameInvalid`] with the reason.
    pub fn parse(s: &str) -> Result<Self> {
        let bad = |why: &str| name_error(s, "repository name", why);
        if s.is_empty() {
            return Err(bad("it is empty"));
        }
        if s.len() > Self::MAX_LEN {
            return Err(bad("it is longer than 255 characters"));
        }
        if let Some(c) =
            s.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(*c)))
        {
            return Err(bad(&if c.is_ascii_uppercase() {
                "it must be lower-case".to_owned()
            } else {
                format!("the character `{}` is not allowed", c.escape_debug())
            }));
        }
        for component in s.split('/') {
            check_component(component).map_err(bad)?;
        }
        Ok(Self(s.to_owned()))
    }
}

fn check_component(component: &str) -> Result<(), &'static str> {
    let bytes = component.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().copied().is_some_and(alphanumeric) || !bytes.last().copied().is_some_and(alphanumeric) {
        return Err("each part between slashes must start and end with a letter or digit");
    }
    let mut i = 0;
    while i < bytes.len() {
        let start = i;
        while i < bytes.len() && !alphanumeric(bytes[i]) {
            i += 1;
        }
        let separator = &bytes[start..i];
        let fits = separator.iter().all(|b| *b == b'-') || matches!(separator, b"." | b"_" | b"__");
        if !fits {
            return Err("the separators are one `.`, one or two `_`, or hyphens");
        }
        i += 1;
    }
    Ok(())
}

text_newtype!(RepositoryName);

/// A tag: one to 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// Parses a tag.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it does not fit the grammar.
    pub fn parse(s: &str) -> Result<Self> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fits = s.len() <= 128
            && s.bytes().next().is_some_and(word)
            && s.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if fits {
            return Ok(Self(s.to_owned()));
        }
        Err(name_error(
            s,
            "tag",
            "expected 1 to 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`",
        )
        .with_kind(ErrorKind::Invalid))
    }

    /// The tag `latest`.
    pub fn latest() -> Self {
        Self(DEFAULT_TAG.to_owned())
    }
}

text_newtype!(Tag);

fn name_error(s: &str, what: &str, why: &str) -> Error {
    let clipped: String = s.chars().take(300).flat_map(char::escape_debug).collect();
    Error::new(ErrorKind::NameInvalid, format!("`{clipped}` is not a {what}: {why}"))
}

/// A reference to a manifest within a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ManifestReference {
    /// A tag, which can be moved.
    Tag(Tag),
    /// A digest, which is immutable.
    Digest(Digest),
}

impl FromStr for ManifestReference {
    type Err = Error;

    /// Parses a text with a colon as a digest, any other text as a tag.
    fn from_str(s: &str) -> Result<Self> {
        Ok(if s.contains(':') { Self::Digest(Digest::parse(s)?) } else { Self::Tag(Tag::parse(s)?) })
    }
}

impl fmt::Display for ManifestReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl From<Tag> for ManifestReference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for ManifestReference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

/// The full name of an image: host, repository, and a tag, a digest or both.
///
/// ```
/// use hyper_sdk::Reference;
///
/// let name = Reference::parse("registry.example.com:5000/team/app:1")?;
/// assert_eq!(name.host().as_str(), "registry.example.com:5000");
/// assert_eq!((name.repository().as_str(), name.tag().unwrap().as_str()), ("team/app", "1"));
/// assert_eq!(Reference::parse("busybox")?.to_string(), "docker.io/library/busybox:latest");
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    host: RegistryHost,
    repository: RepositoryName,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl Reference {
    /// A reference from its parts; without a tag and a digest it means the tag `latest`.
    pub fn new(
        host: RegistryHost,
        repository: RepositoryName,
        tag: Option<Tag>,
        digest: Option<Digest>,
    ) -> Self {
        let tag = tag.or_else(|| digest.is_none().then(Tag::latest));
        Self { host, repository, tag, digest }
    }

    /// Parses `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.
    ///
    /// The first component is a host when it contains `.` or `:`, is `localhost`, or has an upper-case letter.
    ///
    /// # Errors
    /// [`ErrorKind::NameInvalid`], [`ErrorKind::Invalid`] or [`ErrorKind::DigestInvalid`], depending on the invalid
    /// part.
    pub fn parse(s: &str) -> Result<Self> {
        if let Some((scheme, name)) = s.split_once("://") {
            let fits = !name.is_empty() && Self::parse(name).is_ok();
            let hint = if fits { format!(": write `{name}`") } else { String::new() };
            return Err(name_error(
                s,
                "reference",
                &format!("a name of an image has no `{}://`{hint}", scheme.escape_debug()),
            ));
        }
        let (rest, digest) = match s.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (s, None),
        };
        let (rest, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') && !rest[at..].contains(']') => {
                (&rest[..at], Some(Tag::parse(&rest[at + 1..])?))
            }
            _ => (rest, None),
        };
        if rest.len() == 64 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(name_error(s, "reference", "64 hexadecimal digits are an id, not a name"));
        }
        let (host, name) = match rest.split_once('/') {
            Some((first, name))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, name)
            }
            _ => (DEFAULT_HOST, rest),
        };
        let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
        let host = RegistryHost::parse(host)?;
        let repository = if host.as_str() == DEFAULT_HOST && !name.contains('/') && !name.is_empty() {
            RepositoryName::parse(name).and_then(|_| RepositoryName::parse(&format!("library/{name}")))?
        } else {
            RepositoryName::parse(name)?
        };
        Ok(Self::new(host, repository, tag, digest))
    }

    /// The registry.
    pub fn host(&self) -> &RegistryHost {
        &self.host
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// The tag, when it has one.
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest, when it has one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The reference to the manifest: the digest if there is one, else the tag.
    pub fn manifest(&self) -> ManifestReference {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => ManifestReference::Digest(digest.clone()),
            (None, Some(tag)) => ManifestReference::Tag(tag.clone()),
            (None, None) => ManifestReference::Tag(Tag::latest()),
        }
    }

    /// The same repository at a digest, without the tag.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository at a tag, without a digest.
    #[must_use]
    pub fn at_tag(&self, tag: Tag) -> Self {
        Self { tag: Some(tag), digest: None, ..self.clone() }
    }

    /// The shortest text that parses back to this reference: no `docker.io/library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let same = |short: &&str| Self::parse(short).is_ok_and(|r| r == *self);
        let short = full
            .strip_prefix("docker.io/library/")
            .filter(same)
            .or_else(|| full.strip_prefix("docker.io/").filter(same));
        short.map_or_else(|| full.clone(), str::to_owned)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::parse(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn registry_addresses_are_parsed() {
        for (text, host) in [
            ("r.example", "r.example"),
            ("https://r.example:5000", "r.example:5000"),
            ("HTTP://r.example/", "r.example"),
            ("r.example/v2/", "r.example"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("http://[::1]:5000/", "[::1]:5000"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(RegistryHost::from_address(text).unwrap().as_str(), host, "{text}");
        }
        for (text, why) in [
            ("r.example/team", "has a path"),
            ("ftp://r.example", "scheme `ftp`"),
            ("https://joe:hunter2@r.example", "has a user"),
            ("::1", "brackets"),
            ("https://", "expected letters"),
        ] {
            let e = RegistryHost::from_address(text).unwrap_err().to_string();
            assert!(e.contains(why) && !e.contains("hunter2"), "{e}");
        }
        assert!(RegistryHost::parse("[::ffff:127.0.0.1]:5").unwrap().is_loopback());
    }

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_expand_and_shorten() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("a/b:c", "docker.io/a/b:c", "a/b:c"),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b:1", "localhost:5000/a/b:1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
            ("index.docker.io/x", "docker.io/library/x:latest", "x:latest"),
            ("docker.io/library/x.y/z", "docker.io/library/x.y/z:latest", "library/x.y/z:latest"),
        ] {
            let r = Reference::parse(text).unwrap();
            assert_eq!(r.to_string(), full);
            assert_eq!(r.familiar(), familiar);
        }
        let r = Reference::parse(&format!("x:1@{D}")).unwrap();
        assert_eq!((r.tag().unwrap().as_str(), r.digest().unwrap().as_str()), ("1", D));
        assert_eq!(Reference::parse(&format!("x@{D}")).unwrap().tag(), None);
    }

    #[test]
    fn malformed_references_are_rejected() {
        for text in [
            "",
            "Busybox",
            "a//b",
            "a:",
            "a:-x",
            "a@b",
            "-a",
            "a..b",
            "a___b",
            "a/../b",
            "h_st.io/a",
            "localhost:99999/a",
            "[::g]:1/a",
            "a b",
            "docker.io/",
            "x/é",
            "::1/a",
            "docker://busybox",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        for (text, hint) in [
            ("docker://r.example/a:1", "has no `docker://`: write `r.example/a:1`"),
            ("https://[::1]:5000/a", "has no `https://`: write `[::1]:5000/a`"),
            ("http://", "has no `http://`"),
            ("::1/a", "an IPv6 address has brackets: `[::1]`"),
        ] {
            let e = Reference::parse(text).unwrap_err().to_string();
            assert!(e.contains(hint), "{e}");
        }
        assert!(RepositoryName::parse(&"a".repeat(256)).is_err());
        assert!(Tag::parse(&"a".repeat(129)).is_err());
        assert!(RepositoryName::parse("a--b/c__d/e.f").is_ok());
    }

    proptest! {
        #[test]
        fn printed_references_parse_back(s in "([a-zA-Z0-9.:-]{1,8}/)?[a-z0-9._/-]{1,12}(:[a-z0-9.-]{1,5})?") {
            if let Ok(r) = Reference::parse(&s) {
                prop_assert_eq!(&Reference::parse(&r.to_string()).unwrap(), &r);
                prop_assert_eq!(&Reference::parse(&r.familiar()).unwrap(), &r);
            }
        }

        #[test]
        fn parsing_never_panics(s: String) {
            let _ = Reference::parse(&s);
        }
    }
}
