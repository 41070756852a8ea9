"""Builds a folder for several platforms and pushes an index of the images: python multi_platform.py FOLDER NAME PLATFORM…

NAME is a name with a registry and a tag, such as `registry.example/app:1`.
"""

from __future__ import annotations

import sys

import hyper_sdk


def main(folder: str, name: str, *platforms: str) -> None:
    hyper = hyper_sdk.Hyper()
    built = hyper.build(folder, platform=platforms, tags=name, outputs="type=image,push=true")
    print(f"pushed {name} {built.digest}")


if __name__ == "__main__":
    main(*sys.argv[1:])
