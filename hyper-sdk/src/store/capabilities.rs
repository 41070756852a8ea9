//! The capabilities of a store.

/// Defines two `const` methods for a field of a capabilities value: one that sets it and one that clears it.
macro_rules! switches {
    ($($field:ident: $with:ident, $without:ident;)+) => {
        $(
            #[doc = concat!("The same, with `", stringify!($field), "`.")]
            #[must_use]
            pub const fn $with(mut self) -> Self {
                self.$field = true;
                self
            }

            #[doc = concat!("The same, without `", stringify!($field), "`.")]
            #[must_use]
            pub const fn $without(mut self) -> Self {
                self.$field = false;
                self
            }
        )+
    };
}
#[cfg(feature = "client")]
pub(crate) use switches;

/// What a store can do beyond pull and push.
///
/// ```
/// use hyper_sdk::store::StoreCapabilities;
///
/// // A store in memory from which nothing can be deleted.
/// const MINE: StoreCapabilities = StoreCapabilities::VOLATILE.without_delete();
/// assert!(MINE.write && !MINE.delete && !MINE.durable);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCapabilities {
    /// Content can be written.
    pub write: bool,
    /// Manifests, tags and blobs can be deleted.
    pub delete: bool,
    /// An upload can be resumed by another handle; if `durable`, also after a restart of the process.
    pub resume: bool,
    /// Acknowledged content survives the end of the process and a power failure.
    pub durable: bool,
    /// A push and a deletion ask a [`TagGuard`](super::TagGuard) in the transaction of the change. A store without this
    /// refuses guarded changes.
    pub tag_guards: bool,
    /// Quotas are enforced, in the transaction of each change ([`RegistryStore::set_quotas`](super::RegistryStore::set_quotas)).
    /// A store without this refuses to have any.
    pub quotas: bool,
}

impl StoreCapabilities {
    /// Everything.
    pub const ALL: Self =
        Self { write: true, delete: true, resume: true, durable: true, tag_guards: true, quotas: true };
    /// Everything but durability.
    pub const VOLATILE: Self = Self { durable: false, ..Self::ALL };
    /// Nothing, not even durability.
    pub const NONE: Self =
        Self { write: false, delete: false, resume: false, durable: false, tag_guards: false, quotas: false };
    /// Reading only.
    pub const READ_ONLY: Self = Self { durable: true, ..Self::NONE };
}

impl StoreCapabilities {
    switches! {
        write: with_write, without_write;
        delete: with_delete, without_delete;
        resume: with_resume, without_resume;
        durable: with_durable, without_durable;
        tag_guards: with_tag_guards, without_tag_guards;
        quotas: with_quotas, without_quotas;
    }
}
