//! Functions that encode and decode: base64, URLs, JSON, CSV.

use super::{Arguments, Outcome, Table, Value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) const TABLE: Table = &[
    ("base64decode", |a| {
        a.exactly(1)?;
        let bytes = STANDARD.decode(a.text(0)?.as_bytes()).map_err(|_| "the text is not base64")?;
        Ok(Value::string(String::from_utf8(bytes).map_err(|_| "the decoded bytes are not UTF-8")?))
    }),
    ("base64encode", |a| {
        a.exactly(1)?;
        Ok(Value::string(STANDARD.encode(a.text(0)?.as_bytes())))
    }),
    ("csvdecode", csv),
    ("jsondecode", |a| {
        a.exactly(1)?;
        let text = a.text(0)?;
        a.spend(64 * text.len())?;
        let json = serde_json::from_str(&text).map_err(|e| format!("the text is not JSON: {e}"))?;
        Ok(Value::from_json(&json))
    }),
    ("jsonencode", |a| {
        a.exactly(1)?;
        let text = a.get(0)?.to_json().to_string();
        a.spend(text.len())?;
        Ok(Value::string(html_safe(&text)))
    }),
    ("urlencode", |a| {
        a.exactly(1)?;
        let mut out = String::new();
        for byte in a.text(0)?.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
                b' ' => out.push('+'),
                other => {
                    let _ = write!(out, "%{other:02X}");
                }
            }
        }
        Ok(Value::string(out))
    }),
];

/// JSON that can stand in HTML.
fn html_safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

/// Objects of texts, named by the first row.
fn csv(a: &Arguments<'_>) -> Outcome<Value> {
    a.exactly(1)?;
    let text = a.text(0)?;
    a.spend(64 * text.len())?;
    let mut rows = rows(&text)?.into_iter();
    let header = rows.next().ok_or("the first row has the names of the columns, and is missing")?;
    let mut objects = Vec::new();
    for row in rows {
        if row.len() != header.len() {
            return Err(format!("a row has {} columns, and the first row {}", row.len(), header.len()).into());
        }
        a.spend(64 * row.len())?;
        let entries: BTreeMap<String, Value> =
            header.iter().cloned().zip(row.into_iter().map(Value::string)).collect();
        objects.push(Value::object(entries));
    }
    Ok(Value::list(objects))
}

/// The rows of CSV; empty lines do not count.
fn rows(text: &str) -> Outcome<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    let (mut row, mut field) = (Vec::new(), String::new());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if field.is_empty() => loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err("a `\"` is not closed".into()),
                }
            },
            ',' => row.push(std::mem::take(&mut field)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                if !(row.is_empty() && field.is_empty()) {
                    row.push(std::mem::take(&mut field));
                    rows.push(std::mem::take(&mut row));
                }
            }
            c => field.push(c),
        }
    }
    if !(row.is_empty() && field.is_empty()) {
        row.push(field);
        rows.push(row);
    }
    Ok(rows)
}
