//! Passes the output of a command from the executor to the task.

use crate::exec::LogSink;
use crate::progress::{LogStream, Task};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How many bytes of a failed command's output its error contains.
const TAIL: usize = 4 << 10;
/// How many bytes are buffered before the command waits.
const ROOM: usize = 256 << 10;

/// Passes output from the executor to the task, and keeps its end. Its buffer is small: while the task's progress has no
/// room, the executor does not read.
#[derive(Debug, Default)]
pub(super) struct TaskLog {
    state: Mutex<State>,
    /// Signals new output.
    came: Notify,
    /// Signals that output was passed on.
    went: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(LogStream, Vec<u8>)>,
    bytes: usize,
    tail: VecDeque<u8>,
    /// The first bytes of an incomplete character of each stream.
    cut: [Vec<u8>; 2],
}

impl TaskLog {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a command, and passes on all its output.
    pub(super) async fn pass_on<T>(&self, task: &Task, run: impl Future<Output = T>) -> T {
        let pass = async {
            loop {
                self.came.notified().await;
                self.drain(task).await;
            }
        };
        let outcome = tokio::select! {
            outcome = run => outcome,
            () = pass => unreachable!("it has no end"),
        };
        self.drain(task).await;
        let rest = std::mem::take(&mut self.state().cut);
        for (stream, bytes) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(rest) {
            if !bytes.is_empty() {
                task.log(stream, &bytes);
            }
        }
        outcome
    }

    /// Passes on the buffer. Dropping the future loses nothing.
    async fn drain(&self, task: &Task) {
        loop {
            task.progress().ready().await;
            let Some((stream, bytes)) = self.next() else { return };
            task.log(stream, &bytes);
        }
    }

    /// The next block, without an incomplete character at its end.
    fn next(&self) -> Option<(LogStream, Vec<u8>)> {
        let mut state = self.state();
        let (stream, mut bytes) = state.waiting.pop_front()?;
        state.bytes -= bytes.len();
        let cut = &mut state.cut[stream as usize];
        if !cut.is_empty() {
            cut.append(&mut bytes);
            std::mem::swap(cut, &mut bytes);
        }
        *cut = bytes.split_off(bytes.len() - incomplete(&bytes));
        drop(state);
        self.went.notify_waiters();
        Some((stream, bytes))
    }

    /// The end of the output.
    pub(super) fn tail(&self) -> String {
        let bytes: Vec<u8> = self.state().tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl LogSink for TaskLog {
    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let mut state = self.state();
        state.tail.extend(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let excess = state.tail.len().saturating_sub(TAIL);
        state.tail.drain(..excess);
        state.bytes += bytes.len();
        state.waiting.push_back((stream, bytes.to_vec()));
        drop(state);
        self.came.notify_one();
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                let went = self.went.notified();
                tokio::pin!(went);
                // Notifications from here on are not missed.
                went.as_mut().enable();
                if self.state().bytes < ROOM {
                    return;
                }
                went.await;
            }
        })
    }
}

/// How many bytes at the end are an incomplete character of UTF-8.
fn incomplete(bytes: &[u8]) -> usize {
    for (back, byte) in bytes.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return 0,
        };
        return if length > back + 1 { back + 1 } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Event, Progress};
    use futures::FutureExt as _;

    #[test]
    fn incomplete_characters_are_found() {
        for (bytes, expected) in [
            (&b""[..], 0),
            (b"a", 0),
            ("ä".as_bytes(), 0),
            (&"ä".as_bytes()[..1], 1),
            (&"a€".as_bytes()[..3], 2),
            (&"😀".as_bytes()[..3], 3),
            (b"\xff", 0),
            (b"\x80\x80\x80\x80", 0),
            (b"a\x80", 0),
        ] {
            assert_eq!(incomplete(bytes), expected, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn blocks_end_at_characters() {
        let (progress, mut events) = Progress::channel();
        let task = progress.start("RUN", None);
        let log = TaskLog::default();
        let text = "grün 😀\n";
        log.pass_on(&task, async {
            for byte in text.as_bytes() {
                log.log(LogStream::Stdout, &[*byte]);
                // Streams do not mix within a character.
                log.log(LogStream::Stderr, b"e");
            }
            log.log(LogStream::Stdout, b"\xf0\x9f");
        })
        .await;
        let mut logged = [String::new(), String::new()];
        while let Ok(event) = events.try_recv() {
            if let Event::Log { stream, text, .. } = event {
                logged[stream as usize].push_str(&text);
            }
        }
        assert_eq!(logged[0], format!("{text}\u{fffd}"));
        assert_eq!(logged[1].len(), text.len());
        assert!(log.tail().contains('e'));
    }

    #[tokio::test]
    async fn a_command_waits_for_a_slow_receiver() {
        let (progress, mut events) = Progress::channel();
        let task = progress.start("RUN", None);
        let log = TaskLog::default();
        let block = vec![b'x'; 32 << 10];
        let mut written = 0_usize;
        {
            let command = async {
                loop {
                    log.ready().await;
                    log.log(LogStream::Stdout, &block);
                    written += block.len();
                    assert!(written < 64 << 20, "it never waits");
                    tokio::task::yield_now().await;
                }
            };
            let run = log.pass_on::<()>(&task, command);
            tokio::pin!(run);
            for _ in 0..10_000 {
                assert!(run.as_mut().now_or_never().is_none());
                tokio::task::yield_now().await;
            }
        }
        assert!(written > 1 << 20 && written < 2 << 20, "{written}");
        let mut read = 0;
        while let Ok(event) = events.try_recv() {
            if let Event::Log { text, .. } = event {
                read += text.len();
            }
        }
        assert!(read > 0 && read <= written);
    }
}
