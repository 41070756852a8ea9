//! Tests of the tar writer and reader with each other and with other tools.

use super::*;
use crate::ErrorKind;
use std::process::Command;

fn rich() -> Contents {
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(99));
    let longer = format!("{}/{}", "e".repeat(200), "m".repeat(180));
    let mut with_xattr = file("caps", "elf");
    with_xattr.0.xattrs.insert(b"security.capability".to_vec(), vec![1, 0, 0, 2, b'\n', b'=', 0]);
    with_xattr.0.xattrs.insert(b"user.empty".to_vec(), Vec::new());
    let mut big_ids = file("ids", "");
    (big_ids.0.uid, big_ids.0.gid) = (u32::MAX - 1, 3_000_000);
    let mut old = file("old", "before 1970");
    old.0.mtime = -86_400;
    let mut setuid = file("setuid", "x");
    setuid.0.mode = 0o6755;
    let mut entries = vec![
        (Entry::directory(LayerPath::root(), 0o755), Vec::new()),
        dir("dir"),
        opaque("dir"),
        other("dir/blk", EntryKind::BlockDevice { major: 8, minor: 300_000 }, 0o660),
        other("dir/null", EntryKind::CharDevice { major: 1, minor: 3 }, 0o666),
        whiteout("dir/gone"),
        other("pipe", EntryKind::Fifo, 0o600),
        symlink("link", "../../etc/passwd"),
        symlink("long-link", &"t".repeat(150)),
        file("\u{e9}\u{4e2d}", "not ASCII"),
        file(&long, "prefix"),
        file(&longer, "pax"),
        with_xattr,
        big_ids,
        old,
        setuid,
        other("zlink", EntryKind::Hardlink { target: path("caps") }, 0o644),
    ];
    entries.push((Entry::file(LayerPath::new(&b"raw\xff\xfe"[..]).unwrap(), 3, 0o600), b"raw".to_vec()));
    entries.sort_by(|a, b| a.0.layer_order(&b.0));
    entries
}

/// Digests are not in the archive.
fn without_digests(entries: &[(Entry, Vec<u8>)]) -> Contents {
    let strip = |(entry, content): &(Entry, Vec<u8>)| {
        let mut entry = entry.clone();
        if let EntryKind::File { digest, .. } = &mut entry.kind {
            *digest = None;
        }
        (entry, content.clone())
    };
    entries.iter().map(strip).collect()
}

#[test]
fn a_layer_round_trips() {
    let entries = rich();
    let (bytes, index) = write_layer(&entries);
    assert_eq!(read_layer(&bytes), entries);
    assert_eq!(reader::scan(&bytes[..]).unwrap(), index);
    assert_eq!(LayerIndex::from_bytes(&index.to_bytes()).unwrap(), index);
    assert_eq!(index.get(&path("caps")).unwrap().digest(), Some(&Digest::sha256(b"elf")));
}

#[test]
fn times_are_clamped_and_the_bytes_are_pinned() {
    let mut writer = LayerWriter::new(Vec::new(), Some(1000));
    for (mtime, (mut entry, content)) in
        [(5000, dir("a")), (10, file("a/early", "x")), (1001, file("a/late", "y"))]
    {
        (entry.mtime, entry.uid, entry.gid) = (mtime, 0, 0);
        writer.append(&entry, Some(&mut content.as_slice())).unwrap();
    }
    let (bytes, index) = writer.finish().unwrap();
    assert_eq!(index.entries().iter().map(|e| e.mtime).collect::<Vec<_>>(), [1000, 10, 1000]);
    assert_eq!(bytes.len(), 512 * 7);
    assert_eq!(
        Digest::sha256(&bytes).as_str(),
        PINNED,
        "the format has changed: every image of every user changes with it"
    );
}

const PINNED: &str = "sha256:d62f1dc28ccbb450a5431a6b21a1e7aa7bbbd0201d984149e50c3039a60d8ef7";

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    for (content, why) in [("hell", "shrank"), ("hello!", "grew")] {
        let mut writer = LayerWriter::new(Vec::new(), None);
        let error = writer.append(&file("f", "hello").0, Some(&mut content.as_bytes())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(why), "{error}");
    }
    let mut known = file("f", "hello").0;
    known.kind = EntryKind::File { size: 5, digest: Some(Digest::sha256(b"hello")) };
    let mut writer = LayerWriter::new(Vec::new(), None);
    assert_eq!(writer.append(&known, Some(&mut &b"jello"[..])).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn invalid_entries_are_rejected() {
    for pair in [
        [dir("b"), dir("a")],
        [dir("a"), dir("a")],
        [file("a", ""), file("a/b", "")],
        [whiteout("a"), file("a/b", "")],
        [dir("a"), other("b", EntryKind::Hardlink { target: path("b") }, 0o644)],
    ] {
        let mut writer = LayerWriter::new(Vec::new(), None);
        writer.append(&pair[0].0, None).unwrap();
        assert_eq!(writer.append(&pair[1].0, None).unwrap_err().kind(), ErrorKind::Internal, "{pair:?}");
    }
    let mut writer = LayerWriter::new(Vec::new(), None);
    let error = writer.append(&file("a/.wh.b", "").0, None).unwrap_err();
    assert!(error.to_string().contains("whiteout"), "{error}");
}

fn tool(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("SKIPPED: `{name}` is not installed");
    }
    found
}

#[test]
fn gnu_tar_reads_written_layers() {
    if !tool("tar") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("layer.tar");
    let (bytes, index) = write_layer(&rich());
    std::fs::write(&archive, bytes).unwrap();
    let output = Command::new("tar")
        .args(["--quoting-style=literal", "--warning=all", "-tf"])
        .arg(&archive)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"", "{output:?}");
    let lines = output.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count();
    assert_eq!(lines, index.len());
    let name = format!("{}/{}", "e".repeat(200), "m".repeat(180));
    let output = Command::new("tar").arg("-xOf").arg(&archive).arg(name).output().unwrap();
    assert_eq!(output.stdout, b"pax");
}

#[test]
fn python_reads_written_layers() {
    if !tool("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("layer.tar");
    let (bytes, index) = write_layer(&rich());
    std::fs::write(&archive, bytes).unwrap();
    let script = "import sys, tarfile\nt = tarfile.open(sys.argv[1])\nm = t.getmembers()\n\
                  i = t.getmember('ids')\nprint(len(m), i.uid, i.gid, int(t.getmember('old').mtime), \
                  t.extractfile('\\u00e9\\u4e2d').read().decode())";
    let output = Command::new("python3").args(["-c", script]).arg(&archive).output().unwrap();
    let expected = format!("{} {} 3000000 -86400 not ASCII\n", index.len(), u32::MAX - 1);
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
}

#[test]
fn every_format_of_gnu_tar_is_read() {
    if !tool("tar") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let long = "l".repeat(140);
    for (name, content) in [("short", "1"), (long.as_str(), "2")] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    std::os::unix::fs::symlink("x".repeat(130), folder.path().join("link")).unwrap();
    std::fs::hard_link(folder.path().join("short"), folder.path().join("twin")).unwrap();
    for format in ["gnu", "pax", "oldgnu", "ustar", "v7"] {
        let only_short = matches!(format, "ustar" | "v7");
        let names: &[&str] = if only_short { &["short", "twin"] } else { &["short", &long, "link", "twin"] };
        let output = Command::new("tar")
            .arg(format!("--format={format}"))
            .arg("-C")
            .arg(folder.path())
            .args(["--mtime=@1234567890.7", "-cf", "-"])
            .args(names)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let read = read_layer(&output.stdout);
        assert_eq!(read.len(), names.len(), "{format}");
        for ((entry, content), name) in read.iter().zip(names) {
            assert_eq!(entry.path, path(name));
            match &entry.kind {
                EntryKind::File { .. } => assert_eq!(content, if *name == "short" { b"1" } else { b"2" }),
                EntryKind::Symlink { target } => assert_eq!(target.len(), 130),
                kind => assert_eq!(*kind, EntryKind::Hardlink { target: path("short") }),
            }
            assert_eq!(entry.mtime, 1_234_567_890, "{format}");
        }
    }
}

#[test]
fn content_after_the_end_is_read_and_ignored() {
    let (mut bytes, _) = write_layer(&[file("a", "x")]);
    bytes.extend([7; 3000]);
    let mut source = &bytes[..];
    let mut reader = LayerReader::new(&mut source);
    assert!(reader.next_entry().unwrap().is_some());
    assert!(reader.next_entry().unwrap().is_none());
    assert!(reader.next_entry().unwrap().is_none());
    assert!(source.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn random_layers_round_trip(entries in layers(true)) {
        let (bytes, index) = write_layer(&entries);
        prop_assert_eq!(read_layer(&bytes), without_digests(&entries));
        prop_assert_eq!(&reader::scan(&bytes[..]).unwrap(), &index);
        prop_assert_eq!(write_layer(&entries).0, bytes);
    }

    #[test]
    fn random_names_and_attributes_round_trip(
        name in proptest::collection::vec(1u8.., 1..300),
        target in proptest::collection::vec(1u8.., 1..300),
        key in "[a-z.]{1,40}",
        value: Vec<u8>,
        mtime: i64, uid: u32, gid: u32, mode in 0..0o7777u32,
    ) {
        let Ok(path) = LayerPath::new(name) else { return Ok(()) };
        prop_assume!(!path.parts().any(|p| p.starts_with(b".wh.")));
        let key = format!("user.{key}").into_bytes();
        prop_assume!(!key.starts_with(b"user.overlay."));
        let mut entry = Entry::new(path, EntryKind::Symlink { target }, mode);
        (entry.mtime, entry.uid, entry.gid) = (mtime, uid, gid);
        entry.xattrs.insert(key, value);
        let (bytes, _) = write_layer(&[(entry.clone(), Vec::new())]);
        prop_assert_eq!(read_layer(&bytes), vec![(entry, Vec::new())]);
    }

    #[test]
    fn damaged_archives_never_panic(entries in layers(true), at: proptest::sample::Index, byte: u8, cut: bool) {
        let (mut bytes, _) = write_layer(&entries);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let _ = reader::scan(&bytes[..]);
    }
}

proptest! {
    #[test]
    fn exact_archives_carry_times_to_the_nanosecond(seconds: i32, nanoseconds in 0..1_000_000_000u32, epoch: i32) {
        let mut entry = Entry::file(LayerPath::new("a").unwrap(), 4, 0o644);
        entry.set_time(FileTime { seconds: i64::from(seconds), nanoseconds });
        let mut exact = LayerWriter::exact(Vec::new());
        exact.append(&entry, Some(&mut &b"text"[..])).unwrap();
        let (bytes, _) = exact.finish().unwrap();
        let read = LayerReader::new(&bytes[..]).next_entry().unwrap().unwrap();
        prop_assert_eq!(read.time(), entry.time());
        // The stored layer is the same as one that was written directly.
        let mut published = LayerWriter::new(Vec::new(), Some(i64::from(epoch)));
        published.append_all(&bytes[..]).unwrap();
        let times = TimesTable::from(published.take_times());
        prop_assert_eq!(times.get(&entry.path), Some(entry.time()));
        let mut at_once = LayerWriter::new(Vec::new(), Some(i64::from(epoch)));
        at_once.append(&entry, Some(&mut &b"text"[..])).unwrap();
        let (kept, at_once) = (published.finish().unwrap(), at_once.finish().unwrap());
        prop_assert_eq!(&kept, &at_once);
        prop_assert_eq!(kept.1.entries()[0].time(), FileTime::of(i64::from(seconds.min(epoch))));
    }
}

#[test]
fn fractions_of_times_are_rounded_down() {
    use crate::layer::reader::file_time;
    let of = |text: &str| file_time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds));
    assert_eq!(of("7"), Some((7, 0)));
    assert_eq!(of("7.5"), Some((7, 500_000_000)));
    assert_eq!(of("7.1234567899"), Some((7, 123_456_789)));
    assert_eq!(of("-7"), Some((-7, 0)));
    assert_eq!(of("-7.25"), Some((-8, 750_000_000)));
    assert_eq!(of("-7.0000000001"), Some((-8, 999_999_999)));
    assert_eq!(of("-7.9999999999"), Some((-8, 0)));
    for wrong in ["", "x", "1.x", "+1", "1e3", "-", "99999999999999999999"] {
        assert_eq!(of(wrong), None, "{wrong}");
    }
}
