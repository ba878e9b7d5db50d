"""Triton's kernels compile for a GPU, which needs none; the interpreter accepts some of what the compiler refuses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr_kd import gpu_kernels
from asr_kd.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1] / "asr_kd"
PROGRAM = """
import importlib.util, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime.jit import JITFunction

TYPES = {"labels": "*i64", "state": "*i64", "frames": "*i1", "logits": "*bf16", "gradient": "*bf16",
         "log_prob": "*fp16", "teacher": "*bf16", "length": "i32", "rows": "i32", "size": "i32"}
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


def test_what_triton_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "asr_kd.nets.triton_mean", raising=False)
    with pytest.raises(UserError, match="a GPU needs Triton, which torch for Linux installs .* --device cpu"):
        gpu_kernels.kernels.__wrapped__("nets.triton_mean")

    class Kernel:
        def __getitem__(self, _: object) -> Callable[..., None]:
            return self.run

        def run(self, *_: object) -> None:
            raise error

    error: Exception = RuntimeError("Failed to find C compiler. Please specify via CC environment variable")
    with pytest.raises(UserError, match=r"cannot build .*Failed to find C compiler.*; install gcc and the headers"):
        gpu_kernels.launch(Kernel(), 1, torch.zeros(1))
    error = subprocess.CalledProcessError(1, ["gcc"])
    with pytest.raises(UserError, match="cannot build .*gcc.*; install gcc and the headers"):
        gpu_kernels.launch(Kernel(), 1, torch.zeros(1))
    error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        gpu_kernels.launch(Kernel(), 1, torch.zeros(1))


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
