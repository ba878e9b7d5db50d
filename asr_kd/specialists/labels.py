"""The labels of a specialist, the network it begins with, and what its training leaves to correct (section 5.2)."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from asr_kd.config import shown
from asr_kd.errors import UserError, counted
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, one_by_one, write_store
from asr_kd.nets import AcousticModel, is_ensemble, load_model
from asr_kd.targets.teacher import check_labels
from asr_kd.train.frame_data import count_states

# Keys of the configuration of a store of labels: the fraction of the other states' frames that have a label, and the
# fraction of all frames whose state is known.
KEPT, KNOWN = "kept", "known"


@dataclasses.dataclass(frozen=True)
class Specialist:
    """A specialist for the states ``own`` (sorted) of a ``generalist`` (its ``model_hash``) with ``num_states``.

    ``seed`` draws the frames of other states that it is trained on. ``whole`` (section 6.1 of the paper): it has no
    dustbin. Frames of ``own`` states keep their labels, and all others have none. These are trained on the generalist's
    soft targets, which replace the dustbin: ``asr-kd train --teacher`` at temperature 1, the one that ``correct_own``
    can correct.
    """

    own: np.ndarray
    num_states: int
    generalist: str = ""
    seed: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        if not len(self.own) or self.own.min() < 0 or self.own.max() >= self.num_states:
            raise UserError(
                f"the specialist has states {shown(self.own.tolist())}, but the generalist has states 0 to"
                f" {self.num_states - 1}"
            )


def write_labels(
    states: FrameStore, specialist: Specialist, out: str | Path, balanced: bool = True, force: bool = False
) -> FrameStore:
    """Write the labels of a specialist as a store of states.

    A frame of an own state has the place of that state in ``own``. Other frames have ``len(own)``, the dustbin; if
    ``balanced``, only as many of them as there are own frames, drawn at random. All other frames, and those that had no
    label before, have -1. The configuration records the fraction of the others that was ``kept``, the inputs the
    ``model_hash`` of the generalist.

    If ``balanced``, states of ``own`` without any frame are left out, and the configuration records those that remain.
    Raises ``UserError`` if fewer than two remain, for labels of another number of states, and for a label that is not
    below ``num_states``. ``force`` deletes another store at ``out``.
    """
    own, num_states, whole = specialist.own, specialist.num_states, specialist.whole
    counts = count_labels(states, num_states)
    if balanced:
        asked, own = own, own[counts[own] > 0]
        if len(own) < 2:
            raise UserError(
                f"{states.path}: only {len(own)} of the specialist's {counted(len(asked), 'state')}"
                f" ({shown(asked.tolist())}) have frames; expected at least 2: give more data, or cluster again"
                " without rare states"
            )
    ours, known = int(counts[own].sum()), int(counts.sum())
    kept = min(1.0, ours / max(known - ours, 1)) if balanced else 1.0
    meaning = "state" if whole else "place among the specialist's states, the dustbin last"
    content = StoreContent(
        "states",
        {"state": TensorSpec("int32", (), f"{meaning}; -1: not learnt")},
        {
            "num_states": num_states if whole else len(own) + 1,
            "own": own.tolist(),
            KEPT: 0.0 if whole else kept,
            KNOWN: known / max(states.total_frames, 1),
            "seed": specialist.seed,
            "whole": whole,
        },
        {"states": states.content_hash, "generalist": specialist.generalist},
    )
    labels = _Labels(states, own, 0.0 if whole else kept, specialist.seed, whole)
    return write_store(out, content, states.frame_counts, labels, WriteOptions(force=force))


def count_labels(states: FrameStore, num_states: int) -> np.ndarray:
    """How often each of a generalist's ``num_states`` is a label, ``[states]``; ``UserError`` for other states."""
    check_labels(states, num_states, "the generalist")
    return count_states(states, states.utterances, num_states, "the generalist")


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
        others = np.where(drawn & (states >= 0), len(self.own), -1)
        return {"state": np.where(self.own[place] == states, states if self.whole else place, others).astype(np.int32)}


def load_generalist(folder: str | Path) -> AcousticModel:
    """The network in ``folder``; ``UserError`` for an ensemble."""
    if is_ensemble(folder):
        raise UserError(
            f"{folder}: an ensemble; specialists begin as copies of a single network and are joined with it: give a"
            " member of the ensemble, or a student of it"
        )
    return load_model(folder)


@torch.no_grad()
def begin_specialist(generalist: AcousticModel, own: np.ndarray) -> AcousticModel:
    """A network for the states ``own`` and a dustbin: the generalist with another output layer.

    The rows of the own states are kept. The dustbin's logit is the best linear one that needs no data: the mean of the
    other states' logits, weighted by their priors, and raised so that its probability is their sum if all are equal.
    """
    if generalist.config.states <= len(own):
        raise UserError(
            f"a specialist for {len(own)} of the generalist's {counted(generalist.config.states, 'state')} leaves none"
            " for the dustbin; give it fewer states"
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


def own_share(labels: FrameStore) -> float:
    """The part of the frames with a known state that are in a ``whole`` specialist's own states, from its labels."""
    ours = sum(int((shard.tensors["state"] >= 0).sum()) for shard in labels.shards())
    return ours / (labels.config[KNOWN] * labels.total_frames)


@torch.no_grad()
def correct_own(
    specialist: AcousticModel, own: np.ndarray, hard_weight: float, soft_weight: float, share: float
) -> None:
    """Lower the logits of the ``own`` states of a ``whole`` specialist by what labels added to the soft targets.

    Soft targets of weight s count in the mean over all frames, labels of weight h in the mean over frames of own
    states, which are ``share`` of all: one of these counts h / share. If the generalist's p_i(x) is the true
    probability of state i, the objective at T = 1 is, up to a constant, the mean over x of

        -sum_i (s + [i is own] h / share) p_i(x) log q_i(x),

    and least where q_i is proportional to the factor of log q_i: the odds of own states, which have pi(x) of p, are
    (1 + h / (s share)) pi / (1 - pi). At another T no shift is right for every x, since only one of the two terms is
    softened, and their gradients cancel at odds that depend on p. A batch without a frame of own states has no hard
    term; this correction assumes that such batches are rare.
    """
    specialist.network.output.bias[torch.from_numpy(own)] -= float(np.log1p(hard_weight / (soft_weight * share)))


@torch.no_grad()
def correct_dustbin(specialist: AcousticModel, kept: float) -> None:
    """Raise the dustbin's logit to make up for training on only the fraction ``kept`` of its frames."""
    specialist.network.output.bias[-1] -= float(np.log(kept))
