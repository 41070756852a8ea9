//! Live bars: one line a running task with the tail of its log below, finished tasks collapsed to one line above.

use super::View;
use super::lines::{Lines, Piece};
use crate::terminal::{duration, paint, size};
use hyper_sdk::progress::{Event, Outcome, TaskId};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How many lines of its log a running task shows.
const TAIL: usize = 4;
/// How many lines of its log a failed task shows.
const FAILED_TAIL: usize = 30;
/// How many bytes of a line are shown.
const LONGEST: usize = 4 << 10;
/// Shorter tasks are not drawn.
const MIN_DRAWN: Duration = Duration::from_millis(30);

/// Draws events on a terminal.
pub(super) struct Tty {
    bars: MultiProgress,
    color: bool,
    tasks: BTreeMap<TaskId, Task>,
}

struct Task {
    name: String,
    started: Duration,
    bar: Option<ProgressBar>,
    tail: VecDeque<String>,
    lines: Lines,
    /// The start of a long line.
    begin: Option<String>,
    bytes: Option<(u64, Option<u64>)>,
}

impl Task {
    fn new(name: String, started: Duration) -> Self {
        let (lines, tail) = (Lines::default(), VecDeque::new());
        Self { name, started, bar: None, tail, lines, begin: None, bytes: None }
    }

    /// The log line by line; colour and cursor sequences are left out, so that a step cannot draw over the bars. With
    /// `None` its end.
    fn log(&mut self, text: Option<&str>) {
        let (tail, begin) = (&mut self.tail, &mut self.begin);
        let mut give = |piece: Piece<'_>| match piece {
            // The start of a long line is shown.
            Piece::Part(text) => {
                begin.get_or_insert_with(|| printable(shortened(text)) + "…");
            }
            Piece::End(text) => {
                tail.push_back(begin.take().unwrap_or_else(|| printable(shortened(text.trim_end()))));
                if tail.len() > FAILED_TAIL {
                    tail.pop_front();
                }
            }
        };
        match text {
            Some(text) => self.lines.take(text, &mut give),
            None => self.lines.finish(&mut give),
        }
    }

    fn message(&self) -> String {
        let amount = match self.bytes {
            Some((done, Some(total))) => format!(" {} / {}", size(done), size(total)),
            Some((done, None)) => format!(" {}", size(done)),
            None => String::new(),
        };
        let mut message = format!("{}{amount}", self.name);
        for line in self.tail.iter().rev().take(TAIL).rev() {
            message.push_str("\n     ");
            message.push_str(line);
        }
        message
    }
}

impl Tty {
    pub(super) fn new(color: bool) -> Self {
        Self { bars: MultiProgress::new(), color, tasks: BTreeMap::new() }
    }

    fn print(&self, text: &str) {
        // A terminal that went away must not stop the work.
        let _ = self.bars.println(text);
    }

    fn draw(&mut self, task: TaskId, now: Duration) {
        let Some(state) = self.tasks.get_mut(&task) else { return };
        if state.bar.is_none() && now.saturating_sub(state.started) < MIN_DRAWN && state.tail.is_empty() {
            return;
        }
        let message = state.message();
        let bars = &self.bars;
        let bar = state.bar.get_or_insert_with(|| {
            let bar = bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(message);
    }
}

impl View for Tty {
    fn event(&mut self, event: &Event, now: Duration) {
        match event {
            Event::Started { task, name, .. } => {
                let name = printable(name.lines().next().unwrap_or_default());
                self.tasks.insert(*task, Task::new(name, now));
                let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
                ids.into_iter().for_each(|id| self.draw(id, now));
            }
            Event::Advanced { task, done, total } => {
                if let Some(state) = self.tasks.get_mut(task) {
                    state.bytes = Some((*done, *total));
                }
                self.draw(*task, now);
            }
            Event::Log { task, text, .. } => {
                if let Some(state) = self.tasks.get_mut(task) {
                    state.log(Some(text));
                }
                self.draw(*task, now);
            }
            Event::Warning { message, .. } => {
                self.print(&format!("{} {}", paint(self.color, "33", "warning:"), printable(message)));
            }
            Event::Finished { task, outcome, milliseconds } => {
                let Some(mut state) = self.tasks.remove(task) else { return };
                if let Some(bar) = &state.bar {
                    bar.finish_and_clear();
                    self.bars.remove(bar);
                }
                let took = duration(Duration::from_millis(*milliseconds));
                let (code, word) = match outcome {
                    Outcome::Done => ("32", "done"),
                    Outcome::Cached => ("36", "cached"),
                    Outcome::Failed(_) => ("1;31", "failed"),
                    Outcome::Cancelled => ("33", "canceled"),
                };
                self.print(&format!(
                    "{} {} {took}",
                    paint(self.color, code, &format!("{word:>8}")),
                    state.name
                ));
                if matches!(outcome, Outcome::Failed(_)) {
                    state.log(None);
                    for line in state.tail.iter().filter(|l| !l.is_empty()) {
                        self.print(&format!("         {line}"));
                    }
                }
            }
            Event::Result { name, digest } => self.print(&format!("{name} {digest}")),
            _ => {}
        }
    }

    fn finish(&mut self, _: bool) {
        for state in self.tasks.values() {
            if let Some(bar) = &state.bar {
                bar.finish_and_clear();
            }
        }
        let _ = self.bars.clear();
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.bars.clear();
    }
}

/// The part of a line that is shown.
fn shortened(line: &str) -> &str {
    &line[..line.floor_char_boundary(LONGEST)]
}

/// Text without control characters and escape sequences; a tab is a space.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => {
                if chars.next_if_eq(&'[').is_some() {
                    while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
                }
            }
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_removed() {
        assert_eq!(printable("a\x1b[31mred\x1b[0m\tb\x07"), "ared b");
        assert_eq!(printable("\x1b[2J\x1b"), "");
    }

    #[test]
    fn the_tail_is_the_end_of_the_log() {
        let mut task = Task::new("RUN x".into(), Duration::ZERO);
        task.bytes = Some((1500, Some(3000)));
        for i in 0..50 {
            task.log(Some(&format!("line {i}\nrest\r")));
        }
        assert_eq!(task.tail.len(), FAILED_TAIL);
        let message = task.message();
        assert!(message.starts_with("RUN x 1.5 kB / 3.0 kB\n     line 46"), "{message}");
        assert!(message.ends_with("line 49"));
    }

    #[test]
    fn the_start_of_a_long_line_is_shown() {
        let mut task = Task::new("RUN x".into(), Duration::ZERO);
        for _ in 0..100 {
            task.log(Some(&"ä".repeat(10_000)));
        }
        task.log(Some("\nnext"));
        task.log(None);
        assert_eq!(task.tail, ["ä".repeat(2048) + "…", "next".to_owned()]);
    }
}
