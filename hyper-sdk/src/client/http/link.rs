//! The headers `Link`, `Range` and `Content-Range`, as registries write them.

use reqwest::header::HeaderMap;

/// The target of the link `rel=next` (RFC 8288), not yet resolved against the request's URL.
pub(in crate::client) fn next_link(headers: &HeaderMap) -> Option<String> {
    headers.get_all(reqwest::header::LINK).iter().filter_map(|v| v.to_str().ok()).find_map(next_of)
}

fn next_of(value: &str) -> Option<String> {
    let mut rest = value;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, parameters) = after.split_once('>')?;
        let end = parameters.find('<').unwrap_or(parameters.len());
        let is_next = parameters[..end].split([';', ',']).any(|p| {
            let p = p.trim();
            p.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').split(' ').any(|r| r.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target.to_owned());
        }
        rest = &parameters[end..];
    }
}

/// First and last offset of `0-99`, with or without `bytes=`.
pub(super) fn parse_range(value: &str) -> Option<(u64, u64)> {
    let value = value.trim();
    let value = value.strip_prefix("bytes=").or_else(|| value.strip_prefix("bytes ")).unwrap_or(value);
    let (first, last) = value.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// First offset, last offset and size of `bytes 5-9/10`; an unknown size (`*`) is `None`.
pub(super) fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, size) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = parse_range(range)?;
    let size = if size.trim() == "*" { None } else { Some(number(size)?) };
    if size.is_some_and(|s| last >= s) {
        return None;
    }
    Some((first, last, size))
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_next_link_is_found_among_others() {
        assert_eq!(
            next_of("</v2/a/tags/list?n=2&last=b>; rel=\"next\"").unwrap(),
            "/v2/a/tags/list?n=2&last=b"
        );
        assert_eq!(next_of("<a>; rel=prev, <b,c>; title=x; rel=next").unwrap(), "b,c");
        assert_eq!(next_of("<a>; rel=prev"), None);
        assert_eq!(next_of("a; rel=next"), None);
    }

    #[test]
    fn ranges_of_common_registries() {
        assert_eq!(parse_range("0-99"), Some((0, 99)));
        assert_eq!(parse_range("bytes=0-0"), Some((0, 0)));
        assert_eq!(parse_range("9-1"), None);
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, 9, None)));
        assert_eq!(parse_content_range("bytes 5-10/10"), None);
        assert_eq!(parse_content_range("bytes */10"), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(s: String) {
            let _ = (next_of(&s), parse_range(&s), parse_content_range(&s));
        }
    }
}
