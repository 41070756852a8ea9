"""The shapes of plain data: events, manifests and configs, as dicts with known keys.

At runtime they are ordinary dicts that keep every field, those of newer versions too.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class StartedEvent(TypedDict):
    """A task began."""

    event: Literal["started"]
    task: int
    name: str
    total: int | None


class AdvancedEvent(TypedDict):
    """A task got on: `done` units of `total` so far."""

    event: Literal["advanced"]
    task: int
    done: int
    total: int | None


class LogEvent(TypedDict):
    """A command wrote something."""

    event: Literal["log"]
    task: int
    stream: Literal["stdout", "stderr"]
    text: str


class WarningEvent(TypedDict):
    """A warning about a task, or about the whole when `task` is `None`."""

    event: Literal["warning"]
    task: int | None
    message: str


class FailedOutcome(TypedDict):
    """A task failed, with the text of its error."""

    failed: str


class FinishedEvent(TypedDict):
    """A task ended."""

    event: Literal["finished"]
    task: int
    outcome: Literal["done", "cached", "cancelled"] | FailedOutcome
    milliseconds: int


class ResultEvent(TypedDict):
    """The digest of an image that was built, pushed or pulled."""

    event: Literal["result"]
    name: str
    digest: str


#: What a progress callback is called with. `event["event"]` tells which one it is.
Event = StartedEvent | AdvancedEvent | LogEvent | WarningEvent | FinishedEvent | ResultEvent


# A key with a full stop cannot be written as the name of an attribute.
_PlatformVersion = TypedDict("_PlatformVersion", {"os.version": str, "os.features": list[str]}, total=False)


class Platform(_PlatformVersion, total=False):
    """The platform of an entry of an index."""

    architecture: str
    os: str
    variant: str


class _Content(TypedDict):
    mediaType: str
    digest: str
    size: int


class Descriptor(_Content, total=False):
    """Names content by its digest."""

    urls: list[str]
    annotations: dict[str, str]
    data: str
    platform: Platform
    artifactType: str


class _Versioned(TypedDict):
    schemaVersion: int


class Manifest(_Versioned, total=False):
    """A manifest: `config` and `layers` of an image or an artifact, or `manifests` of an index."""

    mediaType: str
    artifactType: str
    config: Descriptor
    layers: list[Descriptor]
    manifests: list[Descriptor]
    subject: Descriptor
    annotations: dict[str, str]


class ContainerConfig(TypedDict, total=False):
    """How a container of the image is run."""

    User: str
    ExposedPorts: dict[str, dict[str, Any]]
    Env: list[str]
    Entrypoint: list[str]
    Cmd: list[str]
    Volumes: dict[str, dict[str, Any]]
    WorkingDir: str
    Labels: dict[str, str]
    StopSignal: str
    Shell: list[str]
    Healthcheck: dict[str, Any]
    OnBuild: list[str]


class RootFs(TypedDict):
    """The layers, by the digests of their uncompressed tars."""

    type: str
    diff_ids: list[str]


class History(TypedDict, total=False):
    """How a layer was made."""

    created: str
    created_by: str
    author: str
    comment: str
    empty_layer: bool


class _ImageBase(TypedDict):
    architecture: str
    os: str
    rootfs: RootFs


class ImageConfig(_PlatformVersion, _ImageBase, total=False):
    """The config of an image."""

    created: str
    author: str
    variant: str
    config: ContainerConfig
    history: list[History]
