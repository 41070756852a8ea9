//! The small image that clients push, as an OCI image layout, and what is left of it after a pull.

use hyper_sdk::{Digest, media_type};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Makes a layout with an image of one layer, which has the tag `1`, and `layer.tar` beside it. Returns the bytes of the manifest.
pub(super) fn layout(folder: &Path) -> Vec<u8> {
    let blobs = folder.join("layout/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(folder.join("hello"), "hello\n").unwrap();
    let tar = folder.join("layer.tar");
    let run = |command: &mut Command| {
        let output = command.current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let owner = ["--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"];
    run(Command::new("tar").args(owner).args(["-cf", "layer.tar", "hello"]));
    let put = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let (layer, layer_size) = put(&run(Command::new("gzip").args(["-nc", "layer.tar"])));
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(fs::read(tar).unwrap()).to_string()]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "a test"}],
    });
    let (config, config_size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": config, "size": config_size},
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": layer_size,
        }],
    });
    let manifest = manifest.to_string().into_bytes();
    let (digest, size) = put(&manifest);
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
        "annotations": {
            "org.opencontainers.image.ref.name": "1",
            // Where cosign looks for the image of a layout.
            "kind": "dev.cosignproject.cosign/image",
        },
    }]});
    fs::write(folder.join("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(folder.join("layout/index.json"), index.to_string()).unwrap();
    manifest
}

/// The content of an image in a layout: its manifest and the blobs of it.
pub(super) fn content(layout: &Path) -> Vec<u8> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let blob = |digest: &Value| {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
    };
    let manifest = blob(&index["manifests"][0]["digest"]);
    let parsed: Value = serde_json::from_slice(&manifest).unwrap();
    [manifest, blob(&parsed["config"]["digest"]), blob(&parsed["layers"][0]["digest"])].concat()
}

/// The files of a folder by their names.
pub(super) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}
