//! The types of the OCI image specification.
