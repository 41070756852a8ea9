//! Registry stores: the trait, its composition from a blob and a metadata backend, and the backends.
