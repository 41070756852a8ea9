//! The file `index.json` of an OCI image layout, as an import needs it.

use super::source::{ImportRoot, SourceManifest};
use crate::reference::{Reference, RepositoryName, Tag};
use crate::{Digest, Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};

/// The largest index, in bytes: that of about half a million tags.
pub(super) const MAX_INDEX: u64 = 128 << 20;

/// The entries of `index.json`: digests, media types and names. Other fields are not kept.
///
/// ```
/// use hyper_sdk::import::{ImportRoot, LayoutIndex};
///
/// let digest = format!("sha256:{}", "0".repeat(64));
/// let text = format!(
///     r#"{{"manifests":[{{"digest":"{digest}","annotations":{{"org.opencontainers.image.ref.name":"1.0"}}}}]}}"#
/// );
/// let index = LayoutIndex::parse(text.as_bytes())?;
/// let roots = index.roots(None).collect::<Result<Vec<_>, _>>()?;
/// assert!(matches!(&roots[0], ImportRoot::Tag(tag, Some(_)) if tag == "1.0"));
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Debug)]
pub struct LayoutIndex {
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    manifests: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    annotations: Option<Names>,
}

#[derive(Debug, Default, Deserialize)]
struct Names {
    /// The tag, or from some tools a whole reference.
    #[serde(default, rename = "org.opencontainers.image.ref.name")]
    tag: Option<String>,
    /// The whole reference, as containerd writes it.
    #[serde(default, rename = "io.containerd.image.name")]
    image: Option<String>,
}

impl Entry {
    /// The whole reference of the entry, if it has one.
    fn reference(&self) -> Option<Reference> {
        let names = self.annotations.as_ref()?;
        let whole = |text: &&String| text.contains(['/', ':']);
        let texts = [names.image.as_ref(), names.tag.as_ref()];
        texts.into_iter().flatten().filter(whole).find_map(|text| Reference::parse(text).ok())
    }

    /// The text of the tag.
    fn tag(&self) -> Option<String> {
        let names = self.annotations.as_ref()?;
        let text = names.tag.as_ref().filter(|text| !text.is_empty());
        if let Some(tag) = text.filter(|text| Tag::parse(text).is_ok()) {
            return Some(tag.clone());
        }
        // A reference without a tag means `latest` to a person; to an index it is a name that is no tag.
        let names = [names.image.as_ref(), text].into_iter().flatten();
        let written = names.filter_map(|text| text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')));
        match (self.reference(), written.map(|(_, tag)| tag).find(|tag| Tag::parse(tag).is_ok())) {
            (Some(_), Some(tag)) => Some(tag.to_owned()),
            _ => text.or(self.annotations.as_ref()?.image.as_ref()).cloned(),
        }
    }

    fn manifest(&self) -> Result<SourceManifest> {
        let digest = self.digest.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::ManifestInvalid, "an entry of `index.json` has no digest")
        })?;
        Ok(SourceManifest { digest: Digest::parse(digest)?, media_type: self.media_type.clone() })
    }
}

impl LayoutIndex {
    /// Parses the bytes of the file.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestInvalid`] when they are not the JSON of an index. An entry that is wrong is an error of its own.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong =
            || Error::new(ErrorKind::ManifestInvalid, "`index.json` is not the JSON of an image index");
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(wrong());
        }
        let file: File = serde_json::from_slice(bytes).map_err(|e| wrong().with_source(e))?;
        Ok(Self { entries: file.manifests.unwrap_or_default() })
    }

    /// The repositories that whole references of entries name; the second value says whether an entry has none.
    pub(super) fn repositories(&self) -> (BTreeSet<RepositoryName>, bool) {
        let mut names = BTreeSet::new();
        let mut has_others = false;
        for entry in &self.entries {
            match entry.reference() {
                Some(reference) => drop(names.insert(reference.repository().clone())),
                None => has_others = true,
            }
        }
        (names, has_others)
    }

    /// The roots of a repository that whole references name; `None` takes all entries. Tags come first.
    ///
    /// A tag that names two manifests is an error with both, and the manifests are roots without it.
    pub fn roots(&self, repository: Option<&RepositoryName>) -> impl Iterator<Item = Result<ImportRoot>> {
        let chosen: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| match repository {
                None => true,
                Some(wanted) => entry.reference().is_some_and(|found| found.repository() == wanted),
            })
            .collect();
        let mut tags: HashMap<String, Vec<&str>> = HashMap::new();
        for entry in &chosen {
            if let (Some(tag), Some(digest)) = (entry.tag(), entry.digest.as_deref()) {
                let digests = tags.entry(tag).or_default();
                if !digests.contains(&digest) && digests.len() < 4 {
                    digests.push(digest);
                }
            }
        }
        let mut conflicts = Vec::new();
        let (mut tagged, mut plain) = (Vec::new(), Vec::new());
        for (tag, digests) in &tags {
            if digests.len() > 1 {
                let tag: String = tag.chars().take(200).flat_map(char::escape_debug).collect();
                let digests: Vec<String> = digests
                    .iter()
                    .map(|digest| digest.chars().take(160).flat_map(char::escape_debug).collect())
                    .collect();
                conflicts.push(Err(Error::new(
                    ErrorKind::Conflict,
                    "`index.json` gives one tag to several manifests: they are imported without it",
                )
                .with_context("tag", tag)
                .with_context("digests", digests.join(" "))));
            }
        }
        for entry in chosen {
            match (entry.manifest(), entry.tag()) {
                (Err(e), _) => plain.push(Err(e)),
                (Ok(manifest), Some(tag)) if tags.get(&tag).is_some_and(|digests| digests.len() == 1) => {
                    tagged.push(Ok(ImportRoot::Tag(tag, Some(manifest))));
                }
                (Ok(manifest), _) => plain.push(Ok(ImportRoot::Manifest(manifest))),
            }
        }
        conflicts.into_iter().chain(tagged).chain(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(entries: &[(&str, &str)]) -> LayoutIndex {
        let entries: Vec<String> = entries
            .iter()
            .map(|(content, name)| {
                let digest = Digest::sha256(content);
                format!(
                    r#"{{"mediaType":"x","size":1,"digest":"{digest}","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#
                )
            })
            .collect();
        LayoutIndex::parse(format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).as_bytes())
            .unwrap()
    }

    fn tags(index: &LayoutIndex, repository: Option<&str>) -> Vec<String> {
        let name = repository.map(|name| RepositoryName::parse(name).unwrap());
        let roots: Vec<_> = index.roots(name.as_ref()).collect();
        roots
            .into_iter()
            .filter_map(|root| match root {
                Ok(ImportRoot::Tag(tag, _)) => Some(tag),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn tags_are_names_or_ends_of_references() {
        let names =
            index(&[("a", "1.0"), ("b", "docker.io/team/app:2.0"), ("c", "no tag!"), ("d", "busybox:3")]);
        assert_eq!(tags(&names, None), ["1.0", "2.0", "no tag!", "3"]);
        assert_eq!(tags(&names, Some("team/app")), ["2.0"]);
        // What names no tag is none, and never `latest`.
        let without = index(&[("a", "feature/branch"), ("b", "docker.io/team/app"), ("c", "host:5000/app")]);
        assert_eq!(tags(&without, None), ["feature/branch", "docker.io/team/app", "host:5000/app"]);
        let (repositories, has_others) = names.repositories();
        let found: Vec<_> = repositories.iter().map(|name| name.as_str()).collect();
        assert!(has_others);
        assert_eq!(found, ["library/busybox", "team/app"]);
    }

    #[test]
    fn a_tag_of_two_manifests_is_an_error_with_both() {
        let twice = index(&[("a", "1.0"), ("b", "1.0"), ("a", "2.0"), ("a", "2.0")]);
        assert_eq!(tags(&twice, None), ["2.0", "2.0"]);
        let roots: Vec<_> = twice.roots(None).collect();
        let errors: Vec<_> = roots.iter().filter_map(|root| root.as_ref().err()).collect();
        assert_eq!(errors.len(), 1);
        let text = errors[0].to_string();
        assert!(text.contains("1.0") && text.contains(Digest::sha256("b").as_str()), "{text}");
        let plain = roots.iter().filter(|root| matches!(root, Ok(ImportRoot::Manifest(_)))).count();
        assert_eq!(plain, 2);
    }

    #[test]
    fn wrong_files_and_entries_are_errors() {
        for text in ["", "[]", "{\"manifests\":3}", "{\"manifests\":[3]}"] {
            assert!(LayoutIndex::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(LayoutIndex::parse(b"{\"manifests\":null}").unwrap().roots(None).count(), 0);
        let index = LayoutIndex::parse(br#"{"manifests":[{"digest":"sha256:../../x"},{}]}"#).unwrap();
        assert!(index.roots(None).all(|root| root.is_err()));
    }
}
