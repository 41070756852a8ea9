//! "Did you mean": the nearest word of a list, by edit distance.

/// The longest word that is compared: longer ones are not typing mistakes.
const MAX_LEN: usize = 64;

/// How many edits a typing mistake has at most.
const MAX_DISTANCE: usize = 2;

/// The option that is at most two edits away from a word, the nearest one first, without regard to case.
///
/// Nothing is suggested for a word that is an option already, nor one that shares too little with the word.
pub fn suggestion<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_LEN {
        return None;
    }
    let lower = word.to_lowercase();
    let length = lower.chars().count();
    let mut best: Option<(usize, &str)> = None;
    for option in options {
        // What differs more in length is further away; comparing costs the product of both lengths.
        let candidate_length = option.chars().count();
        if candidate_length.abs_diff(length) > MAX_DISTANCE {
            continue;
        }
        let candidate = option.to_lowercase();
        if candidate == lower {
            return None;
        }
        let distance = edit_distance(&lower, &candidate);
        let limit = MAX_DISTANCE.min(length.max(candidate_length) - 1);
        if distance <= limit && best.is_none_or(|(d, _)| distance < d) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// The number of insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(previous[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("form", "from"), 1);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        assert_eq!(suggestion("FORM", ["RUN", "FROM"]), Some("FROM"));
        assert_eq!(suggestion("cach", ["bind", "cache"]), Some("cache"));
        assert_eq!(suggestion("zzz", ["bind", "cache"]), None);
        assert_eq!(suggestion("x", ["y"]), None);
        assert_eq!(suggestion("run", ["RUN"]), None);
        assert_eq!(suggestion("", ["a"]), None);
    }
}
