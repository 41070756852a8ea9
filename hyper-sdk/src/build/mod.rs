//! Builders: the trait and the local builder.
