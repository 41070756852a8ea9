//! Registry hosts, repository names, tags and references: parsed once, printed the same.
