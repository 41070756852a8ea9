//! The file of the audit log, and the thread that writes it.

use hyper_sdk::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use tokio::sync::oneshot;

/// The most bytes of lines that are kept while they cannot be written.
const MOST_KEPT: usize = 16 << 20;
/// How many lines are written at once.
const BATCH: usize = 1024;
/// How many bytes are written at once, but for the last line.
const BATCH_BYTES: usize = 1 << 20;

pub(super) enum Message {
    /// A line, and who wants to know whether it is written.
    Line(Vec<u8>, Option<oneshot::Sender<bool>>),
    /// Who wants to know whether all lines are written.
    Flush(oneshot::Sender<bool>),
    /// The end of the program: lines that cannot be written are lost.
    Close(SyncSender<()>),
}

/// What the thread and its users share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) is_broken: AtomicBool,
    /// Whether somebody tries to write now.
    pub(super) is_tried: AtomicBool,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
}

impl Shared {
    /// Lines cannot be written. It is logged once until they can be again.
    pub(super) fn broke(&self, why: &str) {
        if !self.is_broken.swap(true, Ordering::Relaxed) {
            tracing::error!(why, "the audit log cannot be written: changes are refused until it can");
        }
    }

    /// A line is neither written nor kept: the log of the program gets it instead.
    pub(super) fn lose(&self, line: &[u8]) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        tracing::error!(line = %String::from_utf8_lossy(line.trim_ascii_end()), "a line of the audit log is lost");
    }
}

/// Writes the lines of the queue until its last sender is dropped. What cannot be written then is lost.
pub(super) fn write_lines(mut writer: Writer, queue: &Receiver<Message>, shared: &Shared) {
    let mut waiting = Vec::new();
    while let Ok(first) = queue.recv() {
        let (mut lines, mut closed) = (0, None);
        let mut next = Some(first);
        while let Some(message) = next.take() {
            match message {
                Message::Line(line, done) => {
                    if writer.keep(&line) {
                        lines += 1;
                    } else {
                        shared.lose(&line);
                    }
                    waiting.extend(done);
                }
                Message::Flush(done) => waiting.push(done),
                Message::Close(done) => closed = Some(done),
            }
            if lines < BATCH && writer.kept.len() < BATCH_BYTES {
                next = queue.try_recv().ok();
            }
        }
        let written = writer.write();
        match &written {
            Ok(()) if shared.is_broken.swap(false, Ordering::Relaxed) => {
                tracing::info!("the audit log can be written again");
            }
            Ok(()) => {}
            Err(e) => shared.broke(&e.to_string()),
        }
        shared.written.store(writer.written, Ordering::Relaxed);
        for done in waiting.drain(..) {
            let _ = done.send(written.is_ok());
        }
        if let Some(done) = closed {
            writer.lose(shared);
            let _ = done.send(());
        }
    }
    if writer.write().is_err() {
        writer.lose(shared);
    }
}

/// Checks that a file can be an audit log, without making it.
pub(super) fn check(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(not_a_file(path)),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if folder.is_dir() {
                return Ok(());
            }
            Err(Error::new(ErrorKind::NotFound, "the folder of the audit log does not exist: make it first")
                .with_context("path", path.display()))
        }
        Err(e) => Err(Error::io("cannot use the audit log", path, e)),
    }
}

fn not_a_file(path: &Path) -> Error {
    Error::invalid("the audit log must be a regular file").with_context("path", path.display())
}

/// The file, with the lines that are not written yet.
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    /// Device and inode of the file.
    identity: (u64, u64),
    /// Whole lines.
    kept: Vec<u8>,
    /// How many bytes of them are written.
    sent: usize,
    /// How many lines are written since the start.
    written: u64,
}

impl Writer {
    pub(super) fn open(path: &Path) -> Result<Self> {
        check(path)?;
        let failed = |e| Error::io("cannot open the audit log", path, e);
        let (file, metadata) = open(path).map_err(failed)?;
        if !metadata.is_file() {
            return Err(not_a_file(path));
        }
        if !lock(&file).map_err(failed)? {
            let message = "another process writes this audit log: give each server its own file";
            return Err(Error::new(ErrorKind::Conflict, message).with_context("path", path.display()));
        }
        let path = std::path::absolute(path).map_err(failed)?;
        let mut writer =
            Self { path, file, identity: identity(&metadata), kept: Vec::new(), sent: 0, written: 0 };
        writer.end_last_line().map_err(failed)?;
        Ok(writer)
    }

    /// Keeps a line until it is written. Returns whether there is room.
    fn keep(&mut self, line: &[u8]) -> bool {
        let fits = self.kept.len() + line.len() <= MOST_KEPT;
        if fits {
            self.kept.extend_from_slice(line);
        }
        fits
    }

    /// Writes the lines that are kept. When the file was renamed meanwhile, they are in both files: who has read the former
    /// one to its end loses none.
    fn write(&mut self) -> io::Result<()> {
        self.follow_path()?;
        loop {
            while self.sent < self.kept.len() {
                match self.file.write(&self.kept[self.sent..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => self.sent += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            if self.kept.is_empty() || !self.has_moved()? {
                break;
            }
            self.sent = 0;
            self.follow_path()?;
        }
        self.written += self.kept.iter().filter(|b| **b == b'\n').count() as u64;
        self.kept.clear();
        self.sent = 0;
        Ok(())
    }

    /// The lines that are kept go to the log of the program.
    fn lose(&mut self, shared: &Shared) {
        for line in self.kept.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            shared.lose(line);
        }
        self.kept.clear();
        self.sent = 0;
    }

    /// Whether the path names another file, or none.
    fn has_moved(&self) -> io::Result<bool> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => Ok(identity(&metadata) != self.identity),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Makes the file anew when it was renamed or removed. A line that is half in the former one is written whole.
    fn follow_path(&mut self) -> io::Result<()> {
        if !self.has_moved()? {
            return Ok(());
        }
        let (file, metadata) = open(&self.path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no longer a regular file"));
        }
        if !lock(&file)? {
            return Err(io::Error::other("another process writes it"));
        }
        (self.file, self.identity) = (file, identity(&metadata));
        self.sent = self.kept[..self.sent].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        self.kept.drain(..self.sent);
        self.sent = 0;
        self.end_last_line()
    }

    /// Ends a line that another process has left half written.
    fn end_last_line(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() == 0 {
            return Ok(());
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        if last != *b"\n" {
            self.file.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// Opens without waiting for the other end of a pipe.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Takes the file for this process, until it is closed. Returns whether it was free.
fn lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn add(writer: &mut Writer, line: &str) -> io::Result<()> {
        assert!(writer.keep(line.as_bytes()));
        writer.write()
    }

    #[test]
    fn lines_follow_the_path_and_a_half_line_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        std::fs::write(&path, "half").unwrap();
        let mut writer = Writer::open(&path).unwrap();
        add(&mut writer, "a\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half\na\n");
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        add(&mut writer, "b\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A line whose first half is in a file that has gone.
        writer.kept = b"whole\nagain\nlast\n".to_vec();
        writer.sent = 8;
        std::fs::remove_file(&path).unwrap();
        writer.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "again\nlast\n");
        // A truncated file goes on at its beginning.
        std::fs::write(&path, "").unwrap();
        add(&mut writer, "c\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "c\n");
    }

    #[test]
    fn lines_that_cannot_be_written_stay_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("audit.log");
        let mut writer = Writer::open(&path).unwrap();
        std::fs::remove_dir_all(&inner).unwrap();
        add(&mut writer, "a\n").unwrap_err();
        add(&mut writer, "b\n").unwrap_err();
        std::fs::create_dir(&inner).unwrap();
        writer.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\n");
        assert_eq!(writer.written, 2);
        assert!(writer.keep(&vec![b'x'; MOST_KEPT]));
        assert!(!writer.keep(b"y\n"));
    }

    #[test]
    fn lines_that_cannot_be_written_at_the_end_are_counted_as_lost() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let log = super::super::AuditLog::open(&inner.join("audit.log")).unwrap();
        std::fs::remove_dir_all(&inner).unwrap();
        for _ in 0..3 {
            log.queue.send(Message::Line(b"{}\n".to_vec(), None)).unwrap();
        }
        log.close();
        assert_eq!(log.counts(), (0, 3));
    }

    #[test]
    fn a_file_belongs_to_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let first = Writer::open(&path).unwrap();
        let e = Writer::open(&path).map(|_| ()).unwrap_err();
        assert!(e.kind() == ErrorKind::Conflict && e.to_string().contains("another process"), "{e}");
        drop(first);
        Writer::open(&path).unwrap();
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (path, expected) in [
            (folder.path().to_owned(), "regular file"),
            (PathBuf::from("/dev/null"), "regular file"),
            (folder.path().join("none/audit.log"), "make it first"),
        ] {
            let e = Writer::open(&path).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains(expected) && check(&path).is_err(), "{e}");
        }
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(Writer::open(&pipe).is_err());
    }
}
