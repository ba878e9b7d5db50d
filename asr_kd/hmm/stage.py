"""One stage of GMM-HMM training: Viterbi EM with growing mixtures; alignments are renewed in some iterations."""

import dataclasses
import sys
import time

import numpy as np

from asr_kd.hmm.em import accumulate, mllt_statistics, split, update
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.training_frames import TrainingFrames
from asr_kd.hmm.transform import mllt


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """``iterations`` of re-estimation, with new alignments in those of ``realign`` and MLLT in those of ``mllt``.

    The number of Gaussians grows linearly to ``gaussians`` in iteration ``grow_until``.
    """

    gaussians: int
    iterations: int
    realign: tuple[int, ...]
    grow_until: int
    mllt: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Iteration:
    """What one iteration did; ``log_likelihood`` is per frame, of the model that the iteration began with."""

    number: int
    log_likelihood: float
    gaussians: int


@dataclasses.dataclass(frozen=True)
class Estimation:
    """How Gaussians are estimated in every stage: see ``HmmConfig``."""

    power: float
    variance_floor: float
    beam: float
    seed: int


def run_stage(
    name: str,
    training: TrainingFrames,
    space: StateSpace,
    gmm: Gmm,
    path: np.ndarray,
    config: StageConfig,
    how: Estimation,
) -> tuple[StateSpace, Gmm, list[Iteration]]:
    """Train ``gmm`` from the alignment ``path``; the state space comes back with its self-loops re-estimated."""
    rng = np.random.default_rng(how.seed)
    states = space_states(space, training, path)
    steps = max(config.grow_until - 1, 1)
    grow = max(config.gaussians - gmm.num_gaussians, 0) / steps
    start_size = gmm.num_gaussians
    history = []
    began = time.monotonic()
    for number in range(1, config.iterations + 1):
        if number in config.realign:
            path = training.best_path(space, gmm, how.beam)
            states = space_states(space, training, path)
            space = dataclasses.replace(space, log_loop=training.log_loops(path, states, space.num_states))
        if number in config.mllt:
            gmm = _rotate(gmm, training, states)
        floor = how.variance_floor * training.variance
        sums = accumulate(gmm, training.shared, states, training.jobs)
        history.append(Iteration(number, sums.log_likelihood / len(states), gmm.num_gaussians))
        gmm = update(gmm, sums, floor)
        if number <= config.grow_until:
            target = start_size + round(grow * min(number, steps))
            gmm = split(gmm, np.bincount(states, minlength=space.num_states), target, how.power, rng)
        _report(name, history[-1], config, number in config.realign, len(states) * number / (time.monotonic() - began))
    return space, gmm, history


def space_states(space: StateSpace, training: TrainingFrames, path: np.ndarray) -> np.ndarray:
    """The tied state of each frame of ``path``, ``[frames]`` int32."""
    return training.graphs.states(space)[path]


def _rotate(gmm: Gmm, training: TrainingFrames, states: np.ndarray) -> Gmm:
    """MLLT: a better basis for diagonal covariances, in the model and in the training frames."""
    matrix, _ = mllt(*mllt_statistics(gmm, training.frames, states))
    transform = gmm.transform.then(matrix)
    training.transform(transform)
    return dataclasses.replace(gmm, transform=transform, means=(gmm.means @ matrix.T).astype(np.float32))


def _report(name: str, done: Iteration, config: StageConfig, aligned: bool, rate: float) -> None:
    print(
        f"{name} {done.number:2d}/{config.iterations}: log-likelihood {done.log_likelihood:8.3f} a frame,"
        f" {done.gaussians} Gaussians, {rate:,.0f} frames/s{', aligned' if aligned else ''}",
        file=sys.stderr, flush=True,
    )  # fmt: skip
