//! What a clean-up removes: what matches the filters, least recently used first, as far as the limits ask for.

use super::survey::Found;
use super::{SpaceItem, SpaceKind};
use crate::clock::parse_rfc3339;
use crate::dockerfile::parse_duration;
use crate::{Error, Result};
use std::str::FromStr;
use std::time::SystemTime;

/// What a clean-up removes. Without filters and limits it is all that nothing uses, except for logs.
///
/// ```
/// use hyper_sdk::space::PruneOptions;
///
/// # fn main() -> hyper_sdk::Result<()> {
/// // Layers that were not used for a day, oldest first, until the cache takes 10 GB.
/// let options = PruneOptions {
///     filters: vec!["until=24h".parse()?, "type=layer".parse()?],
///     max_used: Some(10 << 30),
///     ..PruneOptions::default()
/// };
/// # let _ = options;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// An item goes if it matches all of these.
    pub filters: Vec<Filter>,
    /// Logs too.
    pub all: bool,
    /// Removes nothing, and reports what would go.
    pub dry_run: bool,
    /// So many bytes stay in any case.
    pub reserved: Option<u64>,
    /// No more than so many bytes stay, unless they are reserved or in use.
    pub max_used: Option<u64>,
    /// So many bytes of the disk shall be free.
    pub min_free: Option<u64>,
}

impl PruneOptions {
    /// Whether an item is of those that go, whatever the limits.
    pub(super) fn asks_for(&self, item: &SpaceItem, now: i64) -> bool {
        (self.all || item.kind != SpaceKind::Log)
            && self.filters.iter().all(|filter| filter.matches(item, now))
    }
}

/// A condition on an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    field: Field,
    /// Whether the condition is turned round.
    negated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    /// Unused for this many seconds.
    UnusedFor(i64),
    /// Not used after this time.
    UsedUntil(i64),
    Kinds(Vec<SpaceKind>),
    Id(String),
    Description(String),
    InUse,
    Shared,
}

/// The kinds of a name of Docker's builder.
fn kinds(name: &str) -> Option<Vec<SpaceKind>> {
    let known = SpaceKind::ALL.into_iter().find(|kind| kind.name() == name).map(|kind| vec![kind]);
    known.or_else(|| {
        Some(match name {
            "regular" => vec![SpaceKind::Layer, SpaceKind::Base, SpaceKind::Snapshot],
            "internal" => vec![SpaceKind::Index, SpaceKind::Log],
            "exec.cachemount" => vec![SpaceKind::CacheMount],
            "source.git.checkout" | "source.local" => vec![SpaceKind::Source],
            "frontend" => Vec::new(),
            _ => return None,
        })
    })
}

impl FromStr for Filter {
    type Err = Error;

    /// Parses `KEY=VALUE`, `KEY!=VALUE`, `KEY` or `!KEY`.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::invalid(format!("`{text}` is not a filter: {why}"));
        let (key, value, negated) = match text.split_once('=') {
            Some((key, value)) => match key.strip_suffix('!') {
                Some(key) => (key, Some(value), true),
                None => (key, Some(value), false),
            },
            None => match text.strip_prefix('!') {
                Some(key) => (key, None, true),
                None => (text, None, false),
            },
        };
        if key.ends_with('~') {
            return Err(Error::unsupported(format!(
                "`{text}`: filters by patterns (`~=`) are not supported"
            )));
        }
        let needed =
            || value.filter(|value| !value.is_empty()).ok_or_else(|| invalid(format!("write `{key}=VALUE`")));
        let truth = || match value.unwrap_or("true") {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(invalid(format!("`{other}` is neither `true` nor `false`"))),
        };
        let (field, turned) = match key {
            "until" | "unused-for" => {
                let value = needed()?;
                let field = match parse_duration(value) {
                    Ok(age) => Field::UnusedFor(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)),
                    Err(why) => match parse_rfc3339(value).or_else(|| value.parse().ok()) {
                        Some(time) if key == "until" => Field::UsedUntil(time),
                        _ => return Err(invalid(why)),
                    },
                };
                (field, false)
            }
            "type" => {
                let value = needed()?;
                let known = SpaceKind::ALL.map(SpaceKind::name).join(", ");
                (Field::Kinds(kinds(value).ok_or_else(|| invalid(format!("the types are {known}")))?), false)
            }
            "id" => (Field::Id(needed()?.to_owned()), false),
            "description" => (Field::Description(needed()?.to_owned()), false),
            "inuse" => (Field::InUse, !truth()?),
            "shared" => (Field::Shared, !truth()?),
            "private" => (Field::Shared, truth()?),
            _ => {
                let known = "until, unused-for, type, id, description, inuse, shared and private";
                return Err(invalid(format!("the keys are {known}")));
            }
        };
        Ok(Self { field, negated: negated != turned })
    }
}

impl Filter {
    fn matches(&self, item: &SpaceItem, now: i64) -> bool {
        let used = item.used.unwrap_or(0);
        let holds = match &self.field {
            Field::UnusedFor(seconds) => used <= now.saturating_sub(*seconds),
            Field::UsedUntil(time) => used <= *time,
            Field::Kinds(kinds) => kinds.contains(&item.kind),
            Field::Id(id) => {
                item.id == *id || item.id.split_once(':').is_some_and(|(_, hex)| is_start(hex, id))
            }
            Field::Description(text) => item.description.contains(text.as_str()),
            Field::InUse => item.in_use,
            Field::Shared => item.shared,
        };
        holds != self.negated
    }
}

/// Whether a text is the beginning of a digest, and long enough to name it.
fn is_start(hex: &str, text: &str) -> bool {
    text.len() >= 6 && hex.starts_with(text)
}

/// What decides besides the options.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// When the oldest running work began.
    pub(super) oldest: Option<SystemTime>,
    pub(super) now: i64,
    /// The free bytes of the disk.
    pub(super) free: u64,
}

/// Whether an item can go while work is running: its users would notice that it is gone, and make it again.
pub(super) fn goes_beside_work(kind: SpaceKind) -> bool {
    matches!(kind, SpaceKind::Layer | SpaceKind::Log)
}

/// The items to remove, least recently used first, and how many stay because work is running.
pub(super) fn choose(found: Vec<Found>, options: &PruneOptions, at: Situation) -> (Vec<Found>, u64) {
    let cache: u64 = found.iter().filter(|of| of.item.prunable).map(|of| of.item.size).sum();
    let mut in_use = 0;
    let mut chosen = Vec::new();
    for mut of in found.into_iter().filter(|of| of.item.prunable) {
        of.item.in_use = at.oldest.is_some_and(|oldest| of.used >= oldest);
        if !options.asks_for(&of.item, at.now) {
            continue;
        }
        if of.item.in_use || at.oldest.is_some() && !goes_beside_work(of.item.kind) {
            in_use += 1;
            continue;
        }
        chosen.push(of);
    }
    chosen.sort_by(|a, b| (a.used, a.item.kind, &a.item.id).cmp(&(b.used, b.item.kind, &b.item.id)));
    let Some(keep) = bytes_to_keep(options, cache, at.free) else { return (chosen, in_use) };
    let mut left = cache;
    chosen.retain(|of| {
        let goes = left > keep;
        left = left.saturating_sub(if goes { of.item.size } else { 0 });
        goes
    });
    (chosen, in_use)
}

/// How many bytes may stay; `None` when there is no limit to reach.
fn bytes_to_keep(options: &PruneOptions, cache: u64, free: u64) -> Option<u64> {
    let by_free = options.min_free.map(|wanted| cache.saturating_sub(wanted.saturating_sub(free)));
    let most = match (options.max_used, by_free) {
        (None, None) => options.reserved?,
        (one, other) => one.unwrap_or(u64::MAX).min(other.unwrap_or(u64::MAX)),
    };
    Some(most.max(options.reserved.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::survey::Action;
    use std::time::{Duration, UNIX_EPOCH};

    fn found(kind: SpaceKind, id: &str, size: u64, used: i64) -> Found {
        let mut of = Found::bare(kind, id, Action::Keep);
        (of.item.size, of.item.used) = (size, Some(used));
        of.used = UNIX_EPOCH + Duration::from_secs(used as u64);
        of
    }

    fn ids(chosen: &[Found]) -> Vec<&str> {
        chosen.iter().map(|of| of.item.id.as_str()).collect()
    }

    fn some() -> Vec<Found> {
        vec![
            found(SpaceKind::Image, "image", 1000, 0),
            found(SpaceKind::Layer, "sha256:aaaaaaaa", 10, 50),
            found(SpaceKind::Layer, "sha256:bbbbbbbb", 20, 10),
            found(SpaceKind::CacheMount, "mount", 40, 30),
            found(SpaceKind::Log, "log", 5, 1),
        ]
    }

    fn chosen(options: &PruneOptions, oldest: Option<u64>) -> Vec<String> {
        let oldest = oldest.map(|s| UNIX_EPOCH + Duration::from_secs(s));
        let (chosen, _) = choose(some(), options, Situation { oldest, now: 100, free: 7 });
        ids(&chosen).into_iter().map(str::to_owned).collect()
    }

    fn filtered(filters: &[&str]) -> Vec<String> {
        let filters = filters.iter().map(|text| text.parse().unwrap()).collect();
        chosen(&PruneOptions { filters, all: true, ..PruneOptions::default() }, None)
    }

    #[test]
    fn everything_unused_goes_least_recently_used_first() {
        let all = ["sha256:bbbbbbbb", "mount", "sha256:aaaaaaaa"];
        assert_eq!(chosen(&PruneOptions::default(), None), all);
        let with_logs = chosen(&PruneOptions { all: true, ..PruneOptions::default() }, None);
        assert_eq!(with_logs[0], "log");
    }

    #[test]
    fn filters_choose() {
        assert_eq!(filtered(&["until=60s"]), ["log", "sha256:bbbbbbbb", "mount"]);
        assert_eq!(filtered(&["until=1970-01-01T00:00:10Z"]), ["log", "sha256:bbbbbbbb"]);
        assert_eq!(filtered(&["type=layer"]), ["sha256:bbbbbbbb", "sha256:aaaaaaaa"]);
        assert_eq!(filtered(&["type!=layer", "type!=log"]), ["mount"]);
        assert_eq!(filtered(&["type=exec.cachemount"]), ["mount"]);
        assert_eq!(filtered(&["id=bbbbbb"]), ["sha256:bbbbbbbb"]);
        assert_eq!(filtered(&["id=bbb"]), Vec::<String>::new());
        assert_eq!(filtered(&["id=sha256:aaaaaaaa"]), ["sha256:aaaaaaaa"]);
        assert_eq!(filtered(&["inuse"]), Vec::<String>::new());
        assert_eq!(filtered(&["inuse=false"]).len(), 4);
        assert_eq!(filtered(&["!inuse", "private"]).len(), 4);
        for (bad, word) in [
            ("until=soon", "duration"),
            ("until", "until=VALUE"),
            ("type=layers", "cache-mount"),
            ("colour=red", "keys are"),
            ("inuse=maybe", "neither"),
            ("id~=a", "not supported"),
        ] {
            let e = bad.parse::<Filter>().unwrap_err();
            assert!(e.message().contains(word) && e.message().contains(bad), "{e}");
        }
    }

    #[test]
    fn limits_say_how_much_stays() {
        let with = |reserved, max_used, min_free| {
            chosen(&PruneOptions { reserved, max_used, min_free, ..PruneOptions::default() }, None).len()
        };
        // All that could go are 75 bytes with the log.
        assert_eq!(with(None, Some(75), None), 0);
        assert_eq!(with(None, Some(74), None), 1);
        assert_eq!(with(None, Some(55), None), 1);
        assert_eq!(with(None, Some(54), None), 2);
        assert_eq!(with(Some(60), None, None), 1);
        assert_eq!(with(Some(60), Some(0), None), 1);
        assert_eq!(with(None, None, Some(7)), 0);
        assert_eq!(with(None, None, Some(8)), 1);
        assert_eq!(with(None, None, Some(28)), 2);
    }

    #[test]
    fn what_running_work_may_use_stays() {
        assert_eq!(chosen(&PruneOptions::default(), Some(50)), ["sha256:bbbbbbbb"]);
        assert_eq!(chosen(&PruneOptions::default(), Some(10)), Vec::<String>::new());
        let at = Situation { oldest: Some(UNIX_EPOCH + Duration::from_secs(50)), now: 100, free: 0 };
        assert_eq!(choose(some(), &PruneOptions::default(), at).1, 2);
    }
}
