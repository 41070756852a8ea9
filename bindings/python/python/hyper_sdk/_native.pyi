"""Types of the native module."""

import os
import pathlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, final

from typing_extensions import Self

from .graph import State
from .results import (
    ArtifactFile,
    BuildPlan,
    BuildResult,
    CheckResult,
    Image,
    ImageDetails,
    Outline,
    Target,
    Transferred,
)
from .types import Descriptor, Event

__all__ = ["__version__", "AsyncHyper", "Hyper", "Registry", "_at_exit", "_exec_helper"]

__version__: str

class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...

class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...

_Path = str | os.PathLike[str]
_Bytes = bytes | bytearray | memoryview
_Context = _Path | _Bytes | _Readable
_Output = _Path | Mapping[str, Any]
_Progress = Callable[[Event], object]
_File = _Path | ArtifactFile

@final
class Hyper:
    """Builds, pushes and pulls images. Every method blocks until it is done; Ctrl-C cancels."""

    def __new__(
        cls,
        root: _Path | None = None,
        *,
        docker_config: _Path | None = None,
        credentials: Mapping[str, tuple[str, str]] = ...,
        plain_http: bool = False,
        insecure_tls: bool = False,
        ca_file: _Path | Sequence[_Path] | None = None,
    ) -> Self: ...
    @property
    def root(self) -> pathlib.Path: ...
    def serve(self, listen: str = ..., *, read_only: bool = False, htpasswd: _Path | None = None) -> Registry: ...
    def build(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        graph: State | None = None,
        tags: str | Sequence[str] = ...,
        build_args: Mapping[str, str | None] = ...,
        labels: Mapping[str, str] = ...,
        annotations: Mapping[str, str] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        secrets: Mapping[str, str | _Bytes] = ...,
        ssh: Mapping[str, _Path | None] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
        outputs: _Output | Sequence[_Output] | None = None,
        cache_from: str | Sequence[str] = ...,
        cache_to: str | Sequence[str] = ...,
        no_cache: bool = False,
        no_cache_filter: str | Sequence[str] = ...,
        pull: bool = False,
        network: str | None = None,
        extra_hosts: Mapping[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: str | Sequence[str] = ...,
        device_folders: _Path | Sequence[_Path] | None = None,
        source_date_epoch: int | str | None = None,
        ulimits: Mapping[str, str] = ...,
        shm_size: str | None = None,
        resources: Mapping[str, str] = ...,
        cgroup_parent: str | None = None,
        progress: _Progress | None = None,
    ) -> BuildResult: ...
    def plan(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        graph: State | None = None,
        tags: str | Sequence[str] = ...,
        build_args: Mapping[str, str | None] = ...,
        labels: Mapping[str, str] = ...,
        annotations: Mapping[str, str] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        secrets: Mapping[str, str | _Bytes] = ...,
        ssh: Mapping[str, _Path | None] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
        outputs: _Output | Sequence[_Output] | None = None,
        cache_from: str | Sequence[str] = ...,
        cache_to: str | Sequence[str] = ...,
        no_cache: bool = False,
        no_cache_filter: str | Sequence[str] = ...,
        pull: bool = False,
        network: str | None = None,
        extra_hosts: Mapping[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: str | Sequence[str] = ...,
        device_folders: _Path | Sequence[_Path] | None = None,
        source_date_epoch: int | str | None = None,
        ulimits: Mapping[str, str] = ...,
        shm_size: str | None = None,
        resources: Mapping[str, str] = ...,
        cgroup_parent: str | None = None,
        progress: _Progress | None = None,
    ) -> BuildPlan: ...
    def check(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        build_args: Mapping[str, str | None] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
    ) -> CheckResult: ...
    def outline(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        build_args: Mapping[str, str | None] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
    ) -> Outline: ...
    def targets(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        build_args: Mapping[str, str | None] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
    ) -> list[Target]: ...
    def push(
        self,
        reference: str,
        *,
        to: str | None = None,
        referrers: bool = False,
        progress: _Progress | None = None,
    ) -> Transferred: ...
    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        all_platforms: bool = False,
        referrers: bool = False,
        progress: _Progress | None = None,
    ) -> Transferred: ...
    def copy(
        self,
        source: str,
        target: str,
        *,
        referrers: bool = False,
        progress: _Progress | None = None,
    ) -> Transferred: ...
    def login(self, host: str, *, username: str, password: str) -> bool: ...
    def logout(self, host: str) -> bool: ...
    def save(
        self,
        references: str | Sequence[str],
        destination: _Path | _Writable,
        *,
        platform: str | None = None,
        progress: _Progress | None = None,
    ) -> None: ...
    def load(
        self,
        source: _Path | _Bytes | _Readable,
        *,
        name: str | None = None,
        progress: _Progress | None = None,
    ) -> list[Transferred]: ...
    def push_artifact(
        self,
        reference: str,
        files: _File | Sequence[_File],
        *,
        artifact_type: str,
        annotations: Mapping[str, str] = ...,
        progress: _Progress | None = None,
    ) -> Transferred: ...
    def attach(
        self,
        reference: str,
        files: _File | Sequence[_File],
        *,
        artifact_type: str,
        annotations: Mapping[str, str] = ...,
        progress: _Progress | None = None,
    ) -> Transferred: ...
    def pull_artifact(
        self,
        reference: str,
        folder: _Path,
        *,
        remote: bool = True,
    ) -> list[pathlib.Path]: ...
    def images(self) -> list[Image]: ...
    def inspect(self, reference: str, *, platform: str | None = None, remote: bool = False) -> ImageDetails: ...
    def tag(self, reference: str, name: str) -> None: ...
    def remove(self, reference: str, *, remote: bool = False) -> None: ...
    def exists(self, reference: str, *, remote: bool = False) -> bool: ...
    def list_tags(self, repository: str, *, remote: bool = False) -> list[str]: ...
    def referrers(
        self,
        reference: str,
        *,
        artifact_type: str | None = None,
        remote: bool = False,
    ) -> list[Descriptor]: ...
    def get_manifest(self, reference: str, *, remote: bool = False) -> bytes: ...
    def get_blob(self, repository: str, digest: str, *, max_size: int = 67_108_864, remote: bool = False) -> bytes: ...
    def put_manifest(
        self,
        reference: str,
        manifest: _Bytes | Mapping[str, Any],
        *,
        media_type: str | None = None,
        remote: bool = False,
    ) -> Transferred: ...
    def put_blob(
        self,
        repository: str,
        content: _Bytes,
        *,
        media_type: str = "application/octet-stream",
        remote: bool = False,
    ) -> Descriptor: ...

@final
class AsyncHyper:
    """Builds, pushes and pulls images. Every method returns a coroutine; cancelling it cancels the work."""

    def __new__(
        cls,
        root: _Path | None = None,
        *,
        docker_config: _Path | None = None,
        credentials: Mapping[str, tuple[str, str]] = ...,
        plain_http: bool = False,
        insecure_tls: bool = False,
        ca_file: _Path | Sequence[_Path] | None = None,
    ) -> Self: ...
    @property
    def root(self) -> pathlib.Path: ...
    def serve(self, listen: str = ..., *, read_only: bool = False, htpasswd: _Path | None = None) -> Registry: ...
    def build(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        graph: State | None = None,
        tags: str | Sequence[str] = ...,
        build_args: Mapping[str, str | None] = ...,
        labels: Mapping[str, str] = ...,
        annotations: Mapping[str, str] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        secrets: Mapping[str, str | _Bytes] = ...,
        ssh: Mapping[str, _Path | None] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
        outputs: _Output | Sequence[_Output] | None = None,
        cache_from: str | Sequence[str] = ...,
        cache_to: str | Sequence[str] = ...,
        no_cache: bool = False,
        no_cache_filter: str | Sequence[str] = ...,
        pull: bool = False,
        network: str | None = None,
        extra_hosts: Mapping[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: str | Sequence[str] = ...,
        device_folders: _Path | Sequence[_Path] | None = None,
        source_date_epoch: int | str | None = None,
        ulimits: Mapping[str, str] = ...,
        shm_size: str | None = None,
        resources: Mapping[str, str] = ...,
        cgroup_parent: str | None = None,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, BuildResult]: ...
    def plan(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        graph: State | None = None,
        tags: str | Sequence[str] = ...,
        build_args: Mapping[str, str | None] = ...,
        labels: Mapping[str, str] = ...,
        annotations: Mapping[str, str] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        secrets: Mapping[str, str | _Bytes] = ...,
        ssh: Mapping[str, _Path | None] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
        outputs: _Output | Sequence[_Output] | None = None,
        cache_from: str | Sequence[str] = ...,
        cache_to: str | Sequence[str] = ...,
        no_cache: bool = False,
        no_cache_filter: str | Sequence[str] = ...,
        pull: bool = False,
        network: str | None = None,
        extra_hosts: Mapping[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: str | Sequence[str] = ...,
        device_folders: _Path | Sequence[_Path] | None = None,
        source_date_epoch: int | str | None = None,
        ulimits: Mapping[str, str] = ...,
        shm_size: str | None = None,
        resources: Mapping[str, str] = ...,
        cgroup_parent: str | None = None,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, BuildPlan]: ...
    def check(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        build_args: Mapping[str, str | None] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
    ) -> Coroutine[Any, Any, CheckResult]: ...
    def outline(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        build_args: Mapping[str, str | None] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
    ) -> Coroutine[Any, Any, Outline]: ...
    def targets(
        self,
        context: _Context | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        build_args: Mapping[str, str | None] = ...,
        build_contexts: Mapping[str, _Context] = ...,
        target: str | None = None,
        platform: str | Sequence[str] | None = None,
    ) -> Coroutine[Any, Any, list[Target]]: ...
    def push(
        self,
        reference: str,
        *,
        to: str | None = None,
        referrers: bool = False,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, Transferred]: ...
    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        all_platforms: bool = False,
        referrers: bool = False,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, Transferred]: ...
    def copy(
        self,
        source: str,
        target: str,
        *,
        referrers: bool = False,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, Transferred]: ...
    def login(self, host: str, *, username: str, password: str) -> Coroutine[Any, Any, bool]: ...
    def logout(self, host: str) -> Coroutine[Any, Any, bool]: ...
    def save(
        self,
        references: str | Sequence[str],
        destination: _Path | _Writable,
        *,
        platform: str | None = None,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, None]: ...
    def load(
        self,
        source: _Path | _Bytes | _Readable,
        *,
        name: str | None = None,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, list[Transferred]]: ...
    def push_artifact(
        self,
        reference: str,
        files: _File | Sequence[_File],
        *,
        artifact_type: str,
        annotations: Mapping[str, str] = ...,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, Transferred]: ...
    def attach(
        self,
        reference: str,
        files: _File | Sequence[_File],
        *,
        artifact_type: str,
        annotations: Mapping[str, str] = ...,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, Transferred]: ...
    def pull_artifact(
        self,
        reference: str,
        folder: _Path,
        *,
        remote: bool = True,
    ) -> Coroutine[Any, Any, list[pathlib.Path]]: ...
    def images(self) -> Coroutine[Any, Any, list[Image]]: ...
    def inspect(
        self,
        reference: str,
        *,
        platform: str | None = None,
        remote: bool = False,
    ) -> Coroutine[Any, Any, ImageDetails]: ...
    def tag(self, reference: str, name: str) -> Coroutine[Any, Any, None]: ...
    def remove(self, reference: str, *, remote: bool = False) -> Coroutine[Any, Any, None]: ...
    def exists(self, reference: str, *, remote: bool = False) -> Coroutine[Any, Any, bool]: ...
    def list_tags(self, repository: str, *, remote: bool = False) -> Coroutine[Any, Any, list[str]]: ...
    def referrers(
        self,
        reference: str,
        *,
        artifact_type: str | None = None,
        remote: bool = False,
    ) -> Coroutine[Any, Any, list[Descriptor]]: ...
    def get_manifest(self, reference: str, *, remote: bool = False) -> Coroutine[Any, Any, bytes]: ...
    def get_blob(
        self,
        repository: str,
        digest: str,
        *,
        max_size: int = 67_108_864,
        remote: bool = False,
    ) -> Coroutine[Any, Any, bytes]: ...
    def put_manifest(
        self,
        reference: str,
        manifest: _Bytes | Mapping[str, Any],
        *,
        media_type: str | None = None,
        remote: bool = False,
    ) -> Coroutine[Any, Any, Transferred]: ...
    def put_blob(
        self,
        repository: str,
        content: _Bytes,
        *,
        media_type: str = "application/octet-stream",
        remote: bool = False,
    ) -> Coroutine[Any, Any, Descriptor]: ...

@final
class Registry:
    """Serves images over HTTP from this process."""

    def __new__(
        cls,
        data: _Path | None = None,
        listen: str = ...,
        *,
        read_only: bool = False,
        htpasswd: _Path | None = None,
    ) -> Self: ...
    @property
    def address(self) -> str: ...
    @property
    def url(self) -> str: ...
    def start(self) -> Registry: ...
    def stop(self) -> None: ...
    def __enter__(self) -> Registry: ...
    def __exit__(self, *_exception: object) -> None: ...
    def __aenter__(self) -> Coroutine[Any, Any, Registry]: ...
    def __aexit__(self, *_exception: object) -> Coroutine[Any, Any, None]: ...

def _exec_helper() -> None: ...
def _at_exit() -> None: ...
