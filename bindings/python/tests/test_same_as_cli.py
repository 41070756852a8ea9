"""Options mean the same in Python and on the command line."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[3]
PROGRAM = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/hyperbuild"
ARCHIVE = "type=oci,dest=a.tar"
SCRIPT = """
import sys, hyper_sdk
options = eval(sys.argv[2])
try:
    hyper_sdk.Hyper().build(sys.argv[1], **options)
except hyper_sdk.HyperError as error:
    sys.exit(str(error))
"""


def run(
    command: list[str | pathlib.Path],
    folder: pathlib.Path,
    prepare: Callable[[pathlib.Path], None] = lambda _: None,
) -> tuple[bool, str, bytes, dict[str, str]]:
    """Whether it worked, what it said, what it wrote to standard output, and which files are there."""
    folder.mkdir()
    prepare(folder)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "HYPER_ROOT": str(folder.parent / "root"),
        "VARIABLE": "from the environment",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120, check=False)
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return done.returncode == 0, done.stderr.decode(), done.stdout, files


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        *(
            (["-o", text], {"outputs": text})
            for text in [
                "-",
                "out",
                "type=oci,dest=a.tar",
                "type=oci,dest=a.tar,tar=true",
                "type=oci,dest=folder,tar=0",
                "type=oci,dest=folder,tar=false",
                "type=oci,dest=a.tar,oci-mediatypes=true",
                "type=oci,dest=a.tar,compression=zstd",
                "type=oci,dest=a.tar,compression=zstd,compression-level=99",
                "type=oci,dest=a.tar,annotation.a=b,name=x:1",
                "type=docker,dest=a.tar",
                "type=tar,dest=a.tar",
                "type=tar,dest=-",
                "type=local,dest=out",
                'type=local,"dest=o,t"',
                "type=cacheonly",
                "type=image,name=x:1",
                "type=image,push=true",
                "type=elephant,dest=a",
                "type=oci,dest=a.tar,color=red",
                "type=local,dest=out,push=true",
                "dest=out",
                'type=oci,"dest=out',
                "",
            ]
        ),
        *(
            (["-o", "out", "--platform", text], {"outputs": "out", "platform": text})
            for text in ["linux/amd64", "linux/arm64/v8", "linux/amd64,linux/arm64", "amd64", "/", "nonsense/x/y/z"]
        ),
        *(
            (["-o", "out", "--network", text], {"outputs": "out", "network": text})
            for text in ["none", "host", "default", "private", "bridge", ""]
        ),
        *(
            (["-o", ARCHIVE, "--source-date-epoch", text], {"outputs": ARCHIVE, "source_date_epoch": text})
            for text in ["5", "auto", "tomorrow", ""]
        ),
        *(
            (["-o", "out", "--build-context", f"Given={text}"], {"outputs": "out", "build_contexts": {"Given": text}})
            for text in ["docker-image://scratch", "ftp://a/b", "/nowhere/at/all", "elephant://x", ""]
        ),
        *(
            (["-o", ARCHIVE, "--build-arg", flag], {"outputs": ARCHIVE, "build_args": {"VARIABLE": value}})
            for flag, value in [("VARIABLE=given", "given"), ("VARIABLE=", ""), ("VARIABLE", None)]
        ),
        *(
            (["-o", "out", "-t", text], {"outputs": "out", "tags": text})
            for text in ["a", "UPPER", "a:b:c", "", f"a@sha256:{'0' * 64}"]
        ),
        *(
            (["-o", ARCHIVE, "--annotation", f"{key}=b"], {"outputs": ARCHIVE, "annotations": {key: "b"}})
            for key in ["a", "index:a", "manifest-descriptor:a", "manifest[plan9/386]:a", "elephant:a", "index:", ""]
        ),
        *(
            (["-o", ARCHIVE, "--label", f"{key}=b"], {"outputs": ARCHIVE, "labels": {key: "b"}})
            for key in ["a", ""]
        ),
        *(
            (["-o", "out", "--add-host", f"a={address}"], {"outputs": "out", "extra_hosts": {"a": address}})
            for address in ["10.0.0.1", "::1", "[::1]", "host-gateway", "a", ""]
        ),
        *(
            (["-o", "out", "--ssh", text], {"outputs": "out", "ssh": ssh})
            for text, ssh in [("default", {"default": None}), ("a=/nowhere", {"a": "/nowhere"}), ("a=/dev/null", {"a": "/dev/null"})]
        ),
        *(
            (["-o", ARCHIVE, "--cache-to", text], {"outputs": ARCHIVE, "cache_to": text})
            for text in ["type=local,dest=cache", "type=inline", "type=gha", "type=local,src=x", ""]
        ),
        *(
            (["-o", ARCHIVE, "--cache-from", text], {"outputs": ARCHIVE, "cache_from": text})
            for text in ["type=local,src=nowhere", "type=local,dest=x", "type=elephant", ""]
        ),
        *(
            (["-o", "out", "--ulimit", f"{name}={value}"], {"outputs": "out", "ulimits": {name: value}})
            for name, value in [("nofile", "64:128"), ("files", "1"), ("nofile", "2:1")]
        ),
        *(
            (["-o", "out", "--resource", f"{name}={value}"], {"outputs": "out", "resources": {name: value}})
            for name, value in [("memory", "0"), ("memory", "1k"), ("disk", "1"), ("cpus", "much")]
        ),
        *(
            (["-o", "out", "--shm-size", text], {"outputs": "out", "shm_size": text})
            for text in ["1m", "0", "-1", ""]
        ),
        (["-o", "out", "--cgroup-parent", "../a"], {"outputs": "out", "cgroup_parent": "../a"}),
        (["-o", "-", "-o", "type=oci,dest=-"], {"outputs": ["-", "type=oci,dest=-"]}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options(tmp_path: pathlib.Path, context: pathlib.Path, flags: list[str], options: dict[str, object]) -> None:
    if not PROGRAM.exists():
        pytest.skip("SKIPPED: options of the command line: hyperbuild is not built")
    (context / "Dockerfile").write_text("FROM scratch\nARG VARIABLE\nLABEL v=$VARIABLE\nCOPY hello /hello\n")
    os.utime(context / "hello", (1_000_000_000, 1_000_000_000))
    cli = run([PROGRAM, "build", "--quiet", *flags, context], tmp_path / "cli")
    python = run([sys.executable, "-c", SCRIPT, context, repr(options)], tmp_path / "python")
    assert cli[0] == python[0], (cli[1], python[1])
    assert cli[3] == python[3]
    if cli[0] and "-" in "".join(flags[1:2])[-1:]:
        assert cli[2] == python[2] and cli[2]


@pytest.mark.parametrize(
    ("outputs", "part"),
    [
        (["type=oci,dest=nowhere/a.tar"], "there is no folder nowhere"),
        (["type=docker,dest=file/a.tar"], "there is no folder file"),
        (["type=tar,dest=."], "is a folder: name a file"),
        (["type=oci,tar=false,dest=file"], "file is not a folder"),
        (["file/out"], "file is not a folder"),
        (["type=tar,dest=pipe"], "the pipe has no reader"),
        (["type=local,mode=delete,dest=.."], "would empty .., which holds"),
        (["-", "type=oci,dest=-"], "only one output can go to standard output"),
        (["type=tar,dest=/dev/stdout", "type=oci,dest=-"], "only one output can go to standard output"),
        (["out", "type=oci,dest=nowhere/a.tar"], "there is no folder nowhere"),
    ],
)
def test_destinations_are_checked_before_the_build(
    tmp_path: pathlib.Path, context: pathlib.Path, outputs: list[str], part: str
) -> None:
    if not PROGRAM.exists():
        pytest.skip("SKIPPED: options of the command line: hyperbuild is not built")
    # The build itself would fail, too.
    (context / "Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    flags = [flag for output in outputs for flag in ("-o", output)]
    commands: dict[str, list[str | pathlib.Path]] = {
        "cli": [PROGRAM, "build", "--quiet", *flags, context],
        "python": [sys.executable, "-c", SCRIPT, context, repr({"outputs": outputs})],
    }
    for name, command in commands.items():
        folder = tmp_path / name
        works, said, written, files = run(command, folder, prepare)
        assert not works and part in said and "missing" not in said, (name, said)
        assert not written and list(files) == ["file"], (name, files)


def prepare(folder: pathlib.Path) -> None:
    """Makes a file and a named pipe that nobody reads."""
    (folder / "file").touch()
    os.mkfifo(folder / "pipe")
