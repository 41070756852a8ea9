//! Operating system, architecture and variant.
//!
//! The text form is `OS[(VERSION)]/ARCH[/VARIANT]`, normalised as containerd does: `x86_64` is `amd64`, `aarch64` is
//! `arm64`, `arm` alone is `arm/v7`, `arm64/v8` is `arm64`. The version is that of the operating system, as in
//! `windows(10.0.20348.1006)/amd64`.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A platform that an image runs on (image-spec, image-index.md, `platform`).
///
/// ```
/// use hyper_sdk::platform::Platform;
///
/// let platform: Platform = "linux/aarch64".parse()?;
/// assert_eq!(platform, Platform::new("linux", "arm64", Some("v8")));
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// The architecture by its Go name, such as `amd64`; empty when it is not known.
    #[serde(default, deserialize_with = "crate::oci::nullable")]
    pub architecture: String,
    /// The operating system by its Go name, such as `linux`; empty when it is not known.
    #[serde(default, deserialize_with = "crate::oci::nullable")]
    pub os: String,
    /// The version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "crate::oci::text_list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// The variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The known systems, by their Go names. A system can be written without an architecture.
pub(crate) const SYSTEMS: [&str; 19] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasi",
    "wasip1",
    "windows",
    "zos",
];
/// The known architectures, by their Go names. An architecture can be written without a system.
pub(crate) const ARCHITECTURES: [&str; 28] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
    "wasm32",
    "wasm64",
    "loongarch64",
    "unknown",
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

    /// Whether an image for `offered` runs on `self`: the same system, architecture and variant, and the same release
    /// of the system if both have one. The fourth number of a version is a patch, which may differ.
    pub fn matches(&self, offered: &Platform) -> bool {
        let offered_version = &offered.os_version;
        let offered = Self::new(&offered.os, &offered.architecture, offered.variant.as_deref());
        let wanted = Self::new(&self.os, &self.architecture, self.variant.as_deref());
        wanted.os == offered.os
            && wanted.architecture == offered.architecture
            && wanted.variant == offered.variant
            && match (&self.os_version, offered_version) {
                (Some(wanted), Some(offered)) => release(wanted).zip(release(offered)).all(|(a, b)| a == b),
                _ => true,
            }
    }

    /// The best match for this platform: the exact version of the system first, then its newest patch, then an entry
    /// without a version; the first of equal ones.
    pub fn choose<'a, T>(&self, offered: impl Iterator<Item = (&'a T, &'a Platform)>) -> Option<&'a T> {
        let mut best: Option<(&T, _)> = None;
        for (what, platform) in offered.filter(|(_, platform)| self.matches(platform)) {
            let rank = self.rank(platform);
            if best.as_ref().is_none_or(|(_, known)| rank > *known) {
                best = Some((what, rank));
            }
        }
        best.map(|(what, _)| what)
    }

    /// The rank of a matching platform; a greater rank is better.
    pub(crate) fn rank(&self, offered: &Platform) -> (bool, bool, u64) {
        let (Some(wanted), Some(version)) = (&self.os_version, &offered.os_version) else {
            return (false, false, 0);
        };
        (wanted == version, true, version.split('.').nth(3).and_then(|n| n.parse().ok()).unwrap_or(0))
    }
}

/// The numbers of a version that identify the release.
fn release(version: &str) -> impl Iterator<Item = &str> {
    version.split('.').take(3)
}

/// Whether the text of a platform can contain this version of a system.
fn is_version(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if let Some(version) = self.os_version.as_ref().filter(|version| is_version(version)) {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Parses `OS[(VERSION)]/ARCH[/VARIANT]`; a known architecture alone means the system of the host, and a known system alone the
    /// architecture of the host.
    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "`{s}` is not a platform: expected OS[(VERSION)]/ARCH[/VARIANT], such as linux/amd64"
            ))
        };
        let system = s.split('/').next().unwrap_or_default();
        if let Some((os, version)) = system.strip_suffix(')').and_then(|system| system.split_once('(')) {
            if os.is_empty() || !(version.is_empty() || is_version(version)) {
                return Err(bad());
            }
            let mut platform: Self =
                format!("{os}{}", &s[system.len()..]).parse().map_err(|_: Error| bad())?;
            // An architecture alone has no version.
            if Self::new(os, &platform.architecture, None).os != platform.os {
                return Err(bad());
            }
            platform.os_version = Some(version.to_owned()).filter(|version| !version.is_empty());
            return Ok(platform);
        }
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
        for text in [
            "",
            "foo",
            "linux/",
            "a/b/c/d",
            "linux/am d64",
            "windows(10/amd64",
            "windows(1)(2)/amd64",
            "(1)/amd64",
            "amd64(1)",
            "windows/amd64(1)",
            "windows(1 0)/amd64",
            "windows(1/2)/amd64",
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_system_can_have_a_version() {
        for (text, version, normal) in [
            ("windows(10.0.20348.1006)/amd64", Some("10.0.20348.1006"), "windows(10.0.20348.1006)/amd64"),
            ("Windows(10.0)/x86_64", Some("10.0"), "windows(10.0)/amd64"),
            ("windows()/amd64", None, "windows/amd64"),
            ("linux(5.4-lts)/arm/7", Some("5.4-lts"), "linux(5.4-lts)/arm/v7"),
        ] {
            let platform: Platform = text.parse().unwrap();
            assert_eq!((platform.os_version.as_deref(), platform.to_string()), (version, normal.to_owned()));
        }
        let alone: Platform = "windows(10.0)".parse().unwrap();
        assert_eq!((alone.os.as_str(), alone.os_version.as_deref()), ("windows", Some("10.0")));
    }

    #[test]
    fn the_version_of_the_system_chooses() {
        let offered: Vec<Platform> = [
            "linux/amd64",
            "windows/amd64",
            "windows(10.0.17763.99)/amd64",
            "windows(10.0.20348.5)/amd64",
            "windows(10.0.20348.1006)/amd64",
            "windows(10.0.20348.643)/amd64",
        ]
        .map(|text| text.parse().unwrap())
        .into();
        for (wanted, expected) in [
            ("windows/amd64", "windows/amd64"),
            ("windows(10.0.20348.643)/amd64", "windows(10.0.20348.643)/amd64"),
            ("windows(10.0.20348)/amd64", "windows(10.0.20348.1006)/amd64"),
            ("windows(10.0.20348.9999)/amd64", "windows(10.0.20348.1006)/amd64"),
            ("windows(10.0.17763.1)/amd64", "windows(10.0.17763.99)/amd64"),
            ("windows(10.0.1.1)/amd64", "windows/amd64"),
            ("linux(5)/amd64", "linux/amd64"),
        ] {
            let wanted: Platform = wanted.parse().unwrap();
            let found = wanted.choose(offered.iter().map(|p| (p, p))).unwrap();
            assert_eq!(found.to_string(), expected, "{wanted}");
        }
        let other: Platform = "windows(10.0.17763.1)/amd64".parse().unwrap();
        assert!(other.choose(offered[3..].iter().map(|p| (p, p))).is_none());
    }
}
