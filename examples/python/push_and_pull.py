"""Moves an image through a registry, and as a file: python push_and_pull.py NAME TARGET ARCHIVE.

NAME is an image of the local store, TARGET the name that it gets in a registry, ARCHIVE the file that it is saved to.
"""

from __future__ import annotations

import sys

import hyper_sdk


def main(name: str, target: str, archive: str) -> None:
    hyper = hyper_sdk.Hyper()
    pushed = hyper.push(name, to=target)
    print(f"pushed {pushed.reference} {pushed.digest}")
    pulled = hyper.pull(target)
    print(f"pulled {pulled.reference} {pulled.digest}")
    print(f"tags: {' '.join(hyper.list_tags(target, remote=True))}")
    hyper.save(target, archive)
    for loaded in hyper.load(archive):
        print(f"loaded {loaded.reference} {loaded.digest}")


if __name__ == "__main__":
    main(*sys.argv[1:])
