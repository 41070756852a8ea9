//! Keys that differ in one part, and choices of steps.

use super::diff::diff;
use super::*;
use crate::Digest;
use crate::solve::{FileHash, FileList, InputKind, KeyInput};

/// Numbers that are the same in every run with a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn hash(&mut self) -> String {
        format!("{:08x}", self.below(1 << 30))
    }
}

fn input(kind: InputKind, mount: Option<usize>, random: &mut Random) -> KeyInput {
    let hash = random.hash();
    let manifest = (kind == InputKind::Image).then(|| Digest::sha256(&hash));
    KeyInput { kind, mount, name: "[a 1/9] RUN before".into(), hash, manifest }
}

fn step(random: &mut Random) -> RanStep {
    let mut parts = vec![
        KeyPart::Command,
        KeyPart::VariableOrder,
        KeyPart::WorkingFolder,
        KeyPart::User,
        KeyPart::Network,
        KeyPart::Security,
        KeyPart::HostName,
        KeyPart::Secrets,
        KeyPart::Devices,
        KeyPart::Epoch,
        KeyPart::Sources,
        KeyPart::Destination,
        KeyPart::Owner,
        KeyPart::Mode,
        KeyPart::Exclude,
        KeyPart::Options,
        KeyPart::Document,
    ];
    for at in 0..random.below(5) + 1 {
        parts.push(KeyPart::Variable(format!("V{at}")));
        parts.push(KeyPart::Host(format!("h{at}")));
        parts.push(KeyPart::Mount(at + 1, "bind".into()));
    }
    let parts = parts.into_iter().map(|part| (part, random.hash())).collect();
    let inputs = vec![
        input(InputKind::Image, None, random),
        input(InputKind::Step, None, random),
        input(InputKind::Step, Some(1), random),
        input(InputKind::Context, Some(2), random),
        input(InputKind::Fetched, Some(3), random),
    ];
    let files: Vec<FileHash> = (0..random.below(20) + 1)
        .map(|at| FileHash(format!("f{at}"), "0644".into(), random.hash(), random.hash()))
        .collect();
    RanStep {
        step: 1,
        name: "[a 2/9] RUN x".into(),
        keys: vec![random.hash(), random.hash()],
        forced: None,
        kept: true,
        failed: false,
        parts,
        inputs,
        files: Some(FileList { total: files.len() as u64, files, is_hidden: false }),
    }
}

fn changed_file(now: &mut RanStep, random: &mut Random) -> FileChange {
    let list = now.files.as_mut().unwrap();
    let at = random.below(list.files.len());
    let path = list.files[at].0.clone();
    let mut change = FileChange { path, change: Change::Changed, content: false, owner: false, mode: None };
    match random.below(5) {
        0 => {
            list.files[at].3 = "other".into();
            change.content = true;
        }
        1 => {
            list.files[at].2 = "other".into();
            change.owner = true;
        }
        2 => {
            list.files[at].1 = "0755".into();
            change.mode = Some(("0644".into(), "0755".into()));
        }
        3 => {
            list.files.remove(at);
            list.total -= 1;
            change.change = Change::Removed;
        }
        _ => {
            change.path = "added".into();
            list.files.push(FileHash("added".into(), "0644".into(), "o".into(), "c".into()));
            list.total += 1;
            change.change = Change::Added;
        }
    }
    change
}

/// Changes one thing of a key. Returns the reason that has to be named.
fn change_one(now: &mut RanStep, random: &mut Random) -> Reason {
    match random.below(4) {
        0 => {
            let at = random.below(now.parts.len());
            let part = now.parts[at].0.clone();
            now.parts[at].1 = "other".into();
            Reason::Part { part, change: Change::Changed }
        }
        1 => match random.below(3) {
            0 => {
                let added = KeyPart::Variable("ADDED".into());
                now.parts.push((added.clone(), "hash".into()));
                Reason::Part { part: added, change: Change::Added }
            }
            1 => {
                let is_variable = |(part, _): &(KeyPart, String)| matches!(part, KeyPart::Variable(_));
                let at = now.parts.iter().position(is_variable).unwrap();
                Reason::Part { part: now.parts.remove(at).0, change: Change::Removed }
            }
            _ => {
                now.name = "[a 2/9] RUN y".into();
                now.parts[0].1 = "other".into();
                Reason::Instruction { from: "RUN x".into(), to: "RUN y".into() }
            }
        },
        2 => {
            let at = random.below(now.inputs.len());
            let input = &mut now.inputs[at];
            let from = input.manifest.clone();
            input.hash = "other".into();
            input.manifest = from.as_ref().map(|_| Digest::sha256("other"));
            let (mount, to) = (input.mount, input.manifest.clone());
            match input.kind {
                InputKind::Image => Reason::Image { from, to, mount },
                InputKind::Context => Reason::MountedFiles { mount: mount.unwrap() },
                _ => Reason::Input { step: Some(input.name.clone()), mount },
            }
        }
        _ => Reason::Files { changes: vec![changed_file(now, random)] },
    }
}

#[test]
fn of_one_change_exactly_that_is_named() {
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let before = step(&mut random);
        let mut now = before.clone();
        assert_eq!(diff(&before, &now), [Reason::Gone], "{seed}");
        now.keys = vec![random.hash()];
        assert_eq!(diff(&before, &now), [Reason::Unknown], "{seed}");
        let expected = change_one(&mut now, &mut random);
        assert_eq!(diff(&before, &now), [expected], "{seed}");
    }
}

#[test]
fn two_changes_are_both_named_and_the_order_of_variables_alone() {
    let mut random = Random(7);
    let before = step(&mut random);
    let mut now = RanStep { keys: vec!["k".into()], ..before.clone() };
    now.parts.push((KeyPart::Variable("NEW".into()), "hash".into()));
    for (part, hash) in &mut now.parts {
        if matches!(part, KeyPart::User | KeyPart::VariableOrder) {
            *hash = "other".into();
        }
    }
    let part = |part, change| Reason::Part { part, change };
    let expected =
        [part(KeyPart::Variable("NEW".into()), Change::Added), part(KeyPart::User, Change::Changed)];
    assert_eq!(diff(&before, &now), expected);
}

#[test]
fn files_that_are_too_many_or_not_kept_are_told_so() {
    let mut random = Random(8);
    let before = step(&mut random);
    let mut now = RanStep { keys: vec!["k".into()], ..before.clone() };
    now.files = Some(FileList { total: 30_000, files: Vec::new(), is_hidden: false });
    let from = before.files.as_ref().unwrap().total;
    assert_eq!(diff(&before, &now), [Reason::ManyFiles { from, to: 30_000 }]);
    let not_kept = RanStep { kept: false, ..before.clone() };
    assert_eq!(diff(&not_kept, &before), [Reason::NotKept]);
}

#[test]
fn every_reason_is_one_line_that_names_its_subject() {
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut now = step(&mut random);
        let reason = change_one(&mut now, &mut random);
        let text = reason.to_string();
        assert!(text.len() > 10 && text.lines().count() == 1 && !text.ends_with('.'), "{text}");
        if let Reason::Files { changes } = &reason {
            assert!(text.contains(&changes[0].path), "{text}");
        }
    }
    let files = (0..12).map(|at| FileChange {
        path: format!("f{at}"),
        change: Change::Added,
        content: false,
        owner: false,
        mode: None,
    });
    let text = Reason::Files { changes: files.collect() }.to_string();
    assert!(text.starts_with("12 files changed: f0 (added), f1 (added)") && text.ends_with(", and 2 more"));
}

#[test]
fn a_step_is_chosen_by_number_place_or_text() {
    let named = |name: &str| {
        let parsed = StepName::parse(name).unwrap();
        StepWhy {
            name: name.into(),
            stage: parsed.stage.into(),
            number: parsed.number,
            outcome: RecordOutcome::Cached,
            reasons: Vec::new(),
            origin: None,
            compared_with: None,
        }
    };
    let names = ["[a 1/3] COPY x", "[a 2/3] RUN make", "[b 2/9] RUN make all", "[b 12/13] RUN 2"];
    let why = Why {
        build: "id".into(),
        name: "n".into(),
        outcome: RecordOutcome::Done,
        steps: names.iter().map(|name| named(name)).collect(),
    };
    for (text, name) in [
        ("1", names[0]),
        ("12", names[3]),
        ("a:2", names[1]),
        ("b:2", names[2]),
        ("RUN make", names[1]),
        ("RUN make a", names[2]),
        ("COPY", names[0]),
        ("[b 2", names[2]),
    ] {
        assert_eq!(why.step(text).unwrap().name, name, "{text}");
    }
    for (text, kind) in [
        ("2", ErrorKind::Invalid),
        ("RUN m", ErrorKind::Invalid),
        ("", ErrorKind::NotFound),
        ("7", ErrorKind::NotFound),
        ("c:1", ErrorKind::NotFound),
    ] {
        let error = why.step(text).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(error.message().contains("[b 2/9] RUN make all"), "{error}");
    }
}

#[test]
fn files_of_steps_that_are_damaged_or_elsewhere_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let line = serde_json::to_string(&step(&mut Random(1))).unwrap();
    write("whole.steps", &format!("{{\"format\":1,\"key\":\"k\"}}\n{line}\n{line}\n{}", &line[..40]));
    let file = read_steps(folder.path(), "whole").unwrap();
    assert_eq!((file.key.as_str(), file.steps.len()), ("k", 2));
    write("other.steps", &format!("{{\"format\":2,\"key\":\"k\"}}\n{line}\n"));
    write("empty.steps", "");
    std::fs::create_dir(folder.path().join("inner")).unwrap();
    for name in ["other", "empty", "missing", "", "inner/../whole", "../x", "."] {
        assert!(read_steps(folder.path(), name).is_none(), "{name}");
    }
}

/// A record of a build with steps: their numbers, outcomes, and the build and step of their origins.
/// The number of a step, how it ended, and the build and step that its result is from.
type Step<'a> = (u64, RecordOutcome, Option<(&'a str, u64)>);

fn record(id: &str, steps: &[Step<'_>]) -> BuildRecord {
    let request = crate::build::BuildRequest::new("FROM scratch\n", crate::build::BuildContext::Empty);
    let mut record = BuildRecord::of(&request, None);
    record.id = id.into();
    record.outcome = RecordOutcome::Done;
    record.steps = steps
        .iter()
        .map(|(number, outcome, origin)| StepRecord {
            name: "[a 2/9] RUN x".into(),
            started: 0,
            milliseconds: Some(1),
            outcome: *outcome,
            error: None,
            number: *number,
            origin: origin.map(|(build, step)| Origin { build: build.into(), step }),
        })
        .collect();
    record
}

#[test]
fn a_step_that_ran_in_an_earlier_attempt_of_its_build_ran() {
    let ran = (1, RecordOutcome::Done, Some(("now", 1)));
    for again in [
        (2, RecordOutcome::Cached, Some(("now", 1))),
        // It ran again.
        (2, RecordOutcome::Done, Some(("now", 2))),
    ] {
        let record = record("now", &[ran, again]);
        let steps: Vec<_> = named_steps(&record).map(|(step, _)| (step.number, step.outcome)).collect();
        let number = if again.1 == RecordOutcome::Cached { 1 } else { 2 };
        assert_eq!(steps, [(number, RecordOutcome::Done)]);
    }
    // It was cached in the first attempt too.
    let earlier = Some(("before", 7));
    let record = record("now", &[(1, RecordOutcome::Cached, earlier), (2, RecordOutcome::Cached, earlier)]);
    assert_eq!(named_steps(&record).map(|(step, _)| step.number).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_platform_is_that_of_the_step_and_not_that_of_several() {
    let mut of = record("now", &[]);
    let host = Platform::host().to_string();
    let mut platform = |asked: Option<&str>, name: &str| {
        of.platform = asked.map(str::to_owned);
        platform_of(&of, name)
    };
    let both = Some("linux/amd64,linux/arm64");
    assert_eq!(platform(None, "[a 1/2] RUN x"), Some(host));
    assert_eq!(platform(Some("linux/arm64"), "[a 1/2] RUN x").as_deref(), Some("linux/arm64"));
    assert_eq!(platform(both, "[linux/arm64 a 1/2] RUN x").as_deref(), Some("linux/arm64"));
    assert_eq!(platform(both, "[a 1/2] RUN x"), None);
    for reason in [Reason::Gone, Reason::NotRecorded, Reason::Files { changes: Vec::new() }] {
        assert!(!may_be_of_platform(&reason), "{reason}");
    }
}

#[test]
fn hidden_files_are_counted_unless_they_are_of_other_sources() {
    let mut random = Random(9);
    let mut before = step(&mut random);
    before.files.as_mut().unwrap().is_hidden = true;
    let mut now = RanStep { keys: vec!["k".into()], ..before.clone() };
    let list = now.files.as_mut().unwrap();
    list.files[0].3 = "other".into();
    list.files.push(FileHash("added".into(), "0644".into(), "o".into(), "c".into()));
    list.total += 1;
    assert_eq!(diff(&before, &now), [Reason::HiddenFiles { added: 1, removed: 0, changed: 1 }]);
    let sources = now.parts.iter_mut().find(|(part, _)| *part == KeyPart::Sources).unwrap();
    sources.1 = "other".into();
    let part = KeyPart::Sources;
    assert_eq!(diff(&before, &now), [Reason::Part { part, change: Change::Changed }]);
}
