//! Standard error as JSON, one event a line, when it is for programs to read: everything that the program says there is
//! an event then. [`message`] and [`say_failure`] add `message` and `error` to the events of the SDK.

use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
pub(crate) fn start() -> Instant {
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
