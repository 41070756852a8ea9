"""Builds several folders at once and shows their events: python async_builds.py FOLDER…"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import hyper_sdk


def show(name: str) -> Callable[[hyper_sdk.Event], None]:
    def callback(event: hyper_sdk.Event) -> None:
        if event["event"] == "started":
            print(f"{name}: {event['name']}")
        elif event["event"] == "log":
            print(f"{name}: {event['text']}", end="")
        elif event["event"] == "warning":
            print(f"{name}: warning: {event['message']}")

    return callback


async def main(folders: list[str]) -> None:
    hyper = hyper_sdk.AsyncHyper()
    names = [Path(folder).resolve().name for folder in folders]
    # The first failure cancels the others, and ends their commands.
    builds = [hyper.build(folder, tags=name, progress=show(name)) for folder, name in zip(folders, names, strict=True)]
    tasks = [asyncio.ensure_future(build) for build in builds]
    try:
        for result in await asyncio.gather(*tasks):
            print(*result.tags, result.digest)
    finally:
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
