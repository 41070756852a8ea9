//! The log writer: a thread that writes the lines.
//!
//! Requests do not wait for a terminal or a pipe, and one write for many lines is cheaper than one for each. The queue
//! is bounded: when the reader of the log is too slow, requests wait, and no line is lost.

use hyper_sdk::{Result, ResultExt};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tracing_subscriber::fmt::MakeWriter;

const QUEUE: usize = 8192;
const BATCH: usize = 64 << 10;

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Sends lines to the writer thread. Clones share the thread.
#[derive(Clone, Debug)]
pub(crate) struct LineWriter(SyncSender<Message>);

impl LineWriter {
    /// Starts the thread. It ends when the last clone is dropped.
    pub(crate) fn start(out: impl Write + Send + 'static) -> Result<Self> {
        let (lines, queue) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(out, &queue))
            .op("start the log")?;
        Ok(Self(lines))
    }

    /// Returns when every line so far has been written.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.0.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

fn write_lines(mut out: impl Write, queue: &Receiver<Message>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        let mut flushed = Vec::new();
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => flushed.push(done),
            }
            next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        // A log that cannot be written must not stop the registry, and there is no other place to report it.
        let _ = out.write_all(&batch).and_then(|()| out.flush());
        batch.clear();
        for done in flushed {
            let _ = done.send(());
        }
    }
}

/// Collects one line and sends it when it is dropped.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    writer: &'a LineWriter,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let _ = self.writer.0.send(Message::Line(std::mem::take(&mut self.bytes)));
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { writer: self, bytes: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_writes_whole_lines_in_order() {
        let out = Shared::default();
        let log = LineWriter::start(out.clone()).unwrap();
        for n in 0..QUEUE * 2 {
            let mut line = log.make_writer();
            line.write_all(b"line ").unwrap();
            writeln!(line, "{n}").unwrap();
        }
        log.flush();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().enumerate().all(|(n, line)| line == format!("line {n}")));
        assert_eq!(text.lines().count(), QUEUE * 2);
    }
}
