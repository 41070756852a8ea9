"""Events, manifests and configs: dicts with known keys.

At runtime they are ordinary dicts, which keep unknown fields too.
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
    """A task advanced: `done` units of `total` so far."""

    event: Literal["advanced"]
    task: int
    done: int
    total: int | None


class LogEvent(TypedDict):
    """A command wrote text."""

    event: Literal["log"]
    task: int
    stream: Literal["stdout", "stderr"]
    text: str


class WarningEvent(TypedDict):
    """A warning about a task, or about the whole operation when `task` is `None`."""

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
    """The digest of an image that was built, pushed, pulled, copied, saved or loaded."""

    event: Literal["result"]
    name: str
    digest: str


#: The argument of a progress callback. `event["event"]` is the kind of event.
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
    """The media type, the digest and the size of content."""

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
    """The configuration of containers of the image."""

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
    """The layers of the image: the digests of their uncompressed tars."""

    type: str
    diff_ids: list[str]


class History(TypedDict, total=False):
    """The instruction that made a layer."""

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
