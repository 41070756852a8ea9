//! Tests of archives that ADD unpacks.

use super::*;
use std::io::Write;

fn archive(members: &[(&str, tar::EntryType, u32, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, mode, text) in members {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(12);
        header.set_gid(13);
        header.set_mtime(99);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
            header.set_link_name(text).unwrap();
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, &b""[..]).unwrap();
        } else {
            header.set_size(text.len() as u64);
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn unpack(to: &str, data: &[u8], at: &str) -> Result<Plan> {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path(), "a.bin 664");
    std::fs::write(folder.path().join("a.bin"), data).unwrap();
    let root = Arc::new(SourceRoot::open(folder.path(), SourceKind::Context, None).unwrap());
    let mut spec = CopySpec::new(["a.bin"], at);
    spec.unpack = true;
    let plan = plan(&root, &destination(to), &spec)?;
    let mut writer = LayerWriter::new(Vec::new(), None);
    plan.write(&mut writer)?;
    plan.content_digest(&ReadingHasher, 1)?;
    Ok(plan)
}

#[test]
fn an_archive_that_ends_too_early_says_so() {
    let whole = archive(&[("a", tar::EntryType::Regular, 0o644, &"x".repeat(2000))]);
    for length in [600, 1024, 2000] {
        let e = unpack("", &whole[..length], "/n/").unwrap_err();
        assert!(e.message().starts_with("the archive is damaged: it ends before"), "{length}: {e}");
        assert!(e.to_string().contains("member: a"), "{e}");
    }
    let mut huge = whole.clone();
    huge[124..136].copy_from_slice(b"77777777777\0");
    let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(huge[i]) }).sum();
    huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let e = unpack("", &huge, "/n/").unwrap_err();
    assert!(e.message().starts_with("the archive is damaged: it ends before"), "{e}");
}

#[test]
fn archives_and_members_can_be_excluded() {
    use tar::EntryType::{Directory, Link, Regular};
    let data = archive(&[
        ("d/", Directory, 0o755, ""),
        ("d/a.txt", Regular, 0o644, "hello"),
        ("d/b", Link, 0o644, "d/a.txt"),
        ("d/c", Link, 0o644, "d/b"),
        ("e/", Directory, 0o755, ""),
        ("./e/f", Regular, 0o644, "f"),
    ]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.tar"), data).unwrap();
    let root = Arc::new(SourceRoot::open(folder.path(), SourceKind::Context, None).unwrap());
    for (patterns, expected) in [
        (&["*.tar"][..], ""),
        // A link to a member that is left out is a file.
        (
            &["d/*.txt"],
            "n/ 755; n/d/ 755 12:13; n/d/b 644 12:13 5; n/d/c = n/d/b; n/e/ 755 12:13; n/e/f 644 12:13 1",
        ),
        (&["*.txt", "d"], "n/ 755; n/e/ 755 12:13; n/e/f 644 12:13 1"),
        (&["**", "!e/f", "!*.tar"], "n/ 755; n/e/ 755; n/e/f 644 12:13 1"),
    ] {
        let mut spec = CopySpec::new(["x.tar"], "/n/");
        (spec.unpack, spec.exclude) = (true, PatternList::new(patterns).unwrap());
        assert_eq!(show(&plan(&root, &EmptyDestination, &spec).unwrap()), expected, "{patterns:?}");
    }
}

#[test]
fn archives_of_all_compressions_are_unpacked() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let plain = archive(&[
        ("./", Directory, 0o700, ""),
        ("z/f", Regular, 0o4755, "hello"),
        ("d/", Directory, 0o1777, ""),
        ("d/l", Symlink, 0o777, "../z/f"),
        ("a", Link, 0o4755, "z/f"),
    ]);
    let expected = "n/ 755; n/a 4755 12:13 5; n/d/ 1777 12:13; n/d/l -> ../z/f 12:13; n/z/ 755; n/z/f = n/a";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&plain).unwrap();
    let mut xz = Vec::new();
    std::io::copy(&mut liblzma::read::XzEncoder::new(&plain[..], 6), &mut xz).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for data in [plain.clone(), gzip.finish().unwrap(), bzip2.finish().unwrap(), xz, zstd] {
        assert_eq!(show(&unpack("", &data, "/n").unwrap()), expected);
    }
    // Other files are copied as they are.
    for data in [&b"hello world"[..], b"", &[0; 1024], b"\x1f\x8b\x08 but no gzip", b"\xfd7zXZ\x00 no"] {
        assert_eq!(show(&unpack("", data, "/n").unwrap()), format!("n 664 {}", data.len()));
    }
    assert!(unpack("", &gzip_cut(&plain), "/n").is_err());
}

fn gzip_cut(plain: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    gzip.write_all(plain).unwrap();
    let mut data = gzip.finish().unwrap();
    data.truncate(data.len() / 2);
    data
}

#[test]
fn trailing_bytes_of_a_compressed_archive_are_ignored() {
    let plain = archive(&[("a", tar::EntryType::Regular, 0o644, "x")]);
    let gzip = |data: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(data).unwrap();
        gzip.finish().unwrap()
    };
    // In two streams, as parallel compressors write it.
    let halves = [gzip(&plain[..700]), gzip(&plain[700..])].concat();
    assert_eq!(unpack("", &halves[..halves.len() - 9], "/n").unwrap_err().kind(), ErrorKind::Invalid);
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    let skipped = [&b"\x50\x2a\x4d\x18\x04\0\0\0abcd"[..], &zstd].concat();
    let mut xz = Vec::new();
    std::io::copy(&mut liblzma::read::XzEncoder::new(&plain[..], 6), &mut xz).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&plain).unwrap();
    for packed in [halves, skipped, zstd, xz, bzip2.finish().unwrap()] {
        for tail in [&b""[..], b"garbage", &[0; 1000]] {
            let data = [&packed, tail].concat();
            assert_eq!(show(&unpack("", &data, "/n").unwrap()), "n/ 755; n/a 644 12:13 1");
        }
    }
    let mut broken = gzip(&plain);
    let crc = broken.len() - 8;
    broken[crc] ^= 1;
    assert_eq!(unpack("", &broken, "/n").unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn the_last_hard_link_sets_the_metadata_of_the_file() {
    use tar::EntryType::{Link, Regular};
    let mut data = archive(&[("a", Regular, 0o644, "x"), ("b", Link, 0o600, "a"), ("c", Link, 0o4711, "a")]);
    assert_eq!(show(&unpack("", &data, "/").unwrap()), "a 4711 12:13 1; b = a; c = a");
    // A file whose name ends with a slash is a file, except in old archives without a type for directories.
    data = archive(&[("f/", Regular, 0o644, "")]);
    assert_eq!(show(&unpack("", &data, "/").unwrap()), "f 644 12:13 0");
    data[156] = 0;
    let sum = std::str::from_utf8(&data[148..156]).unwrap().trim_matches(['\0', ' ']);
    let sum = u32::from_str_radix(sum, 8).unwrap() - u32::from(b'0');
    data[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(show(&unpack("", &data, "/").unwrap()), "f/ 644 12:13");
}

#[test]
fn archives_replace_existing_entries() {
    use tar::EntryType::{Directory, Regular};
    let file = archive(&[("dir", Regular, 0o644, "x")]);
    assert_eq!(show(&unpack("dir/; dir/old", &file, "/").unwrap()), "dir 644 12:13 1");
    let twice = archive(&[
        ("dir", Regular, 0o644, "x"),
        ("dir/", Directory, 0o755, ""),
        ("dir/n", Regular, 0o600, ""),
    ]);
    assert_eq!(
        show(&unpack("dir/; dir/old", &twice, "/").unwrap()),
        "dir/ 755 12:13; dir opaque whiteout 0; dir/n 600 12:13 0"
    );
    let directory = archive(&[("f/", Directory, 0o755, ""), ("dir/", Directory, 0o750, "")]);
    assert_eq!(show(&unpack("f; dir/; dir/old", &directory, "/").unwrap()), "dir/ 750 12:13; f/ 755 12:13");
    // Links in the parents of a member stay within the destination.
    let member = archive(&[("lib/so", Regular, 0o644, "x")]);
    assert_eq!(
        show(&unpack("lib -> /usr/lib; usr/; usr/lib/", &member, "/").unwrap()),
        "usr/lib/so 644 12:13 1"
    );
    assert_eq!(
        show(&unpack("n/; n/lib -> /../../usr; usr/", &member, "/n").unwrap()),
        "n/usr/ 755; n/usr/so 644 12:13 1"
    );
}

#[test]
fn hostile_archives_are_rejected() {
    use tar::EntryType::{Link, Regular};
    for (members, kind) in [
        (vec![("../x", Regular, 0o644, "")], ErrorKind::Invalid),
        (vec![("a/../../x", Regular, 0o644, "")], ErrorKind::Invalid),
        (vec![("x", Link, 0o644, "../etc/passwd")], ErrorKind::Invalid),
        (vec![("x", Link, 0o644, "nothing")], ErrorKind::Unsupported),
        (vec![(".wh.x", Regular, 0o644, "")], ErrorKind::Unsupported),
        (vec![("x", tar::EntryType::new(b'V'), 0o644, "")], ErrorKind::Unsupported),
    ] {
        let e = unpack("", &archive(&members), "/").unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
    }
}

#[test]
fn oversized_headers_are_rejected() {
    use tar::EntryType::{GNULongName, Regular, XHeader};
    for (kind, size) in [(XHeader, 64 << 20), (GNULongName, 64 << 20), (XHeader, 1 << 40)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(16 << 20, b'1');
        let e = unpack("", &bytes, "/").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid);
        assert!(format!("{e:?}").contains("above 4 MiB"), "{e:?}");
    }
    // The headers of all members together may be long, if those of each member are short.
    let long: Vec<_> = (0..12).map(|i| ("x".repeat(400 << 10), i.to_string())).collect();
    let many: Vec<u8> = long
        .iter()
        .flat_map(|(value, name)| {
            let mut member = with_records(&[("comment", value)], name, Regular, b"x");
            // Without the two blocks at the end of an archive.
            member.truncate(member.len() - 1024);
            member
        })
        .collect();
    assert_eq!(unpack("", &many, "/").unwrap().entries().len(), 12);
}

/// A member as it is in the archive, behind a header with PAX records.
fn with_records(records: &[(&str, &str)], name: &str, kind: tar::EntryType, data: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().map(|(key, value)| (*key, value.as_bytes()))).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o640);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(data.len() as u64);
    header.set_cksum();
    builder.append(&header, data).unwrap();
    builder.into_inner().unwrap()
}

/// The bytes of the file `name` when an archive is unpacked into `/`.
fn unpacked(data: &[u8], name: &str) -> Result<Vec<u8>> {
    let plan = unpack("", data, "/")?;
    let mut writer = LayerWriter::new(Vec::new(), None);
    plan.write(&mut writer)?;
    let (layer, _) = writer.finish()?;
    let mut layer = crate::layer::LayerReader::new(&layer[..]);
    while let Some(entry) = layer.next_entry()? {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut layer, &mut bytes)?;
        if entry.path.to_string() == name {
            return Ok(bytes);
        }
    }
    Err(crate::Error::invalid(format!("no {name} in {}", show(&plan))))
}

#[test]
fn sparse_files_are_unpacked_in_full() {
    use tar::EntryType::{Continuous, Regular};
    let pairs = [("offset", "2"), ("numbytes", "3"), ("offset", "10"), ("numbytes", "2")];
    let pairs = pairs.map(|(key, value)| (format!("GNU.sparse.{key}"), value));
    let mut records = vec![("GNU.sparse.size", "20"), ("GNU.sparse.numblocks", "2")];
    records.extend(pairs.iter().map(|(key, value)| (key.as_str(), *value)));
    let expected = b"\0\0abc\0\0\0\0\0de\0\0\0\0\0\0\0\0";
    assert_eq!(unpacked(&with_records(&records, "f", Regular, b"abcde"), "f").unwrap(), expected);
    let named = ("GNU.sparse.name", "real/name");
    let map = ("GNU.sparse.map", "2,3,10,2");
    let records = [named, ("GNU.sparse.size", "20"), ("GNU.sparse.numblocks", "2"), map];
    for kind in [Regular, Continuous] {
        let data = with_records(&records, "GNUSparseFile.1/f", kind, b"abcde");
        assert_eq!(unpacked(&data, "real/name").unwrap(), expected);
    }
    let first = [named, ("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")];
    let records = [&first[..], &[("GNU.sparse.realsize", "20")]].concat();
    let mut data = b"2\n2\n3\n10\n2\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    assert_eq!(unpacked(&with_records(&records, "f", Regular, &data), "real/name").unwrap(), expected);
    // Many parts, and a hole that is too large for memory or a plain copy.
    let count = 3000;
    let mut data = format!("{count}\n").into_bytes();
    for at in 0..count {
        data.extend_from_slice(format!("{}\n1\n", at * 700).as_bytes());
    }
    data.resize(data.len().next_multiple_of(512), 0);
    data.extend_from_slice(&vec![b'x'; count]);
    let records = [&first[..], &[("GNU.sparse.realsize", "2100000")]].concat();
    let bytes = unpacked(&with_records(&records, "f", Regular, &data), "real/name").unwrap();
    assert_eq!(bytes.len(), 2_100_000);
    assert!(bytes.iter().enumerate().all(|(at, b)| *b == if at % 700 == 0 { b'x' } else { 0 }));
    // Records without a map are ignored.
    for records in [&[("GNU.sparse.size", "20")][..], &[("GNU.sparse.major", "2"), map], &[named]] {
        assert_eq!(unpacked(&with_records(records, "f", Regular, b"abcde"), "f").unwrap(), b"abcde");
    }
}

#[test]
fn invalid_sparse_maps_are_rejected() {
    use tar::EntryType::{Directory, Regular};
    let map = |size: &str, blocks: &str, map: &str| {
        let records = [("GNU.sparse.size", size), ("GNU.sparse.numblocks", blocks), ("GNU.sparse.map", map)];
        unpacked(&with_records(&records, "f", Regular, b"abcde"), "f")
    };
    assert_eq!(map("20", "2", "2,5,20,0").unwrap().len(), 20);
    for (size, blocks, numbers) in [
        ("20", "2", "2,3,4,2"),
        ("20", "2", "10,3,4,2"),
        ("8", "2", "2,3,10,2"),
        ("20", "1", "0,4"),
        ("20", "1", "0,6"),
        ("20", "2", "0,5"),
        ("20", "1", "0,5,7"),
        ("20", "-1", "0,5"),
        ("20", "99999999999999999999", "0,5"),
        ("20", "9223372036854775807", "0,5"),
        ("20", "1", "0,-5"),
        ("20", "1", "9223372036854775807,5"),
        ("20", "1", "18446744073709551615,5"),
        ("20", "1", "x,5"),
        ("-1", "1", "0,5"),
        ("18446744073709551615", "1", "0,5"),
    ] {
        let e = map(size, blocks, numbers).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{size} {blocks} {numbers}: {e}");
        assert!(e.to_string().contains("the map of a sparse file is damaged"), "{e}");
    }
    let long = "0,0,".repeat(300_000);
    assert!(map("20", "600001", &format!("{long}0,5")).unwrap_err().to_string().contains("too long"));
    // The file would have too many zeros.
    assert_eq!(map("9223372036854775807", "1", "0,5").unwrap_err().kind(), ErrorKind::TooLarge);
    let first = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "20")];
    let long = "9".repeat(2000);
    for data in ["", "1", "1\n", "1\n0\n", "9223372036854775807\n", "4611686018427387904\n1\n", "\n", &long] {
        let e = unpacked(&with_records(&first, "f", Regular, data.as_bytes()), "f").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Invalid, "{data}: {e}");
    }
    let endless = format!("524288\n{}", "0\n".repeat(600_000));
    assert!(unpacked(&with_records(&first, "f", Regular, endless.as_bytes()), "f").is_err());
    let records = [("GNU.sparse.numblocks", "0"), ("GNU.sparse.map", "0,0")];
    assert!(unpack("", &with_records(&records, "d/", Directory, b""), "/").is_err());
    for records in
        [&[("GNU.sparse.numbytes", "0")][..], &[("GNU.sparse.offset", "0"), ("GNU.sparse.offset", "0")]]
    {
        assert!(unpacked(&with_records(records, "f", Regular, b"abcde"), "f").is_err());
    }
}

#[test]
fn owners_beyond_32_bits_are_truncated_like_in_the_kernel() {
    let owner = |uid: &str, gid: &str| {
        let data = with_records(&[("uid", uid), ("gid", gid)], "f", tar::EntryType::Regular, b"");
        unpack("", &data, "/").map(|plan| show(&plan))
    };
    for (uid, gid, expected) in [
        ("5000000000", "4294967297", "f 640 705032704:1 0"),
        ("4294967294", "2147483648", "f 640 4294967294:2147483648 0"),
        ("4294967295", "-1", "f 640 0"),
        ("-5", "", "f 640 4294967291:0 0"),
    ] {
        assert_eq!(owner(uid, gid).unwrap(), expected);
    }
    assert_eq!(owner("root", "0").unwrap_err().kind(), ErrorKind::Invalid);
    let mut data = archive(&[("f", tar::EntryType::Regular, 0o644, "")]);
    // Base 256, as GNU tar writes what does not fit; -1 has all bits set.
    data[108..116].copy_from_slice(&[0x80, 0, 0, 1, 0x2a, 0x05, 0xf2, 0]);
    data[116..124].copy_from_slice(&[0xff; 8]);
    let sum: u32 = data[..512]
        .iter()
        .enumerate()
        .map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) })
        .sum();
    data[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(show(&unpack("", &data, "/").unwrap()), "f 644 705032704:0 0");
}

#[test]
fn the_root_of_an_archive_sets_the_metadata_of_the_destination() {
    use tar::EntryType::{Directory, Regular};
    let with_root = |name, kind| {
        archive(&[("f", Regular, 0o644, ""), (name, kind, 0o1700, ""), ("g/h", Regular, 0o644, "")])
    };
    for (name, top) in
        [("/", "1700 12:13"), ("//", "1700 12:13"), ("/.", "1700 12:13"), ("./", "755"), (".", "755")]
    {
        let expected = format!("n/ {top}; n/f 644 12:13 0; n/g/ 755; n/g/h 644 12:13 0");
        assert_eq!(show(&unpack("", &with_root(name, Directory), "/n").unwrap()), expected, "{name}");
    }
    let members = "f 644 12:13 0; g/ 755; g/h 644 12:13 0";
    assert_eq!(show(&unpack("", &with_root("/", Directory), "/").unwrap()), members);
    let existing = unpack("n/; n/old", &with_root("/", Directory), "/n").unwrap();
    assert!(show(&existing).starts_with("n/ 1700 12:13; n/f"));
    let file = unpack("", &with_root("/", Regular), "/n");
    assert_eq!(file.unwrap_err().kind(), ErrorKind::Invalid);
}
