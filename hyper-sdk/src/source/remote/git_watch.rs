//! Runs git while it makes progress, with limits against servers that are silent, too slow, or send without end.
//!
//! Git itself has such limits only for HTTP. So the processes of git are monitored: how much they read, write and
//! compute, according to the kernel. Processes of `ssh` are not counted, because their keep-alive packets say nothing
//! about the server.
//!
//! ```text
//!   idle      no progress at all:                           idle, then git and its child processes are killed
//!   rate      less than 1 KiB a second, on average:         10 × idle
//!   output    the output of git:                            64 MiB, and the last 64 KiB of standard error
//!   disk      the free space of the target folder:          32 MiB, after as much was transferred
//! ```
//!
//! # Invariants
//! - No process of git outlives the future: dropping it kills the process group.

use super::disk_space;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::Instant;

/// The lowest average rate, in bytes per second.
const SLOWEST: u64 = 1024;
/// The bytes that a processor tick (a hundredth of a second) counts as.
const TICK: u64 = 10 * SLOWEST;
/// The largest standard output of git, in bytes.
const MAX_OUTPUT: usize = 64 << 20;
/// The part of standard error that is kept, in bytes.
const MAX_COMPLAINTS: usize = 64 << 10;

/// The outcome of a run of git.
#[derive(Debug)]
pub(super) enum Outcome {
    Ended {
        status: ExitStatus,
        output: Vec<u8>,
        complaints: Vec<u8>,
    },
    /// There was no progress for this time.
    Silent(Duration),
    /// The rate was too low over this time.
    Slow(Duration),
    /// The processes transferred more than the limit, in bytes.
    TooMuch(u64),
    /// The disk has no space left.
    Full,
}

/// Runs a command whose standard output and error are pipes. `most` is the number of bytes that its processes may
/// transfer, and `folder` is the folder that they write to.
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

/// A process group that is killed when this value is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The whole output; `None` when it is above the limit.
async fn whole(from: Option<impl AsyncRead + Unpin>) -> io::Result<Option<Vec<u8>>> {
    let Some(from) = from else { return Ok(Some(Vec::new())) };
    let mut all = Vec::new();
    from.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut all).await?;
    Ok((all.len() <= MAX_OUTPUT).then_some(all))
}

/// The end of the output.
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

/// Ends when the processes of a group make no progress, transfer more than `most` bytes, or fill the disk.
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
        // Without statistics of the kernel, progress cannot be measured.
        let Some(moved) = moved else { return std::future::pending().await };
        (sum, all) = (sum.saturating_add(moved), all.saturating_add(moved));
        if moved > 0 {
            last = Instant::now();
        }
        if all > most {
            return Outcome::TooMuch(most);
        }
        if moved > 0 && disk_space::is_short(folder, all) {
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

/// The progress of the processes of a group since the last call, in bytes. Blocks.
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
    /// Whether it computes, or waits for a disk.
    is_busy: bool,
    moved: u64,
}

impl Process {
    /// Reads `/proc/ID/stat` and `/proc/ID/io`.
    fn read(folder: &Path) -> Option<Self> {
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        // The name may contain any character, even parentheses.
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
    async fn a_finished_command_returns_its_output() {
        let outcome = outcome("echo out; echo err >&2; exit 3", u64::MAX).await;
        let Outcome::Ended { status, output, complaints } = outcome else { panic!("{outcome:?}") };
        assert_eq!((status.code(), &output[..], &complaints[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
    }

    #[tokio::test]
    async fn a_command_without_progress_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let silent = format!("sleep 600 & echo $! > {}; wait", file.display());
        assert!(matches!(outcome(&silent, u64::MAX).await, Outcome::Silent(_)));
        let id = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        // The process is dead or dying.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        assert!(!stat.contains(") S "), "{stat}");
        assert!(matches!(outcome("cat /dev/zero >/dev/null", 1 << 20).await, Outcome::TooMuch(_)));
        assert!(matches!(outcome("cat /dev/zero", u64::MAX).await, Outcome::TooMuch(_)));
    }
}
