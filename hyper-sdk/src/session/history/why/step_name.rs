//! The names of steps, `[build 2/5] RUN make`, and which step of one build is which of another.

use std::collections::{HashMap, VecDeque};

/// The parts of the name of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepName<'a> {
    pub(super) stage: &'a str,
    pub(super) number: u64,
    pub(super) text: &'a str,
}

impl<'a> StepName<'a> {
    /// The parts; `None` for the name of another task.
    pub(super) fn parse(name: &'a str) -> Option<Self> {
        let (place, text) = name.strip_prefix('[')?.split_once("] ")?;
        let (stage, position) = place.rsplit_once(' ')?;
        let (number, total) = position.split_once('/')?;
        total.parse::<u64>().ok()?;
        Some(Self { stage, number: number.parse().ok()?, text })
    }
}

/// What of a step is looked for: its stage, text and number.
type Key = for<'a> fn(&StepName<'a>) -> (&'a str, &'a str, u64);

/// For each step of `now`, the one of `before` that it was: the one with its text in its stage, first at its place, else in
/// another stage, else the one at its place. No step is taken twice.
pub(super) fn matches(now: &[StepName<'_>], before: &[StepName<'_>]) -> Vec<Option<usize>> {
    let mut found = vec![None; now.len()];
    let mut is_taken = vec![false; before.len()];
    let keys: [Key; 4] = [
        |step| (step.stage, step.text, step.number),
        |step| (step.stage, step.text, 0),
        |step| ("", step.text, 0),
        |step| (step.stage, "", step.number),
    ];
    for key in keys {
        let mut free: HashMap<_, VecDeque<usize>> = HashMap::new();
        for (at, step) in before.iter().enumerate().filter(|(at, _)| !is_taken[*at]) {
            free.entry(key(step)).or_default().push_back(at);
        }
        for (step, found) in now.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            *found = free.get_mut(&key(step)).and_then(VecDeque::pop_front);
            found.iter().for_each(|at| is_taken[*at] = true);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'a>(names: &[&'a str]) -> Vec<StepName<'a>> {
        names.iter().map(|name| StepName::parse(name).unwrap()).collect()
    }

    #[test]
    fn names_of_steps_have_parts_and_others_do_not() {
        let name = StepName::parse("[my stage 12/30] RUN [ a ] b").unwrap();
        assert_eq!((name.stage, name.number, name.text), ("my stage", 12, "RUN [ a ] b"));
        for other in ["", "[", "[a] b", "[a 1] b", "[a x/2] b", "[a 1/x] b", "[a 1/2]b", "export image"] {
            assert_eq!(StepName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_step_is_found_by_its_text_before_its_place() {
        let before = names(&["[a 1/3] COPY x", "[a 2/3] RUN same", "[a 3/3] RUN same"]);
        // One was put in before, and the last text is another.
        let now = names(&["[a 1/4] RUN new", "[a 2/4] COPY x", "[a 3/4] RUN same", "[a 4/4] RUN other"]);
        assert_eq!(matches(&now, &before), [None, Some(0), Some(2), None]);
        let edited = names(&["[a 1/3] COPY x", "[a 2/3] RUN edited", "[a 3/3] RUN same"]);
        assert_eq!(matches(&edited, &before), [Some(0), Some(1), Some(2)]);
        let renamed = names(&["[b 1/3] COPY x", "[b 2/3] RUN same", "[b 3/3] RUN last"]);
        assert_eq!(matches(&renamed, &before), [Some(0), Some(1), None]);
        let shorter = names(&["[a 1/2] RUN same", "[a 2/2] RUN same"]);
        assert_eq!(matches(&shorter, &before), [Some(2), Some(1)]);
        let last = names(&["[a 1/3] COPY x", "[a 2/3] RUN same", "[a 3/3] RUN last"]);
        assert_eq!(matches(&last, &before), [Some(0), Some(1), Some(2)]);
    }
}
