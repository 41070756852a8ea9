//! Manifests never panic; one that is read keeps its bytes, and what it was read as is written and read as the same.
#![no_main]

use hyper_sdk::oci::{Manifest, ManifestBody};
use libfuzzer_sys::fuzz_target;

const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

fuzz_target!(|bytes: &[u8]| {
    for media_type in MEDIA_TYPES {
        let Ok(manifest) = Manifest::parse(bytes.to_vec(), media_type) else { continue };
        assert_eq!(manifest.bytes().as_ref(), bytes);
        assert_eq!(manifest.media_type(), media_type);
        manifest.artifact_type();
        manifest.descriptor();
        let written = match manifest.body() {
            ManifestBody::Image(image) => image.to_bytes(),
            ManifestBody::Index(index) => index.to_bytes(),
        };
        let again = Manifest::parse(written, media_type).expect("what was written is a manifest");
        assert_eq!(again.body(), manifest.body());
        assert_eq!(again.subject(), manifest.subject());
    }
    if let Ok(manifest) = Manifest::sniff(bytes.to_vec()) {
        assert_eq!(manifest.bytes().as_ref(), bytes);
    }
});
