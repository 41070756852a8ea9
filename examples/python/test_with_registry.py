"""A registry in the process of a test suite: pytest test_with_registry.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hyper_sdk


@pytest.fixture
def registry() -> Iterator[hyper_sdk.Registry]:
    """An empty registry in memory, on a port of its own."""
    with hyper_sdk.Registry() as registry:
        yield registry


@pytest.fixture
def hyper(tmp_path: Path) -> hyper_sdk.Hyper:
    """Images and credentials of this test alone."""
    return hyper_sdk.Hyper(tmp_path / "hyper", docker_config=tmp_path / "docker")


def test_an_image_is_published(registry: hyper_sdk.Registry, hyper: hyper_sdk.Hyper) -> None:
    name = f"{registry.address}/app:1"
    built = hyper.build(dockerfile="FROM scratch\nLABEL version=1\n", tags=name)
    hyper.push(name)
    published = hyper.inspect(name, remote=True)
    assert published.digest == built.digest
    assert published.config is not None
    assert published.config.get("config", {}).get("Labels") == {"version": "1"}
