//! Ctrl-C, SIGTERM and SIGHUP: the first signal ends the work gracefully, the second ends the program at once.

use hyper_sdk::Result;
use hyper_server::HangUps;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A signal that ends the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The terminal went away.
    HangUp = 1,
    /// Ctrl-C.
    Interrupt = 2,
    /// SIGTERM.
    Terminate = 15,
}

impl Signal {
    /// The exit status that shells give a program that a signal ended.
    pub(crate) fn status(self) -> u8 {
        128 + self as u8
    }

    /// What happened, for messages.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::HangUp => "the terminal hung up",
            Self::Interrupt => "interrupted",
            Self::Terminate => "terminated",
        }
    }
}

/// Waits for the signals that end the program.
#[derive(Debug)]
pub(crate) struct Interrupt(watch::Receiver<Option<Signal>>);

impl Interrupt {
    /// Handles the signals in place of the system. A hang-up that is ignored stays ignored, as `nohup` wants it.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the system refuses a handler.
    pub(crate) fn listen() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_ups = HangUps::listen()?;
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let came = tokio::select! {
                    _ = interrupt.recv() => Signal::Interrupt,
                    _ = terminate.recv() => Signal::Terminate,
                    () = hang_ups.recv() => Signal::HangUp,
                };
                if sender.borrow().is_some() {
                    #[allow(clippy::exit, reason = "the user asked twice; the work may never end by itself")]
                    std::process::exit(came.status().into());
                }
                let _ = sender.send(Some(came));
            }
        });
        Ok(Self(receiver))
    }

    /// Waits for the first signal; returns at once when it has come.
    pub(crate) async fn wait(&self) -> Signal {
        let mut receiver = self.0.clone();
        let came = receiver.wait_for(Option::is_some).await.ok().and_then(|came| *came);
        match came {
            Some(signal) => signal,
            // The listener is gone, so no signal can come any more.
            None => std::future::pending().await,
        }
    }
}
