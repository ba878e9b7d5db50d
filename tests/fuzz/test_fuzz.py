"""No mutated input makes a reader crash, hang, take gigabytes, write elsewhere, or raise what is not ``UserError``.

The inputs are the same in every run; ``make soak`` tries others for as long as wanted.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.reader import Reader
from tests.fuzz.readers import READERS
from tests.fuzz.runner import Worker

INPUTS = 4  # of each reader
SECONDS = 100  # what an input may take here, where eight tests may share two cores; 20 under make soak


@pytest.fixture(scope="session")
def worker(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("fuzz")
    with Worker(world, folder / "cases", folder / "failures", SECONDS) as started:
        yield started


@pytest.mark.timeout(600)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_mutated_input_is_read_or_refused(worker: Worker, reader: Reader) -> None:
    unmutated = range(-len(reader.calls), 0)  # each call must succeed on these: that it is tried at all
    failures = [failure for number in (*unmutated, *range(INPUTS)) if (failure := worker.run(reader, number))]
    assert not failures, "\n".join(map(str, failures))
