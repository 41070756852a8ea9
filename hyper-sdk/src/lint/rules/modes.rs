//! Rules about the modes of files.

use super::PLAIN;
use crate::dockerfile::{Instruction, StageRef, Word};
use crate::lint::subject::{Replay, Step, Subject};
use crate::lint::{Found, Rule};
use std::collections::BTreeSet;

/// Folders of usual images.
const USUAL: [&str; 22] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/local",
    "/usr/local/bin",
    "/var",
];

pub(super) static CHMOD_CLOSES_NEW_FOLDER: Rule = Rule {
    name: "ChmodClosesNewFolder",
    summary: "`--chmod` of a file should not create a folder that cannot be entered",
    why: "COPY and ADD give the mode of `--chmod` to the folders that they make on the way, too. A folder whose mode has no \
          execute bit cannot be entered, so that only root finds the file.",
    bad: "FROM scratch\nCOPY --chmod=0644 app.conf /config/app.conf\n",
    good: "FROM scratch\nWORKDIR /config\nCOPY --chmod=0644 app.conf /config/app.conf\n",
    check: |subject, found| {
        for (replay, step) in subject.steps().filter(|(_, step)| !step.is_trigger) {
            let (mode, folder) = match new_folder(step) {
                Some((mode, folder)) if is_closed(&mode.value) => (mode, folder),
                _ => continue,
            };
            if is_known(subject, replay, step, &folder) {
                continue;
            }
            let message = format!(
                "where there is no `{folder}`, it gets the mode {} and cannot be entered",
                mode.value
            );
            let help =
                format!("make the folder before, as with `WORKDIR {folder}`, or give it an execute bit");
            found.push(Found::new(mode.span, message).help(help));
        }
    },
    ..PLAIN
};

/// Whether a folder of this mode cannot be entered by its owner.
fn is_closed(mode: &str) -> bool {
    let octal = mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
    octal && u32::from_str_radix(mode, 8).is_ok_and(|mode| mode & 0o100 == 0)
}

/// The mode of COPY or ADD, and the folder that it creates when it is missing.
fn new_folder(step: &Step<'_>) -> Option<(Word, String)> {
    let (chmod, destination, count) = match step.expanded.as_ref()? {
        Instruction::Copy(copy) if !copy.parents => {
            (&copy.chmod, &copy.destination, copy.sources.len() + copy.inline.len())
        }
        Instruction::Add(add) => (&add.chmod, &add.destination, add.sources.len() + add.inline.len()),
        _ => return None,
    };
    let path = destination.value.as_str();
    let folder = match path.strip_suffix('/') {
        Some(folder) => folder,
        None if count > 1 => path,
        None => path.rsplit_once('/')?.0,
    };
    // A relative path starts at the working directory.
    let is_named = folder.starts_with('/') && !folder.contains("..");
    is_named.then(|| Some((chmod.clone()?, folder.to_owned())))?
}

/// Whether the folder exists before a step, as far as it is known.
fn is_known(subject: &Subject<'_>, replay: &Replay<'_>, step: &Step<'_>, folder: &str) -> bool {
    let mut made: BTreeSet<String> = USUAL.map(str::to_owned).into();
    let mut stage = Some(replay);
    while let Some(here) = stage {
        for before in here.steps.iter().take_while(|before| !std::ptr::eq(*before, step)) {
            match before.expanded.as_ref() {
                Some(Instruction::Workdir(workdir)) => drop(made.insert(workdir.path.value.clone())),
                // The effect of a command is unknown: it is enough that it names the folder.
                Some(Instruction::Run(_)) if before.statement.original.contains(folder) => return true,
                Some(Instruction::Copy(copy)) => drop(made.insert(copy.destination.value.clone())),
                Some(Instruction::Add(add)) => drop(made.insert(add.destination.value.clone())),
                _ => {}
            }
        }
        let base = subject.bases[here.stage.index].as_ref();
        let below = base.map(|base| subject.file.base(here.stage.index, &base.image));
        stage = match below {
            Some(StageRef::Stage(index)) => subject.stages.get(index),
            _ => None,
        };
    }
    let is_at_or_above = |made: &String| {
        let rest = made.trim_end_matches('/').strip_prefix(folder);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    made.iter().any(is_at_or_above)
}
