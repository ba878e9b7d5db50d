"""What all tests share: one thread for each worker, and the real corpora where they are."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_kd.storage import _copied
from tests.object_storage import Server, served, use

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy, torch or numba is loaded; subprocesses inherit them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if not Path("/dev/nvidiactl").exists():  # without a GPU, Triton's kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background without it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole recipes first, at the beginning of what each of two workers is given: they take minutes, and at the end one
    would run alone while other workers have nothing."""
    long = [item for item in items if "recipes" in item.path.parts and item.get_closest_marker("timeout")]
    others = [item for item in items if item not in long]
    half = len(others) // 2
    items[:] = [*long[1::2], *others[:half], *long[::2], *others[half:]]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU that torch can use; torch.cuda.is_available() is False")


@pytest.fixture(
    params=[
        pytest.param("cpu", marks=pytest.mark.skipif(not INTERPRETED, reason="Triton compiles for the GPU here")),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def kernel_device(request: pytest.FixtureRequest) -> str:
    """Where a test runs Triton's kernels: on the CPU by the interpreter, which needs no GPU, or compiled on a GPU."""
    pytest.importorskip("triton")
    device: str = request.param
    return device


@pytest.fixture(scope="session")
def corpora() -> Path:
    """``../shared/corpora`` beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "corpora"
    if not folder.is_dir():
        pytest.skip(f"needs the real corpora in {folder}")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    """A server that all tests of this process share."""
    with served() as server:
        yield server


@pytest.fixture
def server(s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """What ``s3://`` means in this test: an empty ``bucket``, and a cache in ``tmp_path / "cache"``."""
    use(s3_server, tmp_path / "cache", monkeypatch)
    _copied.cache_clear()
    return s3_server
