//! Build caches: the trait and its backends.
