"""Types of the native module."""

import os
import pathlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, final

from typing_extensions import Self

from .results import BuildResult, Image, ImageDetails, Transferred
from .types import Descriptor, Event

__all__ = ["__version__", "AsyncHyper", "Hyper", "Registry", "_exec_helper"]

__version__: str

_Path = str | os.PathLike[str]
_Output = str | dict[str, Any]
_Progress = Callable[[Event], object]

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
    def build(
        self,
        context: _Path | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        tags: str | Sequence[str] = ...,
        build_args: Mapping[str, str] = ...,
        labels: Mapping[str, str] = ...,
        annotations: Mapping[str, str] = ...,
        build_contexts: Mapping[str, _Path] = ...,
        secrets: Mapping[str, str | bytes] = ...,
        ssh: Mapping[str, _Path] = ...,
        target: str | None = None,
        platform: str | None = None,
        outputs: _Output | Sequence[_Output] | None = None,
        no_cache: bool = False,
        pull: bool = False,
        network: str | None = None,
        extra_hosts: Mapping[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: str | Sequence[str] = ...,
        source_date_epoch: int | str | None = None,
        progress: _Progress | None = None,
    ) -> BuildResult: ...
    def push(self, reference: str, *, to: str | None = None, progress: _Progress | None = None) -> Transferred: ...
    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        all_platforms: bool = False,
        progress: _Progress | None = None,
    ) -> Transferred: ...
    def images(self) -> list[Image]: ...
    def inspect(self, reference: str, *, platform: str | None = None, remote: bool = False) -> ImageDetails: ...
    def tag(self, reference: str, name: str) -> None: ...
    def remove(self, reference: str) -> None: ...
    def exists(self, reference: str, *, remote: bool = False) -> bool: ...
    def copy(self, source: str, target: str, *, referrers: bool = False, progress: _Progress | None = None) -> Transferred: ...
    def list_tags(self, repository: str, *, remote: bool = False) -> list[str]: ...
    def referrers(self, reference: str, *, artifact_type: str | None = None, remote: bool = False) -> list[Descriptor]: ...
    def get_manifest(self, reference: str, *, remote: bool = False) -> bytes: ...
    def get_blob(self, repository: str, digest: str, *, max_size: int = 67_108_864, remote: bool = False) -> bytes: ...

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
    def build(
        self,
        context: _Path | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        tags: str | Sequence[str] = ...,
        build_args: Mapping[str, str] = ...,
        labels: Mapping[str, str] = ...,
        annotations: Mapping[str, str] = ...,
        build_contexts: Mapping[str, _Path] = ...,
        secrets: Mapping[str, str | bytes] = ...,
        ssh: Mapping[str, _Path] = ...,
        target: str | None = None,
        platform: str | None = None,
        outputs: _Output | Sequence[_Output] | None = None,
        no_cache: bool = False,
        pull: bool = False,
        network: str | None = None,
        extra_hosts: Mapping[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: str | Sequence[str] = ...,
        source_date_epoch: int | str | None = None,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, BuildResult]: ...
    def push(self, reference: str, *, to: str | None = None, progress: _Progress | None = None) -> Coroutine[Any, Any, Transferred]: ...
    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        all_platforms: bool = False,
        progress: _Progress | None = None,
    ) -> Coroutine[Any, Any, Transferred]: ...
    def images(self) -> Coroutine[Any, Any, list[Image]]: ...
    def inspect(self, reference: str, *, platform: str | None = None, remote: bool = False) -> Coroutine[Any, Any, ImageDetails]: ...
    def tag(self, reference: str, name: str) -> Coroutine[Any, Any, None]: ...
    def remove(self, reference: str) -> Coroutine[Any, Any, None]: ...
    def exists(self, reference: str, *, remote: bool = False) -> Coroutine[Any, Any, bool]: ...
    def copy(self, source: str, target: str, *, referrers: bool = False, progress: _Progress | None = None) -> Coroutine[Any, Any, Transferred]: ...
    def list_tags(self, repository: str, *, remote: bool = False) -> Coroutine[Any, Any, list[str]]: ...
    def referrers(self, reference: str, *, artifact_type: str | None = None, remote: bool = False) -> Coroutine[Any, Any, list[Descriptor]]: ...
    def get_manifest(self, reference: str, *, remote: bool = False) -> Coroutine[Any, Any, bytes]: ...
    def get_blob(self, repository: str, digest: str, *, max_size: int = 67_108_864, remote: bool = False) -> Coroutine[Any, Any, bytes]: ...

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
