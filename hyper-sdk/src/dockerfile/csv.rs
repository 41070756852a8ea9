//! Values with several fields, as in flags of instructions and of commands: one line of CSV.

/// Splits one line of CSV at commas. A field in double quotes can contain commas, and `""` in it is a quote. An empty text is
/// one empty field.
///
/// # Errors
/// A sentence about the wrong quote.
pub fn csv_fields(text: &str) -> Result<Vec<String>, String> {
    split(text, |_, field| format!("a bare `\"` in field `{field}`"))
}

/// As [`csv_fields`], for fields of which some are secrets: an error has the number of a field in place of its text.
pub(crate) fn csv_fields_with_secrets(text: &str) -> Result<Vec<String>, String> {
    split(text, |before, field| {
        let place = place_of_field(before, field);
        format!("a bare `\"` in {place}: put the whole field in quotes, and write `\"\"` for a quote in it")
    })
}

/// How a field is named that may be a secret: by its number, and by its key when that can be no part of a secret. `before`
/// are the fields before it.
pub(crate) fn place_of_field(before: &[String], field: &str) -> String {
    let number = before.len() + 1;
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    match field.split_once('=') {
        Some((key, _)) if key.bytes().all(is_plain) && !before.iter().any(|field| is_secret_field(field)) => {
            format!("field {number} (`{key}`)")
        }
        _ => format!("field {number}"),
    }
}

/// Whether a field may be a secret. When it has a comma, what follows is a part of it.
pub(crate) fn is_secret_field(field: &str) -> bool {
    let key = field.split('=').next().unwrap_or_default().to_ascii_lowercase();
    ["secret", "token", "pass"].iter().any(|part| key.contains(part))
}

/// What to do about a field that is a part of the one before it.
pub(crate) const COMMAS: &str = "a field with a comma in it needs quotes";

fn split(text: &str, bare_quote: impl Fn(&[String], &str) -> String) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, more) = match rest.split_once(',') {
                Some((field, more)) => (field, Some(more)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(bare_quote(&fields, field));
            }
            fields.push(field.to_owned());
            match more {
                Some(more) => rest = more,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        rest = quoted;
        loop {
            let Some((part, more)) = rest.split_once('"') else {
                return Err("a `\"` is not closed".to_owned());
            };
            field.push_str(part);
            rest = more;
            match rest.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    rest = more;
                }
                None => break,
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Ok(fields),
            None => return Err("text after a quoted field".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_csv() {
        assert_eq!(csv_fields("a,b=c").unwrap(), ["a", "b=c"]);
        assert_eq!(csv_fields("a,\"dest=x,y \"\"z\"\"\"").unwrap(), ["a", "dest=x,y \"z\""]);
        assert_eq!(csv_fields("").unwrap(), [""]);
        for wrong in ["\"a", "\"a\"b", "a\"b"] {
            assert!(csv_fields(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        for (text, place) in [
            ("a=b,my_secret=hun\"ter2", "in field 2 (`my_secret`): "),
            ("my_secret=x,hun\"ter2", "in field 2: "),
            ("my_secret=x,hunter2=\"", "in field 2: "),
        ] {
            let error = csv_fields_with_secrets(text).unwrap_err();
            assert!(error.contains(place) && !error.contains("hun") && !error.contains("ter2"), "{error}");
        }
    }
}
