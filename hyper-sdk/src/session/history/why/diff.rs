//! Compares what two keys of a step were made of.

use super::reason::{Change, FileChange, Reason};
use super::step_name::StepName;
use crate::solve::{FileHash, FileList, InputKind, KeyInput, KeyPart, RanStep};
use std::collections::BTreeMap;

/// What differs between an earlier key of a step and that of now. Never empty.
pub(super) fn diff(before: &RanStep, now: &RanStep) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let is_same_key = before.keys.iter().any(|key| now.keys.contains(key));
    if !before.kept {
        reasons.push(Reason::NotKept);
    }
    if is_same_key {
        if reasons.is_empty() {
            reasons.push(Reason::Gone);
        }
        return reasons;
    }
    let (from, to) = (text(&before.name), text(&now.name));
    let has_other_text = from != to;
    if has_other_text {
        reasons.push(Reason::Instruction { from: from.to_owned(), to: to.to_owned() });
    }
    let texts_name = |flag: &str| from.contains(flag) || to.contains(flag);
    let by_text = |part: &KeyPart| match part {
        KeyPart::Variable(_)
        | KeyPart::VariableOrder
        | KeyPart::WorkingFolder
        | KeyPart::User
        | KeyPart::HostName
        | KeyPart::Host(_)
        | KeyPart::Epoch
        | KeyPart::Times => false,
        KeyPart::Network => texts_name("--network"),
        _ => true,
    };
    parts(before, now, &mut reasons, |part| has_other_text && by_text(part));
    inputs(&before.inputs, &now.inputs, &mut reasons);
    let sources = |step: &RanStep| {
        step.parts.iter().find(|(part, _)| *part == KeyPart::Sources).map(|(_, hash)| hash.clone())
    };
    files((before.files.as_ref(), now.files.as_ref()), sources(before) == sources(now), &mut reasons);
    if reasons.is_empty() {
        reasons.push(Reason::Unknown);
    }
    reasons
}

/// The instruction in the name of a step.
fn text(name: &str) -> &str {
    StepName::parse(name).map_or(name, |name| name.text)
}

fn parts(before: &RanStep, now: &RanStep, reasons: &mut Vec<Reason>, is_left_out: impl Fn(&KeyPart) -> bool) {
    let (before, now) = (by_part(&before.parts), by_part(&now.parts));
    let changes = changes(&before, &now);
    let is_other = |part: &KeyPart, change| matches!(part, KeyPart::Variable(_)) && change != Change::Changed;
    let other_variables = changes.iter().any(|(part, change)| is_other(part, *change));
    for (part, change) in changes {
        if is_left_out(part) || (**part == KeyPart::VariableOrder && other_variables) {
            continue;
        }
        reasons.push(Reason::Part { part: (*part).clone(), change });
    }
}

fn by_part(parts: &[(KeyPart, String)]) -> BTreeMap<&KeyPart, Vec<&str>> {
    let mut by_part: BTreeMap<&KeyPart, Vec<&str>> = BTreeMap::new();
    for (part, hash) in parts {
        by_part.entry(part).or_default().push(hash);
    }
    by_part
}

/// The keys of two maps whose values differ.
fn changes<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> Vec<(&'a K, Change)> {
    let gone = before.keys().filter(|key| !now.contains_key(key)).map(|key| (key, Change::Removed));
    let others = now.iter().filter_map(|(key, value)| match before.get(key) {
        None => Some((key, Change::Added)),
        Some(earlier) if earlier != value => Some((key, Change::Changed)),
        Some(_) => None,
    });
    let mut changes: Vec<_> = gone.chain(others).collect();
    changes.sort_by(|a, b| a.0.cmp(b.0));
    changes
}

fn inputs(before: &[KeyInput], now: &[KeyInput], reasons: &mut Vec<Reason>) {
    for at in 0..before.len().max(now.len()) {
        let (earlier, input) = (before.get(at), now.get(at));
        if earlier.map(|input| &input.hash) == input.map(|input| &input.hash) {
            continue;
        }
        // What is gone is named by what it was.
        let Some(shown) = input.or(earlier) else { continue };
        let mount = shown.mount;
        reasons.push(match (shown.kind, mount) {
            (InputKind::Context, Some(mount)) => Reason::MountedFiles { mount },
            (InputKind::Image, _) => Reason::Image {
                from: earlier.and_then(|input| input.manifest.clone()),
                to: input.and_then(|input| input.manifest.clone()),
                mount,
            },
            _ => Reason::Input { step: (!shown.name.is_empty()).then(|| shown.name.clone()), mount },
        });
    }
}

fn files(
    (before, now): (Option<&FileList>, Option<&FileList>),
    has_same_sources: bool,
    reasons: &mut Vec<Reason>,
) {
    let (Some(before), Some(now)) = (before, now) else { return };
    let is_whole = |list: &FileList| list.total == list.files.len() as u64;
    if !is_whole(before) || !is_whole(now) {
        // It is not known whether they changed, unless nothing else has.
        if reasons.is_empty() {
            reasons.push(Reason::ManyFiles { from: before.total, to: now.total });
        }
        return;
    }
    let is_hidden = before.is_hidden || now.is_hidden;
    if before.is_hidden != now.is_hidden || (is_hidden && !has_same_sources) {
        // The paths are of other sources, and cannot be compared. The sources are the reason.
        return;
    }
    let (before, now) = (by_path(before), by_path(now));
    let changes: Vec<FileChange> = changes(&before, &now)
        .into_iter()
        .map(|(path, change)| {
            let (earlier, file) = (before.get(path), now.get(path));
            file_change(path, change, earlier.and_then(|f| f.first()), file.and_then(|f| f.first()))
        })
        .collect();
    if changes.is_empty() {
        return;
    }
    if is_hidden {
        let of = |kind: Change| changes.iter().filter(|file| file.change == kind).count();
        let (added, removed) = (of(Change::Added), of(Change::Removed));
        reasons.push(Reason::HiddenFiles { added, removed, changed: of(Change::Changed) });
    } else {
        reasons.push(Reason::Files { changes });
    }
}

fn by_path(list: &FileList) -> BTreeMap<&str, Vec<&FileHash>> {
    let mut by_path: BTreeMap<&str, Vec<&FileHash>> = BTreeMap::new();
    for file in &list.files {
        by_path.entry(&file.0).or_default().push(file);
    }
    by_path
}

fn file_change(
    path: &str,
    change: Change,
    before: Option<&&FileHash>,
    now: Option<&&FileHash>,
) -> FileChange {
    let mut changed = FileChange { path: path.to_owned(), change, content: false, owner: false, mode: None };
    if let (Some(before), Some(now)) = (before, now) {
        changed.mode = (before.1 != now.1).then(|| (before.1.clone(), now.1.clone()));
        changed.owner = before.2 != now.2;
        changed.content = before.3 != now.3;
        // Of several entries of one path another one may have changed.
        changed.content |= changed.mode.is_none() && !changed.owner;
    }
    changed
}
