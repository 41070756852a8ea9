"""Cancelling work that reads or writes file objects."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator

import pytest

import hyper_sdk


class Alarm(Exception):
    """What the handler of the tests' signal raises, as that of Ctrl-C raises `KeyboardInterrupt`."""


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGALRM)


def ring(number: int, frame: object) -> None:
    raise Alarm


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


class File:
    """A slow file object whose calls are counted. The third call cancels."""

    def __init__(self, cancel: Callable[[], object] = interrupt) -> None:
        self.cancel = cancel
        self.calls = 0

    def called(self) -> None:
        self.calls += 1
        if self.calls == 3:
            self.cancel()
        time.sleep(0.01)

    def rests(self) -> bool:
        """Whether it is not called any more. The call that was under way may have ended meanwhile."""
        before = self.calls
        time.sleep(0.3)
        return 3 <= before and self.calls <= before + 1


class Endless(File):
    """The archive of a file that never ends."""

    def read(self, size: int) -> bytes:
        self.called()
        member = tarfile.TarInfo("file")
        member.size = 1 << 40
        return member.tobuf() if self.calls == 1 else b"x" * 1000


class Small(File):
    """Takes some bytes at a time."""

    def write(self, data: bytes) -> int:
        self.called()
        return 1000


class Blocked(File):
    """Blocks in its first call."""

    def read(self, size: int) -> bytes:
        self.calls += 1
        self.cancel()
        time.sleep(3600)
        return b""


def is_empty(scratch: pathlib.Path) -> bool:
    """Whether a folder gets empty: the last call may still be under way."""
    deadline = time.monotonic() + 20
    while list(scratch.iterdir()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


WORK: dict[str, Callable[[hyper_sdk.Hyper, Endless], object]] = {
    "build": lambda hyper, file: hyper.build(file),
    "plan": lambda hyper, file: hyper.plan(file),
    "named context": lambda hyper, file: hyper.build(dockerfile="FROM scratch", build_contexts={"given": file}),
    "check": lambda hyper, file: hyper.check(file),
    "outline": lambda hyper, file: hyper.outline(file),
    "targets": lambda hyper, file: hyper.targets(file),
    "load": lambda hyper, file: hyper.load(file),
}


@pytest.mark.parametrize("name", WORK)
def test_an_interrupt_ends_the_reading(hyper: hyper_sdk.Hyper, name: str) -> None:
    file = Endless()
    with pytest.raises(Alarm):
        WORK[name](hyper, file)
    assert file.rests()
    assert is_empty(hyper.root / "scratch")


def test_an_interrupt_ends_the_writing(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    (context / "hello").write_bytes(os.urandom(4 << 20))
    hyper.build(context, tags="app:1")
    file = Small()
    with pytest.raises(Alarm):
        hyper.save("app:1", file)
    assert file.rests()
    assert is_empty(hyper.root / "scratch")


@pytest.mark.parametrize("name", ["build", "plan", "check", "load"])
def test_cancelling_a_task_ends_the_reading(tmp_path: pathlib.Path, name: str) -> None:
    file = Endless()

    async def main() -> None:
        hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
        task = asyncio.create_task(getattr(hyper, name)(file))
        loop = asyncio.get_running_loop()
        file.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert file.rests()
    assert is_empty(tmp_path / "root/scratch")


def test_a_call_that_blocks_is_not_waited_for(hyper: hyper_sdk.Hyper) -> None:
    file = Blocked()
    with pytest.raises(Alarm):
        hyper.build(file)
    assert file.calls == 1
    assert hyper.build(dockerfile="FROM scratch\n").digest is not None


@pytest.mark.parametrize("kind", ["Endless", "Blocked"])
@pytest.mark.parametrize("call", ["sync", "async"])
def test_the_program_ends_after_a_cancel(tmp_path: pathlib.Path, kind: str, call: str) -> None:
    program = (
        "import asyncio, signal, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import hyper_sdk, test_cancel\n"
        f"file = test_cancel.{kind}()\n"
        "async def main():\n"
        "    task = asyncio.create_task(hyper_sdk.AsyncHyper(sys.argv[2]).build(file))\n"
        "    loop = asyncio.get_running_loop()\n"
        "    file.cancel = lambda: loop.call_soon_threadsafe(task.cancel)\n"
        "    await task\n"
        "try:\n"
        "    if sys.argv[3] == 'async':\n"
        "        asyncio.run(main())\n"
        "    else:\n"
        "        signal.signal(signal.SIGALRM, test_cancel.ring)\n"
        "        hyper_sdk.Hyper(sys.argv[2]).build(file)\n"
        "except (asyncio.CancelledError, test_cancel.Alarm):\n"
        "    print('cancelled')\n"
    )
    arguments = [str(pathlib.Path(__file__).parent), str(tmp_path / "root"), call]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "cancelled\n", "")
