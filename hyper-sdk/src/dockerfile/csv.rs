//! Values with several fields, as in flags of instructions and of commands: one line of CSV.

/// Splits one line of CSV at commas. A field in double quotes can contain commas, and `""` in it is a quote. An empty text is
/// one empty field.
///
/// # Errors
/// A sentence about the wrong quote.
pub fn csv_fields(text: &str) -> Result<Vec<String>, String> {
    split(text, |_, field| format!("a bare `\"` in field `{field}`"))
}

/// The fields, with the message about a bare quote in a field, which follows others.
pub(super) fn split(
    text: &str,
    bare_quote: impl Fn(&[String], &str) -> String,
) -> Result<Vec<String>, String> {
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
}
