//! The order in which snapshots are removed.

use crate::Digest;
use crate::snapshot::folders::Record;
use std::collections::{HashMap, HashSet};

/// One snapshot that goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) chain: Digest,
    /// The folder that has no other name once this one is gone.
    pub(super) folder: Option<u64>,
}

/// Those of the `wanted` snapshots that can be removed, and their order: each after all that stand on it, so that what a
/// crash leaves is whole. One on which another stands that is not wanted stays.
pub(super) fn plan(records: Vec<(Digest, Record)>, wanted: &[Digest]) -> Vec<Step> {
    let records: HashMap<Digest, Record> = records.into_iter().collect();
    let (mut above, mut names) = (HashMap::<&Digest, usize>::new(), HashMap::<u64, usize>::new());
    for record in records.values() {
        *names.entry(record.id).or_default() += 1;
        if let Some(parent) = &record.parent {
            *above.entry(parent).or_default() += 1;
        }
    }
    let mut wanted: HashSet<&Digest> = wanted.iter().filter(|chain| records.contains_key(chain)).collect();
    let mut free: Vec<&Digest> = wanted.iter().copied().filter(|chain| !above.contains_key(chain)).collect();
    free.sort_unstable();
    let mut steps = Vec::with_capacity(wanted.len());
    while let Some(chain) = free.pop() {
        let Some(record) = records.get(chain).filter(|_| wanted.remove(chain)) else { continue };
        let of_folder = names.entry(record.id).or_default();
        *of_folder = of_folder.saturating_sub(1);
        steps.push(Step { chain: chain.clone(), folder: (*of_folder == 0).then_some(record.id) });
        let Some(parent) = &record.parent else { continue };
        let others = above.entry(parent).or_default();
        *others = others.saturating_sub(1);
        if *others == 0 && wanted.contains(parent) {
            free.push(parent);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str) -> Digest {
        Digest::sha256(name)
    }

    /// Records of snapshots: name, parent, folder.
    fn records(all: &[(&str, Option<&str>, u64)]) -> Vec<(Digest, Record)> {
        let record = |parent: Option<&str>, id: u64| {
            let parent = parent.map(chain);
            serde_json::from_value(serde_json::json!({ "id": id, "parent": parent, "boot": "" })).unwrap()
        };
        all.iter().map(|(name, parent, id)| (chain(name), record(*parent, *id))).collect()
    }

    fn planned(all: &[(&str, Option<&str>, u64)], wanted: &[&str]) -> Vec<(String, Option<u64>)> {
        let wanted: Vec<Digest> = wanted.iter().map(|name| chain(name)).collect();
        let name = |of: &Digest| all.iter().find(|(name, ..)| chain(name) == *of).unwrap().0.to_owned();
        plan(records(all), &wanted).into_iter().map(|step| (name(&step.chain), step.folder)).collect()
    }

    const TREE: &[(&str, Option<&str>, u64)] =
        &[("a", None, 1), ("b", Some("a"), 2), ("c", Some("b"), 3), ("d", Some("b"), 4)];

    #[test]
    fn children_go_before_their_parents() {
        let order = planned(TREE, &["a", "b", "c", "d", "e"]);
        let at = |name: &str| order.iter().position(|(of, _)| of == name).unwrap();
        assert_eq!(order.len(), 4);
        assert!(at("c") < at("b") && at("d") < at("b") && at("b") < at("a"));
        assert!(order.iter().all(|(_, folder)| folder.is_some()));
    }

    #[test]
    fn what_another_stands_on_stays() {
        assert_eq!(planned(TREE, &["a", "b", "c"]), [("c".to_owned(), Some(3))]);
        assert_eq!(planned(TREE, &["a", "c", "d"]).len(), 2);
        assert_eq!(planned(TREE, &["b"]), []);
    }

    #[test]
    fn a_folder_goes_with_its_last_name() {
        let twins = &[("a", None, 7), ("b", None, 7), ("c", None, 8)];
        assert_eq!(planned(twins, &["a"]), [("a".to_owned(), None)]);
        let folders: Vec<_> = planned(twins, &["a", "b"]).into_iter().map(|(_, folder)| folder).collect();
        assert_eq!(folders, [None, Some(7)]);
    }

    #[test]
    fn records_that_name_each_other_stay() {
        assert_eq!(planned(&[("a", Some("b"), 1), ("b", Some("a"), 2)], &["a", "b"]), []);
    }
}
