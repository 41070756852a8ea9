"""What the operations return: plain values that compare, print and pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .types import ImageConfig, Manifest


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a build."""

    #: What it was: `[2/5] RUN make`.
    name: str
    #: Whether its result was known already.
    cached: bool
    #: How long it took.
    milliseconds: int


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What came out of a build."""

    #: The digest of the image's manifest; `None` when nothing that has a manifest was asked for.
    digest: str | None
    #: The digest of the image's config: Docker's image ID.
    config_digest: str | None
    #: The names that the image was given.
    tags: list[str]
    #: The steps in the order of the Dockerfile.
    steps: list[Step]
    #: The time that the image carries, in seconds since 1970.
    epoch: int


@dataclass(frozen=True, slots=True)
class Transferred:
    """What was pushed or pulled."""

    #: The name.
    reference: str
    #: The digest of its manifest or index.
    digest: str
    #: The media type of the manifest or index.
    media_type: str
    #: The bytes of the manifest or index.
    size: int
    #: The platform, when one was chosen: `linux/amd64`.
    platform: str | None


@dataclass(frozen=True, slots=True)
class Image:
    """A name in the local store."""

    #: The name, shortened as people write it.
    name: str
    #: The digest of its manifest or index.
    digest: str
    #: The media type of the manifest or index.
    media_type: str
    #: The platforms that it is for.
    platforms: list[str]
    #: When it was created, as RFC 3339.
    created: str | None
    #: Config and layers of all platforms, in bytes as they are stored.
    size: int


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """An image in full."""

    #: The name that was asked for.
    reference: str
    #: The digest of the manifest.
    digest: str
    #: The media type of the manifest.
    media_type: str
    #: The bytes of the manifest.
    size: int
    #: The manifest.
    manifest: Manifest
    #: The config; `None` for an index or an artifact.
    config: ImageConfig | None


def _make(name: str, value: Any) -> Any:
    """Makes a value, or a list of them, of what the native module hands over."""
    if isinstance(value, list):
        return [_make(name, item) for item in value]
    if name == "BuildResult":
        value["steps"] = [Step(**step) for step in value["steps"]]
    return _CLASSES[name](**value)


_CLASSES: dict[str, type[Any]] = {c.__name__: c for c in (BuildResult, Transferred, Image, ImageDetails)}
