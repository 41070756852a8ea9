//! The rows of the metadata of a registry, as backups keep them and as they go from one store to another.
//!
//! # Invariants
//! - Rows of a kind come together, and the kinds in the order of [`RowKind`]: what a row names has come before.
//! - Numbers of repositories and manifests are names within one list of rows, not more.

use crate::Digest;
use crate::reference::{RepositoryName, Tag};
use serde::{Deserialize, Serialize};

/// Numbers of repositories and manifests become ids; far above would be no room for new ones.
pub(crate) const MAX_NUMBER: i64 = 1 << 53;

/// The kind of a [`Row`], in the order in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKind {
    /// [`Row::Blob`].
    Blob,
    /// [`Row::Repository`].
    Repository,
    /// [`Row::Link`].
    Link,
    /// [`Row::Manifest`].
    Manifest,
    /// [`Row::Tag`].
    Tag,
    /// [`Row::Token`].
    Token,
    /// [`Row::Damaged`].
    Damaged,
}

/// One row. Its JSON is the format of a line of a snapshot, and does not change.
///
/// ```
/// use hyper_sdk::Digest;
/// use hyper_sdk::store::meta::{BlobRow, Row, RowKind};
///
/// let row = Row::Blob(BlobRow { digest: Digest::sha256("hello"), size: 5, created: 0 });
/// assert_eq!(row.kind(), RowKind::Blob);
/// assert!(serde_json::to_string(&row)?.starts_with(r#"{"blob":{"digest":"sha256:2cf2"#));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// A blob that a repository has, in the order of the digests.
    Blob(BlobRow),
    /// A repository.
    Repository(RepositoryRow),
    /// A repository has a blob.
    Link(LinkRow),
    /// A manifest.
    Manifest(ManifestRow),
    /// A tag.
    Tag(TagRow),
    /// An API token.
    Token(TokenRow),
    /// What a backup could not copy, or what a store has that is not valid.
    Damaged(DamagedRow),
}

impl Row {
    /// The kind.
    pub fn kind(&self) -> RowKind {
        match self {
            Self::Blob(_) => RowKind::Blob,
            Self::Repository(_) => RowKind::Repository,
            Self::Link(_) => RowKind::Link,
            Self::Manifest(_) => RowKind::Manifest,
            Self::Tag(_) => RowKind::Tag,
            Self::Token(_) => RowKind::Token,
            Self::Damaged(_) => RowKind::Damaged,
        }
    }
}

/// A blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRow {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was stored first, in seconds since 1970.
    pub created: i64,
}

/// A repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryRow {
    /// The number by which links, manifests and tags name it; at least 1.
    pub number: i64,
    /// The name.
    pub name: RepositoryName,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Whether lists have it: whether it has a manifest, or something was pushed since its last one was deleted.
    pub listed: bool,
}

/// The link of a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRow {
    /// The number of the repository.
    pub repository: i64,
    /// The blob.
    pub blob: Digest,
    /// The end of the lease, in seconds since 1970.
    pub leased_until: i64,
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRow {
    /// The number by which tags name it; at least 1.
    pub number: i64,
    /// The number of the repository.
    pub repository: i64,
    /// The digest that it is stored under.
    pub digest: Digest,
    /// The media type.
    pub media_type: String,
    /// The digest of its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The type of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The annotations, as a JSON object of strings.
    pub annotations: String,
    /// When it was last stored, in seconds since 1970.
    pub created: i64,
    /// The blobs that it references.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// The manifests that it references.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Digest>,
    /// The bytes, which need not be text: base64 in JSON.
    #[serde(with = "base64_text")]
    pub body: Vec<u8>,
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagRow {
    /// The number of the repository.
    pub repository: i64,
    /// The tag.
    pub name: Tag,
    /// The number of the manifest.
    pub manifest: i64,
    /// When it was last moved, in seconds since 1970.
    pub updated: i64,
}

/// An API token, of which there is a hash alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRow {
    /// The id.
    pub id: String,
    /// The hash.
    pub hash: String,
    /// The user.
    pub user: String,
    /// The name for people.
    pub name: String,
    /// The scopes, as a JSON array of strings.
    pub scopes: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// When it expires.
    pub expires: Option<i64>,
    /// When it was last used.
    pub used: Option<i64>,
    /// What a refresh token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_to: Option<String>,
}

/// A blob, a manifest or another row that could not be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DamagedRow {
    /// The blob or manifest; `None` for another row, which the reason names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The repository; `None` for a blob, and when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
    /// Why.
    pub reason: String,
}

/// A registry of which another one was made, by a restore or a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Its name ([`Portable::registry_name`](crate::store::Portable::registry_name)).
    pub registry: String,
    /// The id of the snapshot that was restored, or the one that a snapshot of the moment of the move would have had. What the
    /// ancestor has from later is not in the other one.
    pub until: String,
}

/// What fills a store that a move fills, as text.
pub(crate) fn move_source(store: &str, registry: &str) -> String {
    format!("the store {store} (registry {registry})")
}

/// The registry in a text of [`move_source`].
pub(crate) fn moved_registry(source: &str) -> Option<&str> {
    source.strip_prefix("the store ")?.strip_suffix(')')?.rsplit_once(" (registry ").map(|(_, name)| name)
}

/// How many rows of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowCounts {
    /// Blobs.
    pub blobs: u64,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
    /// Repositories.
    pub repositories: u64,
    /// Links of blobs.
    pub links: u64,
    /// Manifests.
    pub manifests: u64,
    /// Tags.
    pub tags: u64,
    /// API tokens.
    pub tokens: u64,
    /// What could not be copied.
    pub damaged: u64,
}

impl RowCounts {
    /// Counts a row.
    pub fn add(&mut self, row: &Row) {
        match row {
            Row::Blob(blob) => {
                self.blobs += 1;
                self.bytes = self.bytes.saturating_add(blob.size);
            }
            Row::Repository(_) => self.repositories += 1,
            Row::Link(_) => self.links += 1,
            Row::Manifest(_) => self.manifests += 1,
            Row::Tag(_) => self.tags += 1,
            Row::Token(_) => self.tokens += 1,
            Row::Damaged(_) => self.damaged += 1,
        }
    }
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
