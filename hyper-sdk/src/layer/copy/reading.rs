//! Reads the small files of a plan ahead of who writes its layer.
//!
//! Opening hundreds of thousands of small files takes longer than writing them, so other threads do it. Each reads some of
//! the entries at once, at most two such parts ahead, and a part has at most [`MOST_BYTES`]: a plan of any size takes the
//! same memory. What is large, or does not fit, is read by who writes it.

use super::file_digest::capability;
use super::pending::PlannedEntries;
use super::planned_entry::{Content, PlannedEntry};
use crate::{Error, Result, ResultExt};
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// How many entries a thread reads at once.
const AT_ONCE: usize = 128;
/// The largest file that is read ahead.
const LARGEST: u64 = 32 << 10;
/// The most bytes of files that a thread reads at once.
const MOST_BYTES: u64 = 1 << 20;
/// How many parts a thread is ahead.
const AHEAD: usize = 2;

/// The content of a small file.
#[derive(Debug)]
pub(super) struct SmallFile<'a> {
    pub(super) content: &'a [u8],
    pub(super) capability: Option<Vec<u8>>,
}

/// Some entries of a plan, with the files that were read.
#[derive(Debug, Default)]
struct Part {
    bytes: Vec<u8>,
    /// By the number of the entry in the part.
    files: Vec<Option<ReadFile>>,
    /// Why no more were read.
    failed: Option<Error>,
}

#[derive(Debug)]
struct ReadFile {
    content: Range<usize>,
    capability: Option<Vec<u8>>,
}

/// How many processors there are to read with.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `write` with each entry in order, and with its file if that is small.
///
/// # Errors
/// Those of reading and of `write`; none is called after one.
pub(super) fn for_each(
    entries: &PlannedEntries,
    threads: usize,
    mut write: impl FnMut(&PlannedEntry, Option<SmallFile<'_>>) -> Result<()>,
) -> Result<()> {
    let parts = entries.len().div_ceil(AT_ONCE);
    std::thread::scope(|scope| {
        // If a thread cannot start, the others do its work; without any, nothing is read ahead.
        let wanted = if parts > 1 && threads > 1 { threads.min(parts) } else { 0 };
        let readers: Vec<Reader> = (0..wanted)
            .map_while(|_| {
                let (ask, asked) = channel();
                let (give, given) = sync_channel(AHEAD);
                let work = move || answer(entries, &asked, &give);
                std::thread::Builder::new().name("copy-read".to_owned()).spawn_scoped(scope, work).ok()?;
                Some(Reader { ask, given })
            })
            .collect();
        let mut asked = 0;
        for part in 0..parts {
            let mut read = Part::default();
            if !readers.is_empty() {
                while asked < parts.min(part + readers.len() * AHEAD) {
                    // One that has ended is found when its part is taken.
                    let _ = readers[asked % readers.len()].ask.send(asked);
                    asked += 1;
                }
                read = readers[part % readers.len()]
                    .given
                    .recv()
                    .map_err(|_| Error::internal("a thread that reads files ended early"))?;
            }
            let range = entries.range(part * AT_ONCE, (part + 1) * AT_ONCE);
            for (at, planned) in range.enumerate() {
                let file = read.files.get_mut(at).and_then(Option::take);
                if file.is_none()
                    && at >= read.files.len()
                    && let Some(e) = read.failed.take()
                {
                    return Err(e);
                }
                let small = file.map(|file| SmallFile {
                    content: &read.bytes[file.content],
                    capability: file.capability,
                });
                write(&planned, small)?;
            }
        }
        Ok(())
    })
}

struct Reader {
    ask: Sender<usize>,
    given: Receiver<Part>,
}

/// Reads the parts that are asked for until nobody asks any more.
fn answer(entries: &PlannedEntries, asked: &Receiver<usize>, give: &SyncSender<Part>) {
    while let Ok(part) = asked.recv() {
        if give.send(read(entries, part)).is_err() {
            return;
        }
    }
}

fn read(entries: &PlannedEntries, part: usize) -> Part {
    let mut read = Part::default();
    for planned in entries.range(part * AT_ONCE, (part + 1) * AT_ONCE) {
        let file = match &planned.content {
            Content::Source { root, file } => {
                let size = file.metadata().size;
                let fits = size <= LARGEST && read.bytes.len() as u64 + size <= MOST_BYTES;
                let open = || root.open_file(&file.path());
                fits.then(|| open().and_then(|file| read_small(file, size, &mut read.bytes)))
            }
            _ => None,
        };
        match file.transpose().context("path", &planned.entry.path) {
            Ok(file) => read.files.push(file),
            Err(e) => {
                read.failed = Some(e);
                break;
            }
        }
    }
    read
}

/// Reads a file that had this size. One that grew has one byte more, so that who writes it finds out.
fn read_small(mut file: File, size: u64, bytes: &mut Vec<u8>) -> Result<ReadFile> {
    let capability = capability(&file)?;
    let start = bytes.len();
    // At most `LARGEST`.
    let end = start + size as usize;
    bytes.resize(end + 1, 0);
    let mut at = start;
    while at <= end {
        match file.read(&mut bytes[at..]) {
            // A read that is not filled ends at the end of the file, once it has all of it.
            Ok(count) => {
                at += count;
                if count == 0 || at >= end {
                    break;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                bytes.truncate(start);
                return Err(e.into());
            }
        }
    }
    bytes.truncate(at);
    Ok(ReadFile { content: start..at, capability })
}
