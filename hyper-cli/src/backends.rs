//! What the commands work with, made from the global options: the local store, registries, the builder.
//!
//! ```text
//!   ROOT/          the state folder
//!     store/       images: a registry store that `hyperbuild serve` can serve
//!     logs/        every line of every build
//!     …            caches and snapshots of the builder
//! ```

use crate::app::{Format, GlobalArgs};
use crate::terminal::warn;
use clap::Args;
use hyper_sdk::build::{LocalBuilder, LocalBuilderOptions, SharedBuilder};
use hyper_sdk::client::keychain::{DockerConfig, SharedKeychain, StaticKeychain};
use hyper_sdk::client::{HostCertificates, HttpClient, Loopback, Proxies, SharedClient, read_authorities};
use hyper_sdk::progress::{Event, Progress};
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::source::ClientFactory;
use hyper_sdk::store::{DiskStore, SharedStore, find_local};
use hyper_sdk::{Error, ErrorKind, Reference, RepositoryName, Result, ResultExt as _, private_folder};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// How registries are reached.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TransportArgs {
    /// Speaks plain HTTP to registries; without it TLS, and with a registry on this machine what it speaks
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Takes any TLS certificate of a registry: whoever is on the way can read and change everything
    #[arg(long)]
    pub(crate) insecure: bool,
    /// File of certificates (PEM) that registries are trusted by besides those of the system; may be repeated
    ///
    /// Certificates of authorities, or of registries themselves. Certificates for one registry are also looked for in
    /// `HOST[:PORT]/*.crt` (and client certificates in `NAME.cert` with `NAME.key`) below the first of these folders
    /// that has such a folder: `~/.config/containers/certs.d`, `~/.config/docker/certs.d`, `/etc/containers/certs.d`,
    /// `/etc/docker/certs.d`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Vec<PathBuf>,
}

/// The state folder and the options that hold for a whole run.
#[derive(Debug)]
pub(crate) struct Session {
    root: PathBuf,
    config: Option<PathBuf>,
    /// Whether standard error is coloured.
    pub(crate) color: bool,
    /// Whether results alone are printed.
    pub(crate) quiet: bool,
    /// How results are printed.
    pub(crate) format: Format,
    /// Whether the state folder was made and closed to other users.
    opened: OnceLock<()>,
}

impl Session {
    /// Finds the folders.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when no state folder is given and there is no home to put it into.
    pub(crate) fn new(global: GlobalArgs) -> Result<Self> {
        let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
        let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|d| d.is_absolute());
        let root = match global.root {
            Some(root) => root,
            None if rustix::process::geteuid().is_root() => "/var/lib/hyper".into(),
            None => data
                .or_else(|| Some(home.as_ref()?.join(".local/share")))
                .map(|d| d.join("hyper"))
                .ok_or_else(|| {
                    Error::invalid(
                        "there is no home folder to keep images in: name a state folder with --root",
                    )
                })?,
        };
        let root =
            std::path::absolute(&root).map_err(|e| Error::io("cannot resolve the state folder", &root, e))?;
        let config = global.config.or_else(|| Some(home?.join(".docker")));
        Ok(Self {
            root,
            config,
            color: global.color.resolve(),
            quiet: global.quiet,
            format: global.format,
            opened: OnceLock::new(),
        })
    }

    /// The same session with another state folder.
    pub(crate) fn with_root(&self, root: PathBuf) -> Self {
        Self { root, config: self.config.clone(), opened: OnceLock::new(), ..*self }
    }

    /// Where the state folder is, or will be.
    pub(crate) fn place(&self) -> &Path {
        &self.root
    }

    /// The state folder, which other users cannot enter from here on. That they could before is told once.
    ///
    /// # Errors
    /// Those of [`private_folder::open`].
    pub(crate) fn root(&self) -> Result<&Path> {
        if self.opened.get().is_none() {
            if let Some(warning) = private_folder::open(&self.root).op("open the state folder")?.warning {
                warn(self.color, &warning);
            }
            let _ = self.opened.set(());
        }
        Ok(&self.root)
    }

    /// Where log files go.
    ///
    /// # Errors
    /// Those of [`Session::root`].
    pub(crate) fn logs(&self) -> Result<PathBuf> {
        let logs = self.root()?.join("logs");
        // An older version may have left it open, and somebody may stand in it. A link leads to where its user wants it.
        if logs.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
            private_folder::open(&logs).op("open the folder of logs")?;
        }
        Ok(logs)
    }

    /// Where a context on standard input is unpacked, when there is one.
    ///
    /// # Errors
    /// Those of [`Session::root`].
    pub(crate) fn scratch(&self, is_used: bool) -> Result<PathBuf> {
        let root = if is_used { self.root()? } else { &self.root };
        Ok(root.join("scratch"))
    }

    /// The local store.
    pub(crate) async fn store(&self) -> Result<SharedStore> {
        Ok(Arc::new(DiskStore::open(self.root()?.join("store")).await?))
    }

    /// The file of credentials.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no home folder to keep it in.
    pub(crate) fn credentials(&self) -> Result<DockerConfig> {
        let folder = self.config.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "there is no home folder for credentials: name a folder with --config",
            )
        })?;
        let helpers = std::env::var_os("PATH").unwrap_or_default();
        Ok(DockerConfig::new(folder.join("config.json")).helper_folders(std::env::split_paths(&helpers)))
    }

    /// Where credentials come from.
    pub(crate) fn keychain(&self) -> SharedKeychain {
        match self.credentials() {
            Ok(file) => Arc::new(file),
            Err(_) => Arc::new(StaticKeychain::anonymous()),
        }
    }

    /// A client of a registry.
    pub(crate) fn client(&self, host: &RegistryHost, transport: &TransportArgs) -> Result<SharedClient> {
        Ok(Arc::new(self.client_with(host, transport, self.keychain())?))
    }

    /// A client of a registry with credentials from elsewhere.
    pub(crate) fn client_with(
        &self,
        host: &RegistryHost,
        transport: &TransportArgs,
        keychain: SharedKeychain,
    ) -> Result<HttpClient> {
        client(host, transport, keychain)
    }

    /// The builder over the state folder and its store.
    pub(crate) async fn builder(&self, transport: TransportArgs) -> Result<SharedBuilder> {
        Ok(Arc::new(self.local_builder(transport).await?))
    }

    /// The builder of this machine, with what no other builder has.
    pub(crate) async fn local_builder(&self, transport: TransportArgs) -> Result<LocalBuilder> {
        let (keychain, other) = (self.keychain(), self.keychain());
        let (usual, insecure) = (transport.clone(), transport);
        let clients = ClientFactory::new(move |host: &RegistryHost| {
            Ok(Arc::new(client(host, &usual, keychain.clone())?) as SharedClient)
        })
        .insecure(move |host: &RegistryHost, plain_http| {
            let transport = TransportArgs { plain_http, insecure: !plain_http, ..insecure.clone() };
            Ok(Arc::new(client(host, &transport, other.clone())?) as SharedClient)
        });
        let mut options = LocalBuilderOptions::new(self.root()?, self.store().await?, clients);
        options.proxy = Some(proxies().into());
        LocalBuilder::open(options)
    }
}

fn client(host: &RegistryHost, transport: &TransportArgs, keychain: SharedKeychain) -> Result<HttpClient> {
    let mut builder = HttpClient::builder(host.clone())
        .keychain(keychain)
        .plain_http(transport.plain_http)
        .insecure_tls(transport.insecure)
        .proxies(proxies())
        .progress(Progress::new(tell));
    let certificates = HostCertificates::find(certificate_folders(), host)?;
    for file in &transport.ca_file {
        builder = builder.extra_roots(read_authorities(file)?);
    }
    for pem in certificates.roots {
        builder = builder.extra_roots(pem);
    }
    if let Some(identity) = certificates.identity {
        builder = builder.client_certificate(identity);
    }
    builder.build()
}

/// The proxies of the environment.
fn proxies() -> Proxies {
    Proxies::from_variables(|name| std::env::var(name).ok())
}

/// Where certificates for registries are looked for.
fn certificate_folders() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let own =
        home.iter().flat_map(|home| ["containers", "docker"].map(|tool| home.join(".config").join(tool)));
    let all = own.chain(["/etc/containers", "/etc/docker"].map(PathBuf::from));
    all.map(|folder| folder.join("certs.d")).collect()
}

/// Tells the warnings of work that shows no progress.
fn tell(event: Event) {
    if let Event::Warning { message, .. } = event {
        warn(false, &message);
    }
}

/// An image by its name, where it is to be found.
#[derive(Debug)]
pub(crate) struct Located {
    /// Who has it.
    pub(crate) client: SharedClient,
    /// Under which repository.
    pub(crate) repository: RepositoryName,
    /// The local store, when it is there.
    pub(crate) store: Option<SharedStore>,
}

impl Located {
    /// The image in the local store.
    pub(crate) async fn local(store: SharedStore, reference: &Reference) -> Result<Self> {
        let repository = find_local(&*store, reference).await?;
        Ok(Self { client: Arc::new(Loopback::new(store.clone())), repository, store: Some(store) })
    }
}
