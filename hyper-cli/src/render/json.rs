//! The events of the SDK, one a line, as JSON, with the milliseconds since the start as `at`.

use super::View;
use hyper_sdk::progress::Event;
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

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
