//! Pages of sorted maps.

use crate::Result;
use crate::store::Listing;
use std::collections::BTreeMap;
use std::ops::Bound;

/// A page of the keys of a sorted map.
pub(super) fn page<V, T>(
    map: &BTreeMap<String, V>,
    after: Option<&str>,
    limit: usize,
    listed: impl Fn(&V) -> bool,
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Listing<T>> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let range = map.range::<str, _>((start, Bound::Unbounded));
    let mut keys = range.filter(|(_, value)| listed(value)).map(|(key, _)| key);
    let items = keys.by_ref().take(limit).map(|key| parse(key)).collect::<Result<Vec<_>>>()?;
    let more = !items.is_empty() && keys.next().is_some();
    Ok(Listing { items, more })
}
