"""Types of the native module."""

import os
import pathlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, final

from .results import BuildResult, Image, ImageDetails, Transferred

__version__: str

_Path = str | os.PathLike[str]
_Progress = Callable[[dict[str, Any]], object]

@final
class Hyper:
    """Builds, pushes and pulls images. Every method blocks until it is done; Ctrl-C cancels."""

    def __init__(
        self,
        root: _Path | None = None,
        *,
        docker_config: _Path | None = None,
        credentials: dict[str, tuple[str, str]] = ...,
        plain_http: bool = False,
        insecure_tls: bool = False,
        ca_file: _Path | Sequence[_Path] | None = None,
    ) -> None: ...
    @property
    def root(self) -> pathlib.Path: ...
    def build(
        self,
        context: _Path | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        tags: Sequence[str] = ...,
        build_args: dict[str, str] = ...,
        labels: dict[str, str] = ...,
        annotations: dict[str, str] = ...,
        build_contexts: dict[str, _Path] = ...,
        secrets: dict[str, str | bytes] = ...,
        ssh: dict[str, _Path] = ...,
        target: str | None = None,
        platform: str | None = None,
        outputs: Sequence[str | dict[str, Any]] | None = None,
        no_cache: bool = False,
        pull: bool = False,
        network: str = "host",
        extra_hosts: dict[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: list[str] = [],
        source_date_epoch: int | str | None = None,
        progress: _Progress | None = None,
    ) -> BuildResult: ...
    def push(
        self, reference: str, *, to: str | None = None, progress: _Progress | None = None
    ) -> Transferred: ...
    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        all_platforms: bool = False,
        progress: _Progress | None = None,
    ) -> Transferred: ...
    def images(self) -> list[Image]: ...
    def inspect(
        self, reference: str, *, platform: str | None = None, remote: bool = False
    ) -> ImageDetails: ...

@final
class AsyncHyper:
    """Builds, pushes and pulls images. Every method returns an awaitable; cancelling it cancels the work."""

    def __init__(
        self,
        root: _Path | None = None,
        *,
        docker_config: _Path | None = None,
        credentials: dict[str, tuple[str, str]] = ...,
        plain_http: bool = False,
        insecure_tls: bool = False,
        ca_file: _Path | Sequence[_Path] | None = None,
    ) -> None: ...
    @property
    def root(self) -> pathlib.Path: ...
    def build(
        self,
        context: _Path | None = None,
        *,
        file: _Path | None = None,
        dockerfile: str | None = None,
        tags: Sequence[str] = ...,
        build_args: dict[str, str] = ...,
        labels: dict[str, str] = ...,
        annotations: dict[str, str] = ...,
        build_contexts: dict[str, _Path] = ...,
        secrets: dict[str, str | bytes] = ...,
        ssh: dict[str, _Path] = ...,
        target: str | None = None,
        platform: str | None = None,
        outputs: Sequence[str | dict[str, Any]] | None = None,
        no_cache: bool = False,
        pull: bool = False,
        network: str = "host",
        extra_hosts: dict[str, str] = ...,
        allow_insecure: bool = False,
        allow_host_network: bool = False,
        allow_devices: list[str] = [],
        source_date_epoch: int | str | None = None,
        progress: _Progress | None = None,
    ) -> Awaitable[BuildResult]: ...
    def push(
        self, reference: str, *, to: str | None = None, progress: _Progress | None = None
    ) -> Awaitable[Transferred]: ...
    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        all_platforms: bool = False,
        progress: _Progress | None = None,
    ) -> Awaitable[Transferred]: ...
    def images(self) -> Awaitable[list[Image]]: ...
    def inspect(
        self, reference: str, *, platform: str | None = None, remote: bool = False
    ) -> Awaitable[ImageDetails]: ...

@final
class Registry:
    """Serves images over HTTP from this process."""

    def __init__(
        self,
        data: _Path | None = None,
        listen: str = "127.0.0.1:0",
        *,
        read_only: bool = False,
        htpasswd: _Path | None = None,
    ) -> None: ...
    @property
    def address(self) -> str: ...
    @property
    def url(self) -> str: ...
    def start(self) -> Registry: ...
    def stop(self) -> None: ...
    def __enter__(self) -> Registry: ...
    def __exit__(self, *exception: object) -> None: ...
    def __aenter__(self) -> Awaitable[Registry]: ...
    def __aexit__(self, *exception: object) -> Awaitable[None]: ...

def _exec_helper() -> None: ...
