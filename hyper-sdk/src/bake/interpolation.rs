//! Variables in compose files and in `.env`: `$NAME`, `${NAME:-default}`, `${NAME:?message}`, `${NAME:+other}`.

/// The most levels of defaults in defaults.
const MAX_DEPTH: usize = 32;
/// The most bytes of a result.
const MAX_BYTES: usize = 1 << 20;

/// Replaces the variables of a text. One that is not set is empty.
pub(super) fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    expand_into(text, lookup, 0, &mut out)?;
    Ok(out)
}

fn expand_into(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
    out: &mut String,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("defaults are nested more than {MAX_DEPTH} levels deep"));
    }
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| format!("`${{{after}` is not closed"))?;
            braced(&after[..end], lookup, depth, out)?;
            rest = &after[end + 1..];
        } else {
            let length = name_length(rest);
            match length {
                0 => return Err("`$` is followed by no name: write `$$` for a `$`".to_owned()),
                length => out.push_str(&lookup(&rest[..length]).unwrap_or_default()),
            }
            rest = &rest[length..];
        }
        if out.len() > MAX_BYTES {
            return Err(format!("a text has more than {} MiB", MAX_BYTES >> 20));
        }
    }
    out.push_str(rest);
    Ok(())
}

/// How many bytes at the start are a name.
fn name_length(text: &str) -> usize {
    match text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        true => text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len()),
        false => 0,
    }
}

/// Where the brace that was opened before the text is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let bytes = text.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if index > 0 && bytes[index - 1] == b'$' => depth += 1,
            b'}' if depth == 0 => return Some(index),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn braced(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
    out: &mut String,
) -> Result<(), String> {
    let (name, rest) = text.split_at(name_length(text));
    let wrong = || format!("`${{{text}}}` is no variable");
    if name.is_empty() {
        return Err(wrong());
    }
    let (counts_empty, rest) = match rest.strip_prefix(':') {
        Some(rest) => (false, rest),
        None => (true, rest),
    };
    let value = lookup(name);
    let usable = value.clone().filter(|value| counts_empty || !value.is_empty());
    match (rest.chars().next(), usable) {
        (None, _) if counts_empty => out.push_str(&value.unwrap_or_default()),
        (Some('-' | '?'), Some(value)) => out.push_str(&value),
        (Some('-'), None) => expand_into(&rest[1..], lookup, depth + 1, out)?,
        (Some('+'), Some(_)) => expand_into(&rest[1..], lookup, depth + 1, out)?,
        (Some('+'), None) => {}
        (Some('?'), None) => {
            let mut message = String::new();
            expand_into(&rest[1..], lookup, depth + 1, &mut message)?;
            let message = if message.is_empty() { "it is not set".to_owned() } else { message };
            return Err(format!("the variable `{name}` is required: {message}"));
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_defaults_and_conditions() {
        let lookup = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("$A-${A}", "a-a"),
            ("$$A", "$A"),
            ("${NO}|${NO-d}|${NO:-d}|${EMPTY-d}|${EMPTY:-d}", "|d|d||d"),
            ("${A+x}${A:+y}${NO+z}${EMPTY:+z}", "xy"),
            ("${NO:-${EMPTY:-${A}}}", "a"),
            ("${NO:-a{b}", "a{b"),
        ] {
            assert_eq!(expand(text, &lookup).unwrap(), expected, "{text}");
        }
        for (text, why) in [
            ("${NO:?give it}", "`NO` is required: give it"),
            ("${EMPTY:?}", "is required"),
            ("${A", "not closed"),
            ("${}", "no variable"),
            ("$ x", "followed by no name"),
            ("${A!}", "no variable"),
        ] {
            assert!(expand(text, &lookup).unwrap_err().contains(why), "{text}");
        }
        let deep = "${X:-".repeat(100) + &"}".repeat(100);
        assert!(expand(&deep, &lookup).unwrap_err().contains("nested"));
    }
}
