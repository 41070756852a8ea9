"""Builds without a Dockerfile: images, files and commands as Python values.

>>> from hyper_sdk import graph
>>> source = graph.context()
>>> tools = graph.image("golang:1.24").run("mkdir /out")
>>> built = tools.copy(source, ".", "/src").run(["go", "build", "-o", "/out/app", "."], cwd="/src")
>>> app = graph.scratch().copy(built, "/out/app", "/app").configure(entrypoint=["/app"])

`Hyper.build(".", graph=app, tags="app:1")` builds it. Nothing runs before the build. Independent steps run at the same time,
equal steps run once, and graphs share the build cache with Dockerfiles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Files:
    """Files to copy from or to mount: a build context, or the root file system of a `State`."""

    _step: Mapping[str, Any] = field(repr=False)
    #: The values that the step refers to, by the name of the field.
    _inputs: tuple[tuple[str, Files], ...] = field(repr=False)
    _mounts: tuple[Mount, ...] = field(repr=False, default=())


@dataclass(frozen=True, eq=False)
class Mount:
    """A mount for one command: `bind`, `cache`, `tmpfs` or `secret` makes it."""

    _fields: Mapping[str, Any] = field(repr=False)
    _from: Files | None = field(repr=False, default=None)


class State(Files):
    """A root file system with the configuration of an image. Every method returns a new value."""

    def run(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        offline: bool = False,
        mounts: Sequence[Mount] = (),
    ) -> State:
        """Runs a command: a `str` in `/bin/sh -c`, a list as a program with its arguments.

        The command has the environment, the working directory and the user that `configure` set before; `env`, `cwd` and
        `user` are for this command alone. With `offline` it has no network.
        """
        args = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        step = {"op": "run", "args": args, "env": dict(env or {}), "offline": offline}
        step |= _given(cwd=cwd, user=user)
        return State(step, (("on", self),), tuple(mounts))

    def copy(
        self,
        source: Files,
        paths: str | Sequence[str],
        destination: str,
        *,
        chown: str | None = None,
        chmod: str | None = None,
        exclude: Sequence[str] = (),
    ) -> State:
        """Copies files from another value, as COPY does.

        `paths` may have wildcards. A destination that ends with a slash is a folder. `chown` is `USER[:GROUP]`; by default
        root owns the files.
        """
        sources = [paths] if isinstance(paths, str) else list(paths)
        step = {"op": "copy", "sources": sources, "to": destination, "exclude": list(exclude)}
        step |= _given(chown=chown, chmod=chmod)
        return State(step, (("on", self), ("from", source)))

    def file(
        self, path: str, content: str, *, chown: str | None = None, chmod: str | None = None
    ) -> State:
        """Writes a file. Its mode is 0644 unless `chmod` gives another."""
        step = {"op": "file", "path": path, "content": content} | _given(chown=chown, chmod=chmod)
        return State(step, (("on", self),))

    def configure(
        self,
        *,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        entrypoint: Sequence[str] | None = None,
        cmd: Sequence[str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        expose: Sequence[str] = (),
    ) -> State:
        """Changes the configuration of the image, for later commands too."""
        _refuse_text(entrypoint=entrypoint, cmd=cmd, expose=expose)
        step = {"op": "configure", "env": dict(env or {}), "labels": dict(labels or {}), "expose": list(expose)}
        step |= _given(
            entrypoint=None if entrypoint is None else list(entrypoint),
            cmd=None if cmd is None else list(cmd),
            workdir=workdir,
            user=user,
        )
        return State(step, (("on", self),))


def image(name: str) -> State:
    """The files and the configuration of an image. An entry of `build_contexts` with this name replaces the image."""
    return State({"op": "image", "name": name}, ())


def scratch() -> State:
    """An empty root file system."""
    return State({"op": "scratch"}, ())


def context(name: str = "") -> Files:
    """The files of the build context, or of the entry of `build_contexts` with this name."""
    return Files({"op": "context", "name": name}, ())


def bind(source: Files, target: str, *, path: str = "/") -> Mount:
    """Mounts the files below `path` of another value at `target`, read-only."""
    return Mount({"type": "bind", "target": target, "source": path}, source)


def cache(target: str, *, id: str | None = None) -> Mount:
    """A folder at `target` that is kept between builds. Mounts with the same `id` share it; the default is the target."""
    return Mount({"type": "cache", "target": target} | _given(id=id))


def tmpfs(target: str) -> Mount:
    """An empty folder in memory at `target`, which is removed after the command."""
    return Mount({"type": "tmpfs", "target": target})


def secret(id: str, target: str | None = None) -> Mount:
    """The secret `id` of the build as a file at `target`; the default is `/run/secrets/ID`."""
    return Mount({"type": "secret", "id": id, "target": target or f"/run/secrets/{id}"})


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _refuse_text(**fields: Sequence[str] | None) -> None:
    for name, value in fields.items():
        if isinstance(value, str):
            raise TypeError(f"`{name}` is a list of words, not a `str`")


def _to_json(root: object) -> str:
    """The graph as JSON, for the native module."""
    if not isinstance(root, State):
        raise TypeError(f"a graph is a `hyper_sdk.graph.State`, not `{type(root).__name__}`")
    # Each value once, after its inputs. A loop, because a graph can be deeper than Python's stack.
    places: dict[int, int] = {}
    steps: list[dict[str, Any]] = []
    waiting: list[Files] = [root]
    while waiting:
        value = waiting[-1]
        if id(value) in places:
            waiting.pop()
            continue
        needed = [needed for _, needed in value._inputs]
        needed += [mount._from for mount in value._mounts if mount._from is not None]
        missing = [needed for needed in needed if id(needed) not in places]
        if missing:
            waiting.extend(missing)
            continue
        waiting.pop()
        step = dict(value._step)
        step |= {name: places[id(needed)] for name, needed in value._inputs}
        if value._mounts:
            step["mounts"] = [
                dict(mount._fields) | ({} if mount._from is None else {"from": places[id(mount._from)]})
                for mount in value._mounts
            ]
        places[id(value)] = len(steps)
        steps.append(step)
    return json.dumps({"steps": steps, "target": places[id(root)]})


__all__ = ["Files", "Mount", "State", "bind", "cache", "context", "image", "scratch", "secret", "tmpfs"]
