//! Which files were read again and could not be used, so that the former ones are in use.

use std::sync::atomic::{AtomicBool, Ordering};

/// Files that a running server reads again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    Configuration,
    Policy,
    Tls,
    TokenKeys,
}

impl Files {
    pub(crate) const ALL: [Self; 4] = [Self::Configuration, Self::Policy, Self::Tls, Self::TokenKeys];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Policy => "policy",
            Self::Tls => "tls",
            Self::TokenKeys => "token-keys",
        }
    }
}

/// The names of the files, as a label has them.
pub(crate) fn names() -> Vec<String> {
    Files::ALL.map(|files| files.name().to_owned()).into()
}

/// Which of the files could not be used when they were last read.
#[derive(Debug, Default)]
pub(crate) struct Reloads([AtomicBool; Files::ALL.len()]);

impl Reloads {
    /// Notes whether files that were read again can be used.
    pub(crate) fn note(&self, files: Files, is_usable: bool) {
        self.0[files as usize].store(!is_usable, Ordering::Relaxed);
    }

    /// Whether they could not be used.
    pub(crate) fn failed(&self, files: Files) -> bool {
        self.0[files as usize].load(Ordering::Relaxed)
    }
}
