"""The structure of CONTRIBUTING.md: which package may import which, and what a bare training machine can do without."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.conftest import speech, write_features, write_states

PACKAGE = Path(__file__).resolve().parents[1] / "asr_kd"
ORDER = (
    "corpus",
    "frames",
    "features",
    "hmm",
    "graph",
    "nets",
    "targets",
    "train",
    "specialists",
    "decode",
    "score",
    "experiment",
)
ROOT = {
    "collection",
    "errors",
    "files",
    "storage",
    "file_cache",
    "limits",
    "config",
    "progress",
    "compiling",
    "compressed",
    "gpu_kernels",
    "kernels",
    "parallel",
    "triton_parts",
}
ONLY_WHERE_USED = {
    "kaldifst", "kaldi_decoder", "kaldi_io", "soundfile", "soxr", "torchaudio", "librosa", "espeakng_loader", "jiwer",
    "sklearn", "matplotlib", "ray",
}  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))


def _imported(tree: ast.AST) -> set[str]:
    """Full names of the modules that ``import`` statements below ``tree`` name."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_package_imports_only_what_comes_before_it(path: Path) -> None:
    package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in _imported(ast.parse(path.read_text())) if name.startswith("asr_kd.")}
    if package in ("cli", "__main__"):
        return
    allowed = {*ROOT, "__version__", "frames"}
    if package in ORDER:
        allowed |= set(ORDER[: ORDER.index(package) + 1])
    assert used <= allowed


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_audio_kaldi_and_drawing_libraries_are_imported_inside_functions(path: Path) -> None:
    module = ast.parse(path.read_text())
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            node.body = []
    assert not {name.split(".")[0] for name in _imported(module)} & ONLY_WHERE_USED


def test_the_training_half_imports_without_audio_and_kaldi_libraries() -> None:
    program = f"""
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ONLY_WHERE_USED | {"triton"}!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for name in ("frames", "nets", "train"):
    package = importlib.import_module("asr_kd." + name)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if ".triton_" not in module.name:  # kernels, imported with the first tensor on a GPU
            importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_training_half_runs_without_audio_and_kaldi_libraries(tmp_path: Path) -> None:
    for name, seed in (("train", 0), ("dev", 1)):
        features, states = speech([40] * 4, seed)
        write_features(tmp_path / name / "feats", features)
        write_states(tmp_path / name / "states", states)
    program = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(ONLY_WHERE_USED)!r}))  # importing them raises ModuleNotFoundError
from asr_kd.cli import main
stores = ["--feats", "train/feats", "--states", "train/states"]
small = ["--set", "net.width=8", "--set", "net.layers=1", "--set", "epochs=1", "--device", "cpu", "--threads", "1"]
assert main(["frames", "verify", "train/feats"]) == 0
assert main(["frames", "copy", "train/feats", "copy"]) == 0
assert main(["train", *stores, "--dev-feats", "dev/feats", "--dev-states", "dev/states", "--out", "dnn", *small]) == 0
assert main(["train", "--evaluate", "dnn", *stores, "--device", "cpu", "--threads", "1"]) == 0
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "all checksums match" in done.stdout
    assert "frame accuracy" in done.stdout.splitlines()[-1]


def test_commands_on_frame_stores_start_without_torch(tmp_path: Path) -> None:
    write_features(tmp_path / "feats", speech([40] * 2, 0)[0])
    program = """
import sys
from asr_kd.cli import main
assert main(["frames", "copy", "feats", "copy"]) == 0
assert main(["frames", "verify", "copy"]) == 0
sys.exit("torch" in sys.modules)  # whose import takes two seconds
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
