//! The header of an entry of a tar.

pub const BLOCK: usize = 512;

/// Writes the beginning of a field.
pub fn field(to: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(to.len());
    to[..length].copy_from_slice(&bytes[..length]);
}

/// Gives a header its mark and its checksum.
pub fn seal(header: &mut [u8; BLOCK]) {
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    field(&mut header[148..156], format!("{sum:06o}\0 ").as_bytes());
}
