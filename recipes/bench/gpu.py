"""Correctness and speed on one GPU: each part has its own time limit, and one that fails leaves the others alone.

The parts run one after the other in a separate process. If one fails, crashes or takes too long, a new process runs the
remaining parts. The results are written after each part.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SECONDS = {  # the limit of each part, in the order in which they run
    "machine": 60, "paper_bf16": 60, "steps": 60, "objective": 40, "writing": 90, "loader": 40, "small_networks": 60,
    "paper_tf32": 40, "paper_fp32": 60, "profile": 40, "resume": 70, "tests": 180,
}  # fmt: skip
TITLES = {
    "machine": "The machine", "paper_bf16": "The paper's network in bf16", "paper_tf32": "The paper's network in TF32",
    "paper_fp32": "The paper's network in fp32", "steps": "Steps on soft targets", "objective": "The objective alone",
    "writing": "Writing soft targets", "loader": "Reading alone", "small_networks": "The recipes' networks",
    "profile": "Twenty steps of the paper's network", "resume": "Resuming", "tests": "Tests",
}  # fmt: skip
IN_ALL, START = 350, 90  # seconds; to import libraries and make the synthetic stores


@dataclasses.dataclass
class Results:
    """What is known so far, and where it is written."""

    folder: Path
    about: dict[str, Any]
    parts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    began: float = dataclasses.field(default_factory=time.monotonic)

    def write(self) -> None:
        """Replace ``results_gpu.json`` and ``RESULTS_GPU.md``."""
        self.about["seconds"] = round(time.monotonic() - self.began, 1)
        content = {"rows": self.rows, "parts": self.parts, "provenance": self.about}
        for name, text in (("results_gpu.json", json.dumps(content, indent=1) + "\n"), ("RESULTS_GPU.md", self.page())):
            partial = self.folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.folder / name)

    def page(self) -> str:
        """The results for people."""
        from asr_kd.score.table import Column, plain, render

        texts = ("name", "unit", "against", "bar")
        columns = [
            Column("target" if key == "bar" else key, plain(key), key in texts)
            for key in ("name", "value", "unit", "against", "bar", "met")
        ]
        tables = [
            f"## {TITLES.get(part['part'], part['part'])}\n\n{self._table(part['part'], render, columns)}"
            for part in self.parts
        ]
        return "\n".join(["# On one GPU\n", *tables, self._provenance()])

    def _provenance(self) -> str:
        about = self.about
        versions = {"cuda": about.get("cuda"), "triton": about.get("triton"), "driver": about.get("driver")}
        named = ", ".join(f"{name} {version}" for name, version in (about["versions"] | versions).items() if version)
        machine = f"{about['machine']['processor']}, {about['machine']['cores']} cores; {about.get('card', 'no GPU')}"
        when = f"commit {about['commit']}, {about['date']}, {about['seconds']:.0f} s in all, seed {about['seed']}"
        return f"## Where the numbers come from\n\n- {when}\n- {named}\n- {machine}\n"

    def _table(self, part: str, render: Any, columns: Any) -> str:
        rows = [row for row in self.rows if row["part"] == part]
        (outcome,) = [each["outcome"] for each in self.parts if each["part"] == part]
        notes = [] if outcome == "done" else [f"Not finished: {outcome.strip().splitlines()[-1]}"]
        return str(render(rows, columns, notes, "markdown")) if rows else "\n".join(["", *notes, ""])

    def table(self) -> str:
        """A short table, for the end of the output."""
        lines = [f"{row['part']:<15}{row['value']:>12.5g}  {row['name']}; {row['unit']}" for row in self.rows]
        lines += [
            f"{part['part']:<15}{part['seconds']:>12.1f}  s: {part['outcome'].strip().splitlines()[-1]}"
            for part in self.parts
        ]
        return "\n".join(line[:230] for line in lines)


def main() -> int:
    """Run the parts; the exit status is 1 if one failed."""
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__)
    parser.add_argument("--output", type=Path, help="folder of the results (default: that of this script)")
    parser.add_argument("--work", type=Path, help="folder for synthetic stores (default: a temporary one)")
    parser.add_argument("--small", action="store_true", help="tiny sizes on the CPU, to check that everything runs")
    parser.add_argument("--commit", help="the commit being measured, if this is not a git checkout")
    parser.add_argument("--parts", default=",".join(SECONDS), help="parts to run (default: %(default)s)")
    seconds = "time limit of all parts together (default: %(default)s)"
    parser.add_argument("--seconds", type=float, default=IN_ALL, help=seconds)
    options = parser.parse_args()
    parts = [part for part in options.parts.split(",") if part]
    if unknown := set(parts) - set(SECONDS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(SECONDS)}")
    if options.output is None and options.small:
        parser.error("--small needs --output")
    folder = (options.output or Path(__file__).parent).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder, _about(options.commit))
    results.write()
    with tempfile.TemporaryDirectory(prefix="asr_kd_gpu_") as temporary:
        _run(parts, results, options, (options.work or Path(temporary)).resolve())
    results.write()
    print(results.table())
    print(f"{results.about['seconds']:.0f} s in all; see {folder}")
    return int(any(part["outcome"] != "done" for part in results.parts))


def _about(commit: str | None) -> dict[str, Any]:
    from asr_kd.score.provenance import provenance

    found = provenance()
    given = {"commit": commit, "modified": None} if commit else {}
    return {**found, "commit": found["commit"] or "unknown", "seed": 0, **given}


def _run(parts: list[str], results: Results, options: argparse.Namespace, work: Path) -> None:
    end, worker = results.began + options.seconds, None
    try:
        for part in parts:
            began = time.monotonic()
            if began >= end:
                results.parts.append({"part": part, "outcome": "left out: no time left", "seconds": 0.0})
                continue
            limit = began + SECONDS[part]
            if worker is None:
                worker, limit = Worker(results.folder, work, options.small), limit + START
            print(f"{time.monotonic() - results.began:6.1f} s  {part}", file=sys.stderr, flush=True)
            outcome, rows = worker.do(part, min(limit, end))
            results.rows += rows
            results.parts.append({"part": part, "outcome": outcome, "seconds": round(time.monotonic() - began, 1)})
            results.about |= worker.about
            results.write()
            if outcome != "done":
                worker.end()
                worker = None
    finally:
        if worker is not None:
            worker.end()


class Worker:
    """A process that does the parts whose names it reads. It answers with rows, one JSON object in each line, and
    "done"; or with the reason why not, and ends. Its standard error is the log."""

    def __init__(self, folder: Path, work: Path, small: bool) -> None:
        self.about: dict[str, Any] = {}
        command = [sys.executable, "-u", Path(__file__).with_name("gpu_parts.py"), work, folder, *["--small"] * small]
        environment = {"TRITON_CACHE_DIR": str(work / "triton"), **os.environ}  # wherever the home is
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (folder / "gpu.log").open("ab") as log:
            self._process = subprocess.Popen(command, **pipes, stderr=log, env=environment, start_new_session=True)
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def do(self, part: str, end: float) -> tuple[str, list[dict[str, Any]]]:
        """Do ``part`` until ``end`` (monotonic seconds). Returns "done", or why it failed; and its rows."""
        assert self._process.stdin is not None
        rows, began = list[dict[str, Any]](), time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it died at once; there is no answer then
            self._process.stdin.write(f"{part}\n".encode())
            self._process.stdin.flush()
        while True:
            try:
                line = self._lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                return f"took longer than {time.monotonic() - began:.0f} s", rows
            if not line:
                return f"the process died: exit status {self._process.wait()}; see gpu.log", rows
            if not line.startswith(b'{"'):  # printed by a library
                continue
            answer = json.loads(line)
            if "outcome" in answer:
                return answer["outcome"], rows
            if "about" in answer:
                self.about = answer["about"]
            else:
                rows.append({"part": part, **answer})

    def end(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worker is ended too
    sys.exit(main())
