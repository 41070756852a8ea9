//! Values with several fields of which some may be secrets: no error shows the text of a field.

use super::csv::split;

/// As [`super::csv_fields`], for fields of which some are secrets: an error has the number of a field in place of its text.
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

#[cfg(test)]
mod tests {
    use super::*;

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
