//! The form of eStargz layers, read as its specification says.

use super::*;
use crate::layer::{CompressOptions, CompressedLayer, Decompressor, LayerWriter, VerifiedLayer};
use crate::media_type::Compression;
use serde_json::Value;

fn path(text: &str) -> LayerPath {
    LayerPath::new(text).unwrap()
}

/// A layer with every kind of entry, and a file of three chunks.
fn layer() -> (Vec<u8>, Vec<u8>) {
    let big: Vec<u8> = (0..2_500_000_u32).flat_map(|i| (i / 7).to_le_bytes()).take(2_500_000).collect();
    let mut writer = LayerWriter::new(Vec::new(), None);
    let mut append = |entry: Entry, data: Option<&[u8]>| {
        let mut data = data;
        writer.append(&entry, data.as_mut().map(|data| data as &mut dyn Read)).unwrap();
    };
    append(Entry::directory(path("a"), 0o755), None);
    append(Entry::file(path("a/big"), big.len() as u64, 0o644), Some(&big));
    append(Entry::file(path("a/empty"), 0, 0o600), Some(b""));
    append(Entry::new(path("a/link"), EntryKind::Symlink { target: b"big".to_vec() }, 0o777), None);
    append(Entry::new(path("a/same"), EntryKind::Hardlink { target: path("a/big") }, 0o644), None);
    let mut small = Entry::file(path("a/small"), 5, 0o4755);
    (small.uid, small.gid, small.mtime) = (1000, 7, 86_400);
    small.xattrs.insert(b"security.capability".to_vec(), b"\x01\xff".to_vec());
    append(small, Some(b"small"));
    append(Entry::new(path("dev"), EntryKind::CharDevice { major: 1, minor: 3 }, 0o666), None);
    append(Entry::whiteout(path("gone")), None);
    append(Entry::new(path("pipe"), EntryKind::Fifo, 0o644), None);
    (writer.finish().unwrap().0, big)
}

fn compress(tar: &[u8], threads: usize) -> Result<(Vec<u8>, CompressedLayer)> {
    let options = CompressOptions { threads: Some(threads), ..CompressOptions::new(Compression::Gzip) };
    write_estargz(tar, LayerCompressor::new(Vec::new(), options)?)?.finish()
}

/// What begins at an offset of the blob.
fn unpacked(blob: &[u8], offset: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reader = flate2::read::MultiGzDecoder::new(&blob[offset as usize..]);
    reader.take(size as u64).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The table of a blob, by its footer.
fn table(blob: &[u8], layer: &CompressedLayer) -> Value {
    let footer = &blob[blob.len() - 51..];
    assert_eq!(&footer[..4], [0x1f, 0x8b, 8, 4]);
    assert_eq!(&footer[12..16], [b'S', b'G', 22, 0]);
    assert_eq!(&footer[32..38], b"STARGZ");
    let offset = u64::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    let tar = unpacked(blob, offset, usize::MAX);
    let mut archive = tar::Archive::new(&tar[..]);
    let mut entries = archive.entries().unwrap();
    let mut file = entries.next().unwrap().unwrap();
    assert_eq!(file.path().unwrap().to_str(), Some("stargz.index.json"));
    let mut json = Vec::new();
    file.read_to_end(&mut json).unwrap();
    assert!(entries.next().is_none());
    assert_eq!(layer.annotations[TABLE_DIGEST], Digest::sha256(&json).to_string());
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn every_chunk_is_found_by_the_table() {
    let (tar, big) = layer();
    let (blob, layer) = compress(&tar, 2).unwrap();
    assert_eq!((layer.size, layer.digest.clone()), (blob.len() as u64, Digest::sha256(&blob)));
    let table = table(&blob, &layer);
    assert_eq!(table["version"], 1);
    let rows = table["entries"].as_array().unwrap();
    let kinds: Vec<_> =
        rows.iter().map(|row| (row["name"].as_str().unwrap(), row["type"].as_str().unwrap())).collect();
    let expected = [
        ("a/", "dir"),
        ("a/big", "reg"),
        ("a/big", "chunk"),
        ("a/big", "chunk"),
        ("a/empty", "reg"),
        ("a/link", "symlink"),
        ("a/same", "hardlink"),
        ("a/small", "reg"),
        ("dev", "char"),
        (".wh.gone", "reg"),
        ("pipe", "fifo"),
    ];
    assert_eq!(kinds, expected);
    let mut found = Vec::new();
    for row in rows.iter().filter(|row| row["name"] == "a/big") {
        assert_eq!(row["chunkOffset"].as_u64().unwrap_or(0), found.len() as u64);
        let chunk =
            unpacked(&blob, row["offset"].as_u64().unwrap(), row["chunkSize"].as_u64().unwrap() as usize);
        assert_eq!(row["chunkDigest"], Digest::sha256(&chunk).to_string());
        found.extend(chunk);
    }
    assert_eq!(found, big);
    assert_eq!(rows[1]["digest"], Digest::sha256(&big).to_string());
    assert_eq!(rows[4]["digest"], Digest::sha256("").to_string());
    assert!(rows[4].get("offset").is_none());
    let small = &rows[7];
    assert_eq!(unpacked(&blob, small["offset"].as_u64().unwrap(), 5), b"small");
    assert_eq!((&small["uid"], &small["gid"], &small["mode"]), (&1000.into(), &7.into(), &0o4755.into()));
    assert_eq!(small["modtime"], "1970-01-02T00:00:00Z");
    assert_eq!(small["xattrs"]["security.capability"], "Af8=");
    assert_eq!(rows[5]["linkName"], "big");
    assert_eq!(rows[6]["linkName"], "a/big");
    assert_eq!((&rows[8]["devMajor"], &rows[8]["devMinor"]), (&1.into(), &3.into()));
}

#[test]
fn programs_that_do_not_know_the_table_see_the_same_archive() {
    let (tar, _) = layer();
    let (blob, layer) = compress(&tar, 1).unwrap();
    let mut all = Vec::new();
    Decompressor::new(&blob[..]).unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all[..tar.len()], tar);
    assert_eq!(layer.diff_id, Digest::sha256(&all));
    assert_eq!(layer.uncompressed_size, all.len() as u64);
    assert_eq!(layer.annotations[UNCOMPRESSED_SIZE], all.len().to_string());
    let names = |bytes: &[u8]| {
        let (mut reader, mut names) = (LayerReader::new(bytes), Vec::new());
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(entry.path.to_string());
        }
        names
    };
    assert_eq!(names(&all), names(&tar));
    let diff_id = Some(layer.diff_id);
    let verified = VerifiedLayer::new(&blob[..], layer.digest, layer.size, diff_id).unwrap();
    assert!(std::io::copy(&mut { verified }, &mut std::io::sink()).is_ok());
}

#[test]
fn the_bytes_depend_on_the_tar_alone() {
    let (tar, _) = layer();
    let (one, _) = compress(&tar, 1).unwrap();
    assert_eq!(compress(&tar, 5).unwrap().0, one);
    // Also of a layer without entries.
    let (empty, _) = LayerWriter::new(Vec::new(), None).finish().unwrap();
    let (blob, layer) = compress(&empty, 1).unwrap();
    assert_eq!(table(&blob, &layer)["entries"], serde_json::json!([]));
}

#[test]
fn what_a_table_cannot_have_is_refused_by_name() {
    let one = |name: &[u8]| {
        let mut writer = LayerWriter::new(Vec::new(), None);
        let mut data = &b"x"[..];
        let entry = Entry::file(LayerPath::new(name).unwrap(), 1, 0o644);
        writer.append(&entry, Some(&mut data)).unwrap();
        compress(&writer.finish().unwrap().0, 1).unwrap_err()
    };
    for (name, told) in [(&b"stargz.index.json"[..], "`stargz.index.json`"), (b"a\xff", "`a\\xff`")] {
        let error = one(name);
        assert_eq!(error.kind(), crate::ErrorKind::Unsupported);
        assert!(error.message().contains(told), "{error}");
    }
}
