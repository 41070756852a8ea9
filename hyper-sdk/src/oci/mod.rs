//! The types of the OCI image specification.
//!
//! Every type keeps unknown fields, so that a parsed value can be written back without loss. Content-addressed values
//! (manifests, indexes, configs) keep their original bytes in addition to the parsed form: see [`Manifest`].

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

/// Unknown JSON fields, which are kept unchanged.
pub type Extra = serde_json::Map<String, serde_json::Value>;

/// String annotations, sorted by key.
pub type Annotations = std::collections::BTreeMap<String, String>;

/// Deserialises `null` as the empty value, because Go writes empty lists and maps so.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

/// Deserialises a map of texts. Like in Go, a text that is `null` is empty.
pub(crate) fn text_map<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Annotations, D::Error> {
    let map: std::collections::BTreeMap<String, Option<String>> = nullable(deserializer)?;
    Ok(map.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

/// Deserialises a list of texts. Like in Go, a text that is `null` is empty.
pub(crate) fn text_list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let list: Vec<Option<String>> = nullable(deserializer)?;
    Ok(list.into_iter().map(Option::unwrap_or_default).collect())
}
