//! A walk with pruning agrees with questions about single paths.
#![no_main]

use hyper_sdk::dockerfile::{Glob, IgnoreSet, ParentMatches};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    if let Ok(glob) = Glob::new(text) {
        glob.matches(path);
    }
    let Ok(set) = IgnoreSet::parse(text) else { return };
    let well_formed = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !well_formed {
        set.matches(path);
        return;
    }
    let mut parent = ParentMatches::default();
    let mut pruned = false;
    for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
        let (hit, next) = set.matches_in(&path[..end], &parent);
        assert_eq!(hit, set.matches(&path[..end]));
        assert!(!pruned || hit, "a pruned folder held {:?}", &path[..end]);
        pruned |= set.can_prune(&path[..end]);
        parent = next;
    }
});
