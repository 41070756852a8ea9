//! Archives that try to write outside the target, or that are ambiguous.

use super::*;
use crate::{Error, ErrorKind};

/// One header and its data, without any of the writer's checks.
struct Raw(Vec<u8>);

impl Raw {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, kind: u8, name: &[u8], link: &[u8], size_field: &[u8], data: &[u8]) -> Self {
        let mut header = [0u8; 512];
        header[..name.len()].copy_from_slice(name);
        header[100..107].copy_from_slice(b"0000755");
        for field in [108, 116] {
            header[field..field + 7].copy_from_slice(b"0000000");
        }
        if size_field.is_empty() {
            header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        } else {
            header[124..124 + size_field.len()].copy_from_slice(size_field);
        }
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.add(b'0', name.as_bytes(), b"", b"", data.as_bytes())
    }

    fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.add(kind, name.as_bytes(), target.as_bytes(), b"", b"")
    }

    fn pax(self, records: &[u8]) -> Self {
        self.add(b'x', b"pax", b"", b"", records)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// Unpacks into `box/target` in both styles and checks that nothing beside it changed.
fn unpack(archive: &[u8]) -> Vec<Result<crate::layer::apply::Applied, Error>> {
    [ApplyStyle::Plain, ApplyStyle::Overlay]
        .map(|style| {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("target");
            std::fs::create_dir(&target).unwrap();
            std::fs::create_dir(folder.path().join("outside")).unwrap();
            std::fs::write(folder.path().join("outside/secret"), "secret").unwrap();
            let before = std::fs::metadata(folder.path().join("outside/secret")).unwrap();
            let result = apply::apply(archive, &target, &options(style, &[]));
            use std::os::unix::fs::MetadataExt;
            let after = std::fs::metadata(folder.path().join("outside/secret")).unwrap();
            assert_eq!(
                (before.nlink(), before.mode(), before.ctime()),
                (after.nlink(), after.mode(), after.ctime())
            );
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
            assert_eq!(std::fs::read_dir(folder.path().join("outside")).unwrap().count(), 1);
            result
        })
        .into()
}

#[test]
fn archives_that_leave_the_target_are_rejected() {
    let raw = Raw::new;
    for (what, archive) in [
        ("dotdot", raw().file("../outside/secret", "x").end()),
        ("dotdot inside", raw().file("a/../../outside/secret", "x").end()),
        ("symlink parent", raw().link(b'2', "a", "../outside").file("a/secret", "x").end()),
        ("absolute symlink parent", raw().link(b'2', "a", "/").file("a/secret", "x").end()),
        (
            "directory replaced by a symlink",
            raw().add(b'5', b"a/", b"", b"", b"").link(b'2', "a", "../outside").file("a/secret", "x").end(),
        ),
        (
            "directory through a symlink",
            raw().link(b'2', "a", "../outside").add(b'5', b"a/b/", b"", b"", b"").end(),
        ),
        ("hardlink outside", raw().link(b'1', "a", "../outside/secret").end()),
        ("hardlink nowhere", raw().link(b'1', "a", "outside/secret").end()),
        ("hardlink through a symlink", raw().link(b'2', "s", "../outside").link(b'1', "a", "s/secret").end()),
        ("hardlink to a directory", raw().add(b'5', b"d/", b"", b"", b"").link(b'1', "a", "d").end()),
        ("PAX path", raw().pax(b"26 path=../outside/secret\n").file("a", "x").end()),
        ("PAX linkpath", raw().pax(b"30 linkpath=../outside/secret\n").link(b'1', "a", "b").end()),
        ("whiteout of dotdot", raw().file(".wh...", "").end()),
        ("root as a file", raw().file("./", "x").link(b'2', "./", "outside").end()),
        (
            "whiteout through a symlink",
            raw().link(b'2', "a", "../outside").file("a/b/.wh.secret", "").file("a/b/c", "").end(),
        ),
    ] {
        for result in unpack(&archive) {
            let error = result.map(|_| ()).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error:?}");
        }
    }
}

#[test]
fn absolute_names_are_unpacked_inside() {
    let archive = Raw::new().file("/outside/secret", "mine").end();
    for result in unpack(&archive) {
        assert!(result.unwrap().index.get(&path("outside/secret")).is_some());
    }
}

#[test]
fn a_symlink_of_a_lower_layer_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::create_dir(folder.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", target.join("a")).unwrap();
    let archive = Raw::new().file("a/new", "x").end();
    apply::apply(&archive[..], &target, &options(ApplyStyle::Plain, &[])).unwrap();
    assert_eq!(std::fs::read(target.join("a/new")).unwrap(), b"x");
    assert_eq!(std::fs::read_dir(folder.path().join("outside")).unwrap().count(), 0);
}

#[test]
fn ambiguous_archives_are_rejected() {
    let raw = Raw::new;
    let scan = |archive: &[u8]| reader::scan(archive).map(|_| ());
    for (what, archive) in [
        ("sizes disagree", raw().pax(b"10 size=9\n").file("a", "abc").end()),
        ("cut record", raw().pax(b"99 path=a\n").file("a", "").end()),
        ("record without newline", raw().pax(b"9 path=aa").file("a", "").end()),
        ("record without equals", raw().pax(b"7 path\n").file("a", "").end()),
        ("length without digits", raw().pax(b"+9 path=a\n").file("a", "").end()),
        ("NUL in a path", raw().pax(b"12 path=a\0bc\n").file("a", "").end()),
        ("negative size", raw().add(b'0', b"a", b"", &[0xff; 12], b"").end()),
        ("enormous size", raw().add(b'0', b"a", b"", &[&[0x80][..], &[0xff; 11]].concat(), b"").end()),
        ("size in letters", raw().add(b'0', b"a", b"", b"0000000000x", b"").end()),
        ("no name", raw().file("", "").end()),
        ("cut data", raw().add(b'0', b"a", b"", b"00000009999", b"abc").0),
        ("header alone", raw().pax(b"9 path=aa\n").0),
        ("uid too large", raw().pax(b"18 uid=4294967296\n").file("a", "").end()),
    ] {
        let error = scan(&archive).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error:?}");
    }
    let mut wrong_sum = raw().file("a", "").end();
    wrong_sum[0] = b'b';
    assert!(scan(&wrong_sum).unwrap_err().to_string().contains("checksum"));
    for (what, archive) in [
        ("GNU sparse", raw().add(b'S', b"a", b"", b"", b"").end()),
        ("PAX sparse", raw().pax(b"22 GNU.sparse.major=1\n").file("a", "").end()),
        ("global path", raw().add(b'g', b"pax", b"", b"", b"9 path=b\n").file("a", "").end()),
        ("unknown type", raw().add(b'V', b"a", b"", b"", b"").end()),
    ] {
        assert_eq!(scan(&archive).expect_err(what).kind(), ErrorKind::Unsupported, "{what}");
    }
    let bomb = raw().add(b'x', b"pax", b"", b"00010000000", b"").end();
    assert_eq!(scan(&bomb).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn only_files_have_data() {
    // A directory with a size has no data: the next header follows directly, as in Go.
    let archive = Raw::new().add(b'5', b"d/", b"", b"00000001000", b"").file("d/f", "x").end();
    let index = reader::scan(&archive[..]).unwrap();
    assert_eq!(index.get(&path("d/f")).unwrap().size(), 1);
}

#[test]
fn a_layer_cannot_set_attributes_of_overlay() {
    let records = b"35 SCHILY.xattr.user.overlay.opaque=y\n";
    let records = [format!("{}", records.len()).as_bytes(), &records[2..]].concat();
    let archive = Raw::new().pax(&records).add(b'5', b"d/", b"", b"", b"").end();
    assert!(reader::scan(&archive[..]).unwrap().get(&path("d")).unwrap().xattrs.is_empty());
    let mut writer = LayerWriter::new(Vec::new(), None);
    writer.append(&other("n", EntryKind::CharDevice { major: 0, minor: 0 }, 0o600).0, None).unwrap();
    let (bytes, _) = writer.finish().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = apply::apply(&bytes[..], folder.path(), &options(ApplyStyle::Overlay, &[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn attributes_of_libarchive_are_decoded() {
    let record = |text: &str| {
        let mut length = text.len() + 3;
        while length != text.len() + 2 + length.to_string().len() {
            length = text.len() + 2 + length.to_string().len();
        }
        format!("{length} {text}\n").into_bytes()
    };
    let archive = Raw::new().pax(&record("LIBARCHIVE.xattr.user.a%20b=AAEC")).file("a", "").end();
    let index = reader::scan(&archive[..]).unwrap();
    let xattrs = &index.get(&path("a")).unwrap().xattrs;
    assert_eq!(xattrs.get(&b"user.a b"[..]), Some(&vec![0, 1, 2]));
    let archive = Raw::new().pax(&record("LIBARCHIVE.xattr.user.a=%%%")).file("a", "").end();
    assert!(reader::scan(&archive[..]).is_err());
}

#[test]
fn extended_headers_of_one_entry_are_bounded_together() {
    let record = |n: u8| {
        let body = format!("a{n}={}", "x".repeat(1_000_000));
        let length =
            (1..9).map(|digits| body.len() + 2 + digits).find(|l| l.to_string().len() + body.len() + 2 == *l);
        format!("{} {body}\n", length.unwrap())
    };
    let headers = |count: u8| {
        (0..count)
            .fold(Raw::new(), |raw, n| raw.pax(record(n).as_bytes()))
            .file("a", "x")
            .file("b", "y")
            .end()
    };
    for result in unpack(&headers(4)) {
        result.unwrap();
    }
    for result in unpack(&headers(5)) {
        let e = result.unwrap_err();
        assert!(e.kind() == ErrorKind::TooLarge && e.to_string().contains("4 MiB"), "{e}");
    }
    // Each entry may have its own.
    let many = (0..8).fold(Raw::new(), |raw, n| raw.pax(record(n).as_bytes()).file(&format!("f{n}"), "x"));
    for result in unpack(&many.end()) {
        result.unwrap();
    }
}
