"""Builds without a Dockerfile."""

from __future__ import annotations

import asyncio
import json
import pathlib

import pytest

import hyper_sdk
from hyper_sdk import graph


def test_files_are_copied_and_written(hyper: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = (
        graph.scratch()
        .copy(graph.context(), "hello", "/copied/")
        .file("/etc/written", "text\n", chmod="0600")
        .configure(entrypoint=["/copied/hello"], cmd=["x"], env={"A": "b"}, workdir="/copied", user="7", expose=["80"])
    )
    built = hyper.build(context, graph=root, tags="graph:1", labels={"l": "m"})
    assert built.tags == ("graph:1",)
    config = hyper.inspect("graph:1").config
    assert config is not None and "config" in config
    container = config["config"]
    assert (container.get("Entrypoint"), container.get("Cmd")) == (["/copied/hello"], ["x"])
    assert (container.get("WorkingDir"), container.get("User"), container.get("Env")) == ("/copied", "7", ["A=b"])
    assert (container.get("Labels"), container.get("ExposedPorts")) == ({"l": "m"}, {"80/tcp": {}})
    hyper.build(context, graph=root, outputs={"type": "local", "dest": tmp_path / "out"})
    assert (tmp_path / "out/copied/hello").read_text() == "hello\n"
    assert (tmp_path / "out/etc/written").read_text() == "text\n"
    assert (tmp_path / "out/etc/written").stat().st_mode & 0o777 == 0o600
    again = hyper.build(context, graph=root)
    assert again.digest != built.digest, "the label is part of the image"
    assert all(step.cached for step in again.steps)


def test_commands_run(hyper: hyper_sdk.Hyper, busybox: pathlib.Path, tmp_path: pathlib.Path) -> None:
    base = graph.scratch().copy(graph.context(), "sh", "/bin/sh").configure(env={"FROM": "image"})
    made = base.run(
        'echo "$FROM $OWN $(cat /given/sh | wc -c) $(cat /run/secrets/key | wc -c)" > /out/made; pwd > /out/where',
        env={"OWN": "run"},
        cwd="/out",
        mounts=[graph.bind(graph.context(), "/given"), graph.cache("/cache"), graph.tmpfs("/t"), graph.secret("key")],
    )
    direct = made.run(["/bin/sh", "-c", "echo direct > /out/direct"], offline=True)
    result = graph.scratch().copy(direct, "/out/*", "/")
    events: list[hyper_sdk.Event] = []
    hyper.build(
        busybox,
        graph=result,
        secrets={"key": "12345"},
        outputs={"type": "local", "dest": tmp_path / "out"},
        progress=events.append,
    )
    size = (busybox / "sh").stat().st_size
    assert (tmp_path / "out/made").read_text().split() == ["image", "run", str(size), "5"]
    assert (tmp_path / "out/where").read_text() == "/out\n"
    assert (tmp_path / "out/direct").read_text() == "direct\n"
    with pytest.raises(hyper_sdk.CommandFailedError) as caught:
        hyper.build(busybox, graph=base.run("exit 3"))
    assert caught.value.exit_code == 3
    with pytest.raises(hyper_sdk.HyperError, match="key"):
        hyper.build(busybox, graph=base.run("true", mounts=[graph.secret("key")]))


def test_images_and_named_contexts(hyper: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with hyper_sdk.Registry() as registry:
        name = f"{registry.address}/base:1"
        hyper.build(context, tags=name)
        hyper.push(name)
        other = hyper_sdk.Hyper(tmp_path / "other", docker_config=tmp_path)
        root = graph.image(name).copy(graph.context("given"), "Dockerfile", "/")
        other.build(graph=root, build_contexts={"given": context}, tags="app")
        config = other.inspect("app").config
        assert config is not None and config["config"].get("Labels") == {"a": "b"}
        assert len(config["rootfs"]["diff_ids"]) == 2
        history = [entry.get("created_by", "") for entry in config["history"]]
        assert history[-1] == "COPY Dockerfile /"


def test_a_value_becomes_one_step() -> None:
    base = graph.scratch()
    text = json.loads(graph._to_json(graph.scratch().copy(base, "a", "/").copy(base, "b", "/")))
    assert [step["op"] for step in text["steps"]].count("scratch") == 2
    assert text["target"] == len(text["steps"]) - 1
    deep = base
    for number in range(5000):
        deep = deep.file("/file", str(number))
    assert len(json.loads(graph._to_json(deep))["steps"]) == 5001


def test_invalid_graphs_raise(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    scratch = graph.scratch()
    for root, text in [
        (scratch.copy(graph.context("none"), "a", "/"), "no context `none`"),
        (scratch.copy(graph.context(), [], "/"), "nothing to copy"),
        (scratch.copy(graph.context(), "hello", "relative"), "absolute"),
        (scratch.run([]), "a program"),
        (scratch.file("/a", "", chmod="x"), "graph step: 1"),
    ]:
        with pytest.raises(hyper_sdk.InvalidError, match=text):
            hyper.build(context, graph=root)
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.build(context, graph=scratch.copy(graph.context(), "no-such-file", "/"))
    with pytest.raises(hyper_sdk.InvalidError, match="either a `graph`"):
        hyper.build(context, graph=scratch, dockerfile="FROM scratch")
    with pytest.raises(hyper_sdk.InvalidError, match="either a `graph`"):
        hyper.build(context, graph=scratch, target="x")
    with pytest.raises(TypeError, match="State"):
        hyper.build(context, graph=graph.context())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list of words"):
        scratch.configure(entrypoint="sh")


def test_a_graph_is_awaited(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
    built = asyncio.run(hyper.build(context, graph=graph.scratch().file("/a", "b"), tags="a"))
    assert built.digest is not None
