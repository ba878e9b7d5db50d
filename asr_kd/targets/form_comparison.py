"""How well each form of soft targets approximates the teacher, and its size, measured on a transfer set.

p is the teacher's distribution at the student's temperature T, in double precision. r is its approximation after
``encode``: in float16, as a student reads it. For ``topk``, r spreads the tail evenly over the states that are not
kept; for ``sampled``, r is one draw of weights. Means over frames:

- ``lost_mass``: p's mass on states for which the form stores only the sum (``topk``). ``sampled`` loses none: every
  state can be drawn.
- ``divergence``: KL(p || r) in nats. None for ``sampled``, where it is infinite: r is 0 where p is not.
- ``variation``: the total variation distance, sum |p - r| / 2. For ``topk`` this is bias; for ``sampled`` it is noise
  that averages out over frames.
- ``entropy`` of r in nats.
- ``frame_accuracy``: the share of labelled frames whose label is r's best state at T = 1.
- ``calibration_error``: expected calibration error at T = 1 (Guo et al. 2017), of that state's probability:
  frames sorted by it, in 15 bins of equal numbers, sum of n_bin / n |mean probability - share right|.

A ``sampled`` store has one temperature; for the last two measures the draw is at T = 1.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.encode import draws_of, encode
from asr_kd.targets.forms import Dense, Sampled, SoftTargets
from asr_kd.targets.target_store import soft_targets
from asr_kd.targets.teacher import Teacher

KS = (5, 10, 20, 50)
BINS = 15
BLOCK = 1 << 20  # probabilities per block: 8 MB in float64, plus several times that for intermediate results


@dataclasses.dataclass(frozen=True)
class FormQuality:
    """One form, or the teacher itself (``form`` is ``exact``), with ``bytes_per_frame`` at one temperature; see above.

    ``k`` is None where all states are kept; ``frame_accuracy`` and ``calibration_error`` are None without labels.
    """

    form: str
    k: int | None
    bytes_per_frame: int
    lost_mass: float
    divergence: float | None
    variation: float
    entropy: float
    frame_accuracy: float | None
    calibration_error: float | None


@dataclasses.dataclass(frozen=True)
class FormComparison:
    """``rows`` measured on ``frames`` frames, of which ``labelled`` have labels, at ``temperature``."""

    rows: tuple[FormQuality, ...]
    temperature: float
    states: int
    frames: int
    labelled: int


def compare_forms(
    teacher: Teacher,
    temperature: float = 2.0,
    frames: int = 20_000,
    ks: Sequence[int] | None = None,
    utterances: Sequence[str] | None = None,
    states: FrameStore | None = None,
    seed: int = 0,
) -> FormComparison:
    """Compare dense targets with ``topk`` and ``sampled`` of each of ``ks`` (by default those of ``KS`` that are below
    the number of states) on about ``frames`` frames of ``utterances``, or of all, with labels ``states``.

    Memory: the log-probabilities of one utterance. Raises ``UserError`` as ``Teacher.sample`` does, for a k above the
    number of states, and for no frames.
    """
    if frames < 1:
        raise UserError(f"--frames {frames}: expected at least 1")
    if ks is None:
        ks = [k for k in KS if k < teacher.num_states]
    configs = [TargetConfig("dense", temperatures=(temperature,))]
    configs += [TargetConfig("topk", k, (temperature,)) for k in ks]
    configs += [TargetConfig("sampled", k, (temperature,), seed) for k in ks]
    tallies = [_Tally(config, teacher.num_states, temperature) for config in (None, *configs)]
    seen, labelled = 0, 0
    for utterance, log_prob, labels in teacher.sample(frames, utterances, states):
        for tally in tallies:
            tally.add(utterance, log_prob, labels)
        seen += len(log_prob)
        labelled += 0 if labels is None else int((labels >= 0).sum())
    return FormComparison(
        tuple(tally.result(seen) for tally in tallies), temperature, teacher.num_states, seen, labelled
    )


def log_distribution(soft: SoftTargets, num_states: int, temperature: float) -> Tensor:
    """Log of the distribution that ``soft`` describes at ``temperature``: float64 ``[frames, num_states]``."""
    if isinstance(soft, Dense):
        return (soft.log_prob.double() / temperature).log_softmax(1)
    rows, kept = soft.state.shape
    if isinstance(soft, Sampled):
        nothing = torch.full((rows, num_states), -math.inf, dtype=torch.float64, device=soft.state.device)
        return nothing.scatter_(1, soft.state, soft.weight.double().log())
    tail = soft.log_tail.double()[:, None]
    even = tail - math.log(max(num_states - kept, 1))
    inside = (soft.log_prob.double() / temperature).log_softmax(1) + torch.log1p(-tail.exp())
    return even.repeat(1, num_states).scatter_(1, soft.state, inside)


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of probabilities ``confidence`` ``[n]`` that predictions are ``right`` ``[n]`` (bool),
    in ``bins`` bins of equal numbers (to one)."""
    order = np.argsort(confidence, kind="stable")
    gaps = np.array_split(confidence[order] - right[order], min(bins, len(order)))
    return float(sum(abs(gap.sum()) for gap in gaps) / len(order))


class _Tally:
    """Sums over the frames so far for one form, or for the teacher itself where ``config`` is None."""

    def __init__(self, config: TargetConfig | None, num_states: int, temperature: float) -> None:
        self.config, self.num_states, self.temperature = config, num_states, temperature
        size = 4 * num_states
        if config is not None:
            size = sum(spec.bytes_per_frame for spec in config.tensors(num_states).values())
        self.bytes_per_frame = size
        self.lost, self.divergence, self.variation, self.entropy = 0.0, 0.0, 0.0, 0.0
        self.confidence: list[np.ndarray] = []
        self.right: list[np.ndarray] = []

    def add(self, utterance: str, log_prob: Tensor, labels: np.ndarray | None) -> None:
        """Count ``log_prob [frames, states]`` at T = 1 of an utterance, and its ``labels [frames]``; -1 is none."""
        for soft, part in self._blocks(utterance, log_prob, self.temperature):
            exact = log_distribution(Dense(log_prob[part]), self.num_states, self.temperature)
            self._measure(soft, exact, log_distribution(soft, self.num_states, self.temperature))
        if labels is None:
            return
        for soft, part in self._blocks(utterance, log_prob, 1.0):
            confidence, state = log_distribution(soft, self.num_states, 1.0).max(1)
            known = labels[part] >= 0
            self.confidence.append(confidence.exp().cpu().numpy()[known])
            self.right.append((state.cpu().numpy() == labels[part])[known])

    def _blocks(self, utterance: str, log_prob: Tensor, temperature: float) -> list[tuple[SoftTargets, slice]]:
        """What the form stores of each block of rows for a student at ``temperature``."""
        rows = max(1, BLOCK // self.num_states)
        parts = [slice(begin, begin + rows) for begin in range(0, len(log_prob), rows)]
        if self.config is None:
            return [(Dense(log_prob[part]), part) for part in parts]
        config = dataclasses.replace(self.config, temperatures=(temperature,))
        random = draws_of(utterance, config.seed)
        blocks = []
        for part in parts:
            stored = {name: torch.from_numpy(a) for name, a in encode(log_prob[part], config, random).items()}
            placed = {name: tensor.to(log_prob.device) for name, tensor in stored.items()}
            blocks.append((soft_targets(config, placed, temperature), part))
        return blocks

    def _measure(self, soft: SoftTargets, exact: Tensor, reading: Tensor) -> None:
        p, r = exact.exp(), reading.exp()
        if not isinstance(soft, Dense | Sampled):
            self.lost += float(p.scatter(1, soft.state, 0).sum())
        if not isinstance(soft, Sampled):
            self.divergence += float(torch.where(p > 0, p * (exact - reading), 0).sum())
        self.variation += float((p - r).abs().sum()) / 2
        self.entropy -= float(torch.where(r > 0, r * reading, 0).sum())

    def result(self, frames: int) -> FormQuality:
        """The means over ``frames`` frames."""
        form = "exact" if self.config is None else self.config.form
        confidence, right = (np.concatenate(parts) if parts else None for parts in (self.confidence, self.right))
        return FormQuality(
            form=form,
            k=None if self.config is None or form == "dense" else self.config.k,
            bytes_per_frame=self.bytes_per_frame,
            lost_mass=self.lost / frames,
            divergence=None if form == "sampled" else self.divergence / frames,
            variation=self.variation / frames,
            entropy=self.entropy / frames,
            frame_accuracy=None if right is None else float(right.mean()),
            calibration_error=None if confidence is None or right is None else calibration_error(confidence, right),
        )
