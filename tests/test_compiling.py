"""The cache of compiled code: never stale, and of use wherever the package is installed."""

import ast
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asr_kd import compiling

PACKAGE = Path(compiling.__file__).parent
PROGRAM = "from asr_kd.caller import total; print(total(21))"
CALLEE = "from asr_kd.compiling import inlined\n@inlined()\ndef times(x):\n    return 1 * x\n"
CALLER = """from asr_kd.compiling import compiled
from asr_kd.callee import times
@compiled()
def total(x):
    return times(x)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of this module and of two files with compiled code, one of which calls the other."""
    folder = tmp_path / "lib" / "asr_kd"
    folder.mkdir(parents=True)
    shutil.copy(compiling.__file__, folder)
    for name, text in (("__init__", ""), ("callee", CALLEE), ("caller", CALLER)):
        (folder / f"{name}.py").write_text(text)
    return folder


def _run(package: Path, **environment: str) -> tuple[str, str]:
    """Output and errors of ``PROGRAM``, in an environment without names of cache folders but those given."""
    unset = {"NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": "", "PYTHONPATH": str(package.parent)}
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **unset, **environment}
    variables = {name: value for name, value in variables.items() if value}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=package.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def _caches(parent: Path) -> list[Path]:
    return sorted(folder for folder in parent.glob("kernels-*") if any(folder.rglob("*.nbc")))


def test_a_function_of_another_file_that_changed_is_compiled_again(package: Path) -> None:
    assert _run(package) == ("21\n", "")
    callee = package / "callee.py"
    written = callee.stat()
    callee.write_text(CALLEE.replace("1 * x", "2 * x"))
    os.utime(callee, ns=(written.st_atime_ns, written.st_mtime_ns))  # not even time and size differ
    assert _run(package) == ("42\n", "")
    assert len(_caches(package / "__pycache__")) == 2


def test_compiled_code_is_found_again_and_a_damaged_file_is_compiled_again(package: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")}

    assert _run(package) == ("21\n", "")
    (cache,) = _caches(package / "__pycache__")
    first = times()
    assert len(first) == 2
    assert _run(package) == ("21\n", "")
    assert times() == first
    for path in sorted(first):
        path.write_bytes(path.read_bytes()[:30])
        assert _run(package) == ("21\n", "")
        assert path.stat().st_size > 30


def test_a_read_only_installation_without_a_home_caches_in_a_private_temporary_folder(
    package: Path, tmp_path: Path
) -> None:
    (package / "__pycache__").write_text("")  # so that not even root can write into it
    nowhere = {"HOME": "/nonexistent", "TMPDIR": str(tmp_path)}
    assert _run(package, **nowhere) == ("21\n", "")
    private = tmp_path / f"asr_kd-{os.getuid()}"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert _caches(private)
    assert not Path("/nonexistent").exists()

    private.chmod(0o777)  # as one that somebody else made, with code of theirs
    result, remark = _run(package, **nowhere)
    assert result == "21\n"
    assert remark.count("\n") == 1
    assert "NUMBA_CACHE_DIR" in remark


def test_the_users_cache_folder_serves_a_read_only_installation(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("")
    (tmp_path / "home").mkdir()
    assert _run(package, HOME=str(tmp_path / "home")) == ("21\n", "")
    assert _caches(tmp_path / "home" / ".cache" / "asr_kd")
    assert _run(package, HOME=str(tmp_path / "home"), XDG_CACHE_HOME=str(tmp_path / "xdg")) == ("21\n", "")
    assert _caches(tmp_path / "xdg" / "asr_kd")


def test_no_room_for_compiled_code_costs_only_time(package: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert _run(package, NUMBA_CACHE_DIR=str(cache)) == ("21\n", "")
    for path in cache.rglob("*.nb?"):  # nothing can be written to these places
        path.unlink()
        path.mkdir()
    assert _run(package, NUMBA_CACHE_DIR=str(cache)) == ("21\n", "")


def test_the_folder_that_the_user_names_comes_first_and_long_unused_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, recent = tmp_path / "kernels-old", tmp_path / "kernels-recent"
    for folder, days in ((old, 31), (recent, 29)):
        folder.mkdir()
        os.utime(folder, (time.time() - 86_400 * days,) * 2)
    monkeypatch.setattr(compiling.numba.config, "CACHE_DIR", str(tmp_path))
    found = compiling.cache_folder(PACKAGE)
    assert found is not None
    assert found.parent == tmp_path
    assert recent.exists()
    assert not old.exists()


def _decorated(tree: ast.Module) -> list[ast.FunctionDef]:
    marks = {"compiled", "inlined", "row_kernel", "row_inlined", "_compiled", "njit", "jit"}
    return [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(mark).split("(")[0].split(".")[-1] in marks for mark in node.decorator_list)
    ]


def test_all_compiled_code_and_what_it_uses_is_part_of_the_hash() -> None:
    hashed = {path for path, _ in compiling.compiled_sources(PACKAGE)}
    found = 0
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        functions = _decorated(tree)
        if not functions or path.name.startswith("triton_"):  # Triton has a cache of its own
            continue
        found += 1
        assert str(path.relative_to(PACKAGE)) in hashed, f"{path}: use asr_kd.compiling in place of numba's decorators"
        used = {node.id for function in functions for node in ast.walk(function) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("asr_kd."):
                continue
            source = (node.module or "").removeprefix("asr_kd.").replace(".", "/") + ".py"
            if used & {alias.asname or alias.name for alias in node.names} - {"compiled", "inlined"}:
                assert source in hashed, f"{path}: compiled code uses something of {source}, which is not hashed"
    assert found >= 11
