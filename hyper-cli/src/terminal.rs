//! Output: results on standard output, everything else on standard error.

use crate::json_events;
use std::io::{self, Write as _};
use std::time::Duration;

/// Writes to standard output. A reader that went away is not an error.
pub(crate) fn print(text: &str) -> hyper_sdk::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Writes a line to standard output.
pub(crate) fn print_line(text: &str) -> hyper_sdk::Result<()> {
    print(&format!("{text}\n"))
}

/// Writes a value to standard output as indented JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> hyper_sdk::Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| hyper_sdk::Error::internal("the result cannot be written as JSON").with_source(e))?;
    print_line(&text)
}

/// Writes a line to standard error, or an event when programs read it. A failure to write is ignored: there is no other
/// place to report it.
pub(crate) fn message(line: &str) {
    if json_events::is_on() {
        json_events::message(line);
    } else {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Writes a warning to standard error.
pub(crate) fn warn(color: bool, text: &str) {
    message(&format!("{} {text}", paint(color && !json_events::is_on(), "1;33", "warning:")));
}

/// Wraps text in an escape sequence when colour is on.
pub(crate) fn paint(color: bool, code: &str, text: &str) -> String {
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A number of bytes for people, in powers of 1000: `1.2 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A duration for people: `3.2 ms`, `1.25 s`.
pub(crate) fn duration(d: Duration) -> String {
    if d < Duration::from_secs(1) {
        format!("{:.1} ms", d.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", d.as_secs_f64())
    }
}

/// Rows as a table with aligned columns, the first row being the head. The last column is not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(line.join("   ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_000), "1.0 kB");
        assert_eq!(size(999_960), "1.0 MB");
        assert_eq!(duration(Duration::from_micros(3_240)), "3.2 ms");
        assert_eq!(duration(Duration::from_millis(1_250)), "1.25 s");
    }

    #[test]
    fn tables_align() {
        let rows = [["NAME", "SIZE"], ["a-long-name", "1 B"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "NAME          SIZE\na-long-name   1 B\n");
    }

    #[test]
    fn colour_is_only_added_when_wanted() {
        assert_eq!(paint(false, "31", "x"), "x");
        assert_eq!(paint(true, "31", "x"), "\x1b[31mx\x1b[0m");
    }
}
