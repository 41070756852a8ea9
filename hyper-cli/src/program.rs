//! The name of the program, for messages that say what to type.

use std::sync::OnceLock;

static NAME: OnceLock<&'static str> = OnceLock::new();

/// Says what the program is called. The first name counts.
pub(crate) fn set_name(name: &'static str) {
    let _ = NAME.set(name);
}

/// What the program is called.
pub(crate) fn name() -> &'static str {
    NAME.get().copied().unwrap_or("hyperbuild")
}
