//! "Did you mean": the nearest word of a list, by edit distance.

/// The longest word that is compared.
const MAX_LEN: usize = 64;

/// The most edits of a typing mistake.
const MAX_DISTANCE: usize = 2;

/// The longest word of which only one letter may be wrong.
const SHORT: usize = 3;

/// The nearest option that is at most two edits away from a word, in any case; one edit where either has at most three
/// letters.
///
/// There is no suggestion for a word that is an option, or that has too little in common with the options.
///
/// ```
/// use hyper_sdk::dockerfile::suggestion;
///
/// assert_eq!(suggestion("--platfrom", ["--platform", "--target"]), Some("--platform"));
/// assert_eq!(suggestion("foo", ["root"]), None);
/// ```
pub fn suggestion<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_LEN {
        return None;
    }
    let lower: Vec<char> = word.chars().flat_map(char::to_lowercase).collect();
    let mut candidate: Vec<char> = Vec::with_capacity(MAX_LEN);
    let mut best: Option<(usize, &str)> = None;
    for option in options {
        // The difference in length is a lower bound; a comparison costs the product of both lengths.
        if option.chars().count().abs_diff(lower.len()) > MAX_DISTANCE {
            continue;
        }
        candidate.clear();
        candidate.extend(option.chars().flat_map(char::to_lowercase));
        if candidate == lower {
            return None;
        }
        let most = if lower.len().min(candidate.len()) > SHORT { MAX_DISTANCE } else { 1 };
        let limit = most.min(lower.len().max(candidate.len()) - 1);
        let distance = distance_within(&lower, &candidate, limit);
        if distance <= limit && best.is_none_or(|(d, _)| distance < d) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// The number of insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.
#[cfg(test)]
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    distance_within(&a, &b, usize::MAX)
}

/// The edit distance, or a number above `limit` when the distance is.
fn distance_within(a: &[char], b: &[char], limit: usize) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    let mut row = vec![0; b.len() + 1];
    let mut least_before = 0;
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..=b.len() {
            let substitution = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(previous[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        // A row depends on the two before it: when both are above the limit, so are all later rows.
        let least = row.iter().copied().min().unwrap_or_default();
        if least.min(least_before) > limit {
            return least;
        }
        least_before = least;
        std::mem::swap(&mut before, &mut previous);
        std::mem::swap(&mut previous, &mut row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("form", "from"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn only_near_words_are_suggested() {
        assert_eq!(suggestion("FORM", ["RUN", "FROM"]), Some("FROM"));
        assert_eq!(suggestion("cach", ["bind", "cache"]), Some("cache"));
        assert_eq!(suggestion("zzz", ["bind", "cache"]), None);
        assert_eq!(suggestion("x", ["y"]), None);
        assert_eq!(suggestion("run", ["RUN"]), None);
        assert_eq!(suggestion("", ["a"]), None);
    }

    proptest::proptest! {
        #[test]
        fn a_limit_does_not_change_smaller_distances(a in "[a-d]{0,8}", b in "[a-d]{0,8}", limit in 0_usize..4) {
            let (x, y): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            let (all, within) = (edit_distance(&a, &b), distance_within(&x, &y, limit));
            let fits = if all <= limit { within == all } else { within > limit };
            proptest::prop_assert!(fits, "{all} within {limit}: {within}");
        }
    }
}
