"""Saving and loading images."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import pathlib
import tarfile
from collections.abc import Callable
from typing import Any

import pytest

import hyper_sdk


@pytest.fixture
def other(tmp_path: pathlib.Path) -> hyper_sdk.Hyper:
    return hyper_sdk.Hyper(tmp_path / "other", docker_config=tmp_path / "no-credentials")


def test_images_are_saved_and_loaded(
    hyper: hyper_sdk.Hyper, other: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first = hyper.build(context, tags=["app:1", "localhost:5000/team/app:2"])
    second = hyper.build(dockerfile="FROM scratch\nLABEL x=y\n", tags="other")
    archive = tmp_path / "images.tar"
    names = ["app:1", "localhost:5000/team/app:2", "other"]
    hyper.save(names, archive)
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None and len(json.load(index)["manifests"]) == 3
        assert len(set(tar.getnames())) == len(tar.getnames())
    loaded = other.load(archive)
    assert [(image.reference, image.digest) for image in loaded] == [
        ("docker.io/library/app:1", first.digest),
        ("localhost:5000/team/app:2", first.digest),
        ("docker.io/library/other:latest", second.digest),
    ]
    assert other.images() == hyper.images()
    # The same images give the same bytes.
    other.save(names, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_file_objects_and_bytes(
    hyper: hyper_sdk.Hyper, other: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    digest = hyper.build(context, tags="app:1").digest
    buffer = io.BytesIO()
    hyper.save("app:1", buffer)
    data = buffer.getvalue()
    with (tmp_path / "raw.tar").open("wb", buffering=0) as raw:
        hyper.save("app:1", raw)
    assert (tmp_path / "raw.tar").read_bytes() == data
    for source in (data, io.BytesIO(data), memoryview(data), gzip.compress(data), str(tmp_path / "raw.tar")):
        (loaded,) = other.load(source)
        assert loaded.digest == digest
        other.remove("app:1")
    (named,) = other.load(data, name="mine:3")
    assert [image.name for image in other.images()] == ["mine:3"] and named.digest == digest
    for root in ("root", "other"):
        assert list((tmp_path / root / "scratch").iterdir()) == []


def test_archives_of_builds_and_of_docker(
    hyper: hyper_sdk.Hyper, other: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for kind in ("oci", "docker"):
        path = tmp_path / f"{kind}.tar"
        digest = hyper.build(context, tags="app:1", outputs={"type": kind, "dest": path}).digest
        (loaded,) = other.load(path)
        assert (loaded.reference, loaded.digest) == ("docker.io/library/app:1", digest)
        other.remove("app:1")


def test_a_build_for_several_platforms_is_an_index(hyper: hyper_sdk.Hyper) -> None:
    text = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n"
    built = hyper.build(dockerfile=text, platform=["linux/amd64", "linux/arm64"], tags="app:1")
    (image,) = hyper.images()
    assert (image.digest, image.platforms) == (built.digest, ("linux/amd64", "linux/arm64"))
    assert built.config_digest is None
    for arch in ("amd64", "arm64"):
        config = hyper.inspect("app:1", platform=f"linux/{arch}").config
        assert config is not None and config["config"]["Labels"] == {"arch": arch}
    assert hyper.build(dockerfile=text, platform="linux/amd64, linux/arm64").digest == built.digest


def test_images_keep_their_platforms(hyper: hyper_sdk.Hyper, other: hyper_sdk.Hyper) -> None:
    for platform in ("linux/amd64", "linux/arm64"):
        built = hyper.build(dockerfile="FROM scratch\n", platform=platform, tags=f"app:{platform[6:]}")
        assert built.digest is not None
    buffer = io.BytesIO()
    hyper.save(["app:amd64", "app:arm64"], buffer)
    other.load(buffer.getvalue())
    assert {image.platforms for image in other.images()} == {("linux/amd64",), ("linux/arm64",)}


def test_invalid_archives_and_files_raise(hyper: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise BufferError("full")

    class Broken:
        def read(self, size: int) -> bytes:
            raise KeyError("mine")

    class Stuck:
        def write(self, data: bytes) -> int:
            return 0

    class WouldWait(io.RawIOBase):
        def write(self, data: Any, /) -> None:
            return None

    hyper.build(context, tags="app:1")
    with pytest.raises(BufferError, match="full"):
        hyper.save("app:1", Full())
    with pytest.raises(BlockingIOError, match="no more bytes"):
        hyper.save("app:1", Stuck())
    with pytest.raises(BlockingIOError, match="no more bytes"):
        hyper.save("app:1", WouldWait())
    with pytest.raises(KeyError, match="mine"):
        hyper.load(Broken())
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.save(["app:1", "none:1"], tmp_path / "a.tar")
    with pytest.raises(hyper_sdk.InvalidError, match="at least one"):
        hyper.save([], tmp_path / "a.tar")
    with pytest.raises(hyper_sdk.HyperError):
        hyper.save("app:1", tmp_path / "none/a.tar")
    assert not (tmp_path / "a.tar").exists()
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.load(tmp_path / "none.tar")
    with pytest.raises(TypeError):
        hyper.save("app:1", 5)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    hyper.save("app:1", buffer)
    for data in (b"", b"x" * 2000, buffer.getvalue()[:1500]):
        with pytest.raises(hyper_sdk.HyperError):
            hyper.load(data)


def test_save_and_load_send_events(
    hyper: hyper_sdk.Hyper, other: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    digest = hyper.build(context, tags="app:1").digest
    buffer = io.BytesIO()
    calls: list[Callable[[Callable[[hyper_sdk.Event], None]], object]] = [
        lambda progress: hyper.save("app:1", tmp_path / "a.tar", progress=progress),
        lambda progress: hyper.save("app:1", buffer, progress=progress),
        lambda progress: other.load(tmp_path / "a.tar", progress=progress),
        lambda progress: other.load(buffer.getvalue(), progress=progress),
    ]
    for call in calls:
        events: list[hyper_sdk.Event] = []
        call(events.append)
        started = {event["task"] for event in events if event["event"] == "started"}
        finished = [event for event in events if event["event"] == "finished"]
        assert started and started == {event["task"] for event in finished}
        assert all(event["outcome"] in ("done", "cached") for event in finished)
        (result,) = [event for event in events if event["event"] == "result"]
        assert (result["name"], result["digest"]) == ("docker.io/library/app:1", digest)

    def raises(event: hyper_sdk.Event) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        hyper.save("app:1", tmp_path / "b.tar", progress=raises)
    # The first event may come after the end of so short a work: then the file is whole.
    archive = tmp_path / "b.tar"
    assert not archive.exists() or archive.read_bytes() == (tmp_path / "a.tar").read_bytes()


def test_save_and_load_are_awaited(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
        built = await hyper.build(context, tags="app:1")
        buffer = io.BytesIO()
        await hyper.save("app:1", buffer)
        buffer.seek(0)
        (loaded,) = await hyper.load(buffer)
        assert loaded.digest == built.digest

    asyncio.run(main())
