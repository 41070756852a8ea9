//! The query with which an issuer sends a browser back (RFC 6749, section 4.1.2; RFC 9207).

use crate::auth::Callback;
use percent_encoding::percent_decode_str;

/// The longest query that is read, in bytes.
const MAX_QUERY: usize = 16 << 10;

/// Reads a query. Unknown parameters are ignored, and so is what is not valid UTF-8.
pub(crate) fn parse(query: &str) -> Callback {
    let mut callback = Callback::default();
    if query.len() > MAX_QUERY {
        return callback;
    }
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = match key {
            "code" => &mut callback.code,
            "state" => &mut callback.state,
            "iss" => &mut callback.issuer,
            "error" => &mut callback.error,
            "error_description" => &mut callback.description,
            _ => continue,
        };
        callback.has_repeated |= place.is_some();
        let spaced = value.replace('+', " ");
        *place = percent_decode_str(&spaced).decode_utf8().ok().map(|text| text.into_owned());
    }
    callback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read() {
        let some = |text: &str| Some(text.to_owned());
        let read = parse("code=a%2Bb&state=c+d&iss=https%3A%2F%2Fi.example&x=y");
        assert_eq!(
            (read.code, read.state, read.issuer),
            (some("a+b"), some("c d"), some("https://i.example"))
        );
        assert!(!read.has_repeated && read.error.is_none());
        assert!(parse("code=a&code=b").has_repeated && parse("state=&state=").has_repeated);
        assert_eq!(
            parse("error=%ff&error_description"),
            Callback { description: some(""), ..Callback::default() }
        );
        assert_eq!(parse(&format!("code={}", "x".repeat(MAX_QUERY))), Callback::default());
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_read(text in ".{0,80}", parts in "[codestai&=%f+]{0,60}") {
            let _ = parse(&text);
            let _ = parse(&parts);
        }
    }
}
