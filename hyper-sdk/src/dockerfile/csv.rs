//! Values with several fields, as the flags of instructions and of commands have them: one line of CSV.

/// The fields of one line of CSV: commas split, double quotes around a whole field protect them, and `""` within the
/// quotes is a quote. An empty text is one empty field.
///
/// # Errors
/// Says which quote is in the way.
pub fn csv_fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, more) = match rest.split_once(',') {
                Some((field, more)) => (field, Some(more)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(format!("a bare `\"` in field `{field}`"));
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
            None => return Err("text behind a quoted field".to_owned()),
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
