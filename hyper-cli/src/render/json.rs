//! One event a line, as JSON, with the milliseconds since the start as `at`.
//!
//! When progress is shown so, everything that the program says on standard error is: [`message`] and [`say_failure`] add
//! `message` and `error` to the events of the SDK.

use super::View;
use crate::terminal::tell;
use hyper_sdk::progress::Event;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static ON: AtomicBool = AtomicBool::new(false);

/// Says that standard error is for programs to read.
pub(crate) fn turn_on() {
    ON.store(true, Ordering::Relaxed);
}

/// Whether standard error is for programs to read.
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// When the program began to tell what it does.
pub(super) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Writes an event that is none of the SDK's. A reader that went away must not stop the work.
fn write_event(event: &Value) {
    let _ = io::stderr().write_all(format!("{event}\n").as_bytes());
}

/// Says something that is no event of the SDK's.
pub(crate) fn message(text: &str) {
    let at = start().elapsed().as_millis() as u64;
    write_event(&json!({"at": at, "event": "message", "message": text}));
}

/// Says why the program fails. Each part is what it says, such as `error` or `hint`, and the text; `rendered` is all of
/// it as people read it.
pub(crate) fn say_failure(parts: &[(&str, String)], rendered: &str) {
    let texts =
        |kind: &str| parts.iter().filter(|(k, _)| *k == kind).map(|(_, text)| text).collect::<Vec<_>>();
    write_event(&json!({
        "at": start().elapsed().as_millis() as u64,
        "event": "error",
        "message": texts("error").first(),
        "step": texts("step").first(),
        "causes": texts("caused by"),
        "hint": texts("hint").first(),
        "rendered": rendered,
    }));
}

/// Takes the lines of the program's own log.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        tell(String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes events as JSON lines.
pub(super) struct Json<W> {
    out: W,
}

#[derive(Serialize)]
struct Line<'a> {
    at: u64,
    #[serde(flatten)]
    event: &'a Event,
}

impl<W: Write + Send> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write + Send> View for Json<W> {
    fn event(&mut self, event: &Event, now: Duration) {
        let line = Line { at: now.as_millis() as u64, event };
        if let Ok(mut text) = serde_json::to_vec(&line) {
            text.push(b'\n');
            // A reader that went away must not stop the work.
            let _ = self.out.write_all(&text);
        }
    }

    fn finish(&mut self, _: bool) {
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::progress::Outcome;

    #[test]
    fn one_line_an_event() {
        let mut out = Vec::new();
        let mut view = Json::new(&mut out);
        let event = Event::Started { task: 3, name: "a\nb".into(), total: None };
        view.event(&event, Duration::from_millis(5));
        view.event(&Event::Finished { task: 3, outcome: Outcome::Cached, milliseconds: 1 }, Duration::ZERO);
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["at"], 5);
        assert_eq!(lines[0]["event"], "started");
        assert_eq!(lines[1]["outcome"], "cached");
    }
}
