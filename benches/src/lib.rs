//! Benchmarks of Hyper live in `benches/`; this library is empty.
