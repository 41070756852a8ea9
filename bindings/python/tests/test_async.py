"""Coroutines."""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import subprocess
import sys

import pytest

import hyper_sdk


def test_coroutines_return_the_results(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
        other = hyper_sdk.AsyncHyper(tmp_path / "other", docker_config=tmp_path)
        events: list[hyper_sdk.Event] = []
        async with hyper_sdk.Registry() as registry:
            name = f"{registry.address}/app:1"
            built = await hyper.build(context, tags=[name], progress=events.append)
            assert events[-1]["event"] == "result" and events[-1]["digest"] == built.digest
            pushed = await hyper.push(name)
            pulled = await other.pull(name)
            assert built.digest == pushed.digest == pulled.digest
            details, images = await asyncio.gather(other.inspect(name), other.images())
            assert details.digest == images[0].digest == built.digest
        with pytest.raises(hyper_sdk.InvalidError):
            await hyper.build(dockerfile="FRMO x")

    asyncio.run(main())


def test_a_coroutine_starts_when_it_is_awaited(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
    # No event loop runs here, and nothing begins.
    unused, build = hyper.images(), hyper.build(context, tags="localhost:5000/app:1")
    assert asyncio.iscoroutine(build)
    unused.close()
    assert not (tmp_path / "root").exists()

    async def main() -> None:
        built = await asyncio.create_task(build)
        tasks = [asyncio.create_task(hyper.images()), asyncio.create_task(hyper.images())]
        for images in await asyncio.gather(*tasks):
            assert [image.digest for image in images] == [built.digest]
        with pytest.raises(RuntimeError):
            await build

    asyncio.run(main())


def test_both_classes_have_the_same_methods() -> None:
    names = [name for name in dir(hyper_sdk.Hyper) if not name.startswith("_")]
    assert names == [name for name in dir(hyper_sdk.AsyncHyper) if not name.startswith("_")]
    for name in names:
        if name != "root":
            both = [inspect.signature(getattr(c, name)) for c in (hyper_sdk.Hyper, hyper_sdk.AsyncHyper)]
            assert both[0] == both[1]


def test_a_coroutine_that_begins_at_the_end_of_the_program_is_told(tmp_path: pathlib.Path) -> None:
    # Handlers run in the reverse order: this one after that of the package.
    program = f"""
import asyncio, atexit

def late():
    async def main():
        try:
            await hyper_sdk.AsyncHyper({str(tmp_path / "root")!r}).images()
        except RuntimeError as error:
            print(error)
    asyncio.run(main())
    print(hyper_sdk.Hyper({str(tmp_path / "root")!r}).images())

atexit.register(late)
import hyper_sdk
hyper_sdk.Hyper({str(tmp_path / "root")!r}).images()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told, images = done.stdout.splitlines()
    assert told.startswith("the program is ending") and images == "[]", done.stdout
