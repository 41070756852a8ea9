//! A small tar writer for tests, independent of the tar writer of the SDK.

const BLOCK: usize = 512;

/// One member of an archive.
pub(super) struct Member<'a> {
    pub(super) name: &'a [u8],
    /// The type: `0` is a file, `1` a hard link, `2` a symbolic link, `5` a folder.
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u64,
    pub(super) link: &'a [u8],
    pub(super) data: &'a [u8],
}

/// Appends a member.
pub(super) fn append(archive: &mut Vec<u8>, member: &Member<'_>) {
    let mut records = Vec::new();
    for (key, value) in [("path", member.name), ("linkpath", member.link)] {
        if value.len() > 100 {
            records.extend_from_slice(&record(key, value));
        }
    }
    if !records.is_empty() {
        let header = Member { name: b"pax", kind: b'x', link: b"", data: &records, ..*member };
        plain(archive, &header);
    }
    plain(archive, member);
}

/// Ends an archive.
pub(super) fn finish(archive: &mut Vec<u8>) {
    archive.extend_from_slice(&[0; 2 * BLOCK]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while rest.len() + length.to_string().len() != length {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

fn plain(archive: &mut Vec<u8>, member: &Member<'_>) {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &member.name[..member.name.len().min(100)]);
    put(100, format!("{:07o}", member.mode).as_bytes());
    put(108, format!("{:07o}", member.uid).as_bytes());
    put(116, format!("{:07o}", member.gid).as_bytes());
    put(124, format!("{:011o}", member.data.len()).as_bytes());
    put(136, format!("{:011o}", member.mtime).as_bytes());
    put(148, b"        ");
    put(156, &[member.kind]);
    put(157, &member.link[..member.link.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(member.data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}
