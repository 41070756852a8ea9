//! The media types of images, indexes, layers and artifacts.
//!
//! A media type is a text without parameters. The constants are those of the OCI image specification (media-types.md)
//! and their Docker equivalents.

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The empty JSON object that artifacts without a config use.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, not compressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker schema 1, which Hyper does not support.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Docker schema 1 with a signature, which Hyper does not support.
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// The media types that a client accepts for a manifest.
pub const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST_LIST, DOCKER_MANIFEST];

/// Whether the media type is of an image index or a manifest list.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_MANIFEST_LIST)
}

/// Whether the media type is of an image manifest, OCI or Docker schema 2.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether a registry need not have a layer of this media type (image-spec, "Non-Distributable Layers").
pub fn is_non_distributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// The compression of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// The compression of a layer's media type; `Option::None` for a type that is not a layer, and for a layer in another
    /// compression.
    pub fn of_layer(media_type: &str) -> Option<Self> {
        match suffix_of_layer(media_type)? {
            "tar" => Some(Self::None),
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Docker's media type of a layer with this compression, where Docker has one.
    pub fn docker_layer(self) -> Option<&'static str> {
        match self {
            Self::None => Some(DOCKER_LAYER),
            Self::Gzip => Some(DOCKER_LAYER_GZIP),
            Self::Zstd => None,
        }
    }

    /// The OCI media type of a layer with this compression.
    pub fn oci_layer(self) -> &'static str {
        match self {
            Self::None => OCI_LAYER,
            Self::Gzip => OCI_LAYER_GZIP,
            Self::Zstd => OCI_LAYER_ZSTD,
        }
    }
}

/// The last part of the media type of a layer: its compression, or `tar`.
fn suffix_of_layer(media_type: &str) -> Option<&str> {
    let is_layer = media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.");
    media_type.rsplit(['+', '.']).next().filter(|_| is_layer)
}

/// Refuses a layer of a form that cannot be read, by its media type: what is not understood is not taken for a tar. The
/// content says which of the forms that can be read it has; a media type that is not of a layer says nothing.
///
/// # Errors
/// [`crate::ErrorKind::Unsupported`], with the media type.
#[cfg(any(test, feature = "build"))]
pub(crate) fn check_layer(media_type: &str) -> crate::Result<()> {
    match suffix_of_layer(media_type) {
        None | Some("tar" | "gzip" | "zstd" | "bzip2" | "xz") => Ok(()),
        Some(_) => Err(crate::Error::new(
            crate::ErrorKind::Unsupported,
            format!(
                "a layer has the media type `{media_type}`, which cannot be read: layers are tars, plain or \
                 compressed with gzip or zstd"
            ),
        )),
    }
}

/// The media type without parameters and white space, lower-cased: `Application/JSON; x=y` is `application/json`.
pub fn essence(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_of_layers() {
        assert_eq!(Compression::of_layer(OCI_LAYER_ZSTD), Some(Compression::Zstd));
        assert_eq!(Compression::of_layer(DOCKER_LAYER_GZIP), Some(Compression::Gzip));
        assert_eq!(Compression::of_layer(DOCKER_LAYER), Some(Compression::None));
        assert_eq!(Compression::of_layer(OCI_CONFIG), None);
    }

    #[test]
    fn a_layer_of_an_unknown_form_is_not_taken_for_a_tar() {
        for unknown in [
            "application/vnd.oci.image.layer.v1.tar+lz4",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.nydus.blob.v1",
            "application/vnd.docker.image.rootfs.diff.tar.lz4",
        ] {
            assert_eq!(Compression::of_layer(unknown), None, "{unknown}");
            let error = check_layer(unknown).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Unsupported, "{unknown}");
            assert!(error.message().contains(&format!("`{unknown}`")), "{error}");
        }
        for known in [OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP] {
            assert!(Compression::of_layer(known).is_some() && check_layer(known).is_ok(), "{known}");
        }
        for other in ["application/vnd.oci.image.layer.v1.tar+xz", "application/octet-stream", ""] {
            assert_eq!(Compression::of_layer(other), None, "{other}");
            assert!(check_layer(other).is_ok(), "{other}");
        }
    }

    #[test]
    fn parameters_are_dropped() {
        assert_eq!(essence("Application/JSON; charset=utf-8"), "application/json");
    }
}
