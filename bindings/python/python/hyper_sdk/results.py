"""The results of the operations: values that can be compared, hashed, printed and pickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .types import ImageConfig, Manifest


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a build."""

    #: The name: `[2/5] RUN make`.
    name: str
    #: Whether its result was in the cache.
    cached: bool
    #: How long it took.
    milliseconds: int


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build."""

    #: The digest of the image's manifest; `None` when no output is an image, as with files alone.
    digest: str | None
    #: The digest of the image's config, which is Docker's image ID; `None` when no output is an image, and
    #: for an index of several platforms.
    config_digest: str | None
    #: The names that the image was given, as `Hyper.images` shows them.
    tags: tuple[str, ...]
    #: The steps in the order of the Dockerfile.
    steps: tuple[Step, ...]
    #: The time that the image carries, in seconds since 1970.
    epoch: int


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What a build would do with one node of its graph."""

    #: The name: `[2/5] RUN make`.
    name: str
    #: `run`: it would run. `cached`: its result is in the cache. `fetch`: it would be fetched. `source`: a base image or a
    #: context that is known. `open`: that depends on a step before it, which is not done yet.
    state: Literal["source", "fetch", "cached", "run", "open"]
    #: The keys that the cache has its result under, best first; none for a step that is `open`.
    keys: tuple[str, ...]
    #: The digest of the node, by which other nodes name it.
    address: str
    #: The addresses of the nodes that it depends on.
    inputs: tuple[str, ...]
    #: The place in the Dockerfile: its path and the line, as in `Dockerfile:3`; `None` when it has none.
    at: str | None


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a build would do."""

    #: The steps that are needed, each after the steps that it depends on.
    steps: tuple[PlannedStep, ...]
    #: The names that the image would be given, as `Hyper.images` shows them.
    tags: tuple[str, ...]

    @property
    def is_cached(self) -> bool:
        """Whether no step would run: every result is in the cache."""
        return all(step.state in ("source", "cached") for step in self.steps)


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
    """A tag in the local store."""

    #: The short name: `app:1` for `docker.io/library/app:1`.
    name: str
    #: The digest of its manifest or index.
    digest: str
    #: The media type of the manifest or index.
    media_type: str
    #: The platforms of its images.
    platforms: tuple[str, ...]
    #: When it was created, as RFC 3339.
    created: str | None
    #: The size of the configs and layers of all platforms, in bytes as they are stored.
    size: int


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """The manifest and the config of an image."""

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
    #: The name under which it is saved: a path below a folder. Without a title a file keeps its own name, and bytes have
    #: none: they are not saved.
    title: str | None = None
    #: Further annotations.
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """An error or a warning about a place in a Dockerfile."""

    #: A Dockerfile with an error cannot be built.
    severity: Literal["error", "warning"]
    #: The stable name of the rule (`StageNameCasing`) or of the kind of error (`unknown-flag`).
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
    """The result of a check of a Dockerfile."""

    #: Errors and warnings, in the order of their places in the file.
    diagnostics: tuple[Diagnostic, ...]
    #: The base images that could not be looked up. Rules that need to know them were left out.
    unresolved: tuple[str, ...]
    #: The text with every automatic correction applied, as `hyperbuild build --fix` writes it; `None` when nothing can be
    #: corrected automatically.
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
    #: The value: the one that was given, else the default.
    value: str | None
    #: What the comment above it says.
    description: str | None
    #: The line of its declaration.
    line: int


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret or an SSH agent that a target uses."""

    #: The id: the key in `secrets` or `ssh`.
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


#: The classes of the items of fields, by class and field.
_ITEMS = {
    ("BuildResult", "steps"): "Step",
    ("BuildPlan", "steps"): "PlannedStep",
    ("CheckResult", "diagnostics"): "Diagnostic",
    ("Outline", "arguments"): "BuildArgument",
    ("Outline", "secrets"): "SecretUse",
    ("Outline", "ssh"): "SecretUse",
    ("Outline", "caches"): "CacheUse",
}


def _make(name: str, value: Any) -> Any:
    """Makes a result, or a list of results, from the data of the native module."""
    if isinstance(value, list):
        return [_make(name, item) for item in value]
    fields = {}
    for key, item in value.items():
        if isinstance(item, list):
            kind = _ITEMS.get((name, key))
            item = tuple(item if kind is None else _make(kind, item))
        fields[key] = item
    return _CLASSES[name](**fields)


_CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Step,
        BuildResult,
        PlannedStep,
        BuildPlan,
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
