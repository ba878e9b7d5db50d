"""Alignments of a whole data directory as a frame store of kind ``states``."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, find_store, write_store
from asr_kd.hmm.align import Aligner, batches
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.training_data import StoredFeatures, TranscribedUtterances
from asr_kd.parallel import Shared, parallel_threads, share

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class AlignmentModel:
    """What utterances are aligned with.

    ``score(features, states)`` gives the log-likelihoods ``[frames, len(states)]`` of some states of ``space``: a
    Gaussian model (``Gmm.log_likelihoods``) or a network. ``hashes`` name what ``score`` and ``space`` come from.
    """

    space: StateSpace
    score: Score
    hashes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class AlignmentRun:
    """The ``store``; how many ``frames`` this run aligned, and their mean ``log_likelihood`` (0 if there were none)."""

    store: FrameStore
    frames: int
    log_likelihood: float


def write_alignments(
    path: str | Path,
    utterances: TranscribedUtterances,
    model: AlignmentModel,
    beam: float = 200.0,
    jobs: int = 1,
    skip_bad: bool = False,
    force: bool = False,
) -> AlignmentRun:
    """Align all ``utterances`` and write the tied state of each frame, shard by shard.

    Run again after an interruption, it keeps the shards that are complete; a complete store of the same utterances,
    model and ``beam`` is returned as it is. ``skip_bad`` leaves out an utterance that the model cannot align.
    """
    config = {"num_states": model.space.num_states}
    inputs = {"utterances": utterances.fingerprint, "beam": f"{beam:g}", **model.hashes}
    if not force and (store := find_store(path, "states", config, inputs)):
        return AlignmentRun(store, 0, 0.0)
    dtype = "uint16" if model.space.num_states <= 1 << 16 else "int32"
    aligned = _ShardAligner(utterances, model, beam, jobs, dtype)
    tensors = {"state": TensorSpec(dtype, (), "tied HMM state of the frame, from 0")}
    frames = dict(zip(utterances.ids, utterances.features.frame_counts, strict=True))
    content = StoreContent("states", tensors, config, inputs, utterances.skipped)
    store = write_store(path, content, frames, aligned, WriteOptions(skip_bad=skip_bad, force=force))
    return AlignmentRun(store, aligned.frames, aligned.total / max(aligned.frames, 1))


class _ShardAligner:
    """Aligns the utterances of one shard after the other, by ``jobs`` threads."""

    def __init__(
        self, utterances: TranscribedUtterances, model: AlignmentModel, beam: float, jobs: int, dtype: str
    ) -> None:
        self.jobs, self.dtype = jobs, dtype
        self.aligner = Aligner(model.space, utterances.graphs)
        self.work = share(_Work(utterances.features, self.aligner, model.score, beam))
        self.numbers = {utt: number for number, utt in enumerate(utterances.ids)}
        self.frames, self.total = 0, 0.0

    def __call__(self, ids: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray] | UserError]]:
        tasks = [(self.work, batch) for batch in batches([self.numbers[utt] for utt in ids])]
        with parallel_threads(self.jobs) as pool:
            results = itertools.chain.from_iterable(pool.map(_align, tasks))
            for utt, result in zip(ids, results, strict=True):
                if isinstance(result, UserError):
                    yield utt, result
                    continue
                nodes, log_likelihood = result
                self.frames += len(nodes)
                self.total += log_likelihood
                yield utt, {"state": self.aligner.node_states[nodes].astype(self.dtype)}


@dataclasses.dataclass(frozen=True)
class _Work:
    features: StoredFeatures
    aligner: Aligner
    score: Score
    beam: float


def _align(task: tuple[Shared[_Work], Sequence[int]]) -> list[tuple[np.ndarray, float] | UserError]:
    """The nodes and log-likelihood of each utterance, or why it cannot be aligned."""
    work, results = task[0].value, list[tuple[np.ndarray, float] | UserError]()
    for utterance in task[1]:
        try:
            features = np.asarray(work.features[utterance], np.float32)
            scores = work.score(features, work.aligner.states(utterance))
            if not np.isfinite(scores).all():
                raise UserError(
                    "the model's log-likelihoods are not all finite; train the model again, or check its features"
                )
            results.append(work.aligner.best_path(utterance, scores, work.beam))
        except UserError as error:
            results.append(error)
    return results
