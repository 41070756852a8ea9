//! What helpers found out about this machine, kept for the next process: a build whose steps are all cached then starts no
//! helper.
//!
//! Only the best is kept: many ids, namespaces, overlays. So a machine that learns more is noticed at once, and one that
//! offers less is noticed when the helper starts and says something else than what is kept ([`super::Sandbox`]).

use super::protocol::{Hello, Start};
use super::{HelperCommand, Identity, Isolation, SandboxOptions};
use crate::small_file;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The longest file that is read.
const MAX_SIZE: u64 = 256 << 10;
/// The lines of `/proc/self/status` that decide what a process may do.
const STATUS: &[&str] =
    &["Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"];

/// Where a sandbox of a state folder keeps what it knows, and under which circumstances that is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    file: PathBuf,
    circumstances: Circumstances,
}

/// What decides what a helper can do. What is not here shows when the helper starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Circumstances {
    options: SandboxOptions,
    /// The helper: device, inode, size and time of the program, and its arguments.
    program: (u64, u64, u64, i64, i64),
    arguments: Vec<std::ffi::OsString>,
    /// The run of the kernel.
    boot: String,
    namespaces: Vec<String>,
    status: Vec<String>,
    /// The label of a security module, such as the name of an AppArmor profile.
    label: String,
    /// The file system of the state folder.
    device: u64,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    circumstances: Circumstances,
    hello: Hello,
}

impl Place {
    /// The place in a state folder; `None` when the circumstances cannot be found out, and so nothing can be kept.
    pub(crate) fn new(root: &Path, command: &HelperCommand, options: SandboxOptions) -> Option<Self> {
        if options.isolation != Isolation::Full {
            // What was asked for need not be found out.
            return None;
        }
        let program = std::fs::metadata(&command.program).ok()?;
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let link = |name: &str| {
            std::fs::read_link(format!("/proc/self/ns/{name}")).map(|to| to.to_string_lossy().into_owned())
        };
        let circumstances = Circumstances {
            options,
            program: (program.dev(), program.ino(), program.size(), program.mtime(), program.mtime_nsec()),
            arguments: command.args.clone(),
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?,
            namespaces: ["user", "mnt", "pid"].map(link).into_iter().collect::<Result<_, _>>().ok()?,
            status: status
                .lines()
                .filter(|line| STATUS.iter().any(|name| line.starts_with(name)))
                .map(str::to_owned)
                .collect(),
            // A kernel without security modules has none.
            label: std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default(),
            device: std::fs::metadata(root).ok()?.dev(),
        };
        Some(Self { file: root.join("sandbox.json"), circumstances })
    }

    /// What an earlier helper said under the same circumstances.
    pub(super) fn load(&self) -> Option<Hello> {
        let what = "what is known of the sandbox";
        let file = small_file::open_no_follow(&self.file, what).ok()?;
        let bytes = small_file::read_opened(file, &self.file, what, MAX_SIZE).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.circumstances == self.circumstances && is_best(&kept.hello)).then_some(kept.hello)
    }

    /// Keeps what a helper said, if it is the best. A failure costs the next process some time, no more.
    pub(super) fn keep(&self, start: &Start, hello: &Hello) {
        if start.no_namespaces.is_some() || !is_best(hello) {
            return self.forget();
        }
        let kept = Kept { circumstances: self.circumstances.clone(), hello: hello.clone() };
        let text = serde_json::to_vec(&kept).expect("plain data");
        let folder = self.file.parent().unwrap_or(&self.file);
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            file.write_all(&text)?;
            file.persist(&self.file).map_err(|e| e.error)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "what is known of the sandbox cannot be kept");
        }
    }

    /// Removes what is kept.
    pub(crate) fn forget(&self) {
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::debug!(%error, "what is known of the sandbox cannot be removed");
            }
            _ => {}
        }
    }
}

fn is_best(hello: &Hello) -> bool {
    hello.identity == Identity::Full && hello.isolation == Isolation::Full && hello.overlay.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::userns::MappedIds;

    fn best() -> Hello {
        Hello {
            identity: Identity::Full,
            user_namespace: false,
            isolation: Isolation::Full,
            overlay: Ok(()),
            ids: MappedIds::own(),
            identity_reasons: Vec::new(),
            isolation_reasons: Vec::new(),
        }
    }

    fn start(options: SandboxOptions) -> Start {
        Start { options, no_namespaces: None }
    }

    #[test]
    fn the_best_is_kept_for_the_same_circumstances() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("helper");
        std::fs::write(&program, "1").unwrap();
        let command = HelperCommand::with_init(&program);
        let options = SandboxOptions::default();
        let place = || Place::new(folder.path(), &command, options).unwrap();
        assert_eq!(place().load(), None);
        place().keep(&start(options), &best());
        assert_eq!(place().load(), Some(best()));

        std::fs::write(&program, "22").unwrap();
        assert_eq!(place().load(), None, "another program");
        place().keep(&start(options), &best());
        let mut others = place();
        others.circumstances.boot = "another".to_owned();
        assert_eq!(others.load(), None, "another boot");
        let single = SandboxOptions { identity: Some(Identity::Single), ..options };
        assert_eq!(Place::new(folder.path(), &command, single).unwrap().load(), None, "other options");
        place().forget();
        assert_eq!(place().load(), None);
        place().forget();
    }

    #[test]
    fn less_than_the_best_is_not_kept_and_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let command = HelperCommand::current_exe();
        let options = SandboxOptions::default();
        let place = Place::new(folder.path(), &command, options).unwrap();
        let worse = [
            Hello { identity: Identity::Single, ..best() },
            Hello { isolation: Isolation::SharedProcesses, ..best() },
            Hello { overlay: Err("no".to_owned()), ..best() },
        ];
        for hello in worse {
            place.keep(&start(options), &best());
            assert!(place.load().is_some());
            place.keep(&start(options), &hello);
            assert_eq!(place.load(), None, "{hello:?}");
        }
        place.keep(&start(options), &best());
        place.keep(&Start { options, no_namespaces: Some("refused".to_owned()) }, &best());
        assert_eq!(place.load(), None);
        assert_eq!(
            Place::new(folder.path(), &command, SandboxOptions::with_isolation(Isolation::None)),
            None,
            "what was asked for is not found out"
        );
    }

    #[test]
    fn a_damaged_or_foreign_file_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let options = SandboxOptions::default();
        let place = Place::new(folder.path(), &HelperCommand::current_exe(), options).unwrap();
        place.keep(&start(options), &best());
        let whole = std::fs::read(&place.file).unwrap();
        for end in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&place.file, &whole[..end]).unwrap();
            assert_eq!(place.load(), None, "{end} bytes");
        }
        std::fs::write(&place.file, vec![b' '; MAX_SIZE as usize + 1]).unwrap();
        assert_eq!(place.load(), None);
        let other = folder.path().join("other");
        std::fs::write(&other, &whole).unwrap();
        std::fs::remove_file(&place.file).unwrap();
        std::os::unix::fs::symlink(&other, &place.file).unwrap();
        assert_eq!(place.load(), None, "a link");
        place.keep(&start(options), &best());
        assert_eq!(place.load(), Some(best()), "the link was replaced");
    }
}
