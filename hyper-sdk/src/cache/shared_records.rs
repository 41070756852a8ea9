//! The records of a cache that is shared between machines: the config of an OCI artifact, as JSON.
//!
//! ```text
//!   manifest   artifactType application/vnd.hyper.cache.v1
//!     config   application/vnd.hyper.cache.records.v1+json: this file
//!     layers   the layers of steps, with the media types of image layers
//!              application/vnd.hyper.cache.index.v1+zstd: the index of a layer's files, as `layer` writes it
//!              application/vnd.hyper.cache.times.v1+zstd: the true times of a layer's files, as `layer` writes them
//!              application/vnd.hyper.cache.mount.v1.tar+zstd: the files of a cache mount, with exact times
//!
//!   {"version": 1,
//!    "records": [{"keys": [KEY…], "diff_id": DIGEST, "blob": DIGEST, "form": DIGEST,
//!                 "times": {"name": DIGEST, "blob": DIGEST}, "made": {"seconds": N, "nanoseconds": N}}…],
//!    "indexes": [{"diff_id": DIGEST, "blob": DIGEST}…],
//!    "mounts": [{"name": DIGEST, "blob": DIGEST, "diff_id": DIGEST, "size": N}…]}
//! ```
//!
//! `blob` names a layer of the manifest by its digest; `form` says how the blob was compressed. `form`, `times` and `made`
//! may be missing. A record has digests and times alone: no name, no argument, no path.
//!
//! `mounts` is missing unless the contents of cache mounts were asked for; with it the version is 2. `name` is a digest of
//! what a cache mount is known by: its id, its owner and mode, the key of its first content. `size` is that of the archive,
//! uncompressed.
//!
//! A record says which layer a key has, and names no other record: records have no order and no circles.
//!
//! An image has the same records in its config, in the field `hyper.cache.v1`: `[{"layer": N, "keys": [KEY…],
//! "blob": DIGEST, "form": DIGEST}…]`, with the number of the layer.

use crate::layer::FileTime;
use crate::media_type::Compression;
use crate::oci::{Descriptor, ImageConfig};
use crate::{Digest, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The artifact type of a shared cache.
pub(super) const ARTIFACT: &str = "application/vnd.hyper.cache.v1";
/// The media type of its records.
pub(super) const RECORDS: &str = "application/vnd.hyper.cache.records.v1+json";
/// The media type of the index of a layer.
pub(super) const INDEX: &str = "application/vnd.hyper.cache.index.v1+zstd";
/// The media type of the true times of a layer.
pub(super) const TIMES: &str = "application/vnd.hyper.cache.times.v1+zstd";
/// The media type of the files of a cache mount.
pub(super) const MOUNT: &str = "application/vnd.hyper.cache.mount.v1.tar+zstd";
/// The field of an image config.
const FIELD: &str = "hyper.cache.v1";

/// The most bytes of the records of one cache: some 30 000 steps.
pub const MAX_SHARED_RECORDS: u64 = 16 << 20;
/// The most bytes of an index or of a table of times: those of a layer with more than a million files. A larger one is not
/// shared.
pub(super) const MAX_UNPACKED: u64 = 128 << 20;
/// The most keys of one record. A step has two.
const MAX_KEYS: usize = 16;
/// The most bytes of the files of a cache mount as an archive. A larger one is not shared.
pub const MAX_SHARED_MOUNT: u64 = 64 << 30;
const VERSION: u32 = 1;
/// The version of records with the contents of cache mounts.
const WITH_MOUNTS: u32 = 2;

/// What one key has.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedRecord {
    /// The keys of the step.
    pub keys: Vec<Digest>,
    /// The digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The layer as a blob of the cache.
    pub layer: Descriptor,
    /// How the blob was compressed: the key under which a builder would look for a blob of these options.
    pub form: Option<Digest>,
    /// The table of the true times of the layer's files: its name, and its blob.
    pub times: Option<(Digest, Descriptor)>,
    /// When the layer was made, if its files have the times of files outside of it.
    pub made: Option<FileTime>,
}

/// The content of one cache mount.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedMount {
    /// The digest of what the cache mount is known by.
    pub name: Digest,
    /// The compressed archive of its files as a blob of the cache.
    pub blob: Descriptor,
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The bytes of the uncompressed archive.
    pub size: u64,
}

/// The records of a shared cache, with the indexes of layers, by diff ID.
///
/// ```
/// use hyper_sdk::cache::SharedRecords;
///
/// let records = SharedRecords::parse(br#"{"version": 1, "records": [], "indexes": []}"#, &[])?;
/// assert!(records.records.is_empty());
/// # Ok::<(), hyper_sdk::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedRecords {
    /// The records.
    pub records: Vec<SharedRecord>,
    /// The diff ID of a layer and the blob of its index. The layer may be one of a base image.
    pub indexes: Vec<(Digest, Descriptor)>,
    /// The contents of cache mounts.
    pub mounts: Vec<SharedMount>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    records: Vec<Record>,
    indexes: Vec<Index>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    keys: Vec<Digest>,
    diff_id: Digest,
    blob: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<Times>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<FileTime>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Times {
    name: Digest,
    blob: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    diff_id: Digest,
    blob: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mount {
    name: Digest,
    blob: Digest,
    diff_id: Digest,
    size: u64,
}

/// A record in the config of an image.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InlineRecord {
    layer: usize,
    keys: Vec<Digest>,
    blob: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    form: Option<Digest>,
}

fn wrong(what: impl Into<String>) -> Error {
    Error::invalid(what)
}

impl SharedRecords {
    /// Reads the records of an artifact whose manifest has these layers.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] above [`MAX_SHARED_RECORDS`]; [`ErrorKind::Unsupported`] for another version;
    /// [`ErrorKind::Invalid`] for anything else that is not as described, such as a blob that the manifest does not have.
    pub fn parse(bytes: &[u8], layers: &[Descriptor]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if bytes.len() as u64 > MAX_SHARED_RECORDS {
            return Err(Error::new(ErrorKind::TooLarge, "the records of the cache are too large")
                .with_context("limit", MAX_SHARED_RECORDS));
        }
        let not_json = |e| wrong("the records of the cache are damaged").with_source(e);
        let version: Version = serde_json::from_slice(bytes).map_err(not_json)?;
        if ![VERSION, WITH_MOUNTS].contains(&version.version) {
            return Err(Error::unsupported(format!(
                "the cache was written by another version of this program: its format is {}, not {VERSION} or {WITH_MOUNTS}",
                version.version
            )));
        }
        let file: File = serde_json::from_slice(bytes).map_err(not_json)?;
        let blobs: HashMap<&Digest, &Descriptor> =
            layers.iter().map(|layer| (&layer.digest, layer)).collect();
        let find = |digest: &Digest, is_of_type: &dyn Fn(&str) -> bool| match blobs.get(digest) {
            Some(blob) if is_of_type(&blob.media_type) => Ok(plain(blob)),
            Some(blob) => Err(wrong("a record of the cache names a blob of another type")
                .with_context("digest", digest)
                .with_context("media type", blob.media_type.escape_debug())),
            None => Err(wrong("a record of the cache names a blob that its manifest does not have")
                .with_context("digest", digest)),
        };
        let mut records = Vec::with_capacity(file.records.len());
        for Record { keys, diff_id, blob, form, times, made } in file.records {
            check_keys(&keys)?;
            if made.is_some_and(|made| made.nanoseconds >= 1_000_000_000) {
                return Err(wrong("a record of the cache has a time with a second or more of nanoseconds"));
            }
            let times = match times {
                Some(Times { name, blob }) => Some((name, find(&blob, &|kind| kind == TIMES)?)),
                None => None,
            };
            let layer = find(&blob, &|kind| Compression::of_layer(kind).is_some())?;
            records.push(SharedRecord { keys, diff_id, layer, form, times, made });
        }
        let index = |Index { diff_id, blob }| Ok((diff_id, find(&blob, &|kind| kind == INDEX)?));
        let indexes = file.indexes.into_iter().map(index).collect::<Result<_>>()?;
        let mount = |Mount { name, blob, diff_id, size }| {
            if size > MAX_SHARED_MOUNT {
                return Err(wrong("a record of the cache names a cache mount that is too large")
                    .with_context("limit", MAX_SHARED_MOUNT));
            }
            Ok(SharedMount { name, blob: find(&blob, &|kind| kind == MOUNT)?, diff_id, size })
        };
        let mounts = file.mounts.into_iter().map(mount).collect::<Result<_>>()?;
        Ok(Self { records, indexes, mounts })
    }

    /// The JSON. Equal records give equal bytes.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] above [`MAX_SHARED_RECORDS`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let record = |record: &SharedRecord| Record {
            keys: record.keys.clone(),
            diff_id: record.diff_id.clone(),
            blob: record.layer.digest.clone(),
            form: record.form.clone(),
            times: record
                .times
                .as_ref()
                .map(|(name, blob)| Times { name: name.clone(), blob: blob.digest.clone() }),
            made: record.made,
        };
        let index = |(diff_id, blob): &(Digest, Descriptor)| Index {
            diff_id: diff_id.clone(),
            blob: blob.digest.clone(),
        };
        let mount = |mount: &SharedMount| Mount {
            name: mount.name.clone(),
            blob: mount.blob.digest.clone(),
            diff_id: mount.diff_id.clone(),
            size: mount.size,
        };
        let file = File {
            version: if self.mounts.is_empty() { VERSION } else { WITH_MOUNTS },
            records: self.records.iter().map(record).collect(),
            indexes: self.indexes.iter().map(index).collect(),
            mounts: self.mounts.iter().map(mount).collect(),
        };
        let bytes = serde_json::to_vec(&file)
            .map_err(|e| Error::internal("records cannot be written as JSON").with_source(e))?;
        if bytes.len() as u64 > MAX_SHARED_RECORDS {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the cache has too many records: export it with mode=min",
            )
            .with_context("limit", MAX_SHARED_RECORDS));
        }
        Ok(bytes)
    }

    /// Reads the records in the config of an image with these layers; `None` when it has none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for records that do not fit the image.
    pub fn of_image(config: &ImageConfig, layers: &[Descriptor]) -> Result<Option<Self>> {
        let Some(value) = config.extra.get(FIELD) else { return Ok(None) };
        let inline: Vec<InlineRecord> = serde_json::from_value(value.clone())
            .map_err(|e| wrong("the records of the cache in the image config are damaged").with_source(e))?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(wrong("the image config names another number of layers than the manifest"));
        }
        let mut records = Vec::with_capacity(inline.len());
        for InlineRecord { layer, keys, blob, form } in inline {
            check_keys(&keys)?;
            let Some((layer, diff_id)) = layers.get(layer).zip(diff_ids.get(layer)) else {
                return Err(wrong("a record of the cache names a layer that the image does not have")
                    .with_context("layer", layer));
            };
            if Compression::of_layer(&layer.media_type).is_none() {
                continue;
            }
            // Whoever pushed the image may have compressed the layer anew.
            let form = form.filter(|_| blob == layer.digest);
            let (layer, diff_id) = (plain(layer), diff_id.clone());
            records.push(SharedRecord { keys, diff_id, layer, form, times: None, made: None });
        }
        Ok(Some(Self { records, ..Self::default() }))
    }

    /// Puts records into the config of an image, each with the number of its layer.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when they cannot be written as JSON.
    pub(crate) fn put_into_image(
        records: Vec<(usize, SharedRecord)>,
        config: &mut ImageConfig,
    ) -> Result<()> {
        let inline = |(layer, SharedRecord { keys, layer: blob, form, .. })| InlineRecord {
            layer,
            keys,
            blob: blob.digest,
            form,
        };
        let inline: Vec<InlineRecord> = records.into_iter().map(inline).collect();
        let value = serde_json::to_value(inline)
            .map_err(|e| Error::internal("records cannot be written as JSON").with_source(e))?;
        config.extra.insert(FIELD.to_owned(), value);
        Ok(())
    }
}

fn check_keys(keys: &[Digest]) -> Result<()> {
    match keys.len() {
        1..=MAX_KEYS => Ok(()),
        count => Err(wrong("a record of the cache has no key or too many").with_context("keys", count)),
    }
}

/// What is used of a descriptor that somebody else wrote.
fn plain(blob: &Descriptor) -> Descriptor {
    Descriptor {
        annotations: blob.annotations.clone(),
        ..Descriptor::new(&*blob.media_type, blob.digest.clone(), blob.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type::OCI_LAYER_GZIP;
    use crate::oci::RootFs;

    fn blob(kind: &str, text: &str) -> Descriptor {
        Descriptor::of(kind, text.as_bytes())
    }

    fn sample() -> (SharedRecords, Vec<Descriptor>) {
        let layers = vec![
            blob(OCI_LAYER_GZIP, "layer"),
            blob(TIMES, "times"),
            blob(INDEX, "index"),
            blob("a/b", "x"),
            blob(MOUNT, "files"),
        ];
        let record = SharedRecord {
            keys: vec![Digest::sha256("one"), Digest::sha256("two")],
            diff_id: Digest::sha256("tar"),
            layer: layers[0].clone(),
            form: Some(Digest::sha256("form")),
            times: Some((Digest::sha256("table"), layers[1].clone())),
            made: Some(FileTime { seconds: -5, nanoseconds: 7 }),
        };
        let plain = SharedRecord { form: None, times: None, made: None, ..record.clone() };
        let indexes = vec![(Digest::sha256("tar"), layers[2].clone())];
        let mounts = vec![SharedMount {
            name: Digest::sha256("id"),
            blob: layers[4].clone(),
            diff_id: Digest::sha256("archive"),
            size: 4096,
        }];
        (SharedRecords { records: vec![record, plain], indexes, mounts }, layers)
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let (records, layers) = sample();
        let bytes = records.to_bytes().unwrap();
        assert_eq!(SharedRecords::parse(&bytes, &layers).unwrap(), records);
        for cut in 0..bytes.len() {
            assert!(SharedRecords::parse(&bytes[..cut], &layers).is_err(), "cut to {cut}");
        }
    }

    #[test]
    fn what_is_not_as_described_is_an_error() {
        let (records, layers) = sample();
        let text = String::from_utf8(records.to_bytes().unwrap()).unwrap();
        let refused = |text: &str, layers: &[Descriptor], why: &str| {
            let error = SharedRecords::parse(text.as_bytes(), layers).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            error.kind()
        };
        let other = text.replace(r#""version":2"#, r#""version":3,"more":3"#);
        assert_eq!(refused(&other, &layers, "another version"), ErrorKind::Unsupported);
        refused(&text, &layers[..2], "does not have");
        refused(&text, &layers[1..], "does not have");
        let replaced =
            |from: &Descriptor, to: &Descriptor| text.replace(from.digest.as_str(), to.digest.as_str());
        for blob in &layers[..3] {
            refused(&replaced(blob, &layers[3]), &layers, "another type");
        }
        refused(&replaced(&layers[1], &layers[0]), &layers, "another type");
        refused(&text.replace(r#""form""#, r#""from""#), &layers, "damaged");
        let no_keys = text.replace(&format!("{:?}", Digest::sha256("one").as_str()), "");
        refused(
            &no_keys.replace("[,", "[").replace(&format!("{:?}", Digest::sha256("two").as_str()), ""),
            &layers,
            "no key",
        );
        let many = vec![Digest::sha256("k"); MAX_KEYS + 1];
        let mut too_many = records.clone();
        too_many.records[0].keys = many;
        refused(&String::from_utf8(too_many.to_bytes().unwrap()).unwrap(), &layers, "too many");
        refused(&text.replace(r#""nanoseconds":7"#, r#""nanoseconds":1000000000"#), &layers, "nanoseconds");
        let large = vec![b' '; MAX_SHARED_RECORDS as usize + 1];
        assert_eq!(SharedRecords::parse(&large, &[]).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn what_an_artifact_says_beside_the_digest_is_left_out() {
        let (records, mut layers) = sample();
        layers[0].urls.push("https://x.example/".to_owned());
        layers[0].data = Some("eA==".to_owned());
        assert_eq!(SharedRecords::parse(&records.to_bytes().unwrap(), &layers).unwrap(), records);
    }

    #[test]
    fn an_image_has_the_records_of_its_layers() {
        let (records, layers) = sample();
        let diff_ids = vec![Digest::sha256("base"), Digest::sha256("tar")];
        let rootfs = RootFs { diff_ids, ..RootFs::default() };
        let mut config = ImageConfig { rootfs, ..ImageConfig::default() };
        let of = |config: &ImageConfig, layers: &[Descriptor]| {
            let read = ImageConfig::parse(&config.to_bytes()).unwrap();
            SharedRecords::of_image(&read, layers)
        };
        let both = [blob(OCI_LAYER_GZIP, "base"), layers[0].clone()];
        assert_eq!(of(&config, &both).unwrap(), None);
        SharedRecords::put_into_image(vec![(1, records.records[0].clone())], &mut config).unwrap();
        let expected = SharedRecord { times: None, made: None, ..records.records[0].clone() };
        assert_eq!(of(&config, &both).unwrap().unwrap().records, std::slice::from_ref(&expected));
        // The layer was compressed anew.
        let other = [both[0].clone(), blob(OCI_LAYER_GZIP, "anew")];
        let anew = SharedRecord { layer: other[1].clone(), form: None, ..expected };
        assert_eq!(of(&config, &other).unwrap().unwrap().records, [anew]);
        assert!(of(&config, &both[..1]).is_err());
        SharedRecords::put_into_image(vec![(2, records.records[0].clone())], &mut config).unwrap();
        assert!(of(&config, &both).unwrap_err().to_string().contains("does not have"));
    }
}
