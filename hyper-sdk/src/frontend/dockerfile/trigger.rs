//! ONBUILD triggers that the base of a stage brings. Their text is not in the file, so what is shown of a fault is the
//! FROM, and the message has the trigger.

use crate::dockerfile::{Diagnostic, Span, Statement, parse_trigger};

/// What is between a message and the text of the trigger that it is about.
const BEFORE: &str = ", in the trigger `";

/// Parses a trigger of the base that `from` names.
pub(super) fn parse(text: &str, from: Span) -> Result<Statement, Diagnostic> {
    parse_trigger(text).map(|trigger| trigger.statement).map_err(|e| {
        // The excerpt is of another text.
        let why = e.message().lines().next().unwrap_or_default();
        let why = why.strip_prefix("ONBUILD trigger cannot be used: ").unwrap_or(why);
        at_base(Diagnostic::error("invalid-onbuild", from, why), text, from)
    })
}

/// The fault of a trigger, at the FROM that brings it.
pub(super) fn at_base(mut fault: Diagnostic, text: &str, from: Span) -> Diagnostic {
    let line = text.lines().next().unwrap_or_default();
    fault.message.push_str(&format!("{BEFORE}{line}` of the base"));
    fault.span = from;
    fault.notes.clear();
    fault
}

/// The text of the trigger that a fault is about, if it is about one.
pub(super) fn of(fault: &Diagnostic) -> Option<&str> {
    fault.message.rsplit_once(BEFORE).map(|(_, text)| text)
}
