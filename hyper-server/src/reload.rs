//! What SIGHUP makes a server read again: the level of the log, the quotas, the webhooks, the policy, the keys of tokens, the files of
//! TLS, and the domains of ACME.
//!
//! Each is read for itself: what cannot be used stays as it was, and the log says why. A signal ends no server.

use crate::auth::{PolicyFile, TokenKeys};
use crate::config::Config;
use crate::log_level::LogLevel;
use crate::policy_command::{self, Known};
use crate::quota_config;
use crate::registry::Registry;
use crate::reloads::Files;
use crate::tls::Tls;
use crate::webhook_config;
use futures::{Stream, StreamExt as _};
use hyper_sdk::{Digest, Result};
use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// What a server can read again.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) file: Option<ConfigFile>,
    pub(crate) registry: Registry,
    pub(crate) policy: Option<PolicyFile>,
    /// What is known of those who log in, for the warnings about a policy.
    pub(crate) known: Known,
    pub(crate) token_keys: Option<TokenKeys>,
    pub(crate) tls: Option<Tls>,
}

/// The configuration file, of which the level of the log, the quotas, the webhooks, the keys of tokens and the domains of ACME alone change while the server runs.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// The flags over what is read, with the checks of a start.
    over: Over,
    level: LogLevel,
    /// What the server began with, in the form of [`fingerprint`].
    began_with: String,
}

/// Puts the flags of the command line over a configuration, and checks it.
struct Over(Box<dyn Fn(Config) -> Result<Config> + Send + Sync>);

impl fmt::Debug for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Over")
    }
}

impl Reload {
    /// Reads the files again, and writes the outcome to the log. Blocks for as long as the files take.
    pub(crate) fn run(&self) {
        let others = self.policy.is_some() || self.token_keys.is_some() || self.tls.is_some();
        if self.file.is_none() && !others {
            tracing::info!("SIGHUP: there is no file to read again");
            return;
        }
        let reloads = self.registry.reloads();
        // First: a right that was taken away must not stay for longer than it has to.
        if let Some(policy) = &self.policy {
            reloads.note(Files::Policy, policy_command::reload(policy, self.known));
        }
        match (&self.file, self.token_keys.as_ref()) {
            // The list of the keys is in the file.
            (Some(file), keys) => self.read_configuration(file, keys),
            (None, Some(keys)) => reloads.note(Files::TokenKeys, log_keys(keys, keys.reload())),
            (None, None) => {}
        }
        // Last: the folder of ACME may be a shared one that hangs, and a key that was taken away must not stay for that.
        if let Some(tls) = &self.tls {
            // Somebody has mended what was wrong, perhaps.
            tls.ask_acme_now();
            tls.reload_and_log();
        }
    }

    fn read_configuration(&self, file: &ConfigFile, keys: Option<&TokenKeys>) {
        let read = file.read_again(&self.registry, keys, self.tls.as_ref());
        self.registry.reloads().note(Files::Configuration, *read.as_ref().unwrap_or(&false));
        if let Err(error) = read {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the configuration cannot be read again: the level of the log, the quotas, the webhooks, the keys of tokens and the domains of ACME stay");
        }
    }
}

/// Reads files again each time that somebody asks for it, until the server is to end. A file system may hang: it keeps no server from
/// ending, so the files are read in a thread that nobody waits for then. Whoever asks meanwhile is heard when it has read them.
pub(crate) async fn until(
    ended: impl Future<Output = ()>,
    asked: impl Stream<Item = ()>,
    read: impl Fn() + Clone + Send + 'static,
) {
    let (mut ended, mut asked, mut reading) = (pin!(ended), pin!(asked), None);
    loop {
        tokio::select! {
            () = &mut ended => return,
            Some(()) = asked.next(), if reading.is_none() => reading = in_thread(read.clone()),
            () = done(&mut reading) => reading = None,
        }
    }
}

/// Runs a function in a thread, which the end of the program does not wait for.
fn in_thread(read: impl FnOnce() + Send + 'static) -> Option<oneshot::Receiver<()>> {
    let (done, is_done) = oneshot::channel();
    let runtime = Handle::current();
    let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
        let _runtime = runtime.enter();
        read();
        let _ = done.send(());
    });
    match thread {
        Ok(_) => Some(is_done),
        Err(error) => {
            tracing::error!(%error, "SIGHUP: no thread can be started to read the files again");
            None
        }
    }
}

async fn done(reading: &mut Option<oneshot::Receiver<()>>) {
    match reading {
        // An error is a panic there, which is in the log.
        Some(reading) => drop(reading.await),
        None => std::future::pending().await,
    }
}

/// Says which keys sign and verify tokens from now on. Returns whether the new ones do.
fn log_keys(keys: &TokenKeys, outcome: Result<()>) -> bool {
    match &outcome {
        Ok(()) => {
            tracing::info!(
                keys = keys.ids().join(" "),
                "the keys of tokens were read again: the first signs"
            );
        }
        Err(error) => tracing::error!(%error, "the keys of tokens cannot be used: the former ones stay"),
    }
    outcome.is_ok()
}

impl ConfigFile {
    /// The file at `path`, of which the server began with this configuration.
    pub(crate) fn new(
        path: PathBuf,
        over: impl Fn(Config) -> Result<Config> + Send + Sync + 'static,
        level: LogLevel,
        began_with: &Config,
    ) -> Self {
        Self { path, over: Over(Box::new(over)), level, began_with: fingerprint(began_with) }
    }

    /// Reads the file again. Returns whether all of it is in use.
    fn read_again(&self, registry: &Registry, keys: Option<&TokenKeys>, tls: Option<&Tls>) -> Result<bool> {
        let config = (self.over.0)(Config::load_again(&self.path)?)?;
        if fingerprint(&config) != self.began_with {
            tracing::warn!(
                path = %self.path.display(),
                "the configuration has changes that need a restart: only `level` in `[log]`, `keys` in `[auth.token]`, `domains` in `[tls.acme]`, `[[quota]]` and `[[webhook]]` are read again"
            );
        }
        let quotas = quota_config::rules(&config.quota)?;
        if let Some(keys) = keys.filter(|_| !config.auth.token.keys.is_empty()) {
            let is_usable = log_keys(keys, keys.replace(&config.auth.token.keys));
            registry.reloads().note(Files::TokenKeys, is_usable);
        }
        self.level.set(&config.log.level)?;
        // Those that are the same go on.
        let webhooks = webhook_config::webhooks(&config.webhook).and_then(|all| registry.set_webhooks(all));
        let is_usable = webhooks.is_ok();
        if let Err(error) = webhooks {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the webhooks cannot be used: the former ones stay");
        }
        if registry.quotas() != quotas {
            registry.set_quotas(quotas)?;
            tracing::info!("the quotas were read again");
        }
        let acme = tls.filter(|_| config.tls.acme.is_set());
        if acme.map_or(Ok(false), |tls| tls.set_acme_domains(&config.tls.acme.domains))? {
            tracing::info!("the domains of ACME were read again");
        }
        Ok(is_usable)
    }
}

/// All keys but the level of the log, the quotas, the webhooks and which keys sign tokens and the domains of ACME, to see whether one has changed. A database URL can have a password, so it is a hash.
fn fingerprint(config: &Config) -> String {
    let mut config = config.clone();
    config.log.level.clear();
    config.quota.clear();
    config.webhook.clear();
    config.auth.token.keys.truncate(1);
    config.auth.token.keys.iter_mut().for_each(|path| path.clear());
    config.tls.acme.domains.truncate(1);
    config.tls.acme.domains.iter_mut().for_each(String::clear);
    let database = config.database.url.as_ref().map(|url| url.expose());
    Digest::sha256(format!("{database:?} {config:?}")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_that_hang_keep_no_server_from_ending() {
        let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel::<()>();
        let (end, ended) = oneshot::channel::<()>();
        let (told, reads) = mpsc::channel();
        let (go_on, stopped) = mpsc::channel::<()>();
        let stopped = Arc::new(Mutex::new(stopped));
        let read = move || {
            told.send(()).unwrap();
            let _ = stopped.lock().unwrap().recv();
        };
        let hear = futures::stream::poll_fn(move |cx| asked.poll_recv(cx));
        let server = tokio::spawn(async move { until(async { drop(ended.await) }, hear, read).await });
        let is_read = || {
            let begin = std::time::Instant::now();
            while begin.elapsed() < Duration::from_secs(5) {
                if reads.try_recv().is_ok() {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        };
        for _ in 0..3 {
            ask.send(()).unwrap();
        }
        for _ in 0..3 {
            assert!(tokio::task::block_in_place(is_read), "it is not read again");
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(reads.try_recv().is_err(), "it is read twice at once");
            go_on.send(()).unwrap();
        }
        ask.send(()).unwrap();
        assert!(tokio::task::block_in_place(is_read));
        end.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
    }

    #[test]
    #[cfg(feature = "acme")]
    fn a_folder_of_acme_that_hangs_keeps_no_key_of_tokens_in_use() {
        use crate::auth::{TokenAlgorithm, new_token_key};
        use hyper_sdk::store::MemoryStore;
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        let write = || {
            let (pem, id) = new_token_key(TokenAlgorithm::Es256).unwrap();
            std::fs::write(&key, pem.expose()).unwrap();
            id
        };
        write();
        let keys = TokenKeys::open(&[&key]).unwrap();
        let acme = crate::AcmeOptions::new(["r.example"], dir.path().join("acme"));
        let acme = crate::AcmeOptions { accepts_terms: true, ..acme };
        let tls = Tls::acme(crate::TlsOptions::default(), acme).unwrap();
        let store = Arc::new(MemoryStore::default());
        let reload = Reload {
            file: None,
            registry: Registry::new(store, crate::RegistryOptions::default()).unwrap(),
            policy: None,
            known: Known { users: false, claims: false, groups: false, strangers: false },
            token_keys: Some(keys.clone()),
            tls: Some(tls.clone()),
        };
        let new = write();
        // As a look at the folder that does not end.
        let looking = tls.hold();
        let reading = std::thread::spawn(move || reload.run());
        let begin = std::time::Instant::now();
        while keys.ids() != [new.as_str()] {
            assert!(begin.elapsed() < Duration::from_secs(20), "the former key stays");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(looking);
        reading.join().unwrap();
    }

    #[test]
    fn a_change_of_any_key_but_those_that_are_read_again_is_seen() {
        let of = |text: &str| fingerprint(&Config::parse(text).unwrap());
        let database = |host: &str| format!("[database]\nurl = \"postgres://a:secret@{host}/b\"\n");
        assert_ne!(of(&database("one")), of(&database("two")));
        assert_ne!(of("data = \"a\""), of("data = \"b\""));
        assert_ne!(of(""), of("sparse = true"));
        let keys = |list: &str| of(&format!("[auth.token]\nkeys = [{list}]"));
        assert_eq!(keys("\"a\""), keys("\"b\", \"a\""));
        assert_ne!(keys("\"a\""), keys(""));
        let acme =
            |list: &str| of(&format!("[tls.acme]\nfolder = \"f\"\naccept-terms = true\ndomains = [{list}]"));
        assert_eq!(acme("\"a\""), acme("\"b\", \"a\""));
        assert_ne!(acme("\"a\""), of(""));
        assert_eq!(of(""), of("[[webhook]]\nname = \"a\"\nurl = \"http://a\""));
        assert_eq!(of(""), of("[[quota]]\nnamespace = \"a\"\ntags = 1"));
        assert_eq!(of("[log]\nlevel = \"warn\""), of("[log]\nlevel = \"debug\""));
    }
}
