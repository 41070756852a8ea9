"""Names, tags, manifests and blobs; arguments that are written in more than one way."""

from __future__ import annotations

import hashlib
import json
import pathlib
import types

import pytest

import hyper_sdk

NAME = "localhost:5000/app"


def test_names_are_given_and_removed(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    built = hyper.build(context, tags=f"{NAME}:1")
    hyper.tag(f"{NAME}:1", f"{NAME}:2")
    hyper.tag(f"{NAME}:1", "localhost:5000/other:1")
    assert hyper.list_tags(NAME) == ["1", "2"]
    assert hyper.inspect("localhost:5000/other:1").digest == built.digest
    hyper.remove(f"{NAME}:2")
    assert hyper.list_tags(NAME) == ["1"]
    assert hyper.exists(f"{NAME}:1") and not hyper.exists(f"{NAME}:2") and not hyper.exists("localhost:5000/no:1")
    with pytest.raises(hyper_sdk.InvalidError, match="needs a tag"):
        hyper.tag(f"{NAME}:1", f"{NAME}@{built.digest}")
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.remove(f"{NAME}:2")


def test_manifests_and_blobs_are_read(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    built = hyper.build(context, tags=[f"{NAME}:1"])
    manifest = hyper.get_manifest(f"{NAME}:1")
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == built.digest
    assert hyper.get_manifest(f"{NAME}@{built.digest}") == manifest
    digest = json.loads(manifest)["config"]["digest"]
    config = hyper.get_blob(NAME, digest)
    assert f"sha256:{hashlib.sha256(config).hexdigest()}" == digest
    assert hyper.get_blob(NAME, digest, max_size=len(config)) == config
    with pytest.raises(hyper_sdk.TooLargeError, match="max_size"):
        hyper.get_blob(NAME, digest, max_size=len(config) - 1)
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.get_blob(NAME, "sha256:" + "0" * 64)
    assert hyper.referrers(f"{NAME}:1") == []


def test_registries_are_asked(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    built = hyper.build(context, tags=[f"{NAME}:1"])
    with hyper_sdk.Registry() as one, hyper_sdk.Registry() as two:
        first = f"{one.address}/app:1"
        hyper.push(f"{NAME}:1", to=first)
        for target in (f"{one.address}/copied:2", f"{two.address}/copied:2"):
            assert hyper.copy(first, target).digest == built.digest
            assert hyper.list_tags(target, remote=True) == ["2"]
            assert hyper.exists(target, remote=True)
            assert hyper.get_manifest(target, remote=True) == hyper.get_manifest(f"{NAME}:1")
        assert not hyper.exists(f"{two.address}/app:1", remote=True)
    with pytest.raises(hyper_sdk.UnavailableError):
        hyper.exists(first, remote=True)


def test_any_mapping_and_sequence_is_taken(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    labels = types.MappingProxyType({"x": "y"})
    hyper.build(context, tags=(f"{NAME}:1",), labels=labels, outputs="type=image")
    config = hyper.inspect(f"{NAME}:1").config
    assert config is not None and "config" in config and "Labels" in config["config"]
    assert config["config"]["Labels"]["x"] == "y"
    with pytest.raises(TypeError, match="mapping"):
        hyper.build(context, labels="x=y")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`x`"):
        hyper.build(context, labels={"x": 5})  # type: ignore[dict-item]
