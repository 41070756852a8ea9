//! The Dockerfile language: pure functions from text to values.
