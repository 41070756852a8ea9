"""Names, tags, manifests and blobs; the types of arguments."""

from __future__ import annotations

import hashlib
import json
import pathlib
import types

import pytest

import hyper_sdk

NAME = "localhost:5000/app"


def test_tags_are_added_and_removed(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
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


@pytest.mark.parametrize("remote", [False, True])
def test_manifests_and_blobs_are_written(hyper: hyper_sdk.Hyper, remote: bool) -> None:
    with hyper_sdk.Registry() as registry:
        name = f"{registry.address}/made"
        config = hyper.put_blob(name, b"{}", media_type="application/vnd.oci.empty.v1+json", remote=remote)
        layer = hyper.put_blob(name, bytearray(b"data"), remote=remote)
        assert layer == {
            "mediaType": "application/octet-stream",
            "digest": f"sha256:{hashlib.sha256(b'data').hexdigest()}",
            "size": 4,
        }
        assert hyper.put_blob(name, memoryview(b"data"), remote=remote) == layer, "a blob is stored once"
        assert hyper.get_blob(name, layer["digest"], remote=remote) == b"data"
        manifest: hyper_sdk.Manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/example",
            "config": config,
            "layers": [layer],
        }
        put = hyper.put_manifest(f"{name}:1", manifest, remote=remote)
        data = hyper.get_manifest(f"{name}:1", remote=remote)
        assert json.loads(data) == manifest
        assert (put.digest, put.size) == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        assert (put.reference, put.media_type) == (f"{name}:1", manifest["mediaType"])
        # Bytes are stored as they are, and by digest they need no tag.
        data = json.dumps({**manifest, "annotations": {"a": "b"}}, indent=3).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert hyper.put_manifest(f"{name}@{digest}", data, remote=remote).digest == digest
        assert hyper.get_manifest(f"{name}@{digest}", remote=remote) == data
        assert hyper.list_tags(name, remote=remote) == ["1"]
        index = {"schemaVersion": 2, "manifests": [{"mediaType": put.media_type, "digest": put.digest, "size": put.size}]}
        made = hyper.put_manifest(f"{name}:all", types.MappingProxyType(index), remote=remote)
        assert made.media_type == "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize("remote", [False, True])
def test_a_manifest_that_does_not_fit_is_refused(hyper: hyper_sdk.Hyper, remote: bool) -> None:
    digest = "sha256:" + "0" * 64
    gone = {"mediaType": "application/octet-stream", "digest": digest, "size": 1}
    with hyper_sdk.Registry() as registry:
        name = f"{registry.address}/made"
        with pytest.raises(hyper_sdk.ManifestBlobUnknownError):
            hyper.put_manifest(f"{name}:1", {"schemaVersion": 2, "config": gone, "layers": []}, remote=remote)
        with pytest.raises(hyper_sdk.DigestInvalidError):
            hyper.put_manifest(f"{name}@{digest}", {"schemaVersion": 2, "manifests": []}, remote=remote)
        for data in (b"", b"{}", b"not JSON"):
            with pytest.raises(hyper_sdk.InvalidError):
                hyper.put_manifest(f"{name}:1", data, remote=remote)
        with pytest.raises(hyper_sdk.ManifestInvalidError, match="media type"):
            hyper.put_manifest(f"{name}:1", {"schemaVersion": 2, "manifests": []}, media_type="a/b", remote=remote)
        for content in ("text", 5, None):
            with pytest.raises(TypeError):
                hyper.put_blob(name, content, remote=remote)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                hyper.put_manifest(f"{name}:1", content, remote=remote)  # type: ignore[arg-type]


def test_any_mapping_or_sequence_is_accepted(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    labels = types.MappingProxyType({"x": "y"})
    hyper.build(context, tags=(f"{NAME}:1",), labels=labels, outputs="type=image")
    config = hyper.inspect(f"{NAME}:1").config
    assert config is not None and "config" in config and "Labels" in config["config"]
    assert config["config"]["Labels"]["x"] == "y"
    with pytest.raises(TypeError, match="mapping"):
        hyper.build(context, labels="x=y")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`x`"):
        hyper.build(context, labels={"x": 5})  # type: ignore[dict-item]
