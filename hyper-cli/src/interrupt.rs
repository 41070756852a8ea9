//! Ctrl-C and SIGTERM: the first ends the work in good order, the second ends the program at once.

use hyper_sdk::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells when the user wants the program to end.
#[derive(Debug)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Takes the signals over from the system's defaults.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Io`] when the system refuses a handler.
    pub(crate) fn listen() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            let mut count = 0;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                count += 1;
                if count > 1 {
                    #[allow(
                        clippy::exit,
                        reason = "the user insists; what is running may never end by itself"
                    )]
                    std::process::exit(130);
                }
                let _ = sender.send(true);
            }
        });
        Ok(Self(receiver))
    }

    /// Waits for the first signal; returns at once when it has come.
    pub(crate) async fn wait(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|interrupted| *interrupted).await.is_err() {
            // The listener is gone, so no signal can come any more.
            std::future::pending::<()>().await;
        }
    }
}
