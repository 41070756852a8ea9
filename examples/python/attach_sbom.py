"""Attaches a file to an image of a registry, and reads back what is attached: python attach_sbom.py NAME FILE FOLDER."""

from __future__ import annotations

import sys

import hyper_sdk

SBOM = "application/spdx+json"


def main(name: str, file: str, folder: str) -> None:
    hyper = hyper_sdk.Hyper()
    attached = hyper.attach(
        name,
        hyper_sdk.ArtifactFile(file, media_type=SBOM),
        artifact_type=SBOM,
        annotations={"org.opencontainers.image.description": "bill of material"},
    )
    print(f"attached {attached.reference}")
    repository = attached.reference.partition("@")[0]
    for found in hyper.referrers(name, artifact_type=SBOM, remote=True):
        for path in hyper.pull_artifact(f"{repository}@{found['digest']}", folder):
            print(f"saved {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
