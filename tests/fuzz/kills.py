"""Real commands that are killed at random moments, run again, and compared with one that never was.

``python -m tests.fuzz.kills --kills 1000`` tries every command in turn. A command runs in a process group of its own,
forked from this process, which has loaded all libraries. ``SIGKILL`` at a random moment ends the whole group, or its
first process, whose workers must then end by themselves. After one or more kills the same command runs to its end, and
its files must have the bytes of an uninterrupted run. ``SIGINT`` must end it with status 130 and one sentence.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.runner import build
from tests.fuzz.worker import preload

_DATA = "--feats mfcc --states states --dev-feats mfcc --dev-states states --config conf/train.yaml --device cpu"
COMMANDS = {
    "feats": "feats plain out --config conf/features.yaml --jobs 1",
    "feats --jobs 2": "feats plain out --config conf/features.yaml --jobs 2",
    "targets write --jobs 2": "targets write out --teacher teacher --feats mfcc --form topk --k 3 --jobs 2",
    "decode --jobs 2": "decode model_net plain --output out --jobs 2",
    "train --threads 2": f"train {_DATA} --members 2 --seed 1 --threads 2 --out out",
    "hmm train": "hmm train plain mfcc lexicon.txt out --config conf/hmm.yaml",
    "hmm align": "hmm align gmm/lda plain mfcc out",
    "targets write": "targets write out --teacher teacher --feats mfcc --form sampled --temperatures 2 --k 3",
    "train": f"train {_DATA} --set epochs=3 --set checkpoint_steps=2 --targets topk --out out",
    "train --members": f"train {_DATA} --members 2 --seed 1 --threads 1 --out out",
    "decode": "decode model_net plain --output out",
    "decode --feats": "decode model_gmm --feats mfcc --states states --output out",
    "corpus prepare an4": "corpus prepare an4 out --corpus-dir an4",
    "corpus prepare fsdd": "corpus prepare fsdd out --corpus-dir fsdd",
    "corpus prepare librispeech": "corpus prepare librispeech out --corpus-dir libri --eval-part dev-clean-2"
    " --dev-speakers 2 --lm-dir libri_lm",
    "corpus prepare mnist": "corpus prepare mnist out --corpus-dir mnist",
    "corpus perturb": "corpus perturb plain out --speeds 0.9,1.1 --jobs 1",
    "corpus subset": "corpus subset data out --fraction 0.5",
    "corpus combine": "corpus combine out plain",
    "lm estimate": "lm estimate plain out/lm.arpa.gz --order 3",
    "graph compile": "graph compile gmm/lda lm.arpa out",
    "graph import": "graph import kaldi/vector.fst graph/words.txt out",
    "frames import": "frames import kaldi/feats.scp out --kind features",
    "frames export": "frames export mfcc out/feats.ark",
    "frames copy": "frames copy mfcc out --shard-frames 50",
    "targets import": "targets import kaldi/scores.ark out --values log-prob --form dense",
    "hmm import-alignment": "hmm import-alignment out kaldi/ali.1.gz --features mfcc",
    "model build": "model build --network teacher --states-dir gmm/lda --graph graph --features mfcc out",
    "model ensemble": "model ensemble out teacher/seed1 teacher/seed2",
    "specialists cluster": "specialists cluster out --network teacher/seed1 --feats mfcc --k 2 --size 3",
    "specialists prepare": "specialists prepare out --clusters clusters --number 0 --network teacher/seed1"
    " --states states --dev-states states",
    "specialists join": "specialists join out special --network teacher/seed1",
    "score": "score --ref plain --hyp dec_net/test -o out/wer.json",
}
QUICK = (
    "feats",
    "hmm align",
    "targets write",
    "train",
    "decode",
    "corpus prepare an4",
    "corpus perturb",
    "lm estimate",
    "graph compile",
    "frames import",
    "targets import",
    "model build",
)  # what make test kills
VOLATILE = {"seconds", "cpu_seconds", "real_time_factor", "frames_per_second", "cpu", "machine", "date"}  # of a run
STARTED = b"."
ORPHAN_SECONDS = 60  # on a busy machine; an idle one takes a fraction of a second


@dataclasses.dataclass
class Counts:
    """What was tried on one command: kills, those that came before its end, interrupts, and completed runs."""

    kills: int = 0
    cut: int = 0
    interrupts: int = 0
    interrupted: int = 0
    completed: int = 0


class Running:
    """A command in a process group of its own, in ``folder``; its messages go to ``folder/../log``."""

    def __init__(self, command: str, folder: Path) -> None:
        self.log = folder.parent / "log"
        reading, writing = os.pipe()
        self.began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            _run_child(command, folder, self.log, writing)
        os.close(writing)
        os.read(reading, 1)  # until it is about to begin
        os.close(reading)

    def wait(self) -> int:
        """Wait for its end; the exit status, negative after a signal."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.seconds = time.monotonic() - self.began
        return status

    def end(self, number: int, seconds: float, alone: bool = False) -> int:
        """Send signal ``number`` to the group, or to its first process ``alone``, after ``seconds``; its exit status.

        No process of the group may be left ``ORPHAN_SECONDS`` later.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.0005)
        (os.kill if alone else os.killpg)(self.pid, number)
        status = self.wait()
        end = time.monotonic() + ORPHAN_SECONDS
        while found := _members(self.pid):
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise AssertionError(f"{len(found)} processes outlived it by {ORPHAN_SECONDS} s: {found}")
            time.sleep(0.01)
        return status


def _members(group: int) -> list[str]:
    """The command lines of the living processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, its_group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def _run_child(command: str, folder: Path, log: Path, started: int) -> None:
    """Become the process of a command; does not return."""
    from asr_kd import cli

    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.write(started, STARTED)
        status = cli.main(command.split())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file below ``folder``, without the figures that differ from run to run (times)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.name.startswith(".") and "tensorboard" not in path.parts:
            found[name] = hashlib.sha256(_stable(path)).hexdigest()
    return found


def _stable(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".json":
        return repr(_without_times(json.loads(content))).encode()
    if path.suffix == ".jsonl":
        return repr([_without_times(json.loads(line)) for line in content.splitlines()]).encode()
    if path.suffix == ".yaml":
        return repr(_without_times(yaml.safe_load(content))).encode()
    return content


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in VOLATILE}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def fresh(world: Path, folder: Path) -> Path:
    """A copy of the world in ``folder/case``, without what another run left."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world, folder / "case", ignore=shutil.ignore_patterns("tensorboard", "audio"))
    return folder / "case"


def complete(command: str, case: Path, expected: dict[str, str] | None = None) -> tuple[dict[str, str], float]:
    """Run ``command`` to its end; returns the digests of what it wrote, and the seconds; raises where they differ."""
    running = Running(command, case)
    status = running.wait()
    if status != 0:
        raise AssertionError(f"asr-kd {command}: status {status}\n{running.log.read_text(errors='replace')}")
    found = contents(case / "out")
    if expected is not None and found != expected:
        names = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        raise AssertionError(f"asr-kd {command}: after kills other bytes in {', '.join(names)}")
    return found, running.seconds


def interrupt(command: str, case: Path, seconds: float, counts: Counts) -> None:
    """Press Ctrl-C after ``seconds``: status 130 and one line, unless the command was at its end."""
    running = Running(command, case)
    status = running.end(signal.SIGINT, seconds)
    counts.interrupts += 1
    if status == 0:
        return
    counts.interrupted += 1
    log = running.log.read_text(errors="replace")
    lines = [line for line in log.splitlines() if "interrupted" in line]
    if status != 130 or len(lines) != 1 or "Traceback" in log:
        raise AssertionError(f"asr-kd {command}: Ctrl-C after {seconds:.3f} s: status {status}\n{log[-3000:]}")


class Killer:
    """Kills commands on copies of ``world`` in ``scratch``.

    ``seed`` decides the moments; after a kill the command runs to its end with probability ``often``.
    """

    def __init__(self, world: Path, scratch: Path, seed: int, often: float) -> None:
        self.world, self.scratch, self.rng, self.often = world, scratch, random.Random(seed), often
        self.counts: dict[str, Counts] = collections.defaultdict(Counts)
        self.failures: list[str] = []
        self._expected: dict[str, dict[str, str]] = {}
        self._seconds: dict[str, float] = {}

    def attack(self, name: str, kills: int) -> None:
        """Kill the command ``name`` ``kills`` times, then interrupt it once, and compare; adds to ``failures``."""
        try:
            self._attack(name, kills)
        except AssertionError as error:
            self.failures.append(f"{name}: {error}")

    def _attack(self, name: str, kills: int) -> None:
        command, counts = COMMANDS[name], self.counts[name]
        if name not in self._expected:
            self._expected[name], self._seconds[name] = complete(command, fresh(self.world, self.scratch))
        case = fresh(self.world, self.scratch)
        for _ in range(kills):
            status = Running(command, case).end(signal.SIGKILL, self._moment(name), self.rng.random() < 0.5)
            counts.kills += 1
            counts.cut += status == -signal.SIGKILL
            if status not in (0, -signal.SIGKILL):
                raise AssertionError(f"asr-kd {command}: status {status} after a kill\n{self._log()}")
            if status == 0 or self.rng.random() < self.often:
                self._complete(name, case)
                case = fresh(self.world, self.scratch)
        interrupt(command, case, self._moment(name), counts)
        self._complete(name, case)

    def _moment(self, name: str) -> float:
        return self.rng.random() * self._seconds[name]

    def _complete(self, name: str, case: Path) -> None:
        _, seconds = complete(COMMANDS[name], case, self._expected[name])
        self._seconds[name] = min(seconds + 0.01, self._seconds[name])  # the first run has the longest imports
        self.counts[name].completed += 1

    def _log(self) -> str:
        return (self.scratch / "log").read_text(errors="replace")[-3000:]


def main() -> int:
    """Kill; returns 1 where a command did not end with the bytes of an uninterrupted run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--each", type=int, default=3, help="kills of a command before the next one's turn")
    parser.add_argument(
        "--often", type=float, default=0.5, help="how often a killed command is completed (default 0.5)"
    )
    parser.add_argument("--quick", action="store_true", help="only the commands that make test kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", default="", help="only commands whose name contains this")
    parser.add_argument("--work", type=Path, default=Path(".fuzz"), help="the seeds (default .fuzz)")
    options = parser.parse_args()
    world = build(options.work.resolve() / "world")
    preload()
    names = [name for name in (QUICK if options.quick else COMMANDS) if options.command in name]
    place = Path("/dev/shm") if Path("/dev/shm").is_dir() else options.work.resolve()
    with tempfile.TemporaryDirectory(prefix="kills-", dir=place) as scratch:
        killer = Killer(world, Path(scratch) / "run", options.seed, options.often)
        done, turn, reported = 0, 0, time.monotonic()
        while done < options.kills:
            each = min(options.each, options.kills - done)
            failed = len(killer.failures)
            killer.attack(names[turn % len(names)], each)
            for failure in killer.failures[failed:]:
                print(f"FAILURE {failure}\n", flush=True)
            done, turn = done + each, turn + 1
            if time.monotonic() > reported + 60:
                reported = time.monotonic()
                print(f"{done:,} kills, {len(killer.failures)} failures", flush=True)
    for name, counts in killer.counts.items():
        print(
            f"{name:<28} {counts.kills:>5} kills ({counts.cut} before its end), {counts.interrupts} interrupts"
            f" ({counts.interrupted} before its end), {counts.completed} completed with the same bytes"
        )
    print(f"{done:,} kills, {len(killer.failures)} failures")
    return 1 if killer.failures else 0


if __name__ == "__main__":
    sys.exit(main())
