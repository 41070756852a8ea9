"""Builds a folder for several platforms and pushes an index of the images: python multi_platform.py FOLDER NAME PLATFORM…

NAME is a name with a registry and a tag, such as `registry.example/app:1`.
"""

from __future__ import annotations

import sys

import hyper_sdk

INDEX = "application/vnd.oci.image.index.v1+json"


def main(folder: str, name: str, *platforms: str) -> None:
    hyper = hyper_sdk.Hyper()
    entries: list[hyper_sdk.Descriptor] = []
    for platform in platforms:
        system, architecture, *variant = platform.split("/")
        tag = f"{name}-{platform.replace('/', '-')}"
        hyper.build(folder, platform=platform, tags=tag)
        pushed = hyper.push(tag)
        print(f"pushed {platform} {pushed.digest}")
        described: hyper_sdk.Platform = {"os": system, "architecture": architecture}
        if variant:
            described["variant"] = variant[0]
        entries.append(
            {
                "mediaType": pushed.media_type,
                "digest": pushed.digest,
                "size": pushed.size,
                "platform": described,
            }
        )
    index: hyper_sdk.Manifest = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    put = hyper.put_manifest(name, index, remote=True)
    print(f"pushed {name} {put.digest}")


if __name__ == "__main__":
    main(*sys.argv[1:])
