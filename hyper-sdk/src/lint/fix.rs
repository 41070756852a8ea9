//! Edits of a text.

use crate::dockerfile::Span;

/// A replacement of a part of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The part of the text.
    pub span: Span,
    /// The new text.
    pub text: String,
}

/// Applies edits to a text. Only the first of overlapping edits is applied; lint and fix again for the others. An edit outside
/// of the text is left out.
pub fn apply_edits<'a>(text: &str, edits: impl IntoIterator<Item = &'a Edit>) -> String {
    let mut edits: Vec<&Edit> = edits.into_iter().collect();
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for edit in edits {
        let Span { start, end } = edit.span;
        if start < at || text.get(start..end).is_none() {
            continue;
        }
        out.push_str(&text[at..start]);
        out.push_str(&edit.text);
        at = end;
    }
    out.push_str(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_applied_in_order_and_never_twice() {
        let edit = |start, end, text: &str| Edit { span: Span::new(start, end), text: text.into() };
        let edits = [edit(4, 5, "E"), edit(0, 1, ""), edit(0, 2, "x"), edit(9, 12, "far")];
        assert_eq!(apply_edits("abcdef", &edits), "bcdEf");
        assert_eq!(apply_edits("äb", &[edit(1, 2, "x")]), "äb");
    }
}
