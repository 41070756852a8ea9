//! The classes `Hyper` and `AsyncHyper`: one list of methods, whose operations are waited for in two ways.

use crate::archive::{Destination, Source};
use crate::arguments::{Several, Table};
use crate::artifact::{ArtifactArguments, FileArgument};
use crate::build::Question;
use crate::content::ManifestArgument;
use crate::contexts::ContextArgument;
use crate::file_object::BytesArgument;
use crate::operation::{run_async, run_sync};
use crate::output::OutputArgument;
use crate::registry::Registry;
use crate::request::{
    BuildArguments, DockerfileArguments, EpochArgument, GraphArgument, LimitArguments, SecretArgument,
};
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

/// Writes the methods of both classes, of three groups:
///
/// ```text
///   fn NAME = OPERATION;                                    takes the arguments of a build
///   fn NAME = QUESTION;                                     takes the arguments of a question about a Dockerfile
///   fn NAME [SIGNATURE] (PARAMETERS) => OPERATION(ARGUMENTS);
/// ```
macro_rules! both {
    ($methods:tt) => {
        class!(Hyper, run_sync, $methods);
        class!(AsyncHyper, run_async, $methods);
    };
}

macro_rules! class {
    ($class:ident, $run:ident, {
        builds { $( $(#[$build_doc:meta])* fn $build:ident = $build_operation:ident; )* }
        questions { $( $(#[$ask_doc:meta])* fn $ask:ident = $question:ident; )* }
        others { $(
            $(#[$doc:meta])*
            fn $name:ident [$($signature:tt)*] ($($parameters:tt)*) => $operation:ident ($($arguments:tt)*);
        )* }
    }) => {
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
                $(#[$build_doc])*
                #[pyo3(signature = (
                    context=None, *, file=None, dockerfile=None, graph=None, tags=Several::default(),
                    build_args=Table::default(), labels=Table::default(), annotations=Table::default(),
                    build_contexts=Table::default(), secrets=Table::default(), ssh=Table::default(), target=None,
                    platform=None, outputs=None, cache_from=Several::default(),
                    cache_to=Several::default(), no_cache=false, no_cache_filter=Several::default(), pull=false,
                    network=None, extra_hosts=Table::default(), allow_insecure=false, allow_host_network=false,
                    allow_devices=Several::default(), device_folders=None, source_date_epoch=None,
                    ulimits=Table::default(), shm_size=None, resources=Table::default(), cgroup_parent=None,
                    progress=None
                ))]
                #[allow(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
                fn $build<'py>(
                    &self,
                    py: Python<'py>,
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
                    ssh: Table<Option<PathBuf>>,
                    target: Option<String>,
                    platform: Option<Several<String>>,
                    outputs: Option<Several<OutputArgument>>,
                    cache_from: Several<String>,
                    cache_to: Several<String>,
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
                    ulimits: Table<String>,
                    shm_size: Option<String>,
                    resources: Table<String>,
                    cgroup_parent: Option<String>,
                    progress: Option<Py<PyAny>>,
                ) -> PyResult<Bound<'py, PyAny>> {
                    let arguments = BuildArguments {
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
                        cache_from,
                        cache_to,
                        no_cache,
                        no_cache_filter,
                        pull,
                        network,
                        extra_hosts,
                        allow_insecure,
                        allow_host_network,
                        allow_devices,
                        device_folders,
                        source_date_epoch,
                        limits: LimitArguments { ulimits, shm_size, resources, cgroup_parent },
                    };
                    $run(py, self.0.$build_operation(arguments, progress))
                }
            )*

            $(
                $(#[$ask_doc])*
                #[pyo3(signature = (
                    context=None, *, file=None, dockerfile=None, build_args=Table::default(),
                    build_contexts=Table::default(), target=None, platform=None
                ))]
                #[allow(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
                fn $ask<'py>(
                    &self,
                    py: Python<'py>,
                    context: Option<ContextArgument>,
                    file: Option<PathBuf>,
                    dockerfile: Option<String>,
                    build_args: Table<Option<String>>,
                    build_contexts: Table<ContextArgument>,
                    target: Option<String>,
                    platform: Option<Several<String>>,
                ) -> PyResult<Bound<'py, PyAny>> {
                    let arguments = DockerfileArguments {
                        context, file, dockerfile, build_args, build_contexts, target, platform,
                    };
                    $run(py, self.0.ask(Question::$question, arguments))
                }
            )*

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
builds {
    /// Builds an image from a Dockerfile or a graph and keeps it in the local store, or exports it to `outputs`.
    fn build = build;

    /// Returns what `build` would do with the same arguments: the steps, and which of them are cached. Nothing is built, and
    /// no layer is pulled.
    fn plan = plan;
}

questions {
    /// Checks a Dockerfile: returns its errors and the findings of the linter. Nothing is built, and no layer is pulled.
    fn check = Check;

    /// Returns what a target of a Dockerfile takes: build arguments, secrets, SSH agents, cache mounts. Nothing is built.
    fn outline = Outline;

    /// Returns the stages of a Dockerfile that can be built. Nothing is built.
    fn targets = Targets;
}

others {
    /// Pushes an image of the local store to the registry of its name, or of the name `to`; with `referrers`, its referrers
    /// too.
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
    /// helper that it names. Returns `True` when the registry accepted them, `False` when it never asks for credentials;
    /// wrong ones raise an `UnauthorizedError`.
    fn login[host, *, username, password](host: String, username: String, password: String)
        => login(host, username, password);

    /// Removes the credentials of a registry. Returns whether there were any.
    fn logout[host](host: String) => logout(host);

    /// Writes images of the local store into an archive, an OCI image layout in a tar: to a path or a binary file.
    fn save[references, destination, *, platform=None, progress=None](
        references: Several<String>,
        destination: Destination,
        platform: Option<String>,
        progress: Option<Py<PyAny>>,
    ) => save(references, destination, platform, progress);

    /// Loads the images of an archive into the local store, under the names that the archive has for them, or under
    /// `name`. The archive is a path, bytes or a binary file: an OCI image layout in a tar, or one of `docker save`.
    fn load[source, *, name=None, progress=None](
        source: Source,
        name: Option<String>,
        progress: Option<Py<PyAny>>,
    ) => load(source, name, progress);

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

    /// Returns the manifest and the config of an image, from the local store or, with `remote`, from its registry.
    fn inspect[reference, *, platform=None, remote=false](
        reference: String,
        platform: Option<String>,
        remote: bool,
    ) => inspect(reference, platform, remote);

    /// Adds a name to an image of the local store.
    fn tag[reference, name](reference: String, name: String) => tag(reference, name);

    /// Removes a name from the local store or, with `remote`, from its registry; a name with a digest removes the image
    /// and all of its tags there.
    fn remove[reference, *, remote=false](reference: String, remote: bool) => remove(reference, remote);

    /// Returns whether an image is in the local store or, with `remote`, in its registry.
    fn exists[reference, *, remote=false](reference: String, remote: bool) => exists(reference, remote);

    /// Lists the tags of a repository in the local store or, with `remote`, in its registry.
    fn list_tags[repository, *, remote=false](repository: String, remote: bool)
        => list_tags(repository, remote);

    /// Lists the descriptors of the referrers of an image: its signatures and SBOMs.
    fn referrers[reference, *, artifact_type=None, remote=false](
        reference: String,
        artifact_type: Option<String>,
        remote: bool,
    ) => referrers(reference, artifact_type, remote);

    /// Returns the bytes of a manifest, by tag or by digest, exactly as they are stored.
    fn get_manifest[reference, *, remote=false](reference: String, remote: bool)
        => get_manifest(reference, remote);

    /// Returns the bytes of a blob of a repository. A blob that is larger than `max_size` bytes raises a `TooLargeError`.
    fn get_blob[repository, digest, *, max_size=67_108_864, remote=false](
        repository: String,
        digest: String,
        max_size: u64,
        remote: bool,
    ) => get_blob(repository, digest, max_size, remote);

    /// Stores a manifest under a tag or a digest: bytes exactly as they are, or a mapping as JSON. The repository must have
    /// the blobs and manifests that it names. The media type is that of the field `mediaType` unless it is given.
    fn put_manifest[reference, manifest, *, media_type=None, remote=false](
        reference: String,
        manifest: ManifestArgument,
        media_type: Option<String>,
        remote: bool,
    ) => put_manifest(reference, manifest, media_type, remote);

    /// Stores a blob in a repository, and returns its descriptor for a manifest, with the media type that is given.
    fn put_blob[repository, content, *, media_type="application/octet-stream", remote=false](
        repository: String,
        content: BytesArgument,
        media_type: &str,
        remote: bool,
    ) => put_blob(repository, content, media_type.to_owned(), remote);
}
});
