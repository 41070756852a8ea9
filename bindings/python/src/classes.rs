//! The classes `Hyper` and `AsyncHyper`: one list of methods, whose operations are waited for in two ways.

use crate::archive::{Destination, Source};
use crate::arguments::{Several, Table};
use crate::artifact::{ArtifactArguments, FileArgument};
use crate::build::Question;
use crate::contexts::ContextArgument;
use crate::operation::{run_async, run_sync};
use crate::output::OutputArgument;
use crate::registry::Registry;
use crate::request::{BuildArguments, DockerfileArguments, EpochArgument, GraphArgument, SecretArgument};
use crate::session::{Options, Session};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

/// Builds, pushes and pulls images. Every method blocks until it is done; Ctrl-C cancels.
#[pyclass(frozen, module = "hyper_sdk")]
pub(crate) struct Hyper(Arc<Session>);

/// Builds, pushes and pulls images. Every method returns a coroutine; cancelling it cancels the work.
#[pyclass(frozen, module = "hyper_sdk")]
pub(crate) struct AsyncHyper(Arc<Session>);

/// Writes the methods of both classes: `fn NAME [SIGNATURE] (PARAMETERS) => OPERATION(ARGUMENTS);`
macro_rules! both {
    ($methods:tt) => {
        class!(Hyper, run_sync, $methods);
        class!(AsyncHyper, run_async, $methods);
    };
}

macro_rules! class {
    ($class:ident, $run:ident, { $(
        $(#[$doc:meta])*
        fn $name:ident [$($signature:tt)*] ($($parameters:tt)*) => $operation:ident ($($arguments:tt)*);
    )* }) => {
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
                self.0.sdk.path().to_owned()
            }

            /// A registry over the images of the local store. It runs between `start` and `stop`, or inside `with` and
            /// `async with`.
            #[pyo3(signature = (listen="127.0.0.1:0".to_owned(), *, read_only=false, htpasswd=None))]
            fn serve(&self, listen: String, read_only: bool, htpasswd: Option<PathBuf>) -> Registry {
                Registry::of_session(&self.0, listen, read_only, htpasswd)
            }

            fn __repr__(&self) -> String {
                format!("{}(root='{}')", stringify!($class), self.0.sdk.path().display())
            }

            $(
                $(#[$doc])*
                #[pyo3(signature = ($($signature)*))]
                #[allow(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
                fn $name<'py>(&self, py: Python<'py>, $($parameters)*) -> PyResult<Bound<'py, PyAny>> {
                    $run(py, self.0.$operation($($arguments)*))
                }
            )*
        }
    };
}

both!({
    /// Builds an image from a Dockerfile or a graph and keeps it in the local store, or exports it to `outputs`.
    fn build[
        context=None, *, file=None, dockerfile=None, graph=None, tags=Several::default(),
        build_args=Table::default(), labels=Table::default(), annotations=Table::default(),
        build_contexts=Table::default(), secrets=Table::default(), ssh=Table::default(), target=None,
        platform=None, outputs=None, no_cache=false, no_cache_filter=Several::default(), pull=false,
        network=None, extra_hosts=Table::default(), allow_insecure=false, allow_host_network=false,
        allow_devices=Several::default(), device_folders=None, source_date_epoch=None, progress=None
    ](
        context: Option<ContextArgument>,
        file: Option<PathBuf>,
        dockerfile: Option<String>,
        graph: Option<GraphArgument>,
        tags: Several<String>,
        build_args: Table<Option<String>>,
        labels: Table<String>,
        annotations: Table<String>,
        build_contexts: Table<ContextArgument>,
        secrets: Table<SecretArgument>,
        ssh: Table<PathBuf>,
        target: Option<String>,
        platform: Option<String>,
        outputs: Option<Several<OutputArgument>>,
        no_cache: bool,
        no_cache_filter: Several<String>,
        pull: bool,
        network: Option<String>,
        extra_hosts: Table<String>,
        allow_insecure: bool,
        allow_host_network: bool,
        allow_devices: Several<String>,
        device_folders: Option<Several<PathBuf>>,
        source_date_epoch: Option<EpochArgument>,
        progress: Option<Py<PyAny>>,
    ) => build(
        BuildArguments {
            dockerfile: DockerfileArguments {
                context, file, dockerfile, build_args, build_contexts, target, platform,
            },
            graph,
            tags,
            labels,
            annotations,
            secrets,
            ssh,
            outputs,
            no_cache,
            no_cache_filter,
            pull,
            network: network.unwrap_or_else(|| "host".to_owned()),
            extra_hosts,
            allow_insecure,
            allow_host_network,
            allow_devices,
            device_folders,
            source_date_epoch,
        },
        progress,
    );

    /// Checks a Dockerfile: its errors, and what the linter finds. Nothing is built, and no layer is pulled.
    fn check[
        context=None, *, file=None, dockerfile=None, build_args=Table::default(),
        build_contexts=Table::default(), target=None, platform=None
    ](
        context: Option<ContextArgument>,
        file: Option<PathBuf>,
        dockerfile: Option<String>,
        build_args: Table<Option<String>>,
        build_contexts: Table<ContextArgument>,
        target: Option<String>,
        platform: Option<String>,
    ) => ask(Question::Check, DockerfileArguments {
        context, file, dockerfile, build_args, build_contexts, target, platform,
    });

    /// Tells what a target of a Dockerfile takes: build arguments, secrets, SSH agents, cache mounts.
    fn outline[
        context=None, *, file=None, dockerfile=None, build_args=Table::default(),
        build_contexts=Table::default(), target=None, platform=None
    ](
        context: Option<ContextArgument>,
        file: Option<PathBuf>,
        dockerfile: Option<String>,
        build_args: Table<Option<String>>,
        build_contexts: Table<ContextArgument>,
        target: Option<String>,
        platform: Option<String>,
    ) => ask(Question::Outline, DockerfileArguments {
        context, file, dockerfile, build_args, build_contexts, target, platform,
    });

    /// Lists the stages of a Dockerfile that can be built.
    fn targets[context=None, *, file=None, dockerfile=None](
        context: Option<ContextArgument>,
        file: Option<PathBuf>,
        dockerfile: Option<String>,
    ) => ask(Question::Targets, DockerfileArguments {
        context,
        file,
        dockerfile,
        build_args: Table::default(),
        build_contexts: Table::default(),
        target: None,
        platform: None,
    });

    /// Pushes an image of the local store to the registry of its name, or of the name `to`; with `referrers`, what refers
    /// to it goes along.
    fn push[reference, *, to=None, referrers=false, progress=None](
        reference: String,
        to: Option<String>,
        referrers: bool,
        progress: Option<Py<PyAny>>,
    ) => push(reference, to, referrers, progress);

    /// Pulls an image from its registry into the local store: for one platform, this machine's unless another is named,
    /// or for all.
    fn pull[reference, *, platform=None, all_platforms=false, referrers=false, progress=None](
        reference: String,
        platform: Option<String>,
        all_platforms: bool,
        referrers: bool,
        progress: Option<Py<PyAny>>,
    ) => pull(reference, platform, all_platforms, referrers, progress);

    /// Copies an image, or an index with all of its images, from one registry to another without storing it.
    fn copy[source, target, *, referrers=false, progress=None](
        source: String,
        target: String,
        referrers: bool,
        progress: Option<Py<PyAny>>,
    ) => copy(source, target, referrers, progress);

    /// Checks a user name and password with a registry, and keeps them in Docker's configuration or with the credential
    /// helper that it names. Returns whether the registry accepted them: `False` when it asks for credentials nowhere.
    fn login[host, *, username, password](host: String, username: String, password: String)
        => login(host, username, password);

    /// Forgets the credentials of a registry. Returns whether there were any.
    fn logout[host](host: String) => logout(host);

    /// Writes images of the local store into an archive, an OCI image layout in a tar: to a path or a binary file.
    fn save[references, destination, *, platform=None](
        references: Several<String>,
        destination: Destination,
        platform: Option<String>,
    ) => save(references, destination, platform);

    /// Takes the images of an archive into the local store, under the names that the archive has for them, or under
    /// `name`. The archive is a path, bytes or a binary file: an OCI image layout in a tar, or one of `docker save`.
    fn load[source, *, name=None](source: Source, name: Option<String>) => load(source, name);

    /// Pushes files as an artifact of a registry.
    fn push_artifact[reference, files, *, artifact_type, annotations=Table::default(), progress=None](
        reference: String,
        files: Several<FileArgument>,
        artifact_type: String,
        annotations: Table<String>,
        progress: Option<Py<PyAny>>,
    ) => push_artifact(reference, ArtifactArguments { files, artifact_type, annotations }, false, progress);

    /// Pushes files as an artifact that refers to an image of a registry: `referrers` lists it.
    fn attach[reference, files, *, artifact_type, annotations=Table::default(), progress=None](
        reference: String,
        files: Several<FileArgument>,
        artifact_type: String,
        annotations: Table<String>,
        progress: Option<Py<PyAny>>,
    ) => push_artifact(reference, ArtifactArguments { files, artifact_type, annotations }, true, progress);

    /// Writes the files of an artifact into a folder, and returns their paths.
    fn pull_artifact[reference, folder, *, remote=true](reference: String, folder: PathBuf, remote: bool)
        => pull_artifact(reference, folder, remote);

    /// Lists the images of the local store.
    fn images[]() => images();

    /// Gives manifest and config of an image, from the local store or, with `remote`, from its registry.
    fn inspect[reference, *, platform=None, remote=false](
        reference: String,
        platform: Option<String>,
        remote: bool,
    ) => inspect(reference, platform, remote);

    /// Gives an image of the local store one more name.
    fn tag[reference, name](reference: String, name: String) => tag(reference, name);

    /// Removes a name from the local store or, with `remote`, from its registry; a name with a digest removes the image
    /// and all of its tags there.
    fn remove[reference, *, remote=false](reference: String, remote: bool) => remove(reference, remote);

    /// Tells whether an image is in the local store or, with `remote`, in its registry.
    fn exists[reference, *, remote=false](reference: String, remote: bool) => exists(reference, remote);

    /// Lists the tags of a repository in the local store or, with `remote`, in its registry.
    fn list_tags[repository, *, remote=false](repository: String, remote: bool)
        => list_tags(repository, remote);

    /// Lists the descriptors of what refers to an image: signatures, bills of material.
    fn referrers[reference, *, artifact_type=None, remote=false](
        reference: String,
        artifact_type: Option<String>,
        remote: bool,
    ) => referrers(reference, artifact_type, remote);

    /// Gives the bytes of a manifest, by tag or by digest, exactly as they are stored.
    fn get_manifest[reference, *, remote=false](reference: String, remote: bool)
        => get_manifest(reference, remote);

    /// Gives the bytes of a blob of a repository. A blob that is larger than `max_size` bytes is refused.
    fn get_blob[repository, digest, *, max_size=67_108_864, remote=false](
        repository: String,
        digest: String,
        max_size: u64,
        remote: bool,
    ) => get_blob(repository, digest, max_size, remote);
});
