"""The seeds of the fuzzer."""

import fcntl
from pathlib import Path

import pytest

from tests.fuzz.runner import build


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The seeds, made once for all processes of pytest."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with open(shared / "fuzz.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build(shared / "fuzz" / "world")
