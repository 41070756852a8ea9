//! ONBUILD triggers of the base of a stage. Their text is not in the file, so the excerpt of an error shows the FROM, and the
//! message contains the trigger.

use crate::dockerfile::{Diagnostic, Span, Statement, parse_trigger};

/// Separates a message from the text of its trigger.
const BEFORE: &str = ", in the trigger `";

/// Parses a trigger of the base that `from` names.
pub(super) fn parse(text: &str, from: Span) -> Result<Statement, Diagnostic> {
    parse_trigger(text).map(|trigger| trigger.statement).map_err(|e| {
        // The excerpt shows another text.
        let why = e.message().lines().next().unwrap_or_default();
        let why = why.strip_prefix("ONBUILD trigger cannot be used: ").unwrap_or(why);
        at_base(Diagnostic::error("invalid-onbuild", from, why), text, from)
    })
}

/// Moves the error of a trigger to the FROM whose base has the trigger.
pub(super) fn at_base(mut error: Diagnostic, text: &str, from: Span) -> Diagnostic {
    let line = text.lines().next().unwrap_or_default();
    error.message.push_str(&format!("{BEFORE}{line}` of the base"));
    error.span = from;
    error.notes.clear();
    error
}

/// The text of the trigger of an error; `None` when it is not about a trigger.
pub(super) fn text_of(error: &Diagnostic) -> Option<&str> {
    error.message.rsplit_once(BEFORE).map(|(_, text)| text)
}
