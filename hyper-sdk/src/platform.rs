//! Operating system, architecture and variant.
