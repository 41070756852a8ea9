//! Lines, in the manner of BuildKit's plain progress.
//!
//! ```text
//!   #1 [build 1/2] FROM busybox
//!   #1 CACHED
//!
//!   #2 [build 2/2] RUN make
//!   #2 0.123 a line that the command wrote
//!   #2 DONE 0.2s
//! ```
//! A block ends with an empty line when another task has output; a task that continues later starts with `#N ...`.

use super::View;
use super::lines::{Lines, Piece};
use crate::terminal::paint;
use hyper_sdk::progress::{Event, Outcome, TaskId};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

/// Writes events as lines.
pub(super) struct Plain<W> {
    out: W,
    color: bool,
    tasks: BTreeMap<TaskId, Task>,
    last: Option<TaskId>,
    /// The task whose line has begun and has not ended.
    open: Option<TaskId>,
    /// The text of an event, which is written at once.
    block: String,
}

struct Task {
    started: Duration,
    is_shown: bool,
    lines: Lines,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(out: W, color: bool) -> Self {
        Self { out, color, tasks: BTreeMap::new(), last: None, open: None, block: String::new() }
    }

    /// Ends the line that has begun, because another one follows.
    fn close(&mut self) {
        if self.open.take().is_some() {
            self.block.push('\n');
        }
    }

    /// Begins a line of a task.
    fn begin(&mut self, task: TaskId) {
        self.close();
        let number = task + 1;
        if self.last != Some(task) {
            if self.last.is_some() {
                self.block.push('\n');
            }
            if let Some(state) = self.tasks.get_mut(&task) {
                if state.is_shown {
                    let _ = writeln!(self.block, "#{number} ...");
                }
                state.is_shown = true;
            }
            self.last = Some(task);
        }
        let _ = write!(self.block, "#{number} ");
    }

    fn line(&mut self, task: TaskId, text: &str) {
        self.begin(task);
        self.block.push_str(text);
        self.block.push('\n');
    }

    /// Writes a line of the log, or a part of one.
    fn piece(&mut self, task: TaskId, since: f64, piece: Piece<'_>) {
        let (Piece::Part(text) | Piece::End(text)) = piece;
        if self.open != Some(task) {
            self.begin(task);
            let _ = write!(self.block, "{since:.3} ");
        }
        self.block.push_str(text);
        self.open = Some(task);
        if let Piece::End(_) = piece {
            self.close();
        }
    }

    /// Takes some of the log, or with `None` its end.
    fn log(&mut self, task: TaskId, text: Option<&str>, now: Duration) {
        let Some(state) = self.tasks.get_mut(&task) else { return };
        let since = now.saturating_sub(state.started).as_secs_f64();
        let mut lines = std::mem::take(&mut state.lines);
        match text {
            Some(text) => lines.take(text, |piece| self.piece(task, since, piece)),
            None => lines.finish(|piece| self.piece(task, since, piece)),
        }
        if let Some(state) = self.tasks.get_mut(&task) {
            state.lines = lines;
        }
    }
}

impl<W: Write + Send> View for Plain<W> {
    fn event(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Started { task, name, .. } => {
                self.tasks.insert(*task, Task { started: now, is_shown: false, lines: Lines::default() });
                self.line(*task, name);
            }
            Event::Log { task, text, .. } => self.log(*task, Some(text), now),
            Event::Warning { task, message } => {
                let text = format!("{} {message}", paint(self.color, "33", "WARN:"));
                match task {
                    Some(task) => self.line(*task, &text),
                    None => {
                        self.close();
                        let _ = writeln!(self.block, "{text}");
                    }
                }
            }
            Event::Finished { task, outcome, milliseconds } => {
                self.log(*task, None, now);
                let text = match outcome {
                    Outcome::Done => {
                        format!("{} {:.1}s", paint(self.color, "32", "DONE"), *milliseconds as f64 / 1000.0)
                    }
                    Outcome::Cached => paint(self.color, "36", "CACHED"),
                    Outcome::Failed(why) => format!("{} {why}", paint(self.color, "1;31", "ERROR:")),
                    Outcome::Cancelled => paint(self.color, "33", "CANCELED"),
                };
                self.line(*task, &text);
                self.tasks.remove(task);
            }
            Event::Result { name, digest } => {
                self.close();
                let gap = if self.last.take().is_some() { "\n" } else { "" };
                let _ = writeln!(self.block, "{gap}{name} {digest}");
            }
            // Byte counts are for terminals.
            _ => {}
        }
        // A reader that went away must not stop the work.
        let _ = self.out.write_all(self.block.as_bytes());
        self.block.clear();
    }

    fn finish(&mut self, _: bool) {
        self.close();
        let _ = self.out.write_all(self.block.as_bytes());
        self.block.clear();
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::Digest;
    use hyper_sdk::progress::LogStream;

    fn rendered(events: &[(u64, Event)]) -> String {
        let mut out = Vec::new();
        let mut view = Plain::new(&mut out, false);
        for (at, event) in events {
            view.event(event, Duration::from_millis(*at));
        }
        view.finish(false);
        String::from_utf8(out).unwrap()
    }

    fn started(task: TaskId, name: &str) -> Event {
        Event::Started { task, name: name.to_owned(), total: None }
    }

    fn log(task: TaskId, text: &str) -> Event {
        Event::Log { task, stream: LogStream::Stdout, text: text.to_owned() }
    }

    fn finished(task: TaskId, outcome: Outcome) -> Event {
        Event::Finished { task, outcome, milliseconds: 240 }
    }

    #[test]
    fn a_build() {
        let digest = Digest::sha256(b"");
        let text = rendered(&[
            (0, started(0, "[1/2] FROM busybox")),
            (1, finished(0, Outcome::Cached)),
            (10, started(1, "[2/2] RUN make")),
            (133, log(1, "one\ntw")),
            (140, log(1, "o\n10%\r20%\nlast")),
            (250, finished(1, Outcome::Done)),
            (260, Event::Result { name: "image".into(), digest: digest.clone() }),
        ]);
        assert_eq!(
            text,
            format!(
                "#1 [1/2] FROM busybox\n#1 CACHED\n\n#2 [2/2] RUN make\n#2 0.123 one\n#2 0.130 two\n#2 0.130 20%\n\
                 #2 0.240 last\n#2 DONE 0.2s\n\nimage {digest}\n"
            )
        );
    }

    #[test]
    fn tasks_that_alternate_are_marked() {
        let text = rendered(&[
            (0, started(0, "a")),
            (0, started(1, "b")),
            (0, log(0, "x\n")),
            (0, finished(1, Outcome::Failed("exit 1".into()))),
            (0, finished(0, Outcome::Cancelled)),
        ]);
        assert_eq!(
            text,
            "#1 a\n\n#2 b\n\n#1 ...\n#1 0.000 x\n\n#2 ...\n#2 ERROR: exit 1\n\n#1 ...\n#1 CANCELED\n"
        );
    }

    #[test]
    fn a_long_line_is_whole_unless_another_task_has_output() {
        let block = "x".repeat(50_000);
        let text = rendered(&[
            (0, started(0, "a")),
            (0, log(0, &block)),
            (1, log(0, &block)),
            (2, log(0, &block)),
            (3, log(0, "end\nnext\n")),
            (4, log(0, &format!("{block}{block}"))),
            (5, started(1, "b")),
            (6, log(0, "rest")),
            (7, finished(0, Outcome::Done)),
        ]);
        let long = |times| block.repeat(times);
        assert_eq!(
            text,
            format!(
                "#1 a\n#1 0.001 {}end\n#1 0.003 next\n#1 0.004 {}\n\n#2 b\n\n#1 ...\n#1 0.007 rest\n#1 DONE 0.2s\n",
                long(3),
                long(2)
            )
        );
    }
}
