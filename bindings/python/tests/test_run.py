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


def test_a_secret_is_never_printed_or_stored(hyper: hyper_sdk.Hyper, busybox: pathlib.Path, tmp_path: pathlib.Path) -> None:
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


HANDLER = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
# Where the tests themselves run in the background of a shell, an interrupt is ignored.
INTERRUPT = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
SYNC = "hyper_sdk.Hyper(root).build(context, dockerfile=text, tags='a', outputs=outputs)\n"
ASYNC = "asyncio.run(main())\n"
TERM = "loop.add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)"


@pytest.mark.parametrize(
    ("setting", "call", "sent", "status"),
    [
        (INTERRUPT, SYNC, signal.SIGINT, 42),
        (INTERRUPT, ASYNC, signal.SIGINT, 42),
        (HANDLER, SYNC, signal.SIGTERM, 143),
        (f"TERM = {TERM!r}\n", ASYNC, signal.SIGTERM, 44),
        ("", SYNC, signal.SIGTERM, -signal.SIGTERM),
        ("", ASYNC, signal.SIGTERM, -signal.SIGTERM),
        ("", SYNC, signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_ends_the_command(
    busybox: pathlib.Path, tmp_path: pathlib.Path, setting: str, call: str, sent: signal.Signals, status: int
) -> None:
    marker = f"7{os.getpid()}01"
    program = (
        "import asyncio, signal, sys, hyper_sdk\n"
        "TERM = ''\n"
        f"{setting}"
        f"root, context, text = sys.argv[1], sys.argv[2], {BASE + f'RUN sleep {marker}'!r}\n"
        "outputs = [f'type=oci,dest={sys.argv[3]}/a.tar', f'type=local,dest={sys.argv[3]}/files', 'type=image']\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    exec(TERM)\n"
        "    await hyper_sdk.AsyncHyper(root).build(context, dockerfile=text, tags='a', outputs=outputs)\n"
        "try:\n"
        f"    {call}"
        "except KeyboardInterrupt:\n"
        "    sys.exit(42)\n"
        "except asyncio.CancelledError:\n"
        "    sys.exit(44)\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    child = subprocess.Popen([sys.executable, "-c", program, tmp_path / "root", busybox, out])
    try:
        wait_for_command(marker)
        child.send_signal(sent)
        assert child.wait(10) == status
    finally:
        child.kill()
    assert gone(f"sleep\0{marker}")
    assert list(out.iterdir()) == []
    assert hyper_sdk.Hyper(tmp_path / "root").images() == []


def test_cancelling_an_export_leaves_nothing(
    hyper: hyper_sdk.Hyper, busybox: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    class Stop(Exception):
        pass

    def callback(event: hyper_sdk.Event) -> None:
        if event["event"] == "started" and event["name"].startswith("export"):
            raise Stop

    out = tmp_path / "out"
    out.mkdir()
    (out / "kept.tar").write_text("before")
    with (busybox / "large").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    for name in ("new.tar", "kept.tar"):
        for kind in ("oci", "docker", "tar"):
            with pytest.raises(Stop):
                hyper.build(
                    busybox,
                    dockerfile="FROM scratch\nCOPY large /\n",
                    outputs=f"type={kind},dest={out / name}",
                    progress=callback,
                )
    assert [path.name for path in out.iterdir()] == ["kept.tar"]
    assert (out / "kept.tar").read_text() == "before"


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
