"""Contexts that are bytes or file objects."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import pathlib
import tarfile
from collections.abc import Callable

import pytest

import hyper_sdk


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


CONTEXT = archive(Dockerfile="FROM scratch\nCOPY file /file\n", file="content")


def built(hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path, context: object) -> str:
    hyper.build(context, outputs={"type": "local", "dest": tmp_path / "out"})  # type: ignore[arg-type]
    return (tmp_path / "out/file").read_text()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_archives_compressed_or_not(
    hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path, compress: Callable[[bytes], bytes]
) -> None:
    data = compress(CONTEXT)
    path = tmp_path / "context.tar"
    path.write_bytes(data)
    with path.open("rb") as file:
        for context in [data, bytearray(data), memoryview(data), io.BytesIO(data), file]:
            assert built(hyper, tmp_path, context) == "content"
    assert list((tmp_path / "root/scratch").iterdir()) == []


class Slow:
    """Gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        assert size > 0
        return self.file.read(1)


def test_a_file_object_may_return_less_than_asked(hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path) -> None:
    assert built(hyper, tmp_path, Slow(CONTEXT)) == "content"


def test_a_dockerfile_comes_from_the_stream_or_from_an_argument(hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path) -> None:
    assert hyper.build(b"FROM scratch\nLABEL a=b\n").digest == hyper.build(dockerfile="FROM scratch\nLABEL a=b\n").digest
    data = archive(other="FROM scratch\nCOPY file /file\n", file="content")
    for arguments in ({"file": "other"}, {"dockerfile": "FROM scratch\nCOPY file /file\n"}):
        hyper.build(data, outputs={"type": "local", "dest": tmp_path / "out"}, **arguments)  # type: ignore[arg-type]
        assert (tmp_path / "out/file").read_text() == "content"
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.build(data, file="none")
    with pytest.raises(hyper_sdk.InvalidError, match="not an archive"):
        hyper.build(b"FROM scratch\n", dockerfile="FROM scratch\n")


def test_named_contexts(hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path) -> None:
    for context in (CONTEXT, io.BytesIO(CONTEXT), gzip.compress(CONTEXT)):
        hyper.build(
            dockerfile="FROM scratch\nCOPY --from=given file /file\n",
            build_contexts={"given": context},
            outputs={"type": "local", "dest": tmp_path / "out"},
        )
        assert (tmp_path / "out/file").read_text() == "content"
    with pytest.raises(hyper_sdk.InvalidError, match="archive"):
        hyper.build(dockerfile="FROM scratch", build_contexts={"given": b"FROM scratch"})


def test_invalid_contexts_raise(hyper: hyper_sdk.Hyper) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        hyper.build(Broken())
    with pytest.raises(TypeError, match="binary mode"):
        hyper.build(io.StringIO("FROM scratch"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a context is"):
        hyper.build(5)  # type: ignore[arg-type]
    for data in (b"", b"\0" * 100, CONTEXT[:700], gzip.compress(CONTEXT)[:50], b"\xff" * 600):
        with pytest.raises(hyper_sdk.HyperError):
            hyper.build(data)
    outside = io.BytesIO()
    with tarfile.open(fileobj=outside, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(hyper_sdk.HyperError):
        hyper.build(outside.getvalue())


def test_a_file_object_is_read_when_the_coroutine_is_awaited(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
        file = io.BytesIO(CONTEXT)
        build = hyper.build(file, tags="a")
        assert file.tell() == 0
        assert (await build).tags == ("a:latest",)

    asyncio.run(main())
