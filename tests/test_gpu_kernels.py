"""Triton's kernels compile for a GPU, which needs none; the interpreter accepts some of what the compiler refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "asr_kd"
PROGRAM = """
import importlib.util, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

TYPES = {"labels": "*i64", "state": "*i64", "frames": "*i1", "logits": "*bf16", "gradient": "*bf16",
         "log_prob": "*fp16", "teacher": "*bf16", "STATES": "i32", "rows": "i32", "size": "i32"}
NUMBERS = ("temperature", "smoothing", "share", "to_soft", "to_hard")
CONSTANTS = {"CHOSEN": 3, "WIDTH": 4, "SLOTS": 4, "TEMPERATURES": 3, "BLOCK": 128, "FRAMES": True, "ALL": False}

for place in sys.argv[1:]:
    spec = importlib.util.spec_from_file_location("kernels", place)  # without importing the package
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, kernel in vars(module).items():
        if not isinstance(kernel, JITFunction) or kernel.__module__ != "kernels" or name.startswith("_"):
            continue
        for power in (0, 1, 2) if "POWER" in kernel.arg_names else (0,):
            constants = {**CONSTANTS, "POWER": power}
            types = {argument: "constexpr" if argument in constants else "fp32" if argument in NUMBERS
                     else TYPES.get(argument, "*fp32") for argument in kernel.arg_names}
            values = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
            compile(ASTSource(kernel, types, values), GPUTarget("cuda", 80 if power == 1 else 90, 32))
        print(name)
"""


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    modules = [path for path in sorted(PACKAGE.rglob("triton_*.py")) if path.name != "triton_parts.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-c", PROGRAM, *map(str, modules)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = "add_softmax tail_sums top_k sampled dense labelled matched row_weights scale_unless_one"
    assert done.stdout.split() == kernels.split()
