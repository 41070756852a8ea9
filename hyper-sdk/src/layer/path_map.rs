//! A map by path that is usually filled in the order of its paths.
//!
//! Layers and plans come in this order, with hundreds of thousands of paths. Then the map is one sorted list, which takes
//! about half of the memory of a tree. What comes out of order is in a tree beside it.

use super::entry::LayerPath;
use std::collections::BTreeMap;

/// A map by path.
#[derive(Clone, Debug)]
pub(crate) struct PathMap<V> {
    sorted: Vec<(LayerPath, V)>,
    /// What came out of order. No path is in both.
    others: BTreeMap<LayerPath, V>,
}

impl<V> Default for PathMap<V> {
    fn default() -> Self {
        Self { sorted: Vec::new(), others: BTreeMap::new() }
    }
}

impl<V> PathMap<V> {
    fn place(&self, path: &LayerPath) -> Result<usize, usize> {
        match self.sorted.last() {
            Some((last, _)) if last < path => Err(self.sorted.len()),
            _ => self.sorted.binary_search_by(|(known, _)| known.cmp(path)),
        }
    }

    /// The value at a path.
    pub(crate) fn get(&self, path: &LayerPath) -> Option<&V> {
        match self.place(path) {
            Ok(at) => Some(&self.sorted[at].1),
            Err(_) => self.others.get(path),
        }
    }

    /// The value at a path, to change it.
    pub(crate) fn get_mut(&mut self, path: &LayerPath) -> Option<&mut V> {
        match self.place(path) {
            Ok(at) => Some(&mut self.sorted[at].1),
            Err(_) => self.others.get_mut(path),
        }
    }

    /// All values, in no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.sorted.iter().map(|(_, value)| value).chain(self.others.values())
    }

    /// Sets the value at a path, and returns the one before.
    pub(crate) fn insert(&mut self, path: LayerPath, value: V) -> Option<V> {
        match self.place(&path) {
            Ok(at) => Some(std::mem::replace(&mut self.sorted[at].1, value)),
            Err(at)
                if at == self.sorted.len() && self.others.last_key_value().is_none_or(|l| *l.0 < path) =>
            {
                self.sorted.push((path, value));
                None
            }
            Err(_) => self.others.insert(path, value),
        }
    }

    /// The value at a path; a missing one is made.
    pub(crate) fn or_default(&mut self, path: &LayerPath) -> &mut V
    where
        V: Default,
    {
        if self.get(path).is_none() {
            self.insert(path.clone(), V::default());
        }
        match self.place(path) {
            Ok(at) => &mut self.sorted[at].1,
            Err(_) => self.others.entry(path.clone()).or_default(),
        }
    }

    /// The paths at or below a directory with their values, in no order.
    pub(crate) fn at_or_below(&self, directory: &LayerPath) -> impl Iterator<Item = (&LayerPath, &V)> {
        let start = self.place(directory).unwrap_or_else(|at| at);
        let sorted = self.sorted[start..].iter().map(|(path, value)| (path, value));
        let others = self.others.range(directory.clone()..);
        sorted
            .take_while(|(path, _)| path.starts_with(directory))
            .chain(others.take_while(|(path, _)| path.starts_with(directory)))
    }

    /// Removes the paths below a directory, and with `itself` the directory too.
    pub(crate) fn remove_below(&mut self, directory: &LayerPath, itself: bool) {
        let gone = |path: &LayerPath| itself || path != directory;
        let start = self.place(directory).unwrap_or_else(|at| at);
        let mut here = self.sorted[start..].iter().take_while(|(path, _)| path.starts_with(directory));
        if here.any(|(path, _)| gone(path)) {
            // A list is slow to shrink in its middle. Few layers need this, so a tree takes all from now on.
            self.others.extend(std::mem::take(&mut self.sorted));
        }
        let others = self.others.range(directory.clone()..).map(|(path, _)| path);
        let below: Vec<_> = others
            .take_while(|path| path.starts_with(directory))
            .filter(|path| gone(path))
            .cloned()
            .collect();
        for path in below {
            self.others.remove(&path);
        }
    }
}

impl<V> IntoIterator for PathMap<V> {
    type Item = (LayerPath, V);
    type IntoIter = std::vec::IntoIter<(LayerPath, V)>;

    /// The paths with their values, in order.
    fn into_iter(self) -> Self::IntoIter {
        let mut all = self.sorted;
        if !self.others.is_empty() {
            all.extend(self.others);
            // Two sorted runs: this merges them.
            all.sort_by(|a, b| a.0.cmp(&b.0));
        }
        all.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map_in_any_order(
            changes in prop::collection::vec((0..3_u8, "[ab]{1,2}(/[abc]{1,2}){0,2}"), 0..60),
        ) {
            let (mut map, mut model) = (PathMap::default(), BTreeMap::new());
            for (number, (kind, path)) in changes.into_iter().enumerate() {
                let path = LayerPath::new(path).unwrap();
                if kind < 2 {
                    prop_assert_eq!(map.insert(path.clone(), number), model.insert(path, number));
                    continue;
                }
                let itself = number % 2 == 0;
                map.remove_below(&path, itself);
                model.retain(|known: &LayerPath, _| {
                    !known.starts_with(&path) || (*known == path && !itself)
                });
                prop_assert_eq!(map.get(&path), model.get(&path));
                let mut found: Vec<_> = map.at_or_below(&path).map(|(path, _)| path.clone()).collect();
                found.sort();
                let expected: Vec<_> = model.keys().filter(|known| known.starts_with(&path)).cloned().collect();
                prop_assert_eq!(found, expected);
            }
            prop_assert_eq!(map.into_iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
        }
    }
}
