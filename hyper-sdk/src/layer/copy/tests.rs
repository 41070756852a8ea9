//! Copies described as text.
