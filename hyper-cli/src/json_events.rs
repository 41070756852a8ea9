//! Standard error as JSON for programs that read it: everything on it is an event then, one a line. [`message`] and
//! [`failure`] add the events `message` and `error` to those of the SDK.

use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

static ON: AtomicBool = AtomicBool::new(false);

/// Makes standard error a stream of events.
pub(crate) fn turn_on() {
    ON.store(true, Ordering::Relaxed);
}

/// Whether standard error is a stream of events.
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The time that events count from.
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Writes an event of the program's own. A reader that went away must not stop the work.
fn write_event(event: &Value) {
    let _ = io::stderr().write_all(format!("{event}\n").as_bytes());
}

/// Writes a line as an event.
pub(crate) fn message(text: &str) {
    let at = start().elapsed().as_millis() as u64;
    write_event(&json!({"at": at, "event": "message", "message": text}));
}

/// Writes why the program fails as an event. Each part has a kind, such as `error` or `hint`, and a text; `rendered` is the
/// whole failure as people read it.
pub(crate) fn failure(parts: &[(&str, String)], rendered: &str) {
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
