//! Runs git as long as it gets on: a server that is silent, drips or never ends does not hold it.
//!
//! Git has such limits for the web alone. So the processes of git are watched: what they read, write and compute, as
//! the kernel counts it. Those of `ssh` do not count, whose keep-alive packets say nothing of the server behind it.
//!
//! ```text
//!   silence   nothing moves at all:                          idle, then git is killed with all that it started
//!   pace      less than 1 KiB a second moves, on average:    10 × idle
//!   output    what git says:                                 64 MiB, and the last 64 KiB of its complaints
//!   disk      what is free in the folder it writes to:       32 MiB, once as much was moved
//! ```
//!
//! # Invariants
//! - No process of git outlives the future: dropping it kills the group.

use super::room;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::Instant;

/// The least that moves in a second, on average.
const SLOWEST: u64 = 1024;
/// What a tick of the processor (a hundredth of a second) counts as, in bytes.
const TICK: u64 = 10 * SLOWEST;
/// The most that git may say.
const MAX_OUTPUT: usize = 64 << 20;
/// What is kept of its complaints.
const MAX_COMPLAINTS: usize = 64 << 10;

/// What became of git.
#[derive(Debug)]
pub(super) enum Outcome {
    Ended {
        status: ExitStatus,
        output: Vec<u8>,
        complaints: Vec<u8>,
    },
    /// Nothing moved for this time.
    Silent(Duration),
    /// Too little moved over this time.
    Slow(Duration),
    /// More came than the limit of so many bytes.
    TooMuch(u64),
    /// The disk has no room for more.
    Full,
}

/// Runs a command whose standard output and error are pipes. `most` is how many bytes its processes may move, and `folder`
/// is where they write.
///
/// # Errors
/// When the command cannot be started, or its pipes cannot be read.
pub(super) async fn run(
    command: &mut Command,
    idle: Duration,
    most: u64,
    folder: &Path,
) -> io::Result<Outcome> {
    let mut child = command.process_group(0).spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut guard = Group(group);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (output, complaints) = tokio::try_join!(whole(out), tail(err))?;
        Ok::<_, io::Error>((child.wait().await?, output, complaints))
    };
    tokio::select! {
        ended = work => {
            let (status, output, complaints) = ended?;
            guard.0 = None;
            Ok(match output {
                Some(output) => Outcome::Ended { status, output, complaints },
                None => Outcome::TooMuch(MAX_OUTPUT as u64),
            })
        }
        stuck = watch(group, idle, most, folder) => Ok(stuck),
    }
}

/// A group of processes that is killed with this value.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// All that comes, or nothing when it is more than the limit.
async fn whole(from: Option<impl AsyncRead + Unpin>) -> io::Result<Option<Vec<u8>>> {
    let Some(from) = from else { return Ok(Some(Vec::new())) };
    let mut all = Vec::new();
    from.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut all).await?;
    Ok((all.len() <= MAX_OUTPUT).then_some(all))
}

/// The end of what comes.
async fn tail(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let Some(mut from) = from else { return Ok(Vec::new()) };
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(kept),
            count => kept.extend_from_slice(&buffer[..count]),
        }
        if kept.len() > 2 * MAX_COMPLAINTS {
            kept.drain(..kept.len() - MAX_COMPLAINTS);
        }
    }
}

/// Ends when the processes of a group do not get on, or move more than `most` bytes or than the disk has room for.
async fn watch(group: Option<Pid>, idle: Duration, most: u64, folder: &Path) -> Outcome {
    let Some(group) = group.map(|pid| pid.as_raw_nonzero().get()) else {
        return std::future::pending().await;
    };
    let window = idle * 10;
    let mut known = HashMap::new();
    let (mut last, mut start, mut sum, mut all) = (Instant::now(), Instant::now(), 0u64, 0u64);
    loop {
        tokio::time::sleep((idle / 8).min(Duration::from_secs(2))).await;
        let measured = tokio::task::spawn_blocking(move || {
            let moved = measure(group, &mut known);
            (moved, known)
        });
        let Ok((moved, back)) = measured.await else { return std::future::pending().await };
        known = back;
        // Where the kernel does not tell, there is nothing to go by.
        let Some(moved) = moved else { return std::future::pending().await };
        (sum, all) = (sum.saturating_add(moved), all.saturating_add(moved));
        if moved > 0 {
            last = Instant::now();
        }
        if all > most {
            return Outcome::TooMuch(most);
        }
        if moved > 0 && room::is_short(folder, all) {
            return Outcome::Full;
        }
        if last.elapsed() >= idle {
            return Outcome::Silent(idle);
        }
        let elapsed = start.elapsed();
        if elapsed >= window {
            if sum < (elapsed.as_secs_f64() * SLOWEST as f64) as u64 {
                return Outcome::Slow(elapsed);
            }
            (start, sum) = (Instant::now(), 0);
        }
    }
}

/// What the processes of a group moved since the last time, in bytes. Blocks.
fn measure(group: i32, known: &mut HashMap<i32, u64>) -> Option<u64> {
    let mut moved = 0u64;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Some(process) = Process::read(&entry.path()).filter(|p| p.group == group && !p.is_ssh) else {
            continue;
        };
        let before = known.insert(id, process.moved).unwrap_or(0);
        moved = moved.saturating_add(process.moved.saturating_sub(before));
        moved = moved.saturating_add(u64::from(process.is_busy));
    }
    (!known.is_empty()).then_some(moved)
}

struct Process {
    group: i32,
    is_ssh: bool,
    /// It computes, or waits for a disk.
    is_busy: bool,
    moved: u64,
}

impl Process {
    /// What `/proc/ID/stat` and `/proc/ID/io` say.
    fn read(folder: &Path) -> Option<Self> {
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // The name may hold anything, parentheses too.
        let (start, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let io = std::fs::read_to_string(folder.join("io")).unwrap_or_default();
        let bytes: u64 = io
            .lines()
            .filter_map(|line| line.strip_prefix("rchar: ").or_else(|| line.strip_prefix("wchar: ")))
            .filter_map(|number| number.parse::<u64>().ok())
            .sum();
        Some(Self {
            group: fields.get(2)?.parse().ok()?,
            is_ssh: start.ends_with("(ssh"),
            is_busy: matches!(*fields.first()?, "R" | "D"),
            moved: bytes.saturating_add(ticks.saturating_mul(TICK)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn outcome(script: &str, most: u64) -> Outcome {
        run(&mut shell(script), Duration::from_millis(400), most, Path::new("/")).await.unwrap()
    }

    #[tokio::test]
    async fn a_command_that_ends_gives_what_it_said() {
        let outcome = outcome("echo out; echo err >&2; exit 3", u64::MAX).await;
        let Outcome::Ended { status, output, complaints } = outcome else { panic!("{outcome:?}") };
        assert_eq!((status.code(), &output[..], &complaints[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
    }

    #[tokio::test]
    async fn silence_drops_and_floods_end_a_command_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let silent = format!("sleep 600 & echo $! > {}; wait", file.display());
        assert!(matches!(outcome(&silent, u64::MAX).await, Outcome::Silent(_)));
        let id = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        // It is dead, or on the way there.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        assert!(!stat.contains(") S "), "{stat}");
        assert!(matches!(outcome("cat /dev/zero >/dev/null", 1 << 20).await, Outcome::TooMuch(_)));
        assert!(matches!(outcome("cat /dev/zero", u64::MAX).await, Outcome::TooMuch(_)));
    }
}
