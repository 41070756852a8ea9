//! Archives that an attacker would write, made from the bytes of a fuzzer: the names repeat and clash, links lead out, and every
//! checksum is right, so that more than the check of it is reached.

use crate::header::{BLOCK, field, seal};

/// The parts of names and targets: few, so that entries meet each other.
const PARTS: &[&str] =
    &["a", "b", "c", "..", ".", "", ".wh.a", ".wh..wh..opq", ".wh.", ".wh..wh.plnk", "\u{ff}", "canary"];

/// The types of entries, with some that no layer has.
const KINDS: &[u8] = b"0512346700xLKgS";

/// An archive of at most 64 entries.
pub fn make(bytes: &[u8]) -> Vec<u8> {
    let mut source = Source(bytes);
    let mut tar = Vec::new();
    for _ in 0..64 {
        let Some(kind) = source.next() else { break };
        entry(&mut tar, KINDS[usize::from(kind) % KINDS.len()], &mut source);
    }
    // Some archives end without their mark.
    if source.next().is_none_or(|byte| byte % 8 > 0) {
        tar.extend([0; 2 * BLOCK]);
    }
    tar
}

/// The bytes of the fuzzer.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> u8 {
        self.next().unwrap_or_default()
    }

    fn name(&mut self) -> String {
        let shape = self.byte();
        let parts: Vec<_> = (0..shape % 4).map(|_| PARTS[usize::from(self.byte()) % PARTS.len()]).collect();
        let start = if shape & 0x80 > 0 { "/" } else { "" };
        format!("{start}{}{}", parts.join("/"), if shape & 0x40 > 0 { "/" } else { "" })
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        let mut taken = taken.to_vec();
        taken.resize(length, b'x');
        taken
    }
}

fn entry(tar: &mut Vec<u8>, kind: u8, source: &mut Source<'_>) {
    let (name, link) = (source.name(), source.name());
    let data = match kind {
        b'0' | b'7' => {
            let length = usize::from(source.byte() % 64);
            source.take(length)
        }
        b'x' | b'g' => records(source),
        b'L' | b'K' => format!("{link}\0").into_bytes(),
        _ => Vec::new(),
    };
    // Sometimes the header lies about the length.
    let lie = source.byte();
    let size = if lie == 255 { u64::MAX >> 3 } else { data.len() as u64 + u64::from(lie / 250) };
    let mut header = [0; BLOCK];
    field(&mut header[..100], name.as_bytes());
    for (at, value) in
        [(100, u64::from(source.byte()) * 33), (108, 0), (116, 0), (136, u64::from(source.byte()))]
    {
        let width = if at == 136 { 12 } else { 8 };
        field(&mut header[at..at + width], format!("{value:0>width$o}\0", width = width - 1).as_bytes());
    }
    field(&mut header[124..136], format!("{size:011o}\0").as_bytes());
    header[156] = kind;
    field(&mut header[157..257], link.as_bytes());
    for at in [329, 337] {
        field(&mut header[at..at + 8], b"0000001\0");
    }
    seal(&mut header);
    tar.extend(header);
    tar.extend(&data);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// Extended records, with right lengths mostly.
fn records(source: &mut Source<'_>) -> Vec<u8> {
    const KEYS: &[&str] = &[
        "path",
        "linkpath",
        "size",
        "uid",
        "gid",
        "mtime",
        "SCHILY.xattr.user.a",
        "SCHILY.xattr.trusted.overlay.opaque",
        "SCHILY.xattr.security.capability",
        "GNU.sparse.major",
        "LIBARCHIVE.xattr.user.b",
        "",
    ];
    let mut all = Vec::new();
    for _ in 0..source.byte() % 4 {
        let key = KEYS[usize::from(source.byte()) % KEYS.len()];
        let value = match source.byte() % 3 {
            0 => source.name(),
            1 => format!("{}", i64::from(source.byte()) - 128),
            _ => String::from_utf8_lossy(&source.take(5)).into_owned(),
        };
        let body = format!(" {key}={value}\n");
        let length = (1..).find(|length| length.to_string().len() + body.len() == *length);
        all.extend(format!("{}{body}", length.unwrap_or(0) + usize::from(source.byte() / 250)).into_bytes());
    }
    all
}
