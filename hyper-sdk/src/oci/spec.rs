//! Conversions from and to the types of the crate [`oci_spec`].
//!
//! ```
//! use hyper_sdk::media_type;
//! use hyper_sdk::oci::{Descriptor, ImageManifest};
//!
//! let config = Descriptor::of(media_type::OCI_CONFIG, b"{}");
//! let manifest = oci_spec::image::ImageManifest::from(ImageManifest::new(config.clone(), vec![]));
//! assert_eq!(manifest.config().media_type(), &oci_spec::image::MediaType::ImageConfig);
//!
//! // The reverse conversion may fail: a digest of `oci_spec` can have an algorithm that Hyper does not support.
//! let config_again = Descriptor::try_from(manifest.config().clone())?;
//! assert_eq!(config_again, config);
//! # Ok::<_, hyper_sdk::Error>(())
//! ```
//!
//! Values without a counterpart are lost:
//!
//! | conversion | lost |
//! |---|---|
//! | to `oci_spec` | unknown fields (`extra`); `Healthcheck`, `OnBuild`, `Shell` and `ArgsEscaped` of a config; the values of `ExposedPorts` and `Volumes`, which are empty objects |
//! | from `oci_spec` | the reserved `features` of a platform; the difference between a missing and an empty list, map or text |
//!
//! A conversion changes the bytes of a manifest, and therefore its digest: keep the [`Manifest`](super::Manifest) for
//! content-addressed data.

use super::{
    Annotations, ContainerConfig, Descriptor, Extra, History, ImageConfig, ImageIndex, ImageManifest, RootFs,
};
use crate::media_type::Compression;
use crate::platform::Platform;
use crate::{Digest, Error, Result};
use oci_spec::image as spec;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};

/// `None` for an empty value.
fn some<T: IntoIterator>(list: T) -> Option<T>
where
    for<'a> &'a T: IntoIterator,
{
    if (&list).into_iter().next().is_none() { None } else { Some(list) }
}

fn text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn map_to_spec(map: Annotations) -> Option<HashMap<String, String>> {
    some(map).map(|map| map.into_iter().collect())
}

fn map_of_spec(map: &Option<HashMap<String, String>>) -> Annotations {
    map.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The keys of a Go set, a map with empty objects as values.
fn set_to_spec(map: BTreeMap<String, Value>) -> Option<Vec<String>> {
    some(map).map(|map| map.into_keys().collect())
}

fn set_of_spec(keys: &Option<Vec<String>>) -> BTreeMap<String, Value> {
    keys.iter().flatten().map(|key| (key.clone(), Value::Object(Map::new()))).collect()
}

fn all_to_spec<T, S: From<T>>(list: Vec<T>) -> Vec<S> {
    list.into_iter().map(S::from).collect()
}

fn all_of_spec<S: Clone, T: TryFrom<S, Error = Error>>(list: &[S]) -> Result<Vec<T>> {
    list.iter().cloned().map(T::try_from).collect()
}

fn media_type(text: &str) -> spec::MediaType {
    spec::MediaType::from(text)
}

impl From<Digest> for spec::Digest {
    fn from(digest: Digest) -> Self {
        Self::try_from(digest.as_str()).expect("a valid digest of SHA-256 or SHA-512 is valid in `oci_spec`")
    }
}

impl TryFrom<&spec::Digest> for Digest {
    type Error = Error;

    fn try_from(digest: &spec::Digest) -> Result<Self> {
        Self::parse(digest.as_ref())
    }
}

impl From<Compression> for spec::MediaType {
    /// The OCI media type of a layer with this compression.
    fn from(compression: Compression) -> Self {
        media_type(compression.oci_layer())
    }
}

impl TryFrom<&spec::MediaType> for Compression {
    type Error = Error;

    /// The compression of the layers of this media type.
    fn try_from(media_type: &spec::MediaType) -> Result<Self> {
        Self::of_layer(media_type.as_ref()).ok_or_else(|| {
            Error::invalid(format!("`{media_type}` is not the media type of a layer in a known compression"))
        })
    }
}

impl From<Platform> for spec::Platform {
    fn from(platform: Platform) -> Self {
        let mut to = Self::default();
        to.set_architecture(architecture(&platform.architecture))
            .set_os(spec::Os::from(platform.os.as_str()))
            .set_os_version(platform.os_version)
            .set_os_features(some(platform.os_features))
            .set_variant(platform.variant);
        to
    }
}

/// [`spec::Arch`] by its name. Its own conversion parses `armbe` as `arm64be`.
fn architecture(name: &str) -> spec::Arch {
    match name {
        "armbe" => spec::Arch::ARMbe,
        name => spec::Arch::from(name),
    }
}

impl From<spec::Platform> for Platform {
    /// The names are not normalised.
    fn from(platform: spec::Platform) -> Self {
        Self {
            architecture: platform.architecture().to_string(),
            os: platform.os().to_string(),
            os_version: platform.os_version().clone(),
            os_features: platform.os_features().clone().unwrap_or_default(),
            variant: platform.variant().clone(),
        }
    }
}

impl From<Descriptor> for spec::Descriptor {
    fn from(descriptor: Descriptor) -> Self {
        let mut to = Self::new(media_type(&descriptor.media_type), descriptor.size, descriptor.digest);
        to.set_urls(some(descriptor.urls));
        to.set_annotations(map_to_spec(descriptor.annotations));
        to.set_data(descriptor.data);
        to.set_artifact_type(descriptor.artifact_type.as_deref().map(media_type));
        to.set_platform(descriptor.platform.map(Into::into));
        to
    }
}

impl TryFrom<spec::Descriptor> for Descriptor {
    type Error = Error;

    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] for a digest of another algorithm than SHA-256 and SHA-512.
    fn try_from(descriptor: spec::Descriptor) -> Result<Self> {
        Ok(Self {
            media_type: descriptor.media_type().to_string(),
            digest: descriptor.digest().try_into()?,
            size: descriptor.size(),
            urls: descriptor.urls().clone().unwrap_or_default(),
            annotations: map_of_spec(descriptor.annotations()),
            data: descriptor.data().clone(),
            artifact_type: descriptor.artifact_type().as_ref().map(ToString::to_string),
            platform: descriptor.platform().clone().map(Into::into),
            extra: Extra::new(),
        })
    }
}

impl From<ImageManifest> for spec::ImageManifest {
    fn from(manifest: ImageManifest) -> Self {
        let mut to = spec::ImageManifestBuilder::default()
            .schema_version(manifest.schema_version)
            .config(manifest.config)
            .layers(all_to_spec::<_, spec::Descriptor>(manifest.layers))
            .build()
            .expect("all required fields are set");
        to.set_media_type(manifest.media_type.as_deref().map(media_type));
        to.set_artifact_type(manifest.artifact_type.as_deref().map(media_type));
        to.set_subject(manifest.subject.map(Into::into));
        to.set_annotations(map_to_spec(manifest.annotations));
        to
    }
}

impl TryFrom<spec::ImageManifest> for ImageManifest {
    type Error = Error;

    /// # Errors
    /// Those of descriptors.
    fn try_from(manifest: spec::ImageManifest) -> Result<Self> {
        Ok(Self {
            schema_version: manifest.schema_version(),
            media_type: manifest.media_type().as_ref().map(ToString::to_string),
            artifact_type: manifest.artifact_type().as_ref().map(ToString::to_string),
            config: manifest.config().clone().try_into()?,
            layers: all_of_spec(manifest.layers())?,
            subject: manifest.subject().clone().map(TryInto::try_into).transpose()?,
            annotations: map_of_spec(manifest.annotations()),
            extra: Extra::new(),
        })
    }
}

impl From<ImageIndex> for spec::ImageIndex {
    fn from(index: ImageIndex) -> Self {
        let mut to = Self::default();
        to.set_schema_version(index.schema_version);
        to.set_media_type(index.media_type.as_deref().map(media_type));
        to.set_artifact_type(index.artifact_type.as_deref().map(media_type));
        to.set_manifests(all_to_spec(index.manifests));
        to.set_subject(index.subject.map(Into::into));
        to.set_annotations(map_to_spec(index.annotations));
        to
    }
}

impl TryFrom<spec::ImageIndex> for ImageIndex {
    type Error = Error;

    /// # Errors
    /// Those of descriptors.
    fn try_from(index: spec::ImageIndex) -> Result<Self> {
        Ok(Self {
            schema_version: index.schema_version(),
            media_type: index.media_type().as_ref().map(ToString::to_string),
            artifact_type: index.artifact_type().as_ref().map(ToString::to_string),
            manifests: all_of_spec(index.manifests())?,
            subject: index.subject().clone().map(TryInto::try_into).transpose()?,
            annotations: map_of_spec(index.annotations()),
            extra: Extra::new(),
        })
    }
}

impl From<ContainerConfig> for spec::Config {
    fn from(config: ContainerConfig) -> Self {
        let mut to = Self::default();
        to.set_user(text(config.user))
            .set_exposed_ports(set_to_spec(config.exposed_ports))
            .set_env(some(config.env))
            .set_entrypoint(config.entrypoint)
            .set_cmd(config.cmd)
            .set_volumes(set_to_spec(config.volumes))
            .set_working_dir(text(config.working_dir))
            .set_stop_signal(config.stop_signal);
        to.set_labels(map_to_spec(config.labels));
        to
    }
}

impl From<spec::Config> for ContainerConfig {
    fn from(config: spec::Config) -> Self {
        Self {
            user: config.user().clone().unwrap_or_default(),
            exposed_ports: set_of_spec(config.exposed_ports()),
            env: config.env().clone().unwrap_or_default(),
            entrypoint: config.entrypoint().clone(),
            cmd: config.cmd().clone(),
            volumes: set_of_spec(config.volumes()),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            labels: map_of_spec(config.labels()),
            stop_signal: config.stop_signal().clone(),
            ..Self::default()
        }
    }
}

impl From<RootFs> for spec::RootFs {
    fn from(rootfs: RootFs) -> Self {
        let mut to = Self::default();
        to.set_typ(rootfs.kind);
        to.set_diff_ids(rootfs.diff_ids.iter().map(|digest| digest.as_str().to_owned()).collect());
        to
    }
}

impl TryFrom<spec::RootFs> for RootFs {
    type Error = Error;

    /// # Errors
    /// [`crate::ErrorKind::DigestInvalid`] for a diff ID that is not a digest of SHA-256 or SHA-512.
    fn try_from(rootfs: spec::RootFs) -> Result<Self> {
        let diff_ids = rootfs.diff_ids().iter().map(|digest| Digest::parse(digest)).collect::<Result<_>>()?;
        Ok(Self { kind: rootfs.typ().clone(), diff_ids })
    }
}

impl From<History> for spec::History {
    fn from(history: History) -> Self {
        let mut to = Self::default();
        to.set_created(history.created)
            .set_created_by(history.created_by)
            .set_author(history.author)
            .set_comment(history.comment)
            .set_empty_layer(history.empty_layer.then_some(true));
        to
    }
}

impl From<spec::History> for History {
    fn from(history: spec::History) -> Self {
        Self {
            created: history.created().clone(),
            created_by: history.created_by().clone(),
            author: history.author().clone(),
            comment: history.comment().clone(),
            empty_layer: history.empty_layer().unwrap_or_default(),
            extra: Extra::new(),
        }
    }
}

impl From<ImageConfig> for spec::ImageConfiguration {
    fn from(config: ImageConfig) -> Self {
        let mut to = Self::default();
        to.set_created(config.created)
            .set_author(config.author)
            .set_architecture(architecture(&config.architecture))
            .set_os(spec::Os::from(config.os.as_str()))
            .set_os_version(config.os_version)
            .set_os_features(some(config.os_features))
            .set_variant(config.variant)
            .set_config(Some(config.config.into()));
        to.set_rootfs(config.rootfs.into());
        to.set_history(some(config.history).map(all_to_spec));
        to
    }
}

impl TryFrom<spec::ImageConfiguration> for ImageConfig {
    type Error = Error;

    /// # Errors
    /// Those of the root file system.
    fn try_from(config: spec::ImageConfiguration) -> Result<Self> {
        Ok(Self {
            created: config.created().clone(),
            author: config.author().clone(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone(),
            os: config.os().to_string(),
            os_version: config.os_version().clone(),
            os_features: config.os_features().clone().unwrap_or_default(),
            config: config.config().clone().map(Into::into).unwrap_or_default(),
            rootfs: config.rootfs().clone().try_into()?,
            history: config.history().iter().flatten().cloned().map(Into::into).collect(),
            extra: Extra::new(),
        })
    }
}
