"""Questions about a Dockerfile: check, outline, targets."""

from __future__ import annotations

import asyncio
import inspect
import pathlib

import pytest

import hyper_sdk

DOCKERFILE = """# syntax=docker/dockerfile:1
# Which tools to use
ARG TOOLS=small

# base has the tools
FROM scratch AS base
ARG TOOLS
RUN --mount=type=secret,id=key,required=true --mount=type=cache,id=pip,target=/cache true

FROM base as app
COPY . /
"""


def test_diagnostics_have_a_place(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    result = hyper.check(dockerfile=DOCKERFILE)
    (finding,) = [found for found in result.diagnostics if found.code == "FromAsCasing"]
    assert (finding.severity, finding.line, finding.file) == ("warning", 10, "Dockerfile")
    assert finding.column == 11 and "same case" in finding.message and finding.help == ("write `AS`",)
    assert result.is_valid and not result.is_clean
    assert result.fixed is not None and "FROM base AS app" in result.fixed
    assert hyper.check(dockerfile=result.fixed).fixed is None
    assert hash(result) == hash(hyper.check(dockerfile=DOCKERFILE))
    clean = hyper.check(context)
    assert (clean.diagnostics, clean.unresolved, clean.fixed, clean.is_clean) == ((), (), None, True)


def test_errors_of_the_dockerfile_are_not_raised(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    result = hyper.check(dockerfile="FROM scratch\nCOPPY a b\nCOPY --fron=x a b\n")
    errors = [(found.line, found.column) for found in result.diagnostics if found.severity == "error"]
    assert errors == [(2, 1), (3, 6)]
    assert not result.is_valid
    assert any("did you mean" in text for found in result.diagnostics for text in found.help)
    # A base image that cannot be had is said, and the rest is checked.
    unknown = hyper.check(dockerfile="FROM 127.0.0.1:1/none:1 as x\n")
    assert len(unknown.unresolved) == 1 and "none:1" in unknown.unresolved[0]
    assert unknown.diagnostics
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.check(context, file="no-such-file")


def test_the_fixed_text_has_nothing_to_fix(hyper: hyper_sdk.Hyper) -> None:
    # The first edit makes another one possible.
    text = "from scratch as A\nmaintainer me\nENV a b\nEXPOSE 80/TCP\nCMD echo hello\n"
    fixed = hyper.check(dockerfile=text).fixed
    assert fixed is not None and hyper.check(dockerfile=fixed).fixed is None


def test_the_outline_of_a_target(hyper: hyper_sdk.Hyper) -> None:
    outline = hyper.outline(dockerfile=DOCKERFILE, target="base", build_args={"TOOLS": "large"})
    assert outline.name == "base" and outline.description == "has the tools"
    assert [(a.name, a.value) for a in outline.arguments] == [("TOOLS", "large")]
    assert [(s.name, s.required) for s in outline.secrets] == [("key", True)]
    assert [cache.id for cache in outline.caches] == ["pip"]
    assert outline.ssh == ()
    with pytest.raises(hyper_sdk.NotFoundError):
        hyper.outline(dockerfile=DOCKERFILE, target="none")


def test_the_questions_take_the_same_arguments() -> None:
    check, *others = (inspect.signature(getattr(hyper_sdk.Hyper, name)) for name in ("check", "outline", "targets"))
    assert [other.parameters for other in others] == [check.parameters] * 2
    build, plan = (inspect.signature(getattr(hyper_sdk.Hyper, name)) for name in ("build", "plan"))
    assert build.parameters == plan.parameters
    assert set(check.parameters) <= set(build.parameters)


def test_targets(hyper: hyper_sdk.Hyper) -> None:
    base, app = hyper.targets(dockerfile=DOCKERFILE)
    assert (base.name, base.base, base.default, base.line) == ("base", "scratch", False, 6)
    assert (app.name, app.base, app.default, app.index) == ("app", "base", True, 1)


def test_check_outline_and_targets_are_awaited(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=tmp_path)
        checked, outline, targets = await asyncio.gather(
            hyper.check(dockerfile=DOCKERFILE), hyper.outline(dockerfile=DOCKERFILE), hyper.targets(dockerfile=DOCKERFILE)
        )
        assert checked.is_valid and outline.name == "app" and len(targets) == 2

    asyncio.run(main())
