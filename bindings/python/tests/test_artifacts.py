"""Artifacts and referrers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pathlib

import pytest

import hyper_sdk
from hyper_sdk import ArtifactFile

SBOM = "application/spdx+json"
TITLE = "org.opencontainers.image.title"


def test_files_are_pushed_and_pulled(hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    files: list[pathlib.Path | ArtifactFile] = [
        tmp_path / "notes.txt",
        ArtifactFile(tmp_path / "notes.txt", "text/plain", title="sub/copy.txt", annotations={"a": "b"}),
        ArtifactFile(b"{}", "application/json", title="data.json"),
        ArtifactFile(b"no name"),
    ]
    with hyper_sdk.Registry() as registry:
        name = f"{registry.address}/files:1"
        events: list[hyper_sdk.Event] = []
        pushed = hyper.push_artifact(
            name, files, artifact_type="application/example", annotations={"c": "d"}, progress=events.append
        )
        assert pushed.reference == name and events
        manifest = json.loads(hyper.get_manifest(name, remote=True))
        assert manifest["artifactType"] == "application/example" and manifest["annotations"] == {"c": "d"}
        assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        assert hyper.get_blob(name, manifest["config"]["digest"], remote=True) == b"{}"
        layers = [(layer["mediaType"], layer.get("annotations")) for layer in manifest["layers"]]
        assert layers == [
            ("application/octet-stream", {TITLE: "notes.txt"}),
            ("text/plain", {"a": "b", TITLE: "sub/copy.txt"}),
            ("application/json", {TITLE: "data.json"}),
            ("application/octet-stream", None),
        ]
        paths = hyper.pull_artifact(name, tmp_path / "out")
        assert paths == [tmp_path / "out" / title for title in ("notes.txt", "sub/copy.txt", "data.json")]
        assert [path.read_text() for path in paths] == ["notes", "notes", "{}"]
        assert hyper.push_artifact(name, files, artifact_type="application/example", annotations={"c": "d"}) == pushed
        # It is content like any other.
        hyper.pull(name, all_platforms=True)
        assert hyper.pull_artifact(name, tmp_path / "again", remote=False)[2].read_text() == "{}"


def test_attached_artifacts_are_referrers(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    with hyper_sdk.Registry() as registry:
        name = f"{registry.address}/app:1"
        built = hyper.build(context, tags=name)
        hyper.push(name)
        attached = hyper.attach(name, ArtifactFile(b"{}", SBOM, title="sbom.json"), artifact_type=SBOM)
        assert attached.reference == f"{registry.address}/app@{attached.digest}"
        (found,) = hyper.referrers(name, remote=True)
        assert (found["digest"], found["artifactType"]) == (attached.digest, SBOM)
        assert hyper.referrers(name, artifact_type="application/other", remote=True) == []
        subject = json.loads(hyper.get_manifest(attached.reference, remote=True))["subject"]
        assert subject["digest"] == built.digest
        assert hyper.list_tags(name, remote=True) == ["1"]
        # An artifact without files is a note.
        hyper.attach(name, [], artifact_type="application/note", annotations={"reviewed": "yes"})
        assert len(hyper.referrers(name, remote=True)) == 2
        with pytest.raises(hyper_sdk.NotFoundError):
            hyper.attach(f"{registry.address}/none:1", [], artifact_type=SBOM)
        # They go along with the image.
        target = f"{registry.address}/copied:1"
        hyper.copy(name, target, referrers=True)
        assert len(hyper.referrers(target, remote=True)) == 2
        hyper.pull(name, referrers=True)
        assert len(hyper.referrers(name)) == 2
        hyper.remove(attached.reference, remote=True)
        assert len(hyper.referrers(name, remote=True)) == 1


def test_invalid_artifacts_raise(hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path) -> None:
    name = "127.0.0.1:1/a:1"
    with pytest.raises(hyper_sdk.NotFoundError) as missing:
        hyper.push_artifact(name, tmp_path / "none", artifact_type=SBOM)
    assert missing.value.context["path"] == str(tmp_path / "none")
    for files, kind in [
        ([], "no type"),
        (tmp_path, SBOM),
        (ArtifactFile(b"", "text/plain", title="../x"), SBOM),
        (ArtifactFile(b"", "nonsense"), SBOM),
    ]:
        with pytest.raises(hyper_sdk.InvalidError):
            hyper.push_artifact(name, files, artifact_type=kind)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        hyper.push_artifact(name, [5], artifact_type=SBOM)  # type: ignore[list-item]


def test_a_blob_matches_its_digest(hyper: hyper_sdk.Hyper, tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        client = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
        async with hyper_sdk.Registry() as registry:
            name = f"{registry.address}/a:1"
            await client.push_artifact(name, ArtifactFile(b"x" * 3_000_000), artifact_type=SBOM)
            (layer,) = json.loads(await client.get_manifest(name, remote=True))["layers"]
            blob = await client.get_blob(name, layer["digest"], remote=True)
            assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == layer["digest"]

    asyncio.run(main())
