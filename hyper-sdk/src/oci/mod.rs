//! The types of the OCI image specification.
//!
//! Every type keeps the fields that it does not know, so that what is read can be written back without loss. Where
//! bytes are content-addressed (manifests, indexes, configs of others) the bytes are the truth and are kept beside the
//! parsed form: see [`Manifest`].

mod config;
mod descriptor;
mod manifest;
#[cfg(feature = "oci-spec")]
pub mod spec;
#[cfg(test)]
#[cfg(feature = "oci-spec")]
mod spec_tests;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::Descriptor;
pub use manifest::{ImageIndex, ImageManifest, Manifest, ManifestBody};

/// JSON fields that Hyper does not know, kept as they came.
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// String annotations, sorted by key.
pub type Annotations = std::collections::BTreeMap<String, String>;

/// Reads `null` as the empty value: that is how Go writes lists and maps that were never filled.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a map of texts. A text that is `null` is empty, as programs in Go read it.
pub(crate) fn text_map<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Annotations, D::Error> {
    let map: std::collections::BTreeMap<String, Option<String>> = nullable(deserializer)?;
    Ok(map.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

/// Reads a list of texts. A text that is `null` is empty, as programs in Go read it.
pub(crate) fn text_list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list: Vec<Option<String>> = nullable(deserializer)?;
    Ok(list.into_iter().map(Option::unwrap_or_default).collect())
}
