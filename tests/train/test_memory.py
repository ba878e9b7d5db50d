"""Freed memory is kept."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from asr_kd.train.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    for _ in range(4):
        torch.ones(1 << 24)  # 64 MB, more than glibc keeps by itself
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(3):  # until the blocks between which freed memory lies stay where they are
    step()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_step_like_the_last_one_needs_no_new_pages() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("kept", "usual")
    ]
    assert faults[0] < 0.1 * faults[1]
