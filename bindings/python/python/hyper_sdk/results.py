"""What the operations return: plain values that compare, hash, print and pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """The result of a build."""

    #: The digest of the image's manifest; `None` when no output is an image, as with files alone.
    digest: str | None
    #: The digest of the image's config, which is Docker's image ID; `None` when no output is an image.
    config_digest: str | None
    #: The names that the image was given, as `Hyper.images` shows them.
    tags: tuple[str, ...]
    #: The steps in the order of the Dockerfile.
    steps: tuple[Step, ...]
    #: The time that the image carries, in seconds since 1970.
    epoch: int


@dataclass(frozen=True, slots=True)
class Transferred:
    """An image or artifact that was pushed, pulled or copied."""

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
    platforms: tuple[str, ...]
    #: When it was created, as RFC 3339.
    created: str | None
    #: Config and layers of all platforms, in bytes as they are stored.
    size: int


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """An image in full. Two values that compare equal have one hash: that of reference and digest."""

    #: The name that was asked for.
    reference: str
    #: The digest of the manifest.
    digest: str
    #: The media type of the manifest.
    media_type: str
    #: The bytes of the manifest.
    size: int
    #: The manifest.
    manifest: Manifest = field(hash=False)
    #: The config; `None` for an index or an artifact.
    config: ImageConfig | None = field(hash=False)


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A file to push as part of an artifact."""

    #: The content: the path of a file, or bytes.
    content: str | os.PathLike[str] | bytes
    #: The media type.
    media_type: str = "application/octet-stream"
    #: The name that it is saved by: a path below a folder. That of the file without; bytes have none then.
    title: str | None = None
    #: Further annotations.
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """An error or a warning about a place in a Dockerfile."""

    #: Whether the file cannot be built because of it.
    severity: Literal["error", "warning"]
    #: The stable name: of a rule (`StageNameCasing`), or of a kind of error (`unknown-flag`).
    code: str
    #: What is wrong, in one sentence.
    message: str
    #: What to do about it.
    help: tuple[str, ...]
    #: The name of the file.
    file: str
    #: The line, from 1.
    line: int
    #: The column, from 1.
    column: int


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found in a Dockerfile that was checked."""

    #: Errors and warnings, in the order of the file.
    diagnostics: tuple[Diagnostic, ...]
    #: The base images that could not be looked up. Rules that need to know them were left out.
    unresolved: tuple[str, ...]
    #: The text with every automatic correction applied; `None` when there is none.
    fixed: str | None

    @property
    def is_valid(self) -> bool:
        """Whether the file can be built: there is no error."""
        return all(diagnostic.severity != "error" for diagnostic in self.diagnostics)

    @property
    def is_clean(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return not self.diagnostics


@dataclass(frozen=True, slots=True)
class BuildArgument:
    """A build argument that a target uses."""

    #: The name.
    name: str
    #: The value that it has: the one that was given, else the default.
    value: str | None
    #: What the comment above it says.
    description: str | None
    #: The line of its declaration.
    line: int


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret or an SSH agent that a target uses."""

    #: The id to give it by.
    name: str
    #: Whether the build fails without it.
    required: bool
    #: The line of its first use.
    line: int


@dataclass(frozen=True, slots=True)
class CacheUse:
    """A cache mount that a target uses."""

    #: The id, or the path where there is no id.
    id: str
    #: The line of its first use.
    line: int


@dataclass(frozen=True, slots=True)
class Outline:
    """What a target of a Dockerfile takes."""

    #: The name of the target, or its number.
    name: str
    #: What the comment above it says.
    description: str | None
    #: Build arguments, in the order of the file.
    arguments: tuple[BuildArgument, ...]
    #: Secrets, in the order of their first use.
    secrets: tuple[SecretUse, ...]
    #: SSH agents, in the order of their first use.
    ssh: tuple[SecretUse, ...]
    #: Cache mounts, in the order of their first use.
    caches: tuple[CacheUse, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A stage of a Dockerfile that can be built."""

    #: The name, in lower case.
    name: str | None
    #: The number, from 0.
    index: int
    #: What the comment above it says.
    description: str | None
    #: The base image or stage, as written.
    base: str
    #: The platform, as written.
    platform: str | None
    #: Whether it is built when no target is named.
    default: bool
    #: The line of its FROM.
    line: int


#: The class of the items of a field.
_ITEMS = {
    "steps": "Step",
    "diagnostics": "Diagnostic",
    "arguments": "BuildArgument",
    "secrets": "SecretUse",
    "ssh": "SecretUse",
    "caches": "CacheUse",
}


def _make(name: str, value: Any) -> Any:
    """Makes a value, or a list of them, of what the native module hands over."""
    if isinstance(value, list):
        return [_make(name, item) for item in value]
    fields = {}
    for key, item in value.items():
        if isinstance(item, list):
            item = tuple(_make(_ITEMS[key], item) if key in _ITEMS else item)
        fields[key] = item
    return _CLASSES[name](**fields)


_CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Step,
        BuildResult,
        Transferred,
        Image,
        ImageDetails,
        Diagnostic,
        CheckResult,
        BuildArgument,
        SecretUse,
        CacheUse,
        Outline,
        Target,
    )
}
