"""Registries with TLS, and proxies."""

from __future__ import annotations

import http.server
import pathlib
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator

import pytest

import hyper_sdk


class Handler(http.server.BaseHTTPRequestHandler):
    """Has nothing, and notes what it is asked for."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        body = b"FROM scratch\n" if self.path.endswith("/Dockerfile") else b"{}"
        self.send_response(200 if self.path.endswith(("/v2/", "/Dockerfile")) else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(context: ssl.SSLContext | None) -> tuple[http.server.ThreadingHTTPServer, list[str]]:
    seen: list[str] = []
    handler = type("Noting", (Handler,), {"seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, seen


@pytest.fixture
def certificate(tmp_path: pathlib.Path) -> pathlib.Path:
    """A certificate that signs itself, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("SKIPPED: openssl is not installed")
    path = tmp_path / "certificate.pem"
    key = path.with_suffix(".key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-subj", "/CN=test", "-days", "3650", "-keyout", str(key), "-out", str(path)]
        + ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE"],
        check=True,
        capture_output=True,
    )
    return path


@pytest.fixture
def registry(certificate: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server, seen = serve(context)
    yield f"127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()


def test_certificates_of_a_file_are_trusted(
    tmp_path: pathlib.Path, certificate: pathlib.Path, registry: tuple[str, list[str]]
) -> None:
    host, seen = registry
    other = tmp_path / "other.pem"
    shutil.copy(certificate, other)
    forms: list[pathlib.Path | str | list[pathlib.Path]] = [certificate, str(certificate), [other, certificate]]
    for files in forms:
        seen.clear()
        hyper = hyper_sdk.Hyper(tmp_path / "root", docker_config=tmp_path / "none", ca_file=files)
        with pytest.raises(hyper_sdk.NotFoundError):
            hyper.inspect(f"{host}/a:1", remote=True)
        assert seen, "it was spoken to"
    seen.clear()
    with pytest.raises(hyper_sdk.HyperError):
        hyper_sdk.Hyper(tmp_path / "root", docker_config=tmp_path / "none").inspect(f"{host}/a:1", remote=True)
    assert not seen, "without the file it is not trusted"


def test_a_file_that_has_no_certificates_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "no.pem"
    file.write_text("nothing\n")
    for kind in (hyper_sdk.Hyper, hyper_sdk.AsyncHyper):
        with pytest.raises(hyper_sdk.InvalidError) as caught:
            kind(tmp_path / "root", ca_file=file)
        assert caught.value.context == {"path": str(file)}
        with pytest.raises(hyper_sdk.NotFoundError):
            kind(tmp_path / "root", ca_file=[tmp_path / "nowhere.pem"])


def test_web_addresses_go_through_the_proxy(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, seen = serve(None)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    hyper = hyper_sdk.Hyper(tmp_path / "root", docker_config=tmp_path / "none")
    hyper.build("http://web.invalid/Dockerfile", outputs=["type=cacheonly"])
    server.shutdown()
    assert seen == ["http://web.invalid/Dockerfile"]
