//! Annotations of the parts of an image, and the syntax that names a part.
//!
//! ```text
//!   manifest               the manifest; the default
//!   manifest-descriptor    the descriptor of the manifest in an index or a layout
//!   index                  the index over the manifest; the image gets one
//!   index-descriptor       the descriptor of that index in a layout
//!   manifest[PLATFORM]     the manifest of one platform; also manifest-descriptor[PLATFORM]
//! ```

use crate::oci::Annotations;
use crate::platform::Platform;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A part of an image that has annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotatedPart {
    /// The manifest.
    Manifest,
    /// The descriptor that names the manifest.
    ManifestDescriptor,
    /// The index over the manifest.
    Index,
    /// The descriptor that names the index.
    IndexDescriptor,
}

impl AnnotatedPart {
    const ALL: [(&'static str, Self); 4] = [
        ("manifest", Self::Manifest),
        ("manifest-descriptor", Self::ManifestDescriptor),
        ("index", Self::Index),
        ("index-descriptor", Self::IndexDescriptor),
    ];

    /// Whether only an image with an index has this part.
    fn is_of_index(self) -> bool {
        matches!(self, Self::Index | Self::IndexDescriptor)
    }
}

/// Where an annotation goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnotationPlace {
    /// The part of the image.
    pub part: AnnotatedPart,
    /// The platform of the image; all platforms without.
    pub platform: Option<Platform>,
}

impl FromStr for AnnotationPlace {
    type Err = Error;

    /// Parses `PART`, `PART[PLATFORM]` or `[PLATFORM]`, or nothing for the manifest.
    fn from_str(text: &str) -> Result<Self> {
        let known = AnnotatedPart::ALL.map(|(name, _)| name).join(", ");
        let (name, platform) = match text.split_once('[') {
            None => (text, None),
            Some((name, rest)) => {
                let platform = rest.strip_suffix(']').ok_or_else(|| {
                    Error::invalid(format!("`{text}` is not a place of an annotation: `]` is missing"))
                })?;
                (name, Some(platform.parse::<Platform>()?))
            }
        };
        let name = if name.is_empty() { "manifest" } else { name };
        let part = AnnotatedPart::ALL.iter().find(|(known, _)| *known == name).map(|(_, part)| *part);
        let part = part.ok_or_else(|| {
            Error::invalid(format!("`{name}` is not a place of an annotation: known are {known}"))
        })?;
        if part.is_of_index() && platform.is_some() {
            return Err(Error::invalid(format!(
                "`{text}` names a platform, and an index is for all of them: write `{name}`"
            )));
        }
        Ok(Self { part, platform })
    }
}

impl fmt::Display for AnnotationPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            AnnotatedPart::ALL.iter().find(|(_, part)| *part == self.part).map_or("", |(name, _)| name);
        match &self.platform {
            None => f.write_str(name),
            Some(platform) => write!(f, "{name}[{platform}]"),
        }
    }
}

/// Annotations with their places, in the order of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacedAnnotations(Vec<(AnnotationPlace, String, String)>);

impl From<BTreeMap<String, String>> for PlacedAnnotations {
    /// Annotations of the manifest.
    fn from(annotations: BTreeMap<String, String>) -> Self {
        let manifest = AnnotationPlace { part: AnnotatedPart::Manifest, platform: None };
        Self(annotations.into_iter().map(|(name, value)| (manifest.clone(), name, value)).collect())
    }
}

impl PlacedAnnotations {
    /// Adds an annotation. The last one of a name at a place counts.
    pub fn add(&mut self, place: AnnotationPlace, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((place, name.into(), value.into()));
    }

    /// Removes the annotations of all other parts.
    pub(super) fn keep(&mut self, part: AnnotatedPart) {
        self.0.retain(|(place, _, _)| place.part == part);
    }

    /// Adds all annotations of `others`.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether there are no annotations.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The annotations of a part of the image for a platform. Those that name the platform override those that do not.
    pub(crate) fn for_part(&self, part: AnnotatedPart, platform: &Platform) -> Annotations {
        let here = |place: &AnnotationPlace, own: bool| {
            place.part == part
                && place.platform.is_some() == own
                && place.platform.as_ref().is_none_or(|named| named.matches(platform))
        };
        let pick = |own| self.0.iter().filter(move |(place, _, _)| here(place, own));
        pick(false).chain(pick(true)).map(|(_, name, value)| (name.clone(), value.clone())).collect()
    }

    /// Whether an annotation is for an index, so that the image needs one.
    pub(crate) fn need_index(&self) -> bool {
        self.0.iter().any(|(place, _, _)| place.part.is_of_index())
    }

    /// The first place that names another platform than these.
    pub(crate) fn other_platform(&self, platforms: &[Platform]) -> Option<&AnnotationPlace> {
        let is_known = |named: &Platform| platforms.iter().any(|platform| named.matches(platform));
        let other = |place: &&AnnotationPlace| place.platform.as_ref().is_some_and(|named| !is_known(named));
        self.0.iter().map(|(place, _, _)| place).find(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed_and_shown() {
        for (text, shown) in [
            ("", "manifest"),
            ("[linux/arm64]", "manifest[linux/arm64]"),
            ("manifest-descriptor[linux/arm]", "manifest-descriptor[linux/arm/v7]"),
            ("index", "index"),
            ("index-descriptor", "index-descriptor"),
        ] {
            assert_eq!(text.parse::<AnnotationPlace>().unwrap().to_string(), shown, "{text}");
        }
        for (text, why) in [
            ("layer", "known are manifest, manifest-descriptor, index"),
            ("manifest[linux/amd64", "`]` is missing"),
            ("manifest[]", "not a platform"),
            ("index[linux/amd64]", "for all of them"),
        ] {
            let error = text.parse::<AnnotationPlace>().unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn annotations_of_a_platform_override_those_of_all() {
        let mut all = PlacedAnnotations::default();
        for (place, name, value) in [
            ("manifest[linux/amd64]", "a", "amd64"),
            ("manifest", "a", "any"),
            ("manifest", "b", "first"),
            ("manifest", "b", "last"),
            ("manifest[linux/arm64]", "c", "arm64"),
            ("manifest-descriptor", "d", "descriptor"),
        ] {
            all.add(place.parse().unwrap(), name, value);
        }
        let of = |platform: &str| {
            format!("{:?}", all.for_part(AnnotatedPart::Manifest, &platform.parse().unwrap()))
        };
        assert_eq!(of("linux/amd64"), r#"{"a": "amd64", "b": "last"}"#);
        assert_eq!(of("linux/arm64"), r#"{"a": "any", "b": "last", "c": "arm64"}"#);
        assert!(!all.need_index());
        let here: Vec<Platform> = vec!["linux/amd64".parse().unwrap()];
        assert!(all.other_platform(&[here[0].clone(), "linux/arm64".parse().unwrap()]).is_none());
        assert_eq!(all.other_platform(&here).unwrap().to_string(), "manifest[linux/arm64]");
        all.add("index".parse().unwrap(), "e", "");
        assert!(all.need_index());
    }
}
