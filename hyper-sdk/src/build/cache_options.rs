//! Caches that builds on several machines share: what a request says of them, and its text.
//!
//! ```text
//!   --cache-from   NAME   type=registry,ref=NAME   type=local,src=DIR[,tag=TAG][,digest=DIGEST]
//!                  the last two with [,cache-mounts=BOOL]
//!   --cache-to     type=registry,ref=NAME   type=local,dest=DIR[,tag=TAG]   type=inline
//!                  the first two with [,mode=min|max][,ignore-error=BOOL][,compression=…][,compression-level=N]
//!                                     [,cache-mounts=BOOL]
//!   type=s3,bucket=NAME,region=NAME is of both: `s3_options.rs`
//! ```

use super::cache_fields::Fields;
use super::s3_options;
use crate::cache::{CacheFrom, CachePlace};
use crate::dockerfile::csv_fields_with_secrets;
use crate::layer::{CompressOptions, LayerCompressor};
use crate::media_type::Compression;
use crate::reference::{Reference, Tag};
use crate::{Digest, Error, Result};
use std::collections::BTreeMap;
use std::fmt;

/// The attributes of every cache with a place of its own that is written.
const OF_ALL: [&str; 7] = [
    "mode",
    "ignore-error",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "image-manifest",
];
/// Whether the contents of cache mounts are written or read.
const MOUNTS: &str = "cache-mounts";
/// Types that other tools have.
const NOT_YET: [&str; 2] = ["gha", "azblob"];

/// Which results a cache gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheMode {
    /// Those of the steps whose layers the image has.
    #[default]
    Min,
    /// Those of all steps.
    Max,
}

/// Where a cache is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheTarget {
    /// Into the configs of the images of the outputs.
    Inline,
    /// To a place of its own.
    Place(CachePlace),
}

/// A cache that a build writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheTo {
    /// Where it is written.
    pub target: CacheTarget,
    /// Which results it gets.
    pub mode: CacheMode,
    /// Whether a build goes well when the cache cannot be written.
    pub ignore_error: bool,
    /// How its layers are compressed, with the level; without, as those of the first image.
    pub compression: Option<(Compression, Option<i32>)>,
    /// Whether it gets the files in the cache mounts of the steps, too. They may hold more than a result does: what a step
    /// downloads, and what it wrote there by mistake.
    pub mounts: bool,
}

impl CacheTo {
    /// A cache with the results of the image alone.
    pub fn new(target: CacheTarget) -> Self {
        Self { target, mode: CacheMode::Min, ignore_error: false, compression: None, mounts: false }
    }
}

impl fmt::Display for CacheTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            CacheTarget::Inline => f.write_str("the image"),
            CacheTarget::Place(place) => place.fmt(f),
        }
    }
}

impl Fields {
    fn layout(&self, folder: &str) -> Result<CachePlace> {
        let tag = self.text("tag").map(Tag::parse).transpose()?.unwrap_or_else(Tag::latest);
        let digest = self.text("digest").map(Digest::parse).transpose()?;
        Ok(CachePlace::Layout { folder: folder.into(), tag, digest })
    }

    fn registry(&self) -> Result<CachePlace> {
        let reference = Reference::parse(self.needed("ref", "NAME")?)?;
        let insecure = self.switch("registry.insecure")? == Some(true);
        Ok(CachePlace::Registry { reference, insecure })
    }

    fn unknown<T>(&self, known: &str) -> Result<T> {
        let kind = &self.kind;
        if NOT_YET.contains(&kind.as_str()) {
            return Err(Error::unsupported(format!(
                "type={kind} is not supported yet: use type=registry, or type=local with a folder that your CI keeps"
            )));
        }
        Err(Error::invalid(format!("`{kind}` is not a type of cache: {known}")))
    }

    fn compression(&self) -> Result<Option<(Compression, Option<i32>)>> {
        let compression = match self.text("compression") {
            None => None,
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            Some("uncompressed") => Some(Compression::None),
            Some("estargz") => {
                return Err(Error::unsupported(
                    "`compression=estargz` is not supported for caches: gzip, zstd or uncompressed",
                ));
            }
            Some(other) => {
                return Err(Error::invalid(format!(
                    "`compression` is gzip, zstd or uncompressed, not `{other}`"
                )));
            }
        };
        let level = match self.text("compression-level") {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| Error::invalid(format!("`compression-level` is a number, not `{text}`")))?,
            ),
        };
        let is_asked = level.is_some() || self.switch("force-compression")? == Some(true);
        let compression = compression.or(is_asked.then(Compression::default));
        if let Some(compression) = compression {
            let options = CompressOptions { level, ..CompressOptions::new(compression) };
            LayerCompressor::new(std::io::sink(), options)?;
        }
        Ok(compression.map(|compression| (compression, level)))
    }
}

/// Caches to read. A text without `=` is the name of a cache or of an image at a registry.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a malformed text, an unknown type and an unknown attribute;
/// [`crate::ErrorKind::Unsupported`] for types that only other tools have.
pub fn cache_from<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Vec<CacheFrom>> {
    let mut places = Vec::new();
    for text in texts {
        let fields = csv_fields_with_secrets(text.as_ref()).map_err(Error::invalid)?;
        if fields.iter().all(|field| !field.contains('=')) {
            for name in &fields {
                let reference = Reference::parse(name)?;
                places.push(CachePlace::Registry { reference, insecure: false }.into());
            }
            continue;
        }
        let fields = Fields::read(&fields)?;
        let others = [&["dest"], &OF_ALL[..]].concat();
        let place = match fields.kind.as_str() {
            "local" => {
                fields.check(&[&["src", "tag", "digest", MOUNTS]], &others, "a cache that is written")?;
                fields.layout(fields.needed("src", "DIR")?)?
            }
            "registry" => {
                fields.check(&[&["ref", "registry.insecure", MOUNTS]], &others, "a cache that is written")?;
                fields.registry()?
            }
            "s3" => {
                fields.check(
                    &[&s3_options::OF_BOTH, &[MOUNTS]],
                    &s3_options::of_written(&others),
                    "a cache that is written",
                )?;
                let mounts = fields.switch(MOUNTS)? == Some(true);
                for place in s3_options::each_name(fields.bucket()?) {
                    places.push(CacheFrom { place, mounts });
                }
                continue;
            }
            "inline" => {
                return Err(Error::invalid(
                    "type=inline is for a cache that is written: name the image to read its cache",
                ));
            }
            _ => return fields.unknown("registry, local or s3"),
        };
        places.push(CacheFrom { place, mounts: fields.switch(MOUNTS)? == Some(true) });
    }
    Ok(places)
}

/// Caches to write.
///
/// # Errors
/// Those of [`cache_from`], and [`crate::ErrorKind::Unsupported`] for forms that the caches of this program do not have.
pub fn cache_to<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Vec<CacheTo>> {
    texts.into_iter().map(|text| one_cache_to(text.as_ref())).collect()
}

fn one_cache_to(text: &str) -> Result<CacheTo> {
    let fields = csv_fields_with_secrets(text).map_err(Error::invalid)?;
    let fields = match fields.as_slice() {
        [only] if !only.contains('=') => {
            let values = [("ref".to_owned(), only.clone())].into();
            Fields { kind: "registry".to_owned(), values, unshown: BTreeMap::new() }
        }
        fields => Fields::read(fields)?,
    };
    let (other, others) = ("a cache that is read", ["src", "digest"]);
    let place = match fields.kind.as_str() {
        "local" => {
            fields.check(&[&["dest", "tag", MOUNTS], &OF_ALL], &others, other)?;
            fields.layout(fields.needed("dest", "DIR")?)?
        }
        "registry" => {
            fields.check(&[&["ref", "registry.insecure", MOUNTS], &OF_ALL], &others, other)?;
            fields.registry()?
        }
        "s3" => {
            fields.check(
                &[&s3_options::OF_BOTH, &s3_options::OF_WRITTEN, &[MOUNTS], &OF_ALL],
                &others,
                other,
            )?;
            fields.bucket()?
        }
        "inline" => {
            fields.check(&[], &others, other)?;
            return Ok(CacheTo::new(CacheTarget::Inline));
        }
        _ => return fields.unknown("registry, local, s3 or inline"),
    };
    if let CachePlace::Registry { reference, .. } = &place
        && reference.digest().is_some()
    {
        return Err(Error::invalid(format!(
            "`ref={reference}`: the name of a cache to write cannot have a digest"
        )));
    }
    for key in ["oci-mediatypes", "image-manifest"] {
        if fields.switch(key)? == Some(false) {
            return Err(Error::unsupported(format!(
                "`{key}=false` is not supported: a cache is an OCI artifact with one manifest"
            )));
        }
    }
    let mode = match fields.text("mode") {
        None | Some("min") => CacheMode::Min,
        Some("max") => CacheMode::Max,
        Some(other) => return Err(Error::invalid(format!("`mode` is min or max, not `{other}`"))),
    };
    let ignore_error = fields.switch("ignore-error")? == Some(true);
    let compression = fields.compression()?;
    let mounts = fields.switch(MOUNTS)? == Some(true);
    Ok(CacheTo { target: CacheTarget::Place(place), mode, ignore_error, compression, mounts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn to(text: &str) -> Result<CacheTo> {
        Ok(cache_to([text])?.remove(0))
    }

    #[test]
    fn places_of_caches_are_parsed() {
        let shown = |texts: &[&str]| -> Vec<String> {
            cache_from(texts).unwrap().iter().map(ToString::to_string).collect()
        };
        let digest = Digest::sha256("cache");
        assert_eq!(
            shown(&[
                "example.com/app:cache",
                "a,b:1",
                "type=registry,ref=example.com/app",
                "type=local,src=/c",
                "type=local,src=c,tag=x",
                &format!("type=local,src=c,digest={digest}"),
            ]),
            [
                "example.com/app:cache".to_owned(),
                "a:latest".to_owned(),
                "b:1".to_owned(),
                "example.com/app:latest".to_owned(),
                "/c:latest".to_owned(),
                "c:x".to_owned(),
                format!("c@{digest}"),
            ]
        );
        let all =
            to("type=local,dest=c,mode=max,ignore-error=true,compression=zstd,compression-level=9").unwrap();
        assert_eq!((all.mode, all.ignore_error), (CacheMode::Max, true));
        assert_eq!(all.compression, Some((Compression::Zstd, Some(9))));
        let plain = to("type=registry,ref=example.com/c:1,oci-mediatypes=true,image-manifest=true").unwrap();
        assert_eq!(
            (plain.mode, plain.ignore_error, plain.compression.is_none()),
            (CacheMode::Min, false, true)
        );
        assert_eq!(plain.to_string(), "example.com/c:1");
        assert_eq!(to("example.com/c").unwrap().to_string(), "example.com/c:latest");
        assert_eq!(to("type=inline").unwrap().target, CacheTarget::Inline);
        let forced = to("type=local,dest=c,force-compression=true").unwrap().compression;
        assert_eq!(forced, Some((Compression::Gzip, None)));
    }

    #[test]
    fn wrong_texts_are_errors_with_a_hint() {
        for (text, why) in [
            ("src=x", "`type` is missing"),
            ("type=local", "type=local needs src=DIR"),
            ("type=local,dest=x", "`dest` is for a cache that is written"),
            ("type=registry,ref=a,mode=max", "`mode` is for a cache that is written"),
            ("type=registry", "needs ref=NAME"),
            (
                "type=local,src=x,color=red",
                "`color=red` is not an attribute of type=local: known are src, tag, digest, cache-mounts",
            ),
            ("type=inline", "name the image to read its cache"),
            ("type=tape", "`tape` is not a type of cache: registry, local or s3"),
            ("type=gha", "type=gha is not supported yet: use type=registry"),
            ("type=local,src=x,digest=1", "1"),
        ] {
            let error = cache_from([text]).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
        for (text, why) in [
            ("type=registry,ref=a,secret_acess_key=hunter2", "`secret_acess_key` is not an attribute"),
            ("type=azblob", "type=azblob is not supported yet"),
            ("type=inline,mode=max", "`mode=max` is not an attribute of type=inline: it takes none"),
            ("type=local,src=x", "`src` is for a cache that is read"),
            ("type=local,dest=x,mode=all", "`mode` is min or max, not `all`"),
            ("type=local,dest=x,ignore-error=maybe", "true or false"),
            ("type=local,dest=x,compression=estargz", "not supported for caches"),
            ("type=local,dest=x,compression=lz4", "not `lz4`"),
            ("type=local,dest=x,compression-level=99", "1 to 12"),
            ("type=local,dest=x,image-manifest=false", "`image-manifest=false` is not supported"),
            ("type=local,dest", "field 2 is not KEY=VALUE"),
            ("type=local,dest=x, DEST=y", "`dest` is given twice"),
            ("type=registry,ref=a,type =local,dest=x", "`type` is given twice"),
        ] {
            let error = to(text).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
        assert_eq!(to("type=gha").unwrap_err().kind(), ErrorKind::Unsupported);
        let digest = Digest::sha256("x");
        assert!(
            to(&format!("type=registry,ref=a@{digest}"))
                .unwrap_err()
                .to_string()
                .contains("cannot have a digest")
        );
    }
}
