"""Ensembles: networks of different seeds, trained side by side, and their mean."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from asr_kd.config import load_config, shown
from asr_kd.errors import UserError, counted
from asr_kd.limits import MEMBERS
from asr_kd.nets import save_ensemble
from asr_kd.nets.folder import WEIGHTS
from asr_kd.parallel import Needs, long_tasks, visible_gpus
from asr_kd.train.config import TrainConfig
from asr_kd.train.evaluate import Evaluation, check_fits, evaluate
from asr_kd.train.frame_data import TrainingData
from asr_kd.train.loop import train
from asr_kd.train.run_folder import RunFolder
from asr_kd.train.transfer_set import NO_SOURCES, Sources, TrainingTask


@dataclasses.dataclass(frozen=True)
class TrainedEnsemble:
    """The ensemble in ``folder`` and its ``evaluation`` on the dev data.

    Each of ``members`` has its ``folder``, its ``seed`` and what ``train`` returned.
    """

    folder: Path
    mean: str
    members: tuple[dict[str, Any], ...]
    evaluation: Evaluation


@dataclasses.dataclass(frozen=True)
class Machine:
    """What members are trained on: each of ``devices`` trains one network at a time; the CPU has ``threads``."""

    devices: tuple[torch.device, ...] = (torch.device("cpu"),)
    threads: int = 1


ONE_CPU = Machine()


@dataclasses.dataclass(frozen=True)
class _FirstSeedOne(TrainConfig):
    """A configuration whose default seed is 1, as the numbers of the members' folders begin with 1."""

    seed: int = 1


@dataclasses.dataclass(frozen=True)
class _Common:
    """What all members share."""

    data: TrainingData
    dev: TrainingData
    device: torch.device
    sources: Sources


@dataclasses.dataclass(frozen=True)
class _Member:
    config: TrainConfig
    folder: Path
    common: _Common


def member_configs(count: int, paths: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> list[TrainConfig]:
    """Configurations of ``count`` members: the files in turn, with the ``overrides`` and consecutive seeds.

    The first seed is that of the configurations, or 1. Raises ``UserError`` if there are more files than members, or if
    the files have different seeds.
    """
    if count < max(1, len(paths)):
        raise UserError(
            f"{counted(count, 'member')} for {counted(len(paths), 'configuration')}; give at least as many members"
        )
    if count > MEMBERS:
        raise UserError(f"{counted(count, 'member')}; at most {MEMBERS:,} are possible")
    configs = [load_config(_FirstSeedOne, path, overrides) for path in (paths or (None,))]
    seeds = sorted({config.seed for config in configs})
    if len(seeds) > 1:
        raise UserError(
            f"the configurations have different seeds, {', '.join(map(str, seeds))}; give the first one with --seed"
        )
    return [TrainConfig(**{**vars(configs[i % len(configs)]), "seed": seeds[0] + i}) for i in range(count)]


def train_members(
    configs: Sequence[TrainConfig],
    data: TrainingData,
    dev: TrainingData,
    folder: str | Path,
    sources: Sources = NO_SOURCES,
    mean: str = "arithmetic",
    machine: Machine = ONE_CPU,
) -> TrainedEnsemble:
    """``train`` a network for each of ``configs`` into ``folder/seedSEED``, and make ``folder`` their ensemble.

    On the CPU as many processes as there are networks or threads share the threads equally: two processes of one thread
    each are faster than one of two. Elsewhere each device trains one network at a time. A network does not depend on
    the others: it is what ``train`` gives with the same number of threads. The same call resumes after any
    interruption, and finished members are not trained again.

    Raises ``UserError`` before any training if the networks do not fit each other, the data or what is in their
    folders; that of a member, named by its seed, and ``KeyboardInterrupt``, after the others wrote checkpoints.
    """
    folder = Path(folder)
    common = _Common(data, dev, machine.devices[0], sources)
    members = {f"seed {config.seed}": _Member(config, folder / f"seed{config.seed}", common) for config in configs}
    _check_places(folder, configs)
    summaries = _finished(members)
    missing = {name: member for name, member in members.items() if name not in summaries}
    # Of all members, not of the missing ones: the number of threads decides the last bits of the weights.
    at_once = min(len(members), machine.threads if machine.devices[0].type == "cpu" else len(machine.devices))
    each = max(1, machine.threads // at_once)
    if missing:
        plan = (
            f"{len(missing)} of {counted(len(members), 'member')} to train, up to {at_once} at once with {each}"
            " threads each"
        )
        print(f"{folder}: {plan}", file=sys.stderr)
    summaries |= _train_missing(missing, machine.devices, at_once, each)
    ensemble = save_ensemble(folder, [member.folder for member in members.values()], mean)
    rows = (
        {"folder": str(member.folder), "seed": member.config.seed, **summaries[name]}
        for name, member in members.items()
    )
    return TrainedEnsemble(folder, mean, tuple(rows), evaluate(ensemble.to(machine.devices[0]), dev))


def _train_missing(
    missing: dict[str, _Member], devices: Sequence[torch.device], at_once: int, threads: int
) -> dict[str, dict[str, Any]]:
    """What ``train`` returns for each member, by name."""
    gpus = [visible_gpus()[device.index or 0] for device in devices if device.type == "cuda"]
    needs = Needs(threads, gpus=1 if gpus else 0)
    with long_tasks(at_once * threads, gpus) as tasks:
        waiting = {tasks.submit(name, _train_member, member, needs): name for name, member in missing.items()}
        summaries: dict[str, dict[str, Any]] = {}
        while ended := tasks.wait():
            summaries |= {waiting[handle]: handle.result() for handle in ended}
    return summaries


def _train_member(member: _Member) -> dict[str, Any]:
    common = member.common
    device = torch.device(common.device.type)  # a process sees no GPU but its own
    return train(member.config, common.data, common.dev, member.folder, device, common.sources)


def _check_places(folder: Path, configs: Sequence[TrainConfig]) -> None:
    if (folder / WEIGHTS).exists() or (folder / "checkpoint.safetensors").exists():
        raise UserError(f"{folder}: holds a network; choose another folder for the ensemble and its members")
    seeds = [config.seed for config in configs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {shown(seeds)}; expected a different one for each member")


def _finished(members: dict[str, _Member]) -> dict[str, dict[str, Any]]:
    """The summaries of the members that are trained, by name; ``UserError`` if one cannot be trained as planned."""
    plans: dict[TrainConfig, tuple[TrainConfig, dict[str, str]]] = {}  # by all of a configuration but the seed
    summaries, states = {}, dict[str, int]()
    for name, member in members.items():
        common, key = member.common, dataclasses.replace(member.config, seed=0)
        if key not in plans:
            task = TrainingTask.plan(member.config, common.data, common.sources, common.device)
            plans[key] = task.config, task.hashes
        config = dataclasses.replace(plans[key][0], seed=member.config.seed)
        states[name] = config.net.states
        first = next(iter(states))
        if states[name] != states[first]:
            raise UserError(
                f"{name} would predict {counted(states[name], 'state')}, but {first} predicts {states[first]}; the"
                " members of an ensemble predict the same states: correct net.states in their configurations"
            )
        if name == first:
            check_fits(common.dev, config.net.bins, config.net.states)
        summary = RunFolder(member.folder, config, common.data, common.dev, plans[key][1]).summary
        if summary is not None:
            summaries[name] = summary
    return summaries
