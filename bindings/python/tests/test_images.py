"""Builds without commands, the local store, registries."""

from __future__ import annotations

import json
import pathlib
import pickle
import tarfile
import types

import pytest

import hyper_sdk


def test_an_image_is_built_and_inspected(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    events: list[hyper_sdk.Event] = []
    result = hyper.build(context, tags=["localhost:5000/app:1"], labels={"c": "d"}, progress=events.append)
    assert result.digest is not None and result.digest.startswith("sha256:")
    assert result.tags == ("localhost:5000/app:1",)
    assert any("COPY hello" in step.name for step in result.steps)
    names = {event["event"] for event in events}
    assert {"started", "finished", "result"} <= names
    assert events[-1]["event"] == "result" and events[-1]["digest"] == result.digest

    (image,) = hyper.images()
    assert (image.name, image.digest) == ("localhost:5000/app:1", result.digest)
    details = hyper.inspect("localhost:5000/app:1")
    assert details.digest == result.digest
    assert details.manifest["config"]["digest"] == result.config_digest
    assert details.config is not None
    assert details.config["config"]["Labels"] == {"a": "b", "c": "d"}
    assert pickle.loads(pickle.dumps(result)) == result
    # Results are values: they can be keys.
    assert len({result, pickle.loads(pickle.dumps(result)), image, details, hyper.inspect("localhost:5000/app:1")}) == 3


def test_results_and_lists_have_the_same_names(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    result = hyper.build(context, tags=["app", "docker.io/library/app:2", "localhost:5000/app:1"])
    assert result.tags == ("app:latest", "app:2", "localhost:5000/app:1")
    assert sorted(result.tags) == sorted(image.name for image in hyper.images())
    # A name alone is one name, not a list of letters.
    assert hyper.build(context, tags="one").tags == ("one:latest",)


def test_the_second_build_is_cached(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    first = hyper.build(context, source_date_epoch=5)
    second = hyper.build(context, source_date_epoch=5)
    assert first.digest == second.digest
    assert first.epoch == 5
    assert not any(step.cached for step in first.steps)
    assert all(step.cached for step in second.steps)


def test_outputs(hyper: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    archive, folder = tmp_path / "a.tar", tmp_path / "files"
    hyper.build(context, outputs=[f"type=oci,dest={archive}", {"type": "local", "dest": folder}])
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None and json.load(index)["schemaVersion"] == 2
    assert (folder / "hello").read_text() == "hello\n"
    files = hyper.build(context, outputs=[{"type": "local", "dest": folder}, f"type=tar,dest={archive}"])
    assert (files.digest, files.config_digest, files.tags) == (None, None, ())
    assert hyper.images() == []
    # Named or not, an image that is exported is not kept.
    hyper.build(context, tags="app:1", outputs=f"type=oci,dest={archive}")
    assert hyper.images() == []
    layout, typed = tmp_path / "layout", tmp_path / "typed.tar"
    hyper.build(context, outputs=[f"type=oci,tar=0,dest={layout}", f"type=oci,oci-mediatypes=true,dest={typed}"])
    assert (layout / "oci-layout").is_file() and typed.is_file()
    for output in ["", "type=oci", "type=elephant,dest=x", 'type=oci,"dest=x']:
        with pytest.raises(hyper_sdk.InvalidError):
            hyper.build(context, outputs=[output])
    with pytest.raises(hyper_sdk.UnsupportedError, match="push"):
        hyper.build(context, outputs=[{"type": "local", "dest": folder, "push": True}])
    with pytest.raises(TypeError, match="not `int`"):
        hyper.build(context, outputs=[5])  # type: ignore[list-item]
    for value in (None, 1.5, ["a"]):
        with pytest.raises(TypeError, match="`dest` of an output"):
            hyper.build(context, outputs={"type": "oci", "dest": value})
    hyper.build(context, outputs=[tmp_path / "path", types.MappingProxyType({"type": "local", "dest": folder})])
    assert (tmp_path / "path/hello").read_text() == "hello\n"


def test_push_and_pull(hyper: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = hyper_sdk.Hyper(tmp_path / "other", docker_config=tmp_path)
    with hyper_sdk.Registry(tmp_path / "data") as registry:
        name = f"{registry.address}/app:1"
        built = hyper.build(context, tags=[name])
        pushed = hyper.push(name)
        pulled = other.pull(name)
        assert built.digest == pushed.digest == pulled.digest == other.inspect(name).digest
        assert other.inspect(name, remote=True).config == hyper.inspect(name).config
        hyper.push(name, to=f"{registry.address}/again:2")
        assert other.inspect(f"{registry.address}/again:2", remote=True).digest == built.digest
    # The folder keeps what was pushed.
    with hyper_sdk.Registry(tmp_path / "data") as registry:
        assert other.inspect(f"{registry.address}/app:1", remote=True).digest == built.digest


def test_the_local_store_is_served(hyper: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = hyper_sdk.Hyper(tmp_path / "other", docker_config=tmp_path)
    built = hyper.build(context, tags="localhost/app:1")
    with hyper.serve(read_only=True) as registry:
        name = f"{registry.address}/localhost/app:1"
        assert other.pull(name).digest == built.digest
        with pytest.raises(hyper_sdk.HyperError):
            other.push(name)
        # The builder keeps the layers of cached steps to itself.
        with pytest.raises(hyper_sdk.DeniedError):
            other.list_tags(f"{registry.address}/hyper.local/layers", remote=True)


def test_a_registry_starts_and_stops() -> None:
    registry = hyper_sdk.Registry()
    with pytest.raises(hyper_sdk.InvalidError, match="not running"):
        _ = registry.address
    with registry:
        assert registry.url == f"http://{registry.address}"
        with pytest.raises(hyper_sdk.ConflictError):
            registry.start()
    registry.stop()
    with pytest.raises(hyper_sdk.InvalidError):
        hyper_sdk.Registry(listen="nowhere").start()


def test_the_state_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HYPER_ROOT", str(tmp_path / "state"))
    assert hyper_sdk.Hyper().root == tmp_path / "state"
    assert repr(hyper_sdk.AsyncHyper(tmp_path)) == f"AsyncHyper(root='{tmp_path}')"
