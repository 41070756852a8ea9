//! Time as a value that callers pass in.
