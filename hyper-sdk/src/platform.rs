//! Operating system, architecture and variant.
//!
//! The text form is `OS/ARCH[/VARIANT]`, normalised as containerd does: `x86_64` is `amd64`, `aarch64` is `arm64`,
//! `arm` alone is `arm/v7`, `arm64/v8` is `arm64`.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A platform that an image runs on (image-spec, image-index.md, `platform`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// The architecture by its Go name, such as `amd64`; empty when it is not known.
    #[serde(default)]
    pub architecture: String,
    /// The operating system by its Go name, such as `linux`; empty when it is not known.
    #[serde(default)]
    pub os: String,
    /// The version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "crate::oci::nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// The variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The systems that can be named without an architecture.
const SYSTEMS: [&str; 7] = ["darwin", "freebsd", "linux", "netbsd", "openbsd", "solaris", "windows"];
/// The architectures that can be named without a system.
const ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "sparc64", "wasm",
];

impl Platform {
    /// The platform of the machine that this program was built for.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// A normalised platform of operating system, architecture and variant.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant.filter(|v| !v.is_empty()).map(str::to_ascii_lowercase);
        let (architecture, variant) = match (architecture.to_ascii_lowercase().as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64".to_owned(), None),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64".to_owned(), v.map(str::to_owned)),
            ("i386" | "i686" | "x86" | "386", _) => ("386".to_owned(), None),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64".to_owned(), None),
            ("aarch64" | "arm64", v) => ("arm64".to_owned(), v.map(str::to_owned)),
            ("armhf", _) => ("arm".to_owned(), Some("v7".to_owned())),
            ("armel", _) => ("arm".to_owned(), Some("v6".to_owned())),
            ("arm", None) => ("arm".to_owned(), Some("v7".to_owned())),
            ("arm", Some(v @ ("5" | "6" | "7" | "8"))) => ("arm".to_owned(), Some(format!("v{v}"))),
            ("powerpc64", None) if cfg!(target_endian = "little") => ("ppc64le".to_owned(), None),
            (a, v) => (a.to_owned(), v.map(str::to_owned)),
        };
        Self { architecture, os, os_version: None, os_features: Vec::new(), variant }
    }

    /// Whether an image for `offered` runs where `self` is wanted: same system, architecture and variant.
    pub fn matches(&self, offered: &Platform) -> bool {
        let offered = Self::new(&offered.os, &offered.architecture, offered.variant.as_deref());
        let wanted = Self::new(&self.os, &self.architecture, self.variant.as_deref());
        wanted.os == offered.os
            && wanted.architecture == offered.architecture
            && wanted.variant == offered.variant
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Parses `OS/ARCH[/VARIANT]`; a known architecture alone means the system of the host, and a known system alone the
    /// architecture of the host.
    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "`{s}` is not a platform: expected OS/ARCH[/VARIANT], such as linux/amd64"
            ))
        };
        if s.is_empty() || !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) {
            return Err(bad());
        }
        let parts: Vec<&str> = s.split('/').collect();
        if parts.iter().any(|p| p.is_empty()) {
            return Err(bad());
        }
        match parts.as_slice() {
            [one] => {
                let of_arch = Self::new(std::env::consts::OS, one, None);
                let of_system = Self::new(one, std::env::consts::ARCH, None);
                if ARCHITECTURES.contains(&of_arch.architecture.as_str()) {
                    Ok(of_arch)
                } else if SYSTEMS.contains(&of_system.os.as_str()) {
                    Ok(of_system)
                } else {
                    Err(bad())
                }
            }
            [os, arch] => Ok(Self::new(os, arch, None)),
            [os, arch, variant] => Ok(Self::new(os, arch, Some(variant))),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
        let host = Platform::host();
        assert_eq!("linux".parse::<Platform>().unwrap(), Platform { os: "linux".to_owned(), ..host.clone() });
        assert_eq!("aarch64".parse::<Platform>().unwrap(), Platform::new(&host.os, "arm64", None));
        for text in ["", "foo", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
