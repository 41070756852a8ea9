//! The few facts about an ELF program that copying it needs: its interpreter, the libraries it names, and where it
//! wants them looked for.
//!
//! ```text
//!   header ─▶ program headers ─┬─ PT_INTERP   path of the dynamic linker
//!                              ├─ PT_DYNAMIC  DT_NEEDED, DT_RPATH, DT_RUNPATH: offsets into DT_STRTAB
//!                              └─ PT_LOAD     addresses to offsets in the file
//! ```
//! 64-bit little-endian alone: what Linux on amd64, arm64, riscv64 and ppc64le is.

/// What a program needs in order to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Elf {
    /// The dynamic linker; `None` for a static program or a library.
    pub(crate) interpreter: Option<String>,
    /// The libraries it names.
    pub(crate) needed: Vec<String>,
    /// Folders to look for them in first; `$ORIGIN` stands for the program's own.
    pub(crate) search: Vec<String>,
}

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Reads a program; `None` when the bytes are no 64-bit little-endian ELF file, or a damaged one.
pub(crate) fn parse(bytes: &[u8]) -> Option<Elf> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = number(bytes, 32, 8)?;
    let (entry, count) = (number(bytes, 54, 2)?, number(bytes, 56, 2)?);
    let mut loads = Vec::new();
    let mut dynamic = None;
    let mut elf = Elf::default();
    for i in 0..count {
        let at = table.checked_add(i.checked_mul(entry)?)?;
        let field = |offset: u64| number(bytes, at.checked_add(offset)?, 8);
        let (offset, address, size) = (field(8)?, field(16)?, field(32)?);
        match number(bytes, at, 4)? {
            PT_LOAD => loads.push((address, size, offset)),
            PT_DYNAMIC => dynamic = Some((offset, size)),
            PT_INTERP => elf.interpreter = Some(text(bytes, offset)?),
            _ => {}
        }
    }
    let Some((start, size)) = dynamic else { return Some(elf) };
    let mut entries = Vec::new();
    for at in (start..start.checked_add(size)?).step_by(16) {
        let (tag, value) = (number(bytes, at, 8)?, number(bytes, at + 8, 8)?);
        if tag == 0 {
            break;
        }
        entries.push((tag, value));
    }
    let strings = entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?.1;
    let strings = loads
        .iter()
        .find(|(address, size, _)| (*address..address.saturating_add(*size)).contains(&strings))
        .and_then(|(address, _, offset)| (strings - address).checked_add(*offset))?;
    for (tag, value) in entries {
        let name = || text(bytes, strings.checked_add(value)?);
        match tag {
            DT_NEEDED => elf.needed.push(name()?),
            DT_RPATH | DT_RUNPATH => {
                elf.search.extend(name()?.split(':').filter(|p| !p.is_empty()).map(str::to_owned));
            }
            _ => {}
        }
    }
    Some(elf)
}

fn number(bytes: &[u8], at: u64, width: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn text(bytes: &[u8], at: u64) -> Option<String> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().take(4096).position(|b| *b == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_is_read() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = parse(&bytes).unwrap();
        assert!(elf.interpreter.is_none() || elf.needed.iter().any(|n| n.contains("libc")), "{elf:?}");
    }

    #[test]
    fn damaged_files_are_refused_without_a_panic() {
        let bytes = std::fs::read("/bin/sh").unwrap();
        assert_eq!(parse(b"#!/bin/sh\n"), None);
        for cut in (0..bytes.len().min(4096)).step_by(7) {
            let _ = parse(&bytes[..cut]);
        }
        for at in 0..bytes.len().min(1024) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = parse(&damaged);
        }
    }
}
