"""A command that is killed at any moment ends, when it is run again, with the bytes of one that never was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.runner import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)  # an idle machine needs 40
def test_sixty_kills(world: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.kills", "--quick", "--kills", "60", "--each", "5", "--often", "0.1"]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--work", str(world.parent)],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
