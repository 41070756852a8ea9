"""What the tests share: folders of their own, a build context, the programs of the host."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

import hyper_sdk


@pytest.fixture
def hyper(tmp_path: pathlib.Path) -> hyper_sdk.Hyper:
    return hyper_sdk.Hyper(tmp_path / "root", docker_config=tmp_path / "no-credentials")


@pytest.fixture
def context(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "hello").write_text("hello\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY hello /hello\nLABEL a=b\n")
    return folder


@pytest.fixture
def busybox(tmp_path: pathlib.Path) -> pathlib.Path:
    """A context with a static shell, and a Dockerfile that makes a root file system of it."""
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("SKIPPED: a RUN step: there is no busybox")
    data = pathlib.Path(program).read_bytes()
    if b"/ld-linux" in data[:4096] or b"/ld-musl" in data[:4096]:
        pytest.skip("SKIPPED: a RUN step: busybox is not static")
    folder = tmp_path / "busybox"
    folder.mkdir()
    shutil.copy(program, folder / "sh")
    (folder / "sh").chmod(0o755)
    return folder


def processes_with(text: str) -> list[int]:
    """The processes whose command line has a text, this one aside."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = pathlib.Path("/proc", entry, "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line:
                found.append(int(entry))
    return found
