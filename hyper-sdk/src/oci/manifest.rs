//! Manifests and indexes (image-spec, manifest.md and image-index.md), with their bytes.

use super::{Annotations, Descriptor, Extra};
use crate::{Digest, Error, ErrorKind, Result, media_type};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The manifest of one image or artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// The media type of the manifest itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact that is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "super::nullable")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, deserialize_with = "super::text_map", skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ImageManifest {
    /// An OCI image manifest of a config and its layers.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: Annotations::new(),
            extra: Extra::new(),
        }
    }

    /// The manifest as compact JSON. Equal manifests give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps with string keys and strings always serialise")
    }
}

/// An index of manifests, one for each platform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// The media type of the index itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    #[serde(default, deserialize_with = "super::nullable")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations.
    #[serde(default, deserialize_with = "super::text_map", skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ImageIndex {
    /// An OCI index of manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: Annotations::new(),
            extra: Extra::new(),
        }
    }

    /// The index as compact JSON. Equal indexes give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps with string keys and strings always serialise")
    }
}

/// The parsed form of a [`Manifest`].
#[derive(Clone, Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every manifest is an image's: boxing would only add a hop"
)]
pub enum ManifestBody {
    /// An image manifest, OCI or Docker schema 2.
    Image(ImageManifest),
    /// An image index or a Docker manifest list.
    Index(ImageIndex),
}

/// A manifest or index: its original bytes, its digest, its media type and its parsed form.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    bytes: Bytes,
    media_type: String,
    digest: Digest,
    body: ManifestBody,
}

impl Manifest {
    /// Parses bytes with the media type `content_type`, whose parameters are ignored.
    ///
    /// The digest is SHA-256; see [`Manifest::with_digest`] for content with another digest.
    ///
    /// # Errors
    /// [`ErrorKind::ManifestInvalid`] when the bytes are not such a manifest, their field `mediaType` differs, or the
    /// media type is not one of OCI manifest, OCI index, Docker schema 2 manifest and Docker manifest list.
    pub fn parse(bytes: impl Into<Bytes>, content_type: &str) -> Result<Self> {
        let bytes = bytes.into();
        let outer = media_type::essence(content_type);
        let invalid = |why: String| Error::new(ErrorKind::ManifestInvalid, why);
        let (body, inner, version) = if media_type::is_manifest(&outer) {
            let m: ImageManifest = read(&bytes)?;
            let (inner, version) = (m.media_type.clone(), m.schema_version);
            if m.extra.get("manifests").is_some_and(|other| !other.is_null()) {
                return Err(invalid("the manifest has both `layers` and `manifests`".to_owned()));
            }
            (ManifestBody::Image(m), inner, version)
        } else if media_type::is_index(&outer) {
            let i: ImageIndex = read(&bytes)?;
            let (inner, version) = (i.media_type.clone(), i.schema_version);
            if i.extra.get("layers").is_some_and(|other| !other.is_null()) {
                return Err(invalid("the index has both `manifests` and `layers`".to_owned()));
            }
            (ManifestBody::Index(i), inner, version)
        } else if matches!(outer.as_str(), media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED) {
            return Err(invalid(
                "Docker image manifest schema 1 is not supported: push it again with a current client"
                    .to_owned(),
            ));
        } else {
            return Err(invalid(format!("the media type `{outer}` is not a supported manifest type")));
        };
        if version != 2 {
            return Err(invalid(format!("schemaVersion is {version}, expected 2")));
        }
        if let Some(inner) = inner.filter(|i| *i != outer) {
            return Err(invalid(format!(
                "the field `mediaType` is {inner}, but the content type is {outer}"
            )));
        }
        let digest = Digest::sha256(&bytes);
        Ok(Self { bytes, media_type: outer, digest, body })
    }

    /// Parses bytes without a given media type. The field `mediaType` decides, else the other fields.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn sniff(bytes: impl Into<Bytes>) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            media_type: Option<String>,
            #[serde(default, deserialize_with = "present")]
            manifests: bool,
        }
        fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
            serde::de::IgnoredAny::deserialize(d).map(|_| true)
        }
        let bytes = bytes.into();
        let probe: Probe = read(&bytes)?;
        let media_type = probe.media_type.unwrap_or_else(|| {
            if probe.manifests { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST }.to_owned()
        });
        Self::parse(bytes, &media_type)
    }

    /// Checks that the bytes have `digest` and keeps it as the manifest's digest.
    ///
    /// # Errors
    /// [`ErrorKind::DigestInvalid`] when they have another digest.
    pub fn with_digest(mut self, digest: &Digest) -> Result<Self> {
        let got = digest.algorithm().digest(&self.bytes);
        if got != *digest {
            return Err(Error::new(ErrorKind::DigestInvalid, "the manifest does not match its digest")
                .with_context("expected", digest)
                .with_context("got", got));
        }
        self.digest = got;
        Ok(self)
    }

    /// The original bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The media type, without parameters.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The parsed form.
    pub fn body(&self) -> &ManifestBody {
        &self.body
    }

    /// The image manifest; `None` for an index.
    pub fn image(&self) -> Option<&ImageManifest> {
        match &self.body {
            ManifestBody::Image(m) => Some(m),
            ManifestBody::Index(_) => None,
        }
    }

    /// The index; `None` for an image manifest.
    pub fn index(&self) -> Option<&ImageIndex> {
        match &self.body {
            ManifestBody::Index(i) => Some(i),
            ManifestBody::Image(_) => None,
        }
    }

    /// The manifest that this one refers to.
    pub fn subject(&self) -> Option<&Descriptor> {
        match &self.body {
            ManifestBody::Image(m) => m.subject.as_ref(),
            ManifestBody::Index(i) => i.subject.as_ref(),
        }
    }

    /// Annotations.
    pub fn annotations(&self) -> &Annotations {
        match &self.body {
            ManifestBody::Image(m) => &m.annotations,
            ManifestBody::Index(i) => &i.annotations,
        }
    }

    /// The artifact type as a referrers list shows it: `artifactType`, else for an image manifest the media type of
    /// its config (distribution-spec, "Listing Referrers").
    pub fn artifact_type(&self) -> Option<&str> {
        match &self.body {
            ManifestBody::Image(m) => {
                m.artifact_type.as_deref().filter(|t| !t.is_empty()).or(Some(&m.config.media_type))
            }
            ManifestBody::Index(i) => i.artifact_type.as_deref().filter(|t| !t.is_empty()),
        }
    }

    /// A descriptor of the manifest, without platform and annotations.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest.clone(), self.bytes.len() as u64)
    }
}

/// Parses JSON; the error names the invalid field.
fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let field = e.path().to_string();
        let e = e.into_inner();
        let what = if e.is_data() { "not a valid manifest" } else { "not valid JSON" };
        let message = match field.as_str() {
            "." | "?" => format!("the manifest is {what}: {e}"),
            field => format!("the manifest is {what}: `{field}`: {e}"),
        };
        Error::new(ErrorKind::ManifestInvalid, message)
    })?;
    json.end().map_err(|e| {
        Error::new(ErrorKind::ManifestInvalid, format!("the manifest is not valid JSON: {e}"))
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageManifest {
        ImageManifest::new(Descriptor::of(media_type::OCI_CONFIG, b"{}"), vec![])
    }

    #[test]
    fn bytes_and_parsed_form_agree() {
        let bytes = image().to_bytes();
        let m = Manifest::parse(bytes.clone(), "application/vnd.oci.image.manifest.v1+json; charset=utf-8")
            .unwrap();
        assert_eq!(m.bytes(), &bytes);
        assert_eq!(m.digest(), &Digest::sha256(&bytes));
        assert_eq!(m.artifact_type(), Some(media_type::OCI_CONFIG));
        assert_eq!(Manifest::sniff(bytes).unwrap(), m);
    }

    /// Fields that the specification does not know stay as they are, numbers too.
    #[test]
    fn what_is_written_of_a_manifest_is_read_as_the_same() {
        let numbers =
            ["2".repeat(78), "0.1234567890123456789e-300".to_owned(), "9007199254740993".to_owned()];
        for number in numbers {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[],"more":{number}}}"#);
            let read = Manifest::parse(text.into_bytes(), media_type::OCI_INDEX).unwrap();
            let ManifestBody::Index(index) = read.body() else { panic!("an index") };
            let again = Manifest::parse(index.to_bytes(), media_type::OCI_INDEX).unwrap();
            assert_eq!(again.body(), read.body());
        }
    }

    #[test]
    fn an_invalid_manifest_is_rejected_with_a_reason() {
        for (bytes, kind, why) in [
            (&b"{"[..], media_type::OCI_MANIFEST, "not valid JSON"),
            (b"{}", media_type::OCI_MANIFEST, "missing field `schemaVersion`"),
            (b"[]", media_type::OCI_INDEX, "not a valid manifest"),
            (br#"{"schemaVersion":2,"manifests":[]} x"#, media_type::OCI_INDEX, "not valid JSON"),
            (br#"{"schemaVersion":2}"#, media_type::OCI_MANIFEST, "missing field `config`"),
            (br#"{"schemaVersion":2,"manifests":{}}"#, media_type::OCI_INDEX, "`manifests`"),
            (
                br#"{"schemaVersion":2,"manifests":[{"digest":7,"size":1}]}"#,
                media_type::OCI_INDEX,
                "`manifests[0].digest`",
            ),
            (
                br#"{"schemaVersion":2,"manifests":[{"size":1}]}"#,
                media_type::OCI_INDEX,
                "missing field `digest`",
            ),
            (br#"{"schemaVersion":2,"annotations":{"a":1}}"#, media_type::OCI_INDEX, "`annotations.a`"),
            (br#"{"schemaVersion":"2"}"#, media_type::OCI_INDEX, "`schemaVersion`"),
            (b"{}", media_type::DOCKER_SCHEMA1, "schema 1"),
            (b"{}", "text/plain", "not a supported manifest"),
            (br#"{"schemaVersion":1,"manifests":[]}"#, media_type::OCI_INDEX, "expected 2"),
            (br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, media_type::OCI_INDEX, "both"),
            (
                br#"{"schemaVersion":2,"mediaType":"x","manifests":[]}"#,
                media_type::OCI_INDEX,
                "`mediaType` is x",
            ),
        ] {
            let e = Manifest::parse(bytes, kind).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::ManifestInvalid);
            assert!(e.to_string().contains(why), "{e}");
        }
    }

    /// Programs in Go write `null` for empty values, and other registries accept it.
    #[test]
    fn empty_values_may_be_null() {
        let digest = Digest::sha256("x");
        let descriptor = format!(
            r#"{{"digest":"{digest}","size":1,"urls":null,"annotations":null,"data":null,"artifactType":null,"platform":{{}}}}"#
        );
        let image = format!(
            r#"{{"schemaVersion":2,"mediaType":null,"artifactType":null,"config":{descriptor},"layers":null,"subject":null,"annotations":null}}"#
        );
        let image = Manifest::parse(image, media_type::OCI_MANIFEST).unwrap();
        assert_eq!(image.image().unwrap().config.media_type, "");
        assert!(image.image().unwrap().layers.is_empty());
        let features =
            r#"{"platform":{"os":"linux","architecture":"arm","os.features":null,"variant":null}}"#;
        let entry = descriptor.replace(r#"{"digest""#, r#"{"mediaType":null,"digest""#);
        let entry = entry.replace(r#""platform":{}"#, &features[1..features.len() - 1]);
        for manifests in ["null".to_owned(), format!("[{descriptor},{entry}]")] {
            let index = format!(r#"{{"schemaVersion":2,"manifests":{manifests},"annotations":null}}"#);
            Manifest::sniff(index.clone()).unwrap();
            Manifest::parse(index, media_type::DOCKER_MANIFEST_LIST).unwrap();
        }
        let inside = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1,"urls":[null],"annotations":{{"a":null}},"platform":{{"os":null,"architecture":null,"os.features":[null]}}}}],"annotations":{{"b":null,"c":"d"}}}}"#
        );
        let inside = Manifest::parse(inside, media_type::OCI_INDEX).unwrap();
        assert_eq!((inside.annotations()["b"].as_str(), inside.annotations()["c"].as_str()), ("", "d"));
        let entry = &inside.index().unwrap().manifests[0];
        assert_eq!((entry.annotations["a"].as_str(), entry.urls.as_slice()), ("", &[String::new()][..]));
        assert_eq!(entry.platform.as_ref().unwrap().os, "");
    }

    #[test]
    fn a_sha512_digest_is_checked_and_kept() {
        let bytes = image().to_bytes();
        let digest = crate::digest::Algorithm::Sha512.digest(&bytes);
        let m = Manifest::parse(bytes, media_type::OCI_MANIFEST).unwrap();
        assert_eq!(m.clone().with_digest(&digest).unwrap().digest(), &digest);
        assert!(m.with_digest(&Digest::sha256(b"other")).is_err());
    }
}
