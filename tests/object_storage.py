"""An S3 server in a thread of the test, which fails as it is told to."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

KEY = "testing"  # the access key that the server accepts

Answer = Iterable[bytes]
Start = Callable[..., Any]


@dataclasses.dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of ``method`` whose path ends with ``path``.

    ``kind``: an HTTP status; ``truncated``, half of the body; ``damaged``, another last byte; ``slow``, an answer after
    ``seconds``.
    """

    kind: str
    path: str = ".safetensors"
    method: str = "GET"
    times: int = 1 << 30
    seconds: float = 0.0

    def meets(self, environment: dict[str, Any]) -> bool:
        """Whether this request is to fail; it counts."""
        fits = environment["REQUEST_METHOD"] == self.method and environment["PATH_INFO"].endswith(self.path)
        if not fits or self.times < 1:
            return False
        self.times -= 1
        return True


class Server:
    """moto's S3 server on the loopback address, behind ``faults``; ``requests`` are those that it was sent."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Handler(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept

            def log(self, *_: Any) -> None:
                """Nothing."""

        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self._storage = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def counted(self, method: str, path: str = ".safetensors") -> int:
        """How many requests of ``method`` there were for paths that end with ``path``."""
        return sum(asked == method and where.endswith(path) for asked, where in self.requests)

    @contextlib.contextmanager
    def failing(self, *faults: Fault) -> Iterator[None]:
        """The server with these faults."""
        self.faults = list(faults)
        try:
            yield
        finally:
            self.faults = []

    def _answer(self, environment: dict[str, Any], start: Start) -> Answer:
        self.requests.append((environment["REQUEST_METHOD"], environment["PATH_INFO"]))
        if f"Credential={KEY}/" not in environment.get("HTTP_AUTHORIZATION", ""):
            return _refused(start, "403 Forbidden", "InvalidAccessKeyId")
        fault = next((fault for fault in self.faults if fault.meets(environment)), None)
        if fault is None:
            return self._storage(environment, start)
        if fault.kind.isdigit():
            code = {"403": "AccessDenied", "500": "InternalError", "503": "ServiceUnavailable"}[fault.kind]
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            return _refused(start, f"{fault.kind} no", code)
        if fault.kind == "slow":
            time.sleep(fault.seconds)
            return self._storage(environment, start)
        body = b"".join(self._storage(environment, start))
        return [body[: len(body) // 2] if fault.kind == "truncated" else body[:-1] + bytes([body[-1] ^ 1])]


def _refused(start: Start, status: str, code: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as the test wants</Message></Error>".encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@contextlib.contextmanager
def served() -> Iterator[Server]:
    """A running server."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()


def use(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``s3://`` mean ``server`` for this process and those that it starts, with an empty ``bucket``."""
    import fsspec
    from moto.moto_api._internal.models import moto_api_backend
    from moto.s3.models import s3_backends
    from s3fs import S3FileSystem

    # All that is not in the environment is in the options, by which fsspec tells its instances apart.
    own = {"config_kwargs": {"read_timeout": 1, "connect_timeout": 1}, "endpoint_url": server.url}
    variables = {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "FSSPEC_S3": json.dumps(own), "ASR_KD_CACHE": str(cache),
        "ASR_KD_CACHE_SIZE": "100M",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "s3", own)
    monkeypatch.setattr(S3FileSystem, "retries", 2)
    moto_api_backend.reset()
    s3_backends["123456789012"]["aws"].create_bucket("bucket", "us-east-1")
    fsspec.filesystem("s3").invalidate_cache()
    server.requests.clear()
    server.faults.clear()
