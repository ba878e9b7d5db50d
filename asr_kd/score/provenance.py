"""Provenance of results: code, versions, machine."""

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from asr_kd import __version__

_LIBRARIES = ("torch", "torchaudio", "numpy", "scipy", "numba", "kaldifst", "kaldi-decoder", "jiwer", "pocketsphinx")


def short_commit() -> str | None:
    """The commit of this checkout, abbreviated; None outside of one."""
    return _git("rev-parse", "--short", "HEAD")


def provenance(seconds: float | None = None, made_at: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Commit (None outside a git checkout), whether files differ from it, versions, machine, date, wall time.

    ``made_at``: commit -> what was made at it, where it is not this one.
    """
    commit = _git("rev-parse", "HEAD")
    written = (":!*RESULTS.md", ":!*results.json", ":!*.png")  # by the run itself
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
    return {
        "commit": commit,
        "modified": None if commit is None else bool(changes),
        "made_at": dict(made_at or {}),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": seconds,
        "versions": {"asr_kd": __version__, "python": platform.python_version(), **_versions()},
        "machine": _machine(),
    }


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed copy may lie inside another repository
        return None
    return _output("git", "-C", str(root), *arguments)


def _output(*command: str) -> str | None:
    """The standard output of a command; None where it does not exist or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not every library is needed everywhere
            continue
    return found


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or None,
    }


def _processor() -> str:
    """Its name, and the best instruction set that affects a network's speed and the last bits of its outputs."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    best = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "sve", "bf16") if name in flags][:1]
    return " ".join([fields.get("model name", platform.processor()), *(f"({name})" for name in best)])
