//! Helpers for tests: seeded random images, fakes and frozen clocks.
