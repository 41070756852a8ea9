"""Dry runs."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

import hyper_sdk
from hyper_sdk import graph


def test_a_plan_has_the_steps_and_names_of_the_build(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    plan = hyper.plan(context, tags=["app", "localhost:5000/app:1"])
    assert plan.tags == ("app:latest", "localhost:5000/app:1")
    (copy,) = [step for step in plan.steps if "COPY hello" in step.name]
    assert copy.state == "run" and copy.at == f"{context / 'Dockerfile'}:2" and copy.address.startswith("sha256:")
    assert set(copy.inputs) <= {step.address for step in plan.steps}
    assert not plan.is_cached
    assert hyper.images() == [], "nothing was built"
    hyper.build(context)
    cached = hyper.plan(context)
    assert cached.is_cached and [step.state for step in cached.steps if "COPY" in step.name] == ["cached"]
    assert hash(cached) == hash(hyper.plan(context))
    (context / "hello").write_text("changed\n")
    assert not hyper.plan(context).is_cached
    assert not hyper.plan(context, no_cache=True).is_cached


def test_a_step_after_one_that_would_run_is_open(hyper: hyper_sdk.Hyper, busybox: pathlib.Path) -> None:
    dockerfile = "FROM scratch AS a\nCOPY sh /bin/sh\nRUN echo x > /x\nFROM scratch\nCOPY --from=a /x /x\n"
    states = {step.name.partition("] ")[2]: step.state for step in hyper.plan(busybox, dockerfile=dockerfile).steps}
    assert states["COPY sh /bin/sh"] == "run"
    assert states["COPY --from=a /x /x"] == "open"


def test_a_graph_has_a_plan(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    plan = hyper.plan(context, graph=graph.scratch().copy(graph.context(), "hello", "/"))
    assert any(step.state == "run" for step in plan.steps)


def test_errors_before_the_build_are_raised(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    with pytest.raises(hyper_sdk.InvalidError):
        hyper.plan(dockerfile="FRMO x")
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.plan(context, dockerfile="FROM scratch\nCOPY no-such-file /\n")
    with pytest.raises(hyper_sdk.InvalidError, match="name to be pushed"):
        hyper.plan(context, outputs="type=image,push=true")


def test_a_plan_is_awaited(context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
    assert not asyncio.run(hyper.plan(context)).is_cached
