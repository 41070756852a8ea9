//! The file of a snapshot: what is damaged or in another order is refused.

use super::{kind, name, sample_manifest};
use crate::reference::Tag;
use crate::store::backup::{SnapshotHeader, SnapshotReader, SnapshotWriter};
use crate::store::meta::{BlobRow, DamagedRow, LinkRow, RepositoryRow, Row, TagRow, TokenRow};
use crate::{Digest, ErrorKind};
use proptest::prelude::*;

/// A snapshot of one row of each kind.
fn sample() -> Vec<u8> {
    let token = TokenRow {
        id: "t".to_owned(),
        hash: "h".to_owned(),
        user: "u".to_owned(),
        name: "n".to_owned(),
        scopes: "[]".to_owned(),
        created: 1,
        expires: None,
        used: Some(2),
        bound_to: None,
    };
    let rows = [
        Row::Blob(BlobRow { digest: Digest::sha256("x"), size: 1, created: 0 }),
        Row::Repository(RepositoryRow { number: 1, name: name("a/b"), created: 0, listed: true }),
        Row::Link(LinkRow { repository: 1, blob: Digest::sha256("x"), leased_until: 9 }),
        Row::Manifest(sample_manifest(1, 1)),
        Row::Tag(TagRow { repository: 1, name: Tag::latest(), manifest: 1, updated: 3 }),
        Row::Token(token),
        Row::Damaged(DamagedRow {
            digest: Some(Digest::sha256("y")),
            repository: None,
            reason: "missing".to_owned(),
        }),
    ];
    let mut writer =
        SnapshotWriter::begin(Vec::new(), &SnapshotHeader::new("id", "registry", "store", 7)).unwrap();
    rows.iter().for_each(|row| writer.write(row).unwrap());
    let bytes = writer.finish().unwrap().0;
    assert_eq!(read_all(&bytes).unwrap(), rows);
    bytes
}

fn read_all(bytes: &[u8]) -> crate::Result<Vec<Row>> {
    let mut reader = SnapshotReader::open(bytes)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        rows.push(row);
    }
    Ok(rows)
}

proptest! {
    #[test]
    fn a_snapshot_that_was_changed_is_refused(at: prop::sample::Index, bit in 0u8..8, cut: bool) {
        let mut bytes = sample();
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= 1 << bit,
        }
        prop_assert!(read_all(&bytes).is_err());
    }

    #[test]
    fn reading_never_panics(bytes: Vec<u8>, from: prop::sample::Index) {
        let _ = read_all(&bytes);
        let sample = sample();
        let _ = read_all(&[&sample[..from.index(sample.len())], &bytes[..]].concat());
    }
}

#[test]
fn rows_out_of_order_and_texts_after_the_end_are_refused() {
    let blob = |text: &str| Row::Blob(BlobRow { digest: Digest::sha256(text), size: 1, created: 0 });
    let repository = Row::Repository(RepositoryRow { number: 1, name: name("a"), created: 0, listed: true });
    let (mut low, mut high) = (blob("x"), blob("y"));
    if Digest::sha256("x") > Digest::sha256("y") {
        std::mem::swap(&mut low, &mut high);
    }
    let written = |rows: &[Row]| {
        let header = SnapshotHeader::new("id", "registry", "store", 7);
        let mut writer = SnapshotWriter::begin(Vec::new(), &header).unwrap();
        rows.iter().for_each(|row| writer.write(row).unwrap());
        writer.finish().unwrap().0
    };
    assert!(read_all(&written(&[low.clone(), high.clone(), repository.clone()])).is_ok());
    for rows in [[high.clone(), low.clone()], [low.clone(), low.clone()], [repository.clone(), low.clone()]] {
        assert_eq!(kind(read_all(&written(&rows))), ErrorKind::Corrupt);
    }
    let mut manifest = sample_manifest(1, 1);
    manifest.body.push(b' ');
    assert_eq!(kind(read_all(&written(&[repository, Row::Manifest(manifest)]))), ErrorKind::Corrupt);
    for more in [&b"\n"[..], b"{}", &sample()] {
        assert_eq!(kind(read_all(&[&sample(), more].concat())), ErrorKind::Corrupt);
    }
    let header = SnapshotHeader { version: 2, ..SnapshotHeader::new("id", "registry", "store", 7) };
    let newer = SnapshotWriter::begin(Vec::new(), &header).unwrap().finish().unwrap().0;
    assert_eq!(kind(read_all(&newer)), ErrorKind::Unsupported);
}
