"""Exceptions by kind, and secrets that they must not print."""

from __future__ import annotations

import pathlib
import pickle

import pytest

import hyper_sdk


def test_a_dockerfile_is_quoted(hyper: hyper_sdk.Hyper) -> None:
    with pytest.raises(hyper_sdk.InvalidError) as caught:
        hyper.build(dockerfile="FROM scratch\nCOPPY a b\n")
    text = str(caught.value)
    assert "COPPY a b" in text and "did you mean `COPY`" in text
    assert caught.value.kind == "invalid" and not caught.value.retryable
    (problem,) = caught.value.diagnostics
    assert (problem.severity, problem.file, problem.line, problem.column) == ("error", "Dockerfile", 2, 1)
    assert any("COPY" in text for text in (problem.message, *problem.help))
    assert pickle.loads(pickle.dumps(caught.value)).diagnostics == (problem,)


def test_kinds_have_base_classes(hyper: hyper_sdk.Hyper, context: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(hyper_sdk.NotFoundError) as caught:
        hyper.build(tmp_path / "nowhere")
    assert caught.value.context == {"path": str(tmp_path / "nowhere")}
    with pytest.raises(hyper_sdk.ManifestUnknownError) as unknown:
        hyper.inspect("localhost:5000/none:1")
    assert isinstance(unknown.value, hyper_sdk.NotFoundError)
    with pytest.raises(hyper_sdk.InvalidError, match="type=docker holds the image of one platform"):
        hyper.build(context, platform=["linux/amd64", "linux/arm64"], outputs="type=docker,dest=a.tar")
    with pytest.raises(hyper_sdk.InvalidError, match="not both"):
        hyper.build(context, file="x", dockerfile="FROM scratch")
    with pytest.raises(hyper_sdk.HyperError):
        hyper.build(context, tags=["UPPER"])
    with pytest.raises(TypeError):
        hyper.build(context, tags=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`a`: a secret is a `str` or bytes, not `PosixPath`"):
        hyper.build(context, secrets={"a": tmp_path})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="a time is"):
        hyper.build(context, source_date_epoch=1.5)  # type: ignore[arg-type]


def test_typed_details(hyper: hyper_sdk.Hyper, busybox: pathlib.Path) -> None:
    with pytest.raises(hyper_sdk.CommandFailedError) as caught:
        hyper.build(busybox, dockerfile="FROM scratch\nCOPY sh /bin/sh\nRUN echo said; exit 7\n")
    error = caught.value
    assert (error.exit_code, error.output and error.output.strip()) == (7, "said")
    assert error.step is not None and "RUN echo said" in error.step
    assert (error.host, error.status) == (None, None)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.exit_code, copy.step) == (7, error.step)
    with hyper_sdk.Registry() as registry, pytest.raises(hyper_sdk.NotFoundError) as unknown:
        registry_host = registry.address
        hyper.inspect(f"{registry_host}/none:1", remote=True)
    assert (unknown.value.status, unknown.value.exit_code) == (404, None)
    assert unknown.value.host == registry_host and unknown.value.diagnostics == ()


def test_an_error_pickles() -> None:
    error = hyper_sdk.errors._make("blob_unknown", "gone", False, "pull", {"digest": "x"})
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, hyper_sdk.BlobUnknownError)
    assert (str(copy), copy.kind, copy.context) == ("gone", "blob_unknown", {"digest": "x"})


def test_the_repr_of_an_error_has_its_details() -> None:
    error = hyper_sdk.errors._make("command_failed", "it failed", False, None, {}, {"exit_code": 3, "step": "RUN x"})
    assert repr(error) == "CommandFailedError('it failed', kind='command_failed', exit_code=3, step='RUN x')"
    assert repr(hyper_sdk.HyperError("text")) == "HyperError('text', kind='internal')"
    assert repr(hyper_sdk.NotFoundError("text")).startswith("NotFoundError('text'")


def test_an_exception_of_the_callback_cancels(hyper: hyper_sdk.Hyper, context: pathlib.Path) -> None:
    def callback(event: hyper_sdk.Event) -> None:
        raise KeyError(event["event"])

    with pytest.raises(KeyError):
        hyper.build(context, progress=callback)


def test_credentials_never_print(tmp_path: pathlib.Path) -> None:
    hyper = hyper_sdk.Hyper(tmp_path, credentials={"localhost:1": ("me", "hunter2")})
    assert "hunter2" not in repr(hyper)
    with pytest.raises(hyper_sdk.HyperError) as caught:
        hyper.inspect("localhost:1/a:1", platform="linux/amd64,x", remote=True)
    assert "hunter2" not in repr(caught.value)
