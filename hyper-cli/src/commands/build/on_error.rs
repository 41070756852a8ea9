//! `build --on-error shell`: a shell in the files of the step that failed.
//!
//! ```text
//!   standard input ─▶ a thread ─▶ pipe in a folder that the step mounts ─▶ sh -i ─▶ standard error
//! ```

use crate::failure::Failure;
use crate::json_events;
use clap::ValueEnum;
use hyper_sdk::build::OnError;
use hyper_sdk::exec::LogSink;
use hyper_sdk::private_folder::{self, TemporaryFolder};
use hyper_sdk::progress::LogStream;
use hyper_sdk::{Error, Result};
use rustix::fs::{CWD, Mode};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// Where the step has the folder with the pipe.
const TARGET: &str = "/run/hyper-shell";

/// What to do when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reaction {
    /// A shell in the files of the step, with its mounts and its environment
    Shell,
}

/// The shell of a build, and the folder of its pipe, which has to live as long as the build.
pub(super) fn shell() -> Result<(OnError, TemporaryFolder), Failure> {
    let folder = private_folder::temporary("hyper-shell-", None)?;
    // The user of the step may be anyone. Others of this machine do not come through the folder above.
    let shared = folder.path().join("shared");
    let cannot = |e| Error::io("cannot make a pipe for the shell", &shared, e);
    DirBuilder::new().mode(0o755).create(&shared).map_err(cannot)?;
    let pipe = shared.join("input");
    rustix::fs::mkfifoat(CWD, &pipe, Mode::RWXU).map_err(|e| cannot(e.into()))?;
    std::fs::set_permissions(&pipe, Permissions::from_mode(0o666)).map_err(cannot)?;
    let script = format!("exec /bin/sh -i < {TARGET}/input");
    let args = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
    let begin = move || {
        crate::terminal::message("A shell in the files of the step: `exit` or the end of the input ends it.");
        let pipe = pipe.clone();
        // Not a thread that the end of the program waits for.
        std::thread::spawn(move || pass_on(&pipe));
    };
    let on_error = OnError::new(args, Arc::new(Shown)).with_folder(shared, TARGET).before(begin);
    Ok((on_error, folder))
}

/// A command without input, whose output goes where that of this program goes.
pub(super) fn command(args: Vec<String>) -> OnError {
    OnError::new(args, Arc::new(Passed))
}

/// Passes on what a command writes.
struct Passed;

impl LogSink for Passed {
    fn log(&self, stream: LogStream, bytes: &[u8]) {
        // A reader that went away is not an error.
        let _ = match stream {
            LogStream::Stdout => io::stdout().write_all(bytes).and_then(|()| io::stdout().flush()),
            LogStream::Stderr => io::stderr().write_all(bytes),
        };
    }
}

/// Passes on standard input until its end, which ends the shell, too.
fn pass_on(pipe: &Path) {
    // Waits for the shell.
    let Ok(mut to) = File::options().write(true).open(pipe) else { return };
    let (mut input, mut buffer) = (io::stdin().lock(), [0; 4096]);
    while let Ok(count @ 1..) = input.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Shows what the shell writes.
struct Shown;

impl LogSink for Shown {
    fn log(&self, _: LogStream, bytes: &[u8]) {
        if json_events::is_on() {
            return json_events::message(&String::from_utf8_lossy(bytes));
        }
        // A terminal that went away is not an error.
        let _ = io::stderr().write_all(bytes);
    }
}
