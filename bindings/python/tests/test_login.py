"""Credentials that are checked and kept."""

from __future__ import annotations

import asyncio
import base64
import json
import pathlib

import pytest

import hyper_sdk

# The password is `right`, hashed with bcrypt.
HTPASSWD = "me:$2b$04$dPjMsc6crdfwJXPYZ9ICbuE.30U.HMo0tSobiGWCYN6npjbweRZ46\n"


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "docker"


@pytest.fixture
def htpasswd(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "htpasswd"
    path.write_text(HTPASSWD)
    return path


def test_credentials_are_kept_in_the_configuration_of_docker(
    tmp_path: pathlib.Path, config: pathlib.Path, htpasswd: pathlib.Path, context: pathlib.Path
) -> None:
    hyper = hyper_sdk.Hyper(tmp_path / "root", docker_config=config)
    with hyper_sdk.Registry(htpasswd=htpasswd) as registry:
        name = f"{registry.address}/app:1"
        hyper.build(context, tags=name)
        with pytest.raises(hyper_sdk.UnauthorizedError):
            hyper.push(name)
        assert hyper.login(registry.address, username="me", password="right") is True
        auth = json.loads((config / "config.json").read_text())["auths"][registry.address]["auth"]
        assert base64.b64decode(auth) == b"me:right"
        assert (config / "config.json").stat().st_mode & 0o077 == 0
        hyper.push(name)
        # Whoever reads the same configuration is logged in.
        assert hyper_sdk.Hyper(tmp_path / "other", docker_config=config).exists(name, remote=True)
        assert hyper.logout(f"http://{registry.address}/") is True
        assert hyper.logout(registry.address) is False
        with pytest.raises(hyper_sdk.UnauthorizedError):
            hyper.push(name, to=f"{registry.address}/app:2")


def test_wrong_credentials_are_neither_kept_nor_printed(
    tmp_path: pathlib.Path, config: pathlib.Path, htpasswd: pathlib.Path
) -> None:
    hyper = hyper_sdk.Hyper(tmp_path / "root", docker_config=config)
    with hyper_sdk.Registry(htpasswd=htpasswd) as registry:
        with pytest.raises(hyper_sdk.UnauthorizedError) as caught:
            hyper.login(registry.address, username="me", password="hunter2-hunter2")
        said = repr(caught.value) + str(caught.value) + repr(caught.value.context) + repr(hyper)
        assert "hunter2" not in said
        assert caught.value.kind == "unauthorized"
    assert not (config / "config.json").exists()
    for username, password in [("", "x"), ("me", ""), ("a:b", "x")]:
        with pytest.raises(hyper_sdk.InvalidError):
            hyper.login("127.0.0.1:1", username=username, password=password)
    with pytest.raises(hyper_sdk.UnavailableError):
        hyper.login("127.0.0.1:1", username="me", password="x")
    assert not (config / "config.json").exists()


def test_a_registry_that_never_asks_for_credentials(tmp_path: pathlib.Path, config: pathlib.Path) -> None:
    async def main() -> None:
        hyper = hyper_sdk.AsyncHyper(tmp_path / "root", docker_config=config)
        async with hyper_sdk.Registry() as registry:
            assert await hyper.login(registry.address, username="me", password="any") is False
            assert await hyper.logout(registry.address) is True

    asyncio.run(main())
