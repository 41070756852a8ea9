//! An OCI registry server as a library.
