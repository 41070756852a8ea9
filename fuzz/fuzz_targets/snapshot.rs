//! Snapshots of backups never panic; one that is read to its end is written again as the same rows.
#![no_main]

use hyper_sdk::store::backup::{SnapshotReader, SnapshotWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = SnapshotReader::open(bytes) else { return };
    let mut rows = Vec::new();
    loop {
        match reader.next_row() {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => break,
            Err(_) => return,
        }
    }
    let mut writer = SnapshotWriter::begin(Vec::new(), reader.header()).unwrap();
    rows.iter().for_each(|row| writer.write(row).unwrap());
    let (again, counts) = writer.finish().unwrap();
    assert_eq!(reader.counts(), Some(&counts));
    let mut reader = SnapshotReader::open(&again[..]).unwrap();
    for row in rows {
        assert_eq!(reader.next_row().unwrap(), Some(row));
    }
    assert_eq!(reader.next_row().unwrap(), None);
});
