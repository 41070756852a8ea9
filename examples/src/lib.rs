//! Examples of hyper-sdk live in `examples/`, and those that tests run in `src/bin/`; this library is empty.
