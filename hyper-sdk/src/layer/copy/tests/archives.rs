//! Archives that ADD unpacks.

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
fn archives_are_unpacked_whatever_compresses_them() {
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
    // What is no archive is copied as it is.
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
fn what_follows_a_compressed_archive_is_ignored() {
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
fn the_last_link_of_an_archive_says_whose_the_file_is() {
    use tar::EntryType::{Link, Regular};
    let mut data = archive(&[("a", Regular, 0o644, "x"), ("b", Link, 0o600, "a"), ("c", Link, 0o4711, "a")]);
    assert_eq!(show(&unpack("", &data, "/").unwrap()), "a 4711 12:13 1; b = a; c = a");
    // A file whose name ends in a slash is one, but for archives from before there was a type for directories.
    data = archive(&[("f/", Regular, 0o644, "")]);
    assert_eq!(show(&unpack("", &data, "/").unwrap()), "f 644 12:13 0");
    data[156] = 0;
    let sum = std::str::from_utf8(&data[148..156]).unwrap().trim_matches(['\0', ' ']);
    let sum = u32::from_str_radix(sum, 8).unwrap() - u32::from(b'0');
    data[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(show(&unpack("", &data, "/").unwrap()), "f/ 644 12:13");
}

#[test]
fn archives_replace_what_they_find() {
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
fn hostile_archives_are_refused() {
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
