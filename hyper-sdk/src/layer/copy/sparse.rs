//! Sparse files in archives, as GNU tar writes them: they are unpacked in full, but their holes stay holes on the disk.
//!
//! ```text
//! PAX 0.0   records numblocks=N, then N times offset=AT numbytes=LENGTH
//! PAX 0.1   records numblocks=N, map=AT,LENGTH,AT,LENGTH,…; the real name is in the record name
//! PAX 1.0   records major=1 minor=0; the data begins with N, AT, LENGTH, AT, LENGTH, … a line each, up to a full block
//! ```
//!
//! Records of any other form are ignored: the member is then an ordinary one.
//!
//! # Invariants
//! - The parts of a map are in order, do not overlap, end within the file and have exactly the stored size in total.
//! - Announced sizes reserve no memory, and holes take no space on the disk.

use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The size limit for all sparse files of an archive together.
const MAX_SIZE: u64 = 64 << 30;
/// The size limit for the map of a file.
const MAX_MAP: usize = 1 << 20;
const BLOCK: usize = 512;

/// The PAX records of a sparse member.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    major: Vec<u8>,
    minor: Vec<u8>,
    name: Vec<u8>,
    size: Vec<u8>,
    real_size: Vec<u8>,
    blocks: Vec<u8>,
    /// The numbers of the forms 0.0 and 0.1, with commas.
    map: Vec<u8>,
    /// The number of records of form 0.0.
    numbers: usize,
}

impl SparseRecords {
    /// Adds a record; `key` is without the prefix `GNU.sparse.`.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.map.len() + value.len() > MAX_MAP {
            return Err(damaged("it is too long"));
        }
        let field = match key {
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"name" => &mut self.name,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.blocks,
            b"map" if self.numbers == 0 => &mut self.map,
            b"offset" | b"numbytes" => {
                if (key == b"offset") != self.numbers.is_multiple_of(2) || value.contains(&b',') {
                    return Err(damaged("its parts are not in order"));
                }
                if self.numbers == 0 {
                    self.map.clear();
                } else {
                    self.map.push(b',');
                }
                self.numbers += 1;
                self.map.extend_from_slice(value);
                return Ok(());
            }
            _ => return Ok(()),
        };
        *field = value.to_vec();
        Ok(())
    }

    /// Whether the member has a map.
    pub(super) fn is_sparse(&self) -> bool {
        match (&self.major[..], &self.minor[..]) {
            (b"", b"") => !self.map.is_empty(),
            (b"0", b"0" | b"1") => true,
            _ => self.map_is_data(),
        }
    }

    fn map_is_data(&self) -> bool {
        (&self.major[..], &self.minor[..]) == (b"1", b"0")
    }

    /// The real name of the file, if it differs from that of the member.
    pub(super) fn name(&self) -> Option<&[u8]> {
        Some(&self.name[..]).filter(|name| self.is_sparse() && !name.is_empty())
    }

    /// The size of the file, and the offsets and lengths of its stored parts.
    fn read(&self, member: &mut dyn Read, stored: u64) -> Result<(u64, Vec<(u64, u64)>)> {
        let size = match (&self.size[..], &self.real_size[..]) {
            (b"", b"") => stored,
            (b"", size) | (size, _) => number(size)?,
        };
        let (numbers, used) = if self.map_is_data() { map_of_data(member)? } else { (self.numbers()?, 0) };
        let mut parts = Vec::with_capacity(numbers.len() / 2);
        let (mut end, mut total) = (0, 0);
        for part in numbers.chunks_exact(2) {
            let (at, length) = (part[0], part[1]);
            if at < end {
                return Err(damaged("its parts overlap or are not in order"));
            }
            end = at
                .checked_add(length)
                .filter(|end| *end <= size)
                .ok_or_else(|| damaged(&format!("a part of it ends behind the {size} bytes of the file")))?;
            // The sum cannot overflow, since the parts do not overlap.
            total += length;
            parts.push((at, length));
        }
        if total != stored.saturating_sub(used) {
            return Err(damaged("its parts do not add up to the stored size"));
        }
        Ok((size, parts))
    }

    fn numbers(&self) -> Result<Vec<u64>> {
        let texts = self.map.split(|b| *b == b',').filter(|_| !self.map.is_empty());
        let numbers = texts.map(number).collect::<Result<Vec<u64>>>()?;
        if number(&self.blocks)?.checked_mul(2) != Some(numbers.len() as u64) {
            return Err(damaged("the number of its parts is wrong"));
        }
        Ok(numbers)
    }
}

/// The numbers at the start of the data of a member, without the first, and their length in bytes.
fn map_of_data(member: &mut dyn Read) -> Result<(Vec<u64>, u64)> {
    let (mut text, mut start) = (Vec::new(), 0);
    let mut numbers = Vec::new();
    let mut wanted: Option<u64> = None;
    while wanted.is_none_or(|wanted| (numbers.len() as u64) < wanted) {
        if let Some(length) = text[start..].iter().position(|b| *b == b'\n') {
            let next = number(&text[start..start + length])?;
            start += length + 1;
            match wanted {
                None => wanted = Some(next.checked_mul(2).ok_or_else(|| damaged("it is too long"))?),
                Some(_) => numbers.push(next),
            }
            continue;
        }
        if text.len() >= MAX_MAP || text.len() - start >= BLOCK {
            return Err(damaged("it is too long"));
        }
        let mut block = [0; BLOCK];
        member.read_exact(&mut block).map_err(|e| damaged("it is cut off").with_source(e))?;
        text.extend_from_slice(&block);
    }
    Ok((numbers, text.len() as u64))
}

/// An unnamed file with the unpacked sparse files of an archive, one after another.
#[derive(Debug)]
pub(super) struct SparseSpool {
    pub(super) file: Arc<File>,
    end: u64,
}

impl SparseSpool {
    pub(super) fn new(file: File) -> Self {
        Self { file: Arc::new(file), end: 0 }
    }

    /// Unpacks a member of a PAX archive; returns its offset and size.
    pub(super) fn member(
        &mut self,
        records: &SparseRecords,
        member: &mut dyn Read,
        stored: u64,
    ) -> Result<(u64, u64)> {
        let (size, parts) = records.read(member, stored)?;
        let start = self.reserve(size)?;
        for (at, length) in parts {
            if copy(&mut member.take(length), &self.file, start + at)? != length {
                return Err(damaged("the archive is cut off"));
            }
        }
        Ok((start, size))
    }

    /// Unpacks a member whose reader fills the holes; returns its offset and size.
    pub(super) fn whole(&mut self, member: &mut dyn Read, size: u64) -> Result<(u64, u64)> {
        let start = self.reserve(size)?;
        let copied = copy(&mut member.take(size), &self.file, start)?;
        if copied != size {
            return Err(damaged("the archive is cut off"));
        }
        Ok((start, size))
    }

    /// Reserves a range of zeros.
    fn reserve(&mut self, size: u64) -> Result<u64> {
        let start = self.end;
        let end = start.checked_add(size).filter(|end| *end <= MAX_SIZE).ok_or_else(|| {
            let message = format!(
                "the sparse files of the archive are larger than {} GiB: this one has {size} bytes",
                MAX_SIZE >> 30
            );
            Error::new(ErrorKind::TooLarge, message)
        })?;
        self.file.set_len(end)?;
        self.end = end;
        Ok(start)
    }
}

/// Copies to a range of zeros; blocks of zeros are skipped.
fn copy(from: &mut dyn Read, to: &File, start: u64) -> Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => {
                if buffer[..count].iter().any(|b| *b != 0) {
                    to.write_all_at(&buffer[..count], start + copied)?;
                }
                copied += count as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn number(text: &[u8]) -> Result<u64> {
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse::<u64>().ok());
    number.filter(|n| i64::try_from(*n).is_ok()).ok_or_else(|| damaged("one of its numbers is invalid"))
}

fn damaged(why: &str) -> Error {
    Error::invalid(format!("the map of a sparse file is damaged: {why}"))
}
