"""What a specialist learns, and from where it starts (Hinton et al. 2015, section 5.2)."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, TensorSpec, one_by_one, write_store
from asr_kd.nets import AcousticModel

KEPT = "kept"  # in the configuration of a store of labels: the fraction of others' frames that have a label


def write_labels(
    states: FrameStore,
    own: np.ndarray,
    out: str | Path,
    seed: int = 0,
    balanced: bool = True,
    utterances: Sequence[str] | None = None,
    whole: bool = False,
) -> FrameStore:
    """Write the labels of a specialist for the states ``own`` (sorted) as a store of states.

    A frame of one of them has its place in ``own``; another frame has ``len(own)``, the dustbin, or, ``balanced``, only
    as many of them as there are own frames, drawn at random; the rest has -1, no label. The configuration tells which
    fraction of the others was ``kept``.

    ``whole`` (section 6.1 of the paper): frames of ``own`` have the labels they had, and others none at all. Those are
    for the generalist's soft targets to teach, with ``asr-kd train --teacher``, which stand in for the dustbin.

    States of ``own`` of which there is no frame to learn from are left out, the configuration tells which are left.
    Raises ``UserError`` where fewer than two are.
    """
    chosen = list(states.utterances) if utterances is None else list(utterances)
    known = int(states.config.get("num_states", 0))
    if not len(own) or own.min() < 0 or (known and own.max() >= known):
        raise UserError(f"states {own.tolist()} of a specialist; {states.path} has states 0 to {known - 1}")
    counts = np.zeros(int(max(own.max() + 1, known)), np.int64)
    for utterance in chosen:
        counts += np.bincount(states.read(utterance)["state"], minlength=len(counts))
    if balanced:
        asked, own = own, own[counts[own] > 0]
        if len(own) < 2:
            raise UserError(
                f"{states.path}: frames of {len(own)} of the specialist's {len(asked)} states ({asked.tolist()});"
                " expected at least 2: give more data, or cluster again without rare states"
            )
    ours = int(counts[own].sum())
    kept = min(1.0, ours / max(int(counts.sum()) - ours, 1)) if balanced else 1.0
    meaning = "state" if whole else "place among the specialist's states, the dustbin last"
    return write_store(
        out,
        "states",
        {"state": TensorSpec("int32", (), f"{meaning}; -1: not learnt")},
        {utterance: states.frame_counts[utterance] for utterance in chosen},
        _Labels(states, own, 0.0 if whole else kept, seed, whole),
        {
            "num_states": known if whole else len(own) + 1,
            "own": own.tolist(),
            KEPT: 1.0 if whole else kept,
            "seed": seed,
            "whole": whole,
        },
        {"states": states.content_hash},
    )


@dataclasses.dataclass(frozen=True)
class _Labels:
    states: FrameStore
    own: np.ndarray
    kept: float
    seed: int
    whole: bool

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray] | UserError]]:
        return one_by_one(utterances, self._of)

    def _of(self, utterance: str) -> dict[str, np.ndarray]:
        states = self.states.read(utterance)["state"].astype(np.int64)
        place = np.searchsorted(self.own, states).clip(max=len(self.own) - 1)
        digest = hashlib.sha256(f"{self.seed} {utterance}".encode()).digest()
        drawn = np.random.default_rng(np.frombuffer(digest, np.uint64)).random(len(states)) < self.kept
        others = np.where(drawn, len(self.own), -1)
        return {"state": np.where(self.own[place] == states, states if self.whole else place, others).astype(np.int32)}


@torch.no_grad()
def begin_specialist(generalist: AcousticModel, own: np.ndarray) -> AcousticModel:
    """A network for the states ``own`` and a dustbin: the generalist, but for its output.

    Its states' rows are kept. The dustbin's logit is the best linear one that needs no data: the mean of the others',
    weighted by their priors, and raised to have, where all are equal, their sum.
    """
    if generalist.config.states <= len(own):
        raise UserError(
            f"a specialist for {len(own)} states of a network of {generalist.config.states}: nothing is left"
        )
    config = dataclasses.replace(generalist.config, states=len(own) + 1)
    model = AcousticModel(config)
    weights = generalist.state_dict()
    index = torch.from_numpy(np.asarray(own, np.int64))
    others = torch.ones(generalist.config.states, dtype=torch.bool)
    others[index] = False
    share = generalist.log_prior[others].softmax(0)
    for name in ("network.output.weight", "network.output.bias"):
        rest = torch.tensordot(share, weights[name][others], 1)
        weights[name] = torch.cat([weights[name][index], rest[None]])
    weights["network.output.bias"][-1] += float(others.sum().log())
    rest = generalist.log_prior[others].logsumexp(0)
    weights["log_prior"] = torch.cat([generalist.log_prior[index], rest[None]])
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def correct_own(specialist: AcousticModel, own: np.ndarray, hard_weight: float, soft_weight: float) -> None:
    """Lower the logits of its ``own`` states in a ``whole`` specialist by what their labels add to the soft targets.

    Where their probability is pi(x), and the generalist believes as much, labels of weight h on their frames and soft
    targets of weight s on all frames are best met by odds of (1 + h / s) pi / (1 - pi) for them.
    """
    specialist.network.output.bias[torch.from_numpy(own)] -= float(np.log1p(hard_weight / soft_weight))


@torch.no_grad()
def correct_dustbin(specialist: AcousticModel, kept: float) -> None:
    """Raise the dustbin's logit by what its frames were fewer in training, of which the fraction ``kept`` was seen."""
    specialist.network.output.bias[-1] -= float(np.log(kept))
