//! The ceiling of the cache: how much it may take, and the clean-up that keeps it.
//!
//! A survey looks at every file, so it is not made after every build: `uses/measured` has what the last one found, and how
//! much of the disk was free then. While the disk has lost less than the cache may still grow, nothing is to be done. A
//! small limit is looked at after every build.

use super::disk::disk;
use super::release::release_noted;
use super::{PruneOptions, Pruned, Space};
use crate::clock::{Clock as _, SystemClock};
use crate::dockerfile::parse_size;
use crate::solve::blocking;
use crate::uses::Cleaning;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::str::FromStr;

/// A survey older than this is made again: other programs may have freed what the cache took.
const SURVEY_AGE: i64 = 24 * 60 * 60;
/// After a clean-up the cache may grow by a tenth of the limit before the next.
const SLACK: u64 = 10;

/// A survey of a cache that is about as small as this takes no time, and is made after every build.
const SMALL: u64 = 2 * GB;

const GB: u64 = 1_000_000_000;

/// How much the cache of builds may take: layers, snapshots, base images, cache mounts, sources, indexes, logs and images
/// without a name. Images with a name do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheLimit {
    /// A tenth of the disk or 20 GB, whichever is more, and never more than half of the disk. A few projects with their
    /// dependencies take some GB each: less than 20 GB would make builds slow that could be fast, and on a large disk a
    /// tenth is not missed.
    #[default]
    Usual,
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the disk.
    Percent(u8),
    /// No limit.
    Off,
}

impl CacheLimit {
    /// The limit on a disk of this size, in bytes.
    pub(super) fn on(self, disk: u64) -> Option<u64> {
        match self {
            Self::Usual => Some((disk / 10).max(20 * GB).min(disk / 2)),
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => Some(disk / 100 * u64::from(percent)),
            Self::Off => None,
        }
    }
}

impl FromStr for CacheLimit {
    type Err = Error;

    /// Parses `off`, a size such as `20GB`, or a part of the disk such as `10%`.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(format!(
                "`{text}` is not a limit: write a size such as `20GB`, a part of the disk such as `10%`, or `off`"
            ))
        };
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.parse().map_err(|_| invalid())?;
            return if percent <= 100 { Ok(Self::Percent(percent)) } else { Err(invalid()) };
        }
        parse_size(text).map(Self::Bytes).map_err(|_| invalid())
    }
}

/// What the last survey found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
    /// The bytes of the cache.
    cache: u64,
    /// The free bytes of the disk.
    free: u64,
    /// When, in seconds since 1970.
    time: i64,
}

impl Measured {
    fn read(root: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(root.join("uses/measured")).ok()?).ok()
    }

    /// Writes it. An error is ignored: the next build makes a survey.
    fn write(self, root: &Path) {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(root.join("uses"))?;
            serde_json::to_writer(&mut file, &self)?;
            file.persist(root.join("uses/measured")).map(drop).map_err(|e| e.error)
        };
        let _ = write();
    }

    /// Whether the cache cannot have come to the limit since.
    fn is_enough(self, limit: u64, free: u64, now: i64) -> bool {
        // Other programs may free what the cache takes, so the disk alone is not exact enough for a small limit.
        let grown = self.free.saturating_sub(free);
        let is_fresh = now >= self.time && now - self.time < SURVEY_AGE;
        limit > SMALL && is_fresh && self.cache.saturating_add(grown) <= limit
    }
}

impl Space {
    /// Keeps the cache below its limit: removes what was least recently used, if it may have grown above it. Gives back
    /// what was removed by name meanwhile. Does nothing while another clean-up runs.
    pub(crate) async fn keep_to(&self, limit: CacheLimit) -> Result<Pruned> {
        release_noted(&self.root, &self.store).await?;
        let (size, free) = disk(&self.root)?;
        let Some(limit) = limit.on(size) else { return Ok(Pruned::default()) };
        let now = SystemClock.now();
        if Measured::read(&self.root).is_some_and(|measured| measured.is_enough(limit, free, now)) {
            return Ok(Pruned::default());
        }
        let root = self.root.clone();
        let Some(cleaning) = blocking(move || Cleaning::begin_blocking(&root, false)).await? else {
            return Ok(Pruned::default());
        };
        let options = PruneOptions { all: true, max_used: Some(limit), ..PruneOptions::default() };
        let kinds = self.kinds().await?;
        let (mut pruned, mut cache) = self.prune_alone(&options, &kinds, &cleaning).await?;
        if !pruned.removed.is_empty() {
            // Some room, so that not every build cleans up.
            let options = PruneOptions { max_used: Some(limit - limit / SLACK), ..options };
            let (more, left) = self.prune_alone(&options, &kinds, &cleaning).await?;
            pruned.removed.extend(more.removed);
            (pruned.freed, pruned.in_use, cache) = (pruned.freed + more.freed, more.in_use, left);
        }
        Measured { cache, free: disk(&self.root)?.1, time: now }.write(&self.root);
        Ok(pruned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_size_a_part_or_off() {
        for (text, limit) in [
            ("off", CacheLimit::Off),
            ("10%", CacheLimit::Percent(10)),
            ("20GB", CacheLimit::Bytes(20 << 30)),
            ("1.5g", CacheLimit::Bytes(3 << 29)),
            ("0", CacheLimit::Bytes(0)),
        ] {
            assert_eq!(text.parse::<CacheLimit>().unwrap(), limit);
        }
        for bad in ["", "much", "101%", "-1", "%", "10 %"] {
            let e = bad.parse::<CacheLimit>().unwrap_err();
            assert!(e.message().contains("`20GB`"), "{e}");
        }
    }

    #[test]
    fn the_usual_limit_is_never_more_than_half_of_the_disk() {
        let on = |disk| CacheLimit::Usual.on(disk).unwrap();
        assert_eq!(on(1000 * GB), 100 * GB);
        assert_eq!(on(100 * GB), 20 * GB);
        assert_eq!(on(30 * GB), 15 * GB);
        assert_eq!(CacheLimit::Percent(50).on(10_000), Some(5_000));
        assert_eq!(CacheLimit::Off.on(1), None);
    }

    #[test]
    fn a_survey_is_made_again_when_the_disk_lost_as_much_as_the_cache_may_grow() {
        let measured = Measured { cache: 50 * GB, free: 1000 * GB, time: 100 };
        let limit = 100 * GB;
        assert!(measured.is_enough(limit, 950 * GB, 101));
        assert!(measured.is_enough(limit, 2000 * GB, 101));
        assert!(!measured.is_enough(limit, 949 * GB, 101));
        assert!(!measured.is_enough(limit, 1000 * GB, 100 + SURVEY_AGE));
        assert!(!measured.is_enough(limit, 1000 * GB, 99), "the clock was set back");
        assert!(!Measured { cache: 0, ..measured }.is_enough(SMALL, 1000 * GB, 101), "it is made at once");
    }
}
