//! The commit time of a git work tree, read without trusting the repository.
//!
//! The repository of a context is not trusted: `git` is never run inside it, because its configuration can name
//! programs (hooks, monitors, helpers for fetching missing objects). HEAD and the refs are read here, as
//! `gitrepository-layout(5)` describes them; the commit is read by `git` from an empty private repository that borrows
//! the objects.

use crate::small_file::{self, Kinds};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The largest ref file, in bytes.
const LARGEST: u64 = 64 << 20;

/// The commit time of the git work tree that a folder is in, in seconds since 1970.
///
/// `None` when there is no work tree or no commit, when the refs are in the reftable format, or when `git` is missing.
/// No program that the repository configures is run, and nothing is fetched.
pub(crate) fn work_tree_time(folder: &Path) -> Option<i64> {
    let repository = Repository::find(folder)?;
    let commit = repository.head()?;
    commit_time(&repository.common.join("objects"), &commit)
}

struct Repository {
    /// The folder with HEAD.
    own: PathBuf,
    /// The folder that all work trees of the repository share.
    common: PathBuf,
}

impl Repository {
    fn find(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        let (top, git) =
            folder.ancestors().map(|top| (top, top.join(".git"))).find(|(_, git)| git.exists())?;
        let own = if git.is_dir() { git } else { top.join(text(&git)?.trim_end().strip_prefix("gitdir: ")?) };
        let common = text(&own.join("commondir")).map_or_else(|| own.clone(), |to| own.join(to.trim_end()));
        Some(Self { own, common })
    }

    fn head(&self) -> Option<String> {
        let mut value = text(&self.own.join("HEAD"))?;
        for _ in 0..5 {
            let Some(name) = value.trim_end().strip_prefix("ref: ") else { break };
            let plain =
                name.starts_with("refs/") && name.split('/').all(|part| !part.is_empty() && part != "..");
            if !plain {
                return None;
            }
            value = text(&self.own.join(name))
                .or_else(|| text(&self.common.join(name)))
                .or_else(|| self.packed(name))?;
        }
        let id = value.trim_end();
        let is_id = matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then(|| id.to_owned())
    }

    fn packed(&self, name: &str) -> Option<String> {
        let refs = text(&self.common.join("packed-refs"))?;
        let found = refs.lines().filter_map(|line| line.split_once(' ')).find(|(_, of)| *of == name);
        found.map(|(id, _)| id.to_owned())
    }
}

/// The text of a regular file of limited size.
fn text(path: &Path) -> Option<String> {
    small_file::read_text(path, "a file of git", LARGEST, Kinds::Files).ok()
}

fn commit_time(objects: &Path, commit: &str) -> Option<i64> {
    let empty = crate::private_folder::temporary("hyper-git-", None).ok()?;
    let format = match commit.len() {
        64 => "\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n",
        _ => "\trepositoryformatversion = 0\n\tbare = true\n",
    };
    std::fs::create_dir(empty.path().join("objects")).ok()?;
    std::fs::create_dir(empty.path().join("refs")).ok()?;
    std::fs::write(empty.path().join("HEAD"), "ref: refs/heads/none\n").ok()?;
    std::fs::write(empty.path().join("config"), format!("[core]\n{format}")).ok()?;
    let mut git = Command::new("git");
    // A git hook that starts a build sets these variables, for its own repository.
    for name in ["COMMON_DIR", "WORK_TREE", "INDEX_FILE", "NAMESPACE", "CONFIG_COUNT", "CONFIG_PARAMETERS"] {
        git.env_remove(format!("GIT_{name}"));
    }
    let output = git
        .env("GIT_DIR", empty.path())
        .env("GIT_OBJECT_DIRECTORY", objects)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .current_dir(empty.path())
        .args(["cat-file", "commit", commit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let commit = String::from_utf8_lossy(&output.stdout);
    let header = commit.lines().take_while(|line| !line.is_empty());
    let committer = header.into_iter().find_map(|line| line.strip_prefix("committer "))?;
    committer.rsplit_once('>')?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs git in a folder; `false` when git is missing or fails.
    fn git(folder: &Path, arguments: &[&str]) -> bool {
        let mut command = Command::new("git");
        command.current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "x").env(format!("GIT_{who}_EMAIL"), "x@example.com");
        }
        command.env("GIT_AUTHOR_DATE", "1000000000 +0200").env("GIT_COMMITTER_DATE", "1234567890 +0100");
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }

    fn repository(arguments: &[&str]) -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        if !git(folder.path(), &[&["init", "--quiet"], arguments].concat()) {
            println!("SKIPPED: git cannot make a repository with {arguments:?}");
            return None;
        }
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("sub/a"), "a").unwrap();
        assert!(
            git(folder.path(), &["add", "."]) && git(folder.path(), &["commit", "--quiet", "-m", "x > 5"])
        );
        Some(folder)
    }

    #[test]
    fn the_time_of_every_kind_of_head_is_found() {
        for arguments in [&[][..], &["--object-format=sha256"]] {
            let Some(folder) = repository(arguments) else { continue };
            let top = folder.path();
            assert_eq!(work_tree_time(&top.join("sub")), Some(1_234_567_890));
            assert!(git(top, &["gc", "--quiet"]) && git(top, &["pack-refs", "--all"]));
            assert_eq!(work_tree_time(top), Some(1_234_567_890));
            assert!(git(top, &["worktree", "add", "-b", "other", "linked"]));
            assert_eq!(work_tree_time(&top.join("linked/sub")), Some(1_234_567_890));
            assert!(git(top, &["checkout", "--quiet", "--detach"]));
            assert_eq!(work_tree_time(top), Some(1_234_567_890));
        }
    }

    #[test]
    fn no_program_of_the_repository_is_run() {
        let Some(folder) = repository(&[]) else { return };
        let (top, marker) = (folder.path(), folder.path().join("run"));
        let program = format!("touch {}; true", marker.display());
        for (key, value) in [
            ("core.repositoryformatversion", "1"),
            ("extensions.partialclone", "origin"),
            ("remote.origin.promisor", "true"),
            ("remote.origin.url", "."),
            ("remote.origin.uploadpack", &program),
            ("core.fsmonitor", &program),
        ] {
            assert!(git(top, &["config", key, value]));
        }
        let missing = "1".repeat(40);
        std::fs::write(top.join(".git/HEAD"), &missing).unwrap();
        assert_eq!(work_tree_time(top), None);
        assert!(!marker.exists());
        // The configured programs would be run by git inside the repository.
        git(top, &["cat-file", "commit", &missing]);
        assert!(marker.exists());
    }

    #[test]
    fn a_damaged_repository_has_no_time() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(work_tree_time(&folder.path().join("missing")), None);
        let head = folder.path().join(".git/HEAD");
        std::fs::create_dir(folder.path().join(".git")).unwrap();
        for text in
            ["", "ref: ../../secret", "ref: refs/heads/none", "ref: /etc/passwd", "zz", "ref: refs//x"]
        {
            std::fs::write(&head, text).unwrap();
            assert_eq!(work_tree_time(folder.path()), None, "{text}");
        }
    }
}
