//! Records of a shared cache, and of an image, never panic; what is read can be written and read again.
#![no_main]

use hyper_sdk::Digest;
use hyper_sdk::cache::SharedRecords;
use hyper_sdk::oci::{Descriptor, ImageConfig, Manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A manifest may stand before the records, in a line of its own.
    let (first, rest) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&bytes[..0], bytes),
    };
    let manifest = Manifest::sniff(first.to_vec());
    let layers: Vec<Descriptor> = match manifest.as_ref().ok().and_then(Manifest::image) {
        Some(image) => image.layers.clone(),
        None => ["tar+gzip", "tar"]
            .map(|kind| {
                let kind = format!("application/vnd.oci.image.layer.v1.{kind}");
                Descriptor::new(kind, Digest::sha256(b""), 1)
            })
            .to_vec(),
    };
    if let Ok(records) = SharedRecords::parse(rest, &layers) {
        let again = SharedRecords::parse(&records.to_bytes().unwrap(), &layers).unwrap();
        assert_eq!(again.to_bytes().unwrap(), records.to_bytes().unwrap());
    }
    if let Ok(config) = ImageConfig::parse(rest) {
        let _ = SharedRecords::of_image(&config, &layers);
    }
});
