//! Examples of hyper-sdk live in `examples/`; this library is empty.
