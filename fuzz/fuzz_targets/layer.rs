//! Layers never panic, and what is written again is read as it was: tar, index, compression.
#![no_main]

mod header;
mod hostile_tar;

use hyper_sdk::layer::{Decompressor, LayerIndex, LayerReader, LayerWriter, TimesTable};
use libfuzzer_sys::fuzz_target;
use std::io::Read as _;

/// More than any input here has when it is not compressed.
const LIMIT: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(index) = LayerIndex::from_bytes(bytes) {
        let again = LayerIndex::from_bytes(&index.to_bytes()).expect("what is written can be read");
        assert_eq!(again.entries(), index.entries());
    }
    if let Ok(times) = TimesTable::from_bytes(bytes) {
        assert_eq!(times.to_bytes(), bytes);
    }
    let mut plain = Vec::new();
    if let Ok(decompressor) = Decompressor::new(bytes) {
        let _ = decompressor.with_limit(LIMIT).read_to_end(&mut plain);
    }
    for tar in [&plain[..], bytes, &hostile_tar::make(bytes)] {
        let mut reader = LayerReader::new(tar);
        let mut entries = Vec::new();
        let whole = loop {
            match reader.next_entry() {
                Ok(Some(entry)) => entries.push(entry),
                end => break end.is_ok(),
            }
        };
        let mut writer = LayerWriter::new(Vec::new(), Some(1 << 30));
        if writer.append_all(tar).is_err() {
            continue;
        }
        assert!(whole, "an archive was written that cannot be read");
        let (first, index) = writer.finish().expect("memory can be written");
        assert_eq!(index.len(), entries.len());
        let mut writer = LayerWriter::new(Vec::new(), Some(1 << 30));
        writer.append_all(&first[..]).expect("what is written can be read");
        let (second, again) = writer.finish().expect("memory can be written");
        assert!(first == second && index.entries() == again.entries(), "the second writing differs");
    }
});
