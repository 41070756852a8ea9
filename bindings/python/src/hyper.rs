//! The classes `Hyper` and `AsyncHyper`: one set of operations over a state folder, waited for in two ways.
//!
//! ```text
//!   ROOT/store/   images     ROOT/…   caches and snapshots of the builder, as for the command line
//! ```
//! The sandbox's helper is the same Python, started anew without site packages; it loads this very module by its file
//! and never returns to Python code.

use crate::arguments::{Several, Table};
use crate::environment::{Environment, open_private};
use crate::failure::exception;
use crate::images;
use crate::operation::{Operation, Outcome, run_async, run_sync};
use crate::output::OutputArgument;
use crate::request::{BuildArguments, ContextArgument, EpochArgument, SecretArgument, platform};
use hyper_sdk::build::{Builder as _, LocalBuilder, LocalBuilderOptions};
use hyper_sdk::client::keychain::{Credentials, DockerConfig, KeychainChain, SharedKeychain, StaticKeychain};
use hyper_sdk::client::{
    HostCertificates, HttpClient, LocalImage, LocalTarget, Loopback, Platforms, Proxies, PullOptions,
    PushOptions, RemoteImage, SharedClient, pull, push, read_authorities,
};
use hyper_sdk::exec::HelperCommand;
use hyper_sdk::oci::Descriptor;
use hyper_sdk::platform::Platform;
use hyper_sdk::reference::RegistryHost;
use hyper_sdk::source::ClientFactory;
use hyper_sdk::store::{DiskStore, SharedStore, find_local};
use hyper_sdk::{Error, Reference, Result};
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// What the helper's Python runs: it needs nothing of the package but the native module.
const HELPER: &str = "import sys; sys.path.append(sys.argv[1]); import _native; _native._exec_helper()";

/// A state folder and how registries are reached.
pub(crate) struct Session {
    root: PathBuf,
    pub(crate) clients: ClientFactory,
    /// The proxies of web addresses in ADD and contexts.
    proxies: Proxies,
    /// The Python to start the helper with and the folder of this module; `None` when it cannot be known.
    helper: Option<HelperCommand>,
    store: OnceCell<SharedStore>,
    builder: OnceCell<LocalBuilder>,
}

/// The arguments of the constructors.
struct Options {
    root: Option<PathBuf>,
    docker_config: Option<PathBuf>,
    credentials: Table<(String, String)>,
    plain_http: bool,
    insecure_tls: bool,
    ca_file: Option<Several<PathBuf>>,
}

impl Session {
    fn open(py: Python<'_>, options: Options) -> PyResult<Arc<Self>> {
        let environment = Environment::read(py)?;
        let helper = helper(py)?;
        Self::with(environment, helper, options).map(Arc::new).map_err(|e| exception(&e))
    }

    fn with(environment: Environment, helper: Option<HelperCommand>, options: Options) -> Result<Self> {
        let root = options.root.map_or_else(|| environment.root(), Ok)?;
        let root =
            std::path::absolute(&root).map_err(|e| Error::io("cannot resolve the state folder", &root, e))?;
        let mut given = StaticKeychain::anonymous();
        for (host, (user, password)) in options.credentials.0 {
            given = given.with(RegistryHost::from_address(&host)?, Credentials::basic(user, password));
        }
        let mut links: Vec<SharedKeychain> = vec![Arc::new(given)];
        if let Some(folder) = options.docker_config.or_else(|| environment.docker_config()) {
            let file = DockerConfig::new(folder.join("config.json")).helper_folders(environment.path());
            links.push(Arc::new(file));
        }
        let keychain: SharedKeychain = Arc::new(KeychainChain::new(links));
        let files = options.ca_file.unwrap_or_default().0;
        let authorities = files.iter().map(|file| read_authorities(file)).collect::<Result<Vec<_>>>()?;
        let proxies = environment.proxies();
        let (plain_http, insecure_tls) = (options.plain_http, options.insecure_tls);
        let client = move |host: &RegistryHost, plain_http: bool, insecure_tls: bool| {
            let mut client = HttpClient::builder(host.clone())
                .keychain(keychain.clone())
                .plain_http(plain_http)
                .insecure_tls(insecure_tls)
                .proxies(environment.proxies());
            let certificates = HostCertificates::find(environment.certificate_folders(), host)?;
            for pem in authorities.iter().cloned().chain(certificates.roots) {
                client = client.extra_roots(pem);
            }
            if let Some(identity) = certificates.identity {
                client = client.client_certificate(identity);
            }
            Ok(Arc::new(client.build()?) as SharedClient)
        };
        let client = Arc::new(client);
        let other = Arc::clone(&client);
        let clients = ClientFactory::new(move |host: &RegistryHost| client(host, plain_http, insecure_tls))
            .insecure(move |host: &RegistryHost, plain_http| other(host, plain_http, !plain_http));
        Ok(Self { root, clients, proxies, helper, store: OnceCell::new(), builder: OnceCell::new() })
    }

    pub(crate) async fn store(&self) -> Result<&SharedStore> {
        self.store
            .get_or_try_init(|| async {
                open_private(&self.root)?;
                Ok(Arc::new(DiskStore::open(self.root.join("store")).await?) as SharedStore)
            })
            .await
    }

    async fn builder(&self) -> Result<&LocalBuilder> {
        self.builder
            .get_or_try_init(|| async {
                let helper = self.helper.clone().ok_or_else(|| {
                    Error::unsupported("building in a program that embeds Python is not supported: sys.executable is not known")
                })?;
                let store = self.store().await?.clone();
                let mut options = LocalBuilderOptions::new(&self.root, store, self.clients.clone());
                options.helper = helper;
                options.proxy = Some(self.proxies.clone().into());
                LocalBuilder::open(options)
            })
            .await
    }

    fn build(self: &Arc<Self>, arguments: BuildArguments, progress: Option<Py<PyAny>>) -> Operation {
        let session = Arc::clone(self);
        Operation::with_progress(progress, |progress| async move {
            let request = arguments.request()?;
            let output = session.builder().await?.build(request, &progress).await?;
            let made = json!({
                "digest": output.image.map(|image| image.digest),
                "config_digest": output.config,
                "tags": output.tags,
                "steps": serde_json::to_value(output.steps)
                    .map_err(|e| Error::internal("steps are not plain data").with_source(e))?,
                "epoch": output.epoch,
            });
            Ok(Outcome::Made("BuildResult", made))
        })
    }

    fn push(
        self: &Arc<Self>,
        reference: String,
        to: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let session = Arc::clone(self);
        Operation::with_progress(progress, |progress| async move {
            let reference = Reference::parse(&reference)?;
            let target = to.map_or_else(|| Ok(reference.clone()), |to| Reference::parse(&to))?;
            let client = session.clients.client(target.host())?;
            let options = PushOptions { progress, ..PushOptions::default() };
            let image = LocalImage::find(session.store().await?, &reference).await?;
            let pushed = push(&image, &RemoteImage::named(&client, &target), &options).await?;
            Ok(transferred(&target, &pushed))
        })
    }

    fn pull(
        self: &Arc<Self>,
        reference: String,
        wanted: Option<String>,
        all_platforms: bool,
        progress: Option<Py<PyAny>>,
    ) -> Operation {
        let session = Arc::clone(self);
        Operation::with_progress(progress, move |progress| async move {
            let reference = Reference::parse(&reference)?;
            let platforms = match (all_platforms, wanted) {
                (true, Some(_)) => {
                    return Err(Error::invalid("`platform` and `all_platforms` exclude each other"));
                }
                (true, None) => Platforms::All,
                (false, Some(wanted)) => Platforms::One(platform(&wanted)?),
                (false, None) => Platforms::One(Platform::host()),
            };
            let client = session.clients.client(reference.host())?;
            let options = PullOptions { platforms, progress, ..PullOptions::default() };
            let to = LocalTarget::named(session.store().await?, &reference)?;
            let pulled = pull(&RemoteImage::named(&client, &reference), &to, &options).await?;
            Ok(transferred(&reference, &pulled))
        })
    }

    fn images(self: &Arc<Self>) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move { Ok(Outcome::Made("Image", images::list(session.store().await?).await?)) })
    }

    fn inspect(self: &Arc<Self>, reference: String, wanted: Option<String>, remote: bool) -> Operation {
        let session = Arc::clone(self);
        Operation::new(async move {
            let reference = Reference::parse(&reference)?;
            let wanted = wanted.as_deref().map(platform).transpose()?;
            let (client, repository) = if remote {
                (session.clients.client(reference.host())?, reference.repository().clone())
            } else {
                let store = session.store().await?;
                let client: SharedClient = Arc::new(Loopback::new(store.clone()));
                (client, find_local(&**store, &reference).await?)
            };
            let name = reference.to_string();
            let manifest = reference.manifest();
            let details = images::inspect(&client, &repository, &manifest, wanted.as_ref(), name).await?;
            Ok(Outcome::Made("ImageDetails", details))
        })
    }
}

pub(crate) fn transferred(reference: &Reference, descriptor: &Descriptor) -> Outcome {
    let made = json!({
        "reference": reference.to_string(),
        "digest": descriptor.digest,
        "media_type": descriptor.media_type,
        "size": descriptor.size,
        "platform": descriptor.platform.as_ref().map_or(Value::Null, |p| p.to_string().into()),
    });
    Outcome::Made("Transferred", made)
}

/// How to start this module's helper.
fn helper(py: Python<'_>) -> PyResult<Option<HelperCommand>> {
    let program: Option<PathBuf> = py.import("sys")?.getattr("executable")?.extract()?;
    let module: PathBuf = py.import("hyper_sdk._native")?.getattr("__file__")?.extract()?;
    let (Some(program), Some(folder)) = (program.filter(|p| p.is_absolute()), module.parent()) else {
        return Ok(None);
    };
    // Isolated (-I), without site (-S) and without writing byte code (-B): quick, and nothing of the caller's
    // environment decides what runs.
    let mut args: Vec<std::ffi::OsString> = ["-I", "-S", "-B", "-c", HELPER].map(Into::into).into();
    args.push(folder.into());
    Ok(Some(HelperCommand { program, args }))
}

/// Writes the methods of one class. The two differ in how they wait, and in nothing else.
macro_rules! methods {
    ($class:ident, $run:ident) => {
        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (root=None, *, docker_config=None, credentials=Table::default(), plain_http=false, insecure_tls=false, ca_file=None))]
            fn new(
                py: Python<'_>,
                root: Option<PathBuf>,
                docker_config: Option<PathBuf>,
                credentials: Table<(String, String)>,
                plain_http: bool,
                insecure_tls: bool,
                ca_file: Option<Several<PathBuf>>,
            ) -> PyResult<Self> {
                let options = Options { root, docker_config, credentials, plain_http, insecure_tls, ca_file };
                Session::open(py, options).map(Self)
            }

            /// The state folder.
            #[getter]
            fn root(&self) -> PathBuf {
                self.0.root.clone()
            }

            /// Builds an image from a Dockerfile and keeps it in the local store, or exports it to `outputs`.
            #[pyo3(signature = (
                context=None, *, file=None, dockerfile=None, tags=Several::default(), build_args=Table::default(),
                labels=Table::default(), annotations=Table::default(), build_contexts=Table::default(),
                secrets=Table::default(), ssh=Table::default(), target=None, platform=None, outputs=None, no_cache=false, pull=false,
                network=None, extra_hosts=Table::default(), allow_insecure=false,
                allow_host_network=false, allow_devices=Several::default(), source_date_epoch=None, progress=None
            ))]
            #[allow(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
            fn build<'py>(
                &self,
                py: Python<'py>,
                context: Option<PathBuf>,
                file: Option<PathBuf>,
                dockerfile: Option<String>,
                tags: Several<String>,
                build_args: Table<String>,
                labels: Table<String>,
                annotations: Table<String>,
                build_contexts: Table<ContextArgument>,
                secrets: Table<SecretArgument>,
                ssh: Table<PathBuf>,
                target: Option<String>,
                platform: Option<String>,
                outputs: Option<Several<OutputArgument>>,
                no_cache: bool,
                pull: bool,
                network: Option<String>,
                extra_hosts: Table<String>,
                allow_insecure: bool,
                allow_host_network: bool,
                allow_devices: Several<String>,
                source_date_epoch: Option<EpochArgument>,
                progress: Option<Py<PyAny>>,
            ) -> PyResult<Bound<'py, PyAny>> {
                let arguments = BuildArguments {
                    context,
                    file,
                    dockerfile,
                    tags,
                    build_args,
                    labels,
                    annotations,
                    build_contexts,
                    secrets,
                    ssh,
                    target,
                    platform,
                    outputs,
                    no_cache,
                    pull,
                    network: network.unwrap_or_else(|| "host".to_owned()),
                    extra_hosts,
                    allow_insecure,
                    allow_host_network,
                    allow_devices,
                    source_date_epoch,
                };
                $run(py, self.0.build(arguments, progress))
            }

            /// Pushes an image of the local store to the registry of its name, or of the name `to`.
            #[pyo3(signature = (reference, *, to=None, progress=None))]
            fn push<'py>(
                &self,
                py: Python<'py>,
                reference: String,
                to: Option<String>,
                progress: Option<Py<PyAny>>,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.push(reference, to, progress))
            }

            /// Pulls an image from its registry into the local store: for one platform, this machine's unless
            /// another is named, or for all.
            #[pyo3(signature = (reference, *, platform=None, all_platforms=false, progress=None))]
            fn pull<'py>(
                &self,
                py: Python<'py>,
                reference: String,
                platform: Option<String>,
                all_platforms: bool,
                progress: Option<Py<PyAny>>,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.pull(reference, platform, all_platforms, progress))
            }

            /// Lists the images of the local store.
            fn images<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.images())
            }

            /// Gives manifest and config of an image, from the local store or, with `remote`, from its registry.
            #[pyo3(signature = (reference, *, platform=None, remote=false))]
            fn inspect<'py>(
                &self,
                py: Python<'py>,
                reference: String,
                platform: Option<String>,
                remote: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.inspect(reference, platform, remote))
            }

            /// Gives an image of the local store one more name.
            fn tag<'py>(
                &self,
                py: Python<'py>,
                reference: String,
                name: String,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.tag(reference, name))
            }

            /// Removes a name from the local store; a name with a digest removes the image and all of its tags there.
            fn remove<'py>(&self, py: Python<'py>, reference: String) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.remove(reference))
            }

            /// Tells whether an image is in the local store or, with `remote`, in its registry.
            #[pyo3(signature = (reference, *, remote=false))]
            fn exists<'py>(
                &self,
                py: Python<'py>,
                reference: String,
                remote: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.exists(reference, remote))
            }

            /// Copies an image, or an index with all of its images, from one registry to another without storing it.
            #[pyo3(signature = (source, target, *, referrers=false, progress=None))]
            fn copy<'py>(
                &self,
                py: Python<'py>,
                source: String,
                target: String,
                referrers: bool,
                progress: Option<Py<PyAny>>,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.copy(source, target, referrers, progress))
            }

            /// Lists the tags of a repository in the local store or, with `remote`, in its registry.
            #[pyo3(signature = (repository, *, remote=false))]
            fn list_tags<'py>(
                &self,
                py: Python<'py>,
                repository: String,
                remote: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.list_tags(repository, remote))
            }

            /// Lists the descriptors of what refers to an image: signatures, bills of material.
            #[pyo3(signature = (reference, *, artifact_type=None, remote=false))]
            fn referrers<'py>(
                &self,
                py: Python<'py>,
                reference: String,
                artifact_type: Option<String>,
                remote: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.referrers(reference, artifact_type, remote))
            }

            /// Gives the bytes of a manifest, by tag or by digest, exactly as they are stored.
            #[pyo3(signature = (reference, *, remote=false))]
            fn get_manifest<'py>(
                &self,
                py: Python<'py>,
                reference: String,
                remote: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.get_manifest(reference, remote))
            }

            /// Gives the bytes of a blob of a repository. A blob that is larger than `max_size` bytes is refused.
            #[pyo3(signature = (repository, digest, *, max_size=67_108_864, remote=false))]
            fn get_blob<'py>(
                &self,
                py: Python<'py>,
                repository: String,
                digest: String,
                max_size: u64,
                remote: bool,
            ) -> PyResult<Bound<'py, PyAny>> {
                $run(py, self.0.get_blob(repository, digest, max_size, remote))
            }

            fn __repr__(&self) -> String {
                format!("{}(root='{}')", stringify!($class), self.0.root.display())
            }
        }
    };
}

/// Builds, pushes and pulls images. Every method blocks until it is done; Ctrl-C cancels.
#[pyclass(frozen, module = "hyper_sdk")]
pub(crate) struct Hyper(Arc<Session>);

/// Builds, pushes and pulls images. Every method returns a coroutine; cancelling it cancels the work.
#[pyclass(frozen, module = "hyper_sdk")]
pub(crate) struct AsyncHyper(Arc<Session>);

methods!(Hyper, run_sync);
methods!(AsyncHyper, run_async);
