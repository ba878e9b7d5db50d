"""Downloads against a server on this machine: resumption, checksums, unsafe and damaged archives."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_kd.corpus.download import Archive, fetch
from asr_kd.errors import UserError


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` with ranges; ``breaks_after`` bytes of a response the connection ends."""

    content = b""
    breaks_after: int | None = None
    ranges: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/missing.tar.gz":
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.ranges = []
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield server
    server.shutdown()
    server.server_close()


def tar(name: str = "corpus/a.txt", content: bytes = b"words" * 1000) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def archive_of(server: Server, md5: str | None = None, name: str = "corpus.tar.gz") -> Archive:
    return Archive(f"http://127.0.0.1:{server.server_port}/{name}", md5)


def test_a_release_is_downloaded_once_checked_and_unpacked(server: Server, tmp_path: Path) -> None:
    server.content = tar()
    archive = archive_of(server, hashlib.md5(server.content).hexdigest())
    for _ in range(2):
        fetch(archive, tmp_path / "corpora")
    assert (tmp_path / "corpora" / "corpus" / "a.txt").read_bytes() == b"words" * 1000
    assert server.ranges == [None]
    assert [path.name for path in (tmp_path / "corpora").iterdir() if path.is_file()] == [".corpus.tar.gz.unpacked"]


def test_a_broken_download_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.content, server.breaks_after = tar(), 40
    archive = archive_of(server, hashlib.md5(server.content).hexdigest())
    with pytest.raises(UserError, match=r"the connection was lost \(40 of .* bytes received\); run the command again"):
        fetch(archive, tmp_path)
    server.breaks_after = None
    fetch(archive, tmp_path)
    assert (tmp_path / "corpus" / "a.txt").exists()
    assert server.ranges == [None, "bytes=40-"]


def test_a_download_that_had_all_its_bytes_is_finished(server: Server, tmp_path: Path) -> None:
    server.content = tar()
    (tmp_path / "corpus.tar.gz.partial").write_bytes(server.content)
    fetch(archive_of(server), tmp_path)
    assert (tmp_path / "corpus" / "a.txt").exists()


def test_a_wrong_checksum_is_refused_and_the_next_try_starts_again(server: Server, tmp_path: Path) -> None:
    server.content = tar()
    archive = archive_of(server, "0" * 32)
    for _ in range(2):
        with pytest.raises(UserError, match="expected 00000000000000000000000000000000"):
            fetch(archive, tmp_path)
    assert server.ranges == [None, None]
    assert list(tmp_path.iterdir()) == []


def test_members_outside_the_folder_are_refused(server: Server, tmp_path: Path) -> None:
    server.content = tar("../escaped.txt")
    with pytest.raises(UserError, match="unsafe archive"):
        fetch(archive_of(server), tmp_path / "corpora")
    assert not (tmp_path / "escaped.txt").exists()


@pytest.mark.parametrize("damage", [b"no archive at all", tar()[:-30]], ids=["foreign", "cut"])
def test_a_damaged_archive_is_removed(server: Server, tmp_path: Path, damage: bytes) -> None:
    server.content = damage
    with pytest.raises(UserError, match="damaged archive .*was removed"):
        fetch(archive_of(server), tmp_path)
    assert not (tmp_path / "corpus.tar.gz").exists()


def test_without_a_server_or_the_file_the_remedy_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answered 404 .*--corpus-dir"):
        fetch(archive_of(server, name="missing.tar.gz"), tmp_path)
    with pytest.raises(UserError, match=r"no connection .*--corpus-dir"):
        fetch(Archive("http://127.0.0.1:9/corpus.tar.gz"), tmp_path)
