"""Builds that run commands."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import processes_with

import hyper_sdk

BASE = 'FROM scratch\nCOPY sh /bin/sh\n'


def gone(marker: str) -> bool:
    """Whether every process with the marker ends within some seconds."""
    deadline = time.monotonic() + 5
    while processes_with(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_command_runs(hyper: hyper_sdk.Hyper, busybox: pathlib.Path, tmp_path: pathlib.Path) -> None:
    events: list[hyper_sdk.Event] = []
    hyper.build(
        busybox,
        dockerfile=BASE + "ARG WHO\nRUN echo hello $WHO > /out\nRUN echo said\n",
        build_args={"WHO": "you"},
        outputs=[{"type": "local", "dest": tmp_path / "out"}],
        progress=events.append,
    )
    assert (tmp_path / "out/out").read_text() == "hello you\n"
    assert "said\n" in "".join(event["text"] for event in events if event["event"] == "log")


def test_a_command_fails(hyper: hyper_sdk.Hyper, busybox: pathlib.Path) -> None:
    with pytest.raises(hyper_sdk.CommandFailedError) as caught:
        hyper.build(busybox, dockerfile=BASE + "RUN exit 7\n")
    assert "7" in str(caught.value)


def test_the_network_of_the_host_needs_a_permission(hyper: hyper_sdk.Hyper, busybox: pathlib.Path) -> None:
    dockerfile = BASE + "RUN --network=host true\n"
    with pytest.raises(hyper_sdk.HyperError, match="network.host"):
        hyper.build(busybox, dockerfile=dockerfile, network="none")
    hyper.build(busybox, dockerfile=dockerfile, network="none", allow_host_network=True)


def test_a_secret_stays_one(hyper: hyper_sdk.Hyper, busybox: pathlib.Path, tmp_path: pathlib.Path) -> None:
    events: list[hyper_sdk.Event] = []
    result = hyper.build(
        busybox,
        dockerfile=BASE + "RUN --mount=type=secret,id=key read x < /run/secrets/key; echo ${#x} > /length\n",
        secrets={"key": "hunter2-hunter2"},
        outputs=[{"type": "local", "dest": tmp_path / "out"}],
        progress=events.append,
    )
    assert (tmp_path / "out/length").read_text() == "15\n"
    assert "hunter2" not in repr(result) + repr(events) + repr(hyper)
    for path in [*tmp_path.rglob("*")]:
        if path.is_file() and not path.is_symlink():
            assert b"hunter2" not in path.read_bytes(), path


def test_an_interrupt_ends_the_command(busybox: pathlib.Path, tmp_path: pathlib.Path) -> None:
    marker = f"7{os.getpid()}01"
    program = (
        "import signal, sys, hyper_sdk\n"
        # Where the tests themselves run in the background of a shell, an interrupt is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        f"    hyper_sdk.Hyper(sys.argv[1]).build(sys.argv[2], dockerfile={BASE + f'RUN sleep {marker}'!r})\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(42)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path / "root", busybox])
    try:
        wait_for_command(marker)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 42
    finally:
        child.kill()
    assert gone(f"sleep\0{marker}")


def wait_for_command(marker: str) -> None:
    deadline = time.monotonic() + 20
    while not processes_with(f"sleep\0{marker}"):
        assert time.monotonic() < deadline, "the command did not start"
        time.sleep(0.02)


def test_cancelling_a_task_ends_the_command(busybox: pathlib.Path, tmp_path: pathlib.Path) -> None:
    marker = f"7{os.getpid()}02"

    async def main() -> None:
        hyper = hyper_sdk.AsyncHyper(tmp_path / "root")
        work = asyncio.ensure_future(hyper.build(busybox, dockerfile=BASE + f"RUN sleep {marker}\n"))
        await asyncio.to_thread(wait_for_command, marker)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(main())
    assert gone(f"sleep\0{marker}")
