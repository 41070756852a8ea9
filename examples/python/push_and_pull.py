"""Moves an image through a registry: python push_and_pull.py NAME TARGET.

NAME is an image of the local store, TARGET the name that it gets in a registry.
"""

from __future__ import annotations

import sys

import hyper_sdk


def main(name: str, target: str) -> None:
    hyper = hyper_sdk.Hyper()
    pushed = hyper.push(name, to=target)
    print(f"pushed {pushed.reference} {pushed.digest}")
    pulled = hyper.pull(target)
    print(f"pulled {pulled.reference} {pulled.digest}")
    print(f"tags: {' '.join(hyper.list_tags(target, remote=True))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
