"""The examples run and print what they should."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import hyper_sdk

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples/python"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPER_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    text = pathlib.Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in text, path


def test_build_image(context: pathlib.Path) -> None:
    lines = run("build_image.py", context, "app:1").splitlines()
    assert lines[-1] == hyper_sdk.Hyper().inspect("app:1").digest
    assert lines[0].startswith("done") and "COPY hello" in lines[0]
    assert run("build_image.py", context, "app:1").startswith("cached")


def test_push_and_pull(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    digest = hyper_sdk.Hyper().build(context, tags="app:1").digest
    with hyper_sdk.Registry() as registry:
        target = f"{registry.address}/app:1"
        said = run("push_and_pull.py", "app:1", target, tmp_path / "app.tar")
    assert said.splitlines() == [
        f"pushed {target} {digest}",
        f"pulled {target} {digest}",
        "tags: 1",
        f"loaded {target} {digest}",
    ]


def test_async_builds(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "Dockerfile").write_text("FROM scratch\n")
    said = run("async_builds.py", context, second)
    assert "COPY hello" in said
    assert {image.name for image in hyper_sdk.Hyper().images()} == {"context:latest", "second:latest"}


def test_multi_platform(context: pathlib.Path) -> None:
    hyper = hyper_sdk.Hyper()
    with hyper_sdk.Registry() as registry:
        name = f"{registry.address}/app:1"
        run("multi_platform.py", context, name, "linux/amd64", "linux/arm64/v8")
        entries = hyper.inspect(name, remote=True).manifest["manifests"]
        assert [entry["platform"]["architecture"] for entry in entries] == ["amd64", "arm64"]
        for platform in ("linux/amd64", "linux/arm64"):
            pulled = hyper.pull(name, platform=platform)
            config = hyper.inspect(name).config
            assert config is not None and pulled.platform is not None
            assert f"{config['os']}/{config['architecture']}" == platform
        hyper.pull(name, all_platforms=True)
        (image,) = [image for image in hyper.images() if image.name == name]
        assert image.platforms == ("linux/amd64", "linux/arm64")


def test_attach_sbom(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sbom.json").write_text("{}")
    hyper = hyper_sdk.Hyper()
    with hyper_sdk.Registry() as registry:
        name = f"{registry.address}/app:1"
        hyper.build(context, tags=name)
        hyper.push(name)
        said = run("attach_sbom.py", name, tmp_path / "sbom.json", tmp_path / "out")
        (found,) = hyper.referrers(name, remote=True)
    assert found["digest"] in said
    assert (tmp_path / "out/sbom.json").read_text() == "{}"


def test_graph_build(context: pathlib.Path) -> None:
    digest = run("graph_build.py", context, "app:1").strip()
    assert hyper_sdk.Hyper().inspect("app:1").digest == digest


def test_with_registry() -> None:
    # Nothing of this suite's settings: whoever copies the example has none of them.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLES)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, str(EXAMPLES / "test_with_registry.py")], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
