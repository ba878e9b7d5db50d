"""The members of an ensemble: networks of different seeds, trained side by side, and the mean that they make."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from asr_kd.config import load_config
from asr_kd.errors import UserError
from asr_kd.nets import save_ensemble
from asr_kd.nets.folder import WEIGHTS
from asr_kd.parallel import in_processes
from asr_kd.train.config import TrainConfig
from asr_kd.train.evaluate import Evaluation, check_fits, evaluate
from asr_kd.train.experiment import Experiment
from asr_kd.train.frame_data import TrainingData
from asr_kd.train.loop import train
from asr_kd.train.transfer_set import Lesson


@dataclasses.dataclass(frozen=True)
class TrainedEnsemble:
    """The ensemble in ``folder``: what ``evaluation`` on the dev data finds, and, for each of its ``members``, the
    ``folder``, the ``seed``, and what ``train`` returned."""

    folder: Path
    mean: str
    members: tuple[dict[str, Any], ...]
    evaluation: Evaluation


@dataclasses.dataclass(frozen=True)
class _FirstSeedOne(TrainConfig):
    """A configuration whose seed, where it is not given, is 1: the members' folders count from there."""

    seed: int = 1


@dataclasses.dataclass(frozen=True)
class _Course:
    """What all members share; ``devices`` are those on which one network at a time can be trained."""

    data: TrainingData
    dev: TrainingData
    devices: tuple[torch.device, ...]
    teacher: str | Path | None
    priors: str | Path | None


@dataclasses.dataclass(frozen=True)
class _Member:
    config: TrainConfig
    folder: Path
    course: _Course


def member_configs(count: int, paths: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> list[TrainConfig]:
    """Configurations of ``count`` members: the files in turn, with the ``overrides``, and seeds that count up from the
    configurations' own, or from 1.

    Raises ``UserError`` where there are more files than members, or the files have different seeds.
    """
    if count < max(1, len(paths)):
        raise UserError(f"{count} members of {len(paths)} configurations; expected at least one member for each")
    configs = [load_config(_FirstSeedOne, path, overrides) for path in (paths or (None,))]
    seeds = sorted({config.seed for config in configs})
    if len(seeds) > 1:
        raise UserError(
            f"the configurations have the seeds {', '.join(map(str, seeds))}; say with --seed where the members' begin"
        )
    return [TrainConfig(**{**vars(configs[i % len(configs)]), "seed": seeds[0] + i}) for i in range(count)]


def train_members(
    configs: Sequence[TrainConfig],
    data: TrainingData,
    dev: TrainingData,
    folder: str | Path,
    devices: Sequence[torch.device] = (torch.device("cpu"),),
    teacher: str | Path | None = None,
    priors: str | Path | None = None,
    mean: str = "arithmetic",
    threads: int = 1,
) -> TrainedEnsemble:
    """``train`` a network for each of ``configs`` into ``folder/seedSEED``, and make ``folder`` their ensemble.

    On the CPU as many processes as there are networks or ``threads`` share these equally: two of one thread have more
    throughput than one of two. Elsewhere each of ``devices`` trains one network at a time. A network does not depend
    on the others; it is what ``train`` would give with the same number of threads. Whatever ended it, the same call
    goes on, and does not repeat what has been finished.

    Raises ``UserError`` before any training where the networks would not fit each other, the data or what is in their
    folders; that of a member, named by its seed, and ``KeyboardInterrupt``, after the others wrote checkpoints.
    """
    folder = Path(folder)
    course = _Course(data, dev, tuple(devices), teacher, priors)
    members = {f"seed {config.seed}": _Member(config, folder / f"seed{config.seed}", course) for config in configs}
    _check_places(folder, configs)
    summaries = _finished(members)
    missing = {name: member for name, member in members.items() if name not in summaries}
    # Of all members, not of the missing: the number of threads decides the last bits of the weights.
    at_once = min(len(members), threads if devices[0].type == "cpu" else len(devices))
    each = max(1, threads // at_once)
    if missing:
        plan = f"{len(missing)} of {len(members)} members to train, up to {at_once} at once, threads of each: {each}"
        print(f"{folder}: {plan}", file=sys.stderr)
    summaries |= in_processes(_train_member, missing, at_once, each)
    ensemble = save_ensemble(folder, [member.folder for member in members.values()], mean)
    rows = (
        {"folder": str(member.folder), "seed": member.config.seed, **summaries[name]}
        for name, member in members.items()
    )
    return TrainedEnsemble(folder, mean, tuple(rows), evaluate(ensemble.to(devices[0]), dev))


def _train_member(member: _Member, slot: int) -> dict[str, Any]:
    course = member.course
    device = course.devices[slot % len(course.devices)]
    return train(member.config, course.data, course.dev, member.folder, device, course.teacher, course.priors)


def _check_places(folder: Path, configs: Sequence[TrainConfig]) -> None:
    if (folder / WEIGHTS).exists() or (folder / "checkpoint.safetensors").exists():
        raise UserError(f"{folder}: holds a network; choose another folder for the ensemble and its members")
    seeds = [config.seed for config in configs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {seeds}; expected another one for each member")


def _finished(members: dict[str, _Member]) -> dict[str, dict[str, Any]]:
    """The summaries of the members that are trained, by name; ``UserError`` where one cannot be trained as planned."""
    plans: dict[TrainConfig, tuple[TrainConfig, dict[str, str]]] = {}  # by all of a configuration but the seed
    summaries, states = {}, dict[str, int]()
    for name, member in members.items():
        course, key = member.course, dataclasses.replace(member.config, seed=0)
        if key not in plans:
            lesson = Lesson.plan(member.config, course.data, course.teacher, course.priors, course.devices[0])
            plans[key] = lesson.config, lesson.hashes
        config = dataclasses.replace(plans[key][0], seed=member.config.seed)
        states[name] = config.net.states
        first = next(iter(states))
        if states[name] != states[first]:
            raise UserError(
                f"{name} would predict {states[name]} states, but {first} predicts {states[first]}; the members of an"
                " ensemble predict the same states: mend net.states of their configurations"
            )
        if name == first:
            check_fits(course.dev, config.net.bins, config.net.states)
        summary = Experiment(member.folder, config, course.data, course.dev, plans[key][1]).summary
        if summary is not None:
            summaries[name] = summary
    return summaries
