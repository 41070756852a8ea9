//! What is counted.

use std::fmt;

/// What a quota limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuotaResource {
    /// Bytes of blobs and manifests.
    Bytes,
    /// Tags.
    Tags,
    /// Manifests.
    Manifests,
}

impl QuotaResource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bytes, Self::Tags, Self::Manifests];

    /// Its name: `bytes`, `tags` or `manifests`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Tags => "tags",
            Self::Manifests => "manifests",
        }
    }
}

impl fmt::Display for QuotaResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An amount of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaCounts {
    /// The bytes of blobs and manifests. A blob that several repositories of the namespace have counts once, and so does a
    /// manifest.
    pub bytes: u64,
    /// Tags.
    pub tags: u64,
    /// Manifests, in each repository on its own.
    pub manifests: u64,
}

impl QuotaCounts {
    /// The amount of a resource.
    pub fn of(&self, resource: QuotaResource) -> u64 {
        match resource {
            QuotaResource::Bytes => self.bytes,
            QuotaResource::Tags => self.tags,
            QuotaResource::Manifests => self.manifests,
        }
    }
}
