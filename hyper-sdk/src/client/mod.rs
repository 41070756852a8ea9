//! Registry clients: the trait and its backends.
