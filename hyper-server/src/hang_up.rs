//! SIGHUP, the signal that a terminal sends when it is closed.

use hyper_sdk::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

const SIGHUP: u32 = 1;

/// Receives SIGHUP, from the time the value is made.
#[derive(Debug)]
pub struct HangUps(Option<Signal>);

impl HangUps {
    /// Installs a handler for the signal. When the process was started with the signal ignored, as by `nohup`, it stays
    /// ignored and is never received.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the system refuses a handler.
    pub fn listen() -> Result<Self> {
        Ok(Self(if is_ignored(SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) }))
    }

    /// Whether the process was started with the signal ignored, so that none ever comes.
    #[must_use]
    pub fn are_ignored(&self) -> bool {
        self.0.is_none()
    }

    /// Waits for the next one. Dropping the future loses none.
    pub async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Whether this process ignores a signal, which is inherited (proc_pid_status(5), `SigIgn`).
fn is_ignored(signal: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}
