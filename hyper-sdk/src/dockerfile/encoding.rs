//! From the bytes of a file to its text.

use super::ast::Ast;
use super::diagnostic::{Diagnostic, to_error};
use super::span::{Source, Span};
use crate::{Error, ErrorKind, Result};

/// The most bytes of a Dockerfile. Read one byte more, so that [`decode`] rejects a larger file.
pub const MAX_FILE_SIZE: u64 = 16 << 20;

/// Decodes a file. A Dockerfile is UTF-8. Comments may have another encoding: each wrong byte becomes U+FFFD.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] with an excerpt for every other line that is not UTF-8;
/// [`ErrorKind::TooLarge`] above [`MAX_FILE_SIZE`].
pub fn decode(bytes: Vec<u8>, file_name: &str) -> Result<String> {
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{file_name} is larger than {MAX_FILE_SIZE} bytes, which no Dockerfile is"),
        ));
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error.into_bytes(),
    };
    let mut text = String::with_capacity(bytes.len());
    let mut replaced = Vec::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            replaced.push(text.len());
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    let source = Source::new(file_name, &text);
    let ast = Ast::parse(&source);
    // A `#` in a heredoc is not a comment.
    let bodies: Vec<Span> = ast.nodes.iter().flat_map(|node| &node.heredocs).map(|doc| doc.span).collect();
    let mut errors: Vec<Diagnostic> = Vec::new();
    for at in replaced {
        let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let next = bodies.partition_point(|body| body.start <= at);
        let in_body = next.checked_sub(1).is_some_and(|body| at < bodies[body].end);
        if in_body || !text[line..at].trim_start().starts_with('#') {
            let span = Span::new(at, at + char::REPLACEMENT_CHARACTER.len_utf8());
            let error = Diagnostic::error("not-utf-8", span, "this is not UTF-8")
                .with_help("save the file as UTF-8; only comments may have another encoding");
            // One error for each line is enough.
            if errors.last().is_none_or(|last| source.line_of(last.span.start) != source.line_of(at)) {
                errors.push(error);
            }
        }
    }
    match to_error(&errors, &source) {
        Some(error) => Err(error),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comments_may_have_another_encoding() {
        assert_eq!(decode(b"FROM a\n".to_vec(), "Dockerfile").unwrap(), "FROM a\n");
        let text =
            decode(b"# caf\xe9 \xff\nFROM a\nRUN x \\\n  # \xe9t\xe9\n  y\n".to_vec(), "Dockerfile").unwrap();
        assert_eq!(text, "# caf\u{fffd} \u{fffd}\nFROM a\nRUN x \\\n  # \u{fffd}t\u{fffd}\n  y\n");
        let bad = b"FROM a\nLABEL a=caf\xe9 b=\xe9\nRUN <<E\n# \xe9\nE\nRUN echo # \xe9\n".to_vec();
        let error = decode(bad, "file").unwrap_err().to_string();
        for place in ["file:2:", "file:4:", "file:6:"] {
            assert!(error.contains(place), "{place}: {error}");
        }
        assert!(decode(vec![0xff, 0xfe, b'F', 0], "file").is_err(), "UTF-16");
    }
}
