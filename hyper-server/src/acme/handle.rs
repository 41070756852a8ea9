//! What the parts of a server share: the folder, the domains of now, and what was counted.

use super::certificate::{self, Certificate};
use super::challenge;
use super::folder::Folder;
use super::options::{self, AcmeOptions};
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::{Error, Result};
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, Semaphore};

/// How long after a line in the log about a client without an answer there is no other one.
const QUIET: Duration = Duration::from_secs(60);
/// How many files of challenges are read at once. Anybody may ask for one, and a folder that hangs must not take all threads.
const READS: usize = 8;
/// How long a client waits until its file is read.
const PATIENCE: Duration = Duration::from_secs(5);

/// A certificate by ACME. Clones share it.
#[derive(Clone)]
pub(crate) struct Acme(Arc<Shared>);

struct Shared {
    options: AcmeOptions,
    directory: String,
    folder: Folder,
    domains: RwLock<Vec<String>>,
    /// Wakes the task that asks.
    wake: Notify,
    /// Whether the task that asks runs.
    is_running: AtomicBool,
    /// When somebody wanted a try at once, by a start or a signal, in milliseconds since 1970; 0 is never.
    asked_ms: AtomicI64,
    failures: AtomicU64,
    complained: Mutex<Option<Instant>>,
    /// When a line about a slow folder was written.
    slow: Mutex<Option<Instant>>,
    reads: Arc<Semaphore>,
    /// The files of the challenges of the try that is made, which this server answers whatever its disk does.
    answers: Mutex<BTreeMap<String, String>>,
    /// The lock of that try.
    lock: Mutex<Weak<File>>,
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Acme").field(&self.0.options).finish()
    }
}

/// Milliseconds since 1970.
pub(super) fn millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The right to be the task that asks, until it is dropped.
#[derive(Debug)]
pub(super) struct Running(Acme);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.is_running.store(false, Ordering::Release);
    }
}

impl Acme {
    /// Checks the options, and makes the folder.
    ///
    /// # Errors
    /// Those of [`AcmeOptions::check`] and of [`hyper_sdk::private_folder::open`].
    pub(crate) fn open(options: AcmeOptions) -> Result<Self> {
        options.check()?;
        let (folder, warning) = Folder::open(&options.folder)?;
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        Ok(Self(Arc::new(Shared {
            directory: options::directory_url(&options.directory)?,
            domains: RwLock::new(options::domains(&options.domains)?),
            folder,
            options,
            wake: Notify::new(),
            is_running: AtomicBool::new(false),
            asked_ms: AtomicI64::new(millis()),
            failures: AtomicU64::new(0),
            complained: Mutex::new(None),
            slow: Mutex::new(None),
            reads: Arc::new(Semaphore::new(READS)),
            answers: Mutex::default(),
            lock: Mutex::new(Weak::new()),
        })))
    }

    #[cfg(feature = "acme")]
    pub(super) fn options(&self) -> &AcmeOptions {
        &self.0.options
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.0.folder
    }

    /// The URL of the directory.
    pub(super) fn directory(&self) -> &str {
        &self.0.directory
    }

    /// The domains of now, in small letters and in order.
    pub(crate) fn domains(&self) -> Vec<String> {
        self.0.domains.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the domains. A certificate for them is requested, unless there is one.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Invalid`] that names the one that is wrong: those of before stay.
    pub(crate) fn set_domains(&self, domains: &[String]) -> Result<bool> {
        let new = options::domains(domains)?;
        let mut now = self.0.domains.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = std::mem::replace(&mut *now, new.clone()) != new;
        drop(now);
        if is_other {
            self.ask_now();
        }
        Ok(is_other)
    }

    /// Lets the next try come now, as far as the limits of the directory allow.
    pub(crate) fn ask_now(&self) {
        // After what failed in this very millisecond.
        self.0.asked_ms.store(millis().saturating_add(1), Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// When somebody wanted a try at once, in milliseconds.
    pub(super) fn asked_ms(&self) -> i64 {
        self.0.asked_ms.load(Ordering::Relaxed)
    }

    /// Nobody needs a try: there is a certificate that fits. What was wanted before does not shorten the pauses of later failures.
    pub(super) fn content(&self) {
        self.0.asked_ms.store(0, Ordering::Relaxed);
    }

    /// Waits until somebody wants a try.
    pub(super) async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// The right to be the task that asks; `None` while another one is.
    pub(super) fn start_running(&self) -> Option<Running> {
        (!self.0.is_running.swap(true, Ordering::Acquire)).then(|| Running(self.clone()))
    }

    pub(super) fn count_failure(&self) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// How many tries have failed.
    pub(crate) fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Begins a try, whose lock was taken.
    pub(super) fn begin_try(&self, lock: &Arc<File>) {
        self.forget_answers();
        *self.0.lock.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(lock);
    }

    /// Answers a challenge from now on, whose file is about to be written for other servers.
    #[cfg(feature = "acme")]
    pub(super) fn remember(&self, file: &str, text: &str) {
        let mut answers = self.0.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(file.to_owned(), text.to_owned());
    }

    /// Ends the answers of a try.
    pub(super) fn forget_answers(&self) {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Does something that reads or writes files, in a thread where it may block: the folder may be on another machine that does not
    /// answer. What was begun is done also when this is dropped, and has the lock of the try until then.
    ///
    /// # Errors
    /// Those of what is done.
    pub(super) async fn at_disk<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lock = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        self.blocking(lock, act).await
    }

    /// Does something in a thread where it may block, and has the lock of a try until it is done.
    async fn blocking<T: Send + 'static>(
        &self,
        lock: Option<Arc<File>>,
        act: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let acme = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            act(&acme)
        });
        let done = done.await;
        done.unwrap_or_else(|e| Err(Error::internal("a task was interrupted").with_source(e)))
    }

    /// As [`Acme::at_disk`], for one who takes no part in the try: strangers could otherwise hand the lock on from one to the next.
    async fn for_stranger<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(None, act).await
    }

    /// A certificate with its key, as text of PEM: that for the domains of now, else the newest one of others, which is better than
    /// none; `None` when there is none at all.
    ///
    /// # Errors
    /// Those of reading, and [`hyper_sdk::ErrorKind::Invalid`] when the parts of the file do not belong together.
    pub(crate) fn read(&self) -> Result<Option<String>> {
        let folder = self.folder();
        let own = certificate::file_name(&certificate::purpose(self.directory(), &self.domains()));
        if let Some(text) = folder.read(&own)? {
            Certificate::parse(&text).map_err(|e| e.with_context("path", folder.path(&own).display()))?;
            return Ok(Some(text));
        }
        let others = folder.names(certificate::NAMES);
        let others = others.iter().filter_map(|name| folder.read(name).ok().flatten());
        let usable = others.filter_map(|text| {
            let read = Certificate::parse(&text).ok()?;
            (read.ends > SystemClock.now()).then_some((read.issued, text))
        });
        Ok(usable.max_by_key(|(issued, _)| *issued).map(|(_, text)| text))
    }

    /// The name for which a client wants the answer of the challenge tls-alpn-01, and nothing else. `None` for all other clients.
    pub(crate) fn asked(hello: &rustls::server::ClientHello<'_>) -> Option<String> {
        let is_challenge = hello.alpn().into_iter().flatten().any(|protocol| protocol == challenge::PROTOCOL);
        is_challenge.then(|| hello.server_name().unwrap_or_default().to_ascii_lowercase())
    }

    /// TLS that answers the challenge tls-alpn-01 for a name.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::NotFound`] when no server of the folder awaits a challenge of this name, and those of reading.
    pub(crate) async fn answer(&self, name: String) -> Result<Arc<ServerConfig>> {
        let unknown = || Error::new(hyper_sdk::ErrorKind::NotFound, "no challenge of this name is awaited");
        // Another server may ask for domains that this one does not have yet. What is a domain is no path.
        options::domains(std::slice::from_ref(&name)).map_err(|_| unknown())?;
        let text = self.challenge(challenge::tls_file(&name)).await?.ok_or_else(unknown)?;
        challenge::tls_config(&text)
    }

    /// The answer of the challenge http-01 for a token; `None` when it is not awaited.
    ///
    /// # Errors
    /// Those of [`Acme::challenge`].
    pub(super) async fn http_answer(&self, token: &str) -> Result<Option<String>> {
        match challenge::http_file(token) {
            Some(file) => self.challenge(file).await,
            None => Ok(None),
        }
    }

    /// The file of a challenge; `None` when it is not there. The disk is asked for those of other servers alone.
    ///
    /// # Errors
    /// [`hyper_sdk::ErrorKind::Unavailable`] when too many others are read for too long, and those of the disk.
    async fn challenge(&self, file: String) -> Result<Option<String>> {
        if let Some(own) = self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&file) {
            return Ok(Some(own.clone()));
        }
        let turn = tokio::time::timeout(PATIENCE, self.0.reads.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            if is_due(&self.0.slow) {
                tracing::warn!("challenges of ACME wait for the folder, which is slow, and get no answer");
            }
            let message = "the folder of ACME does not answer: try again later";
            return Err(Error::new(hyper_sdk::ErrorKind::Unavailable, message));
        };
        self.for_stranger(move |acme| {
            // Until the disk has answered, also when the client has gone.
            let _turn = turn;
            acme.folder().read(&file)
        })
        .await
    }

    /// Says, once in a while, that a client got no answer because there is no certificate yet.
    pub(crate) fn complain(&self) {
        if is_due(&self.0.complained) {
            tracing::warn!(
                domains = self.domains().join(" "),
                "clients cannot connect: there is no certificate yet. Lines before this one say why ACME gave none"
            );
        }
    }
}

/// Whether a line in the log may come again, as it does then.
fn is_due(last: &Mutex<Option<Instant>>) -> bool {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = last.is_none_or(|last| last.elapsed() >= QUIET);
    if is_due {
        *last = Some(Instant::now());
    }
    is_due
}

#[cfg(test)]
#[cfg(feature = "acme")]
mod tests {
    use super::*;
    use futures::future::BoxFuture;
    use std::sync::mpsc;

    fn acme(dir: &tempfile::TempDir) -> Acme {
        let options =
            AcmeOptions { accepts_terms: true, ..AcmeOptions::new(["r.example"], dir.path().join("acme")) };
        Acme::open(options).unwrap()
    }

    #[tokio::test]
    async fn a_folder_that_hangs_keeps_no_task_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme(&dir);
        let (go_on, stopped) = mpsc::channel::<()>();
        let hanging = acme.at_disk(move |_| {
            stopped.recv_timeout(Duration::from_secs(20)).map_err(|_| Error::invalid("nobody goes on"))
        });
        let others = async { go_on.send(()).unwrap() };
        let (done, ()) = tokio::join!(hanging, others);
        done.unwrap();
    }

    #[tokio::test]
    async fn strangers_do_not_keep_the_lock_of_a_try() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme(&dir);
        for (is_of_the_try, is_kept) in [(true, true), (false, false)] {
            let lock = Arc::new(File::create(dir.path().join("lock")).unwrap());
            acme.begin_try(&lock);
            let weak = Arc::downgrade(&lock);
            let (go_on, stopped) = mpsc::channel::<()>();
            let wait = move |_: &Acme| stopped.recv().map_err(|_| Error::invalid("nobody goes on"));
            let hanging: BoxFuture<'_, Result<()>> = match is_of_the_try {
                true => Box::pin(acme.at_disk(wait)),
                false => Box::pin(acme.for_stranger(wait)),
            };
            let others = async move {
                drop(lock);
                let was_kept = weak.upgrade().is_some();
                go_on.send(()).unwrap();
                was_kept
            };
            let (done, was_kept) = tokio::join!(hanging, others);
            done.unwrap();
            assert_eq!(was_kept, is_kept);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_take_all_threads_while_the_folder_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme(&dir);
        let token = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ";
        acme.folder().write(&format!("challenge-http-{token}"), "the answer").unwrap();
        let reading = acme.0.reads.clone().try_acquire_many_owned(READS as u32).unwrap();
        let begin = tokio::time::Instant::now();
        let busy = hyper_sdk::ErrorKind::Unavailable;
        assert_eq!(acme.http_answer(token).await.unwrap_err().kind(), busy);
        assert_eq!(acme.answer("r.example".to_owned()).await.unwrap_err().kind(), busy);
        assert!(begin.elapsed() >= 2 * PATIENCE, "a file that is read soon is waited for");
        // What this server has asked for itself needs no disk.
        let own = "the-token-of-this-server";
        acme.remember(&challenge::http_file(own).unwrap(), "its answer");
        let begin = tokio::time::Instant::now();
        assert_eq!(acme.http_answer(own).await.unwrap().as_deref(), Some("its answer"));
        assert_eq!(begin.elapsed(), Duration::ZERO);
        acme.forget_answers();
        drop(reading);
        assert_eq!(acme.http_answer(own).await.unwrap(), None);
        assert_eq!(acme.http_answer(token).await.unwrap().as_deref(), Some("the answer"));
        assert_eq!(acme.0.reads.available_permits(), READS);
    }

    #[tokio::test]
    async fn what_hangs_at_the_disk_keeps_the_lock_of_its_try() {
        let dir = tempfile::tempdir().unwrap();
        let acme = acme(&dir);
        let lock = Arc::new(acme.folder().try_lock().unwrap().unwrap());
        acme.begin_try(&lock);
        let (go_on, stopped) = mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let hanging = acme.clone();
        let task = tokio::spawn(async move {
            let write = hanging.at_disk(move |_| {
                let _ = begun.send(());
                stopped.recv_timeout(Duration::from_secs(20)).map_err(|_| Error::invalid("nobody goes on"))
            });
            write.await
        });
        begins.await.unwrap();
        task.abort();
        drop(lock);
        assert!(acme.folder().try_lock().unwrap().is_none(), "another server begins");
        go_on.send(()).unwrap();
        let free = async {
            while acme.folder().try_lock().unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), free).await.unwrap();
    }
}
