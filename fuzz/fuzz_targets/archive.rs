//! Archives of images never panic: OCI layouts and those of `docker save`, whole and as they stream in.
#![no_main]

mod header;

use header::{BLOCK, field, seal};
use hyper_sdk::layout::ImageLayout;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = std::io::Cursor::new(archive(bytes));
    let Ok(layout) = runtime.block_on(ImageLayout::read_archive(stream, folder.path())) else { return };
    let _ = layout.check_version();
    let Ok(index) = layout.index() else { return };
    for entry in index.manifests.iter().take(8) {
        let _ = layout.read_blob(&entry.digest);
        let _ = layout.manifest(&entry.digest, Some(&entry.media_type));
    }
});

/// An archive of the files that the text describes: `NAME=CONTENT`, divided by zeros. Anything else is the archive itself.
fn archive(bytes: &[u8]) -> Vec<u8> {
    if bytes.first() != Some(&b'F') {
        return bytes.to_vec();
    }
    let mut tar = Vec::new();
    for file in bytes[1..].split(|byte| *byte == 0).take(32) {
        let at = file.iter().position(|byte| *byte == b'=').unwrap_or(file.len());
        let (name, content) = file.split_at(at);
        let content = content.get(1..).unwrap_or_default();
        let mut header = [0; BLOCK];
        field(&mut header[..100], name);
        field(&mut header[100..108], b"0000644\0");
        field(&mut header[124..136], format!("{:011o}\0", content.len()).as_bytes());
        field(&mut header[136..148], b"00000000000\0");
        header[156] = b'0';
        seal(&mut header);
        tar.extend(header);
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    }
    tar.extend([0; 2 * BLOCK]);
    tar
}
