"""Builds an image without a Dockerfile: python graph_build.py FOLDER NAME."""

from __future__ import annotations

import sys

import hyper_sdk
from hyper_sdk import graph


def main(folder: str, name: str) -> None:
    files = graph.context()
    root = (
        graph.scratch()
        .copy(files, ".", "/srv/", exclude=["**/.git"])
        .file("/etc/motd", f"made from {folder}\n")
        .configure(workdir="/srv", labels={"org.opencontainers.image.title": name})
    )
    result = hyper_sdk.Hyper().build(folder, graph=root, tags=name)
    print(result.digest)


if __name__ == "__main__":
    main(*sys.argv[1:])
