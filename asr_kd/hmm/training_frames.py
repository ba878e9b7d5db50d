"""The frames that a GMM-HMM is trained on, with the alignment graph of each utterance."""

import dataclasses
import os

import numpy as np

from asr_kd.hmm.align import Aligner, align_all
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.graphs import START, UtteranceGraphs
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.training_data import StoredFeatures
from asr_kd.hmm.transform import WindowTransform, splice
from asr_kd.parallel import Shared, ThreadWorkers, share

_BATCH = 64  # utterances spliced at once


@dataclasses.dataclass(frozen=True)
class _Scores:
    """The log-likelihoods of an utterance under ``gmm``, as ``align_all`` asks for them."""

    gmm: Gmm
    frames: Shared[np.ndarray]
    bounds: np.ndarray

    def __call__(self, utterance: int, states: np.ndarray) -> np.ndarray:
        return self.gmm.score(self.frames.value[self.bounds[utterance] : self.bounds[utterance + 1]], states)


class TrainingFrames:
    """All utterances in flat arrays, one after the other. A *path* is each frame's node in ``graphs``, ``[frames]``.

    - ``features``: stored cepstra of each utterance ``[frames, cepstra]``.
    - ``frames`` ``[frames, dim]`` float32: the output of the last ``transform``; ``shared``: the same for tasks;
      ``variance`` ``[dim]`` of them.
    """

    def __init__(self, features: StoredFeatures, graphs: UtteranceGraphs, jobs: int) -> None:
        self.features, self.graphs, self.jobs = features, graphs, jobs
        self.bounds = np.concatenate([[0], np.cumsum(features.frame_counts)])
        self.frames = np.empty((0, 0), np.float32)
        self.shared = share(self.frames)
        self.variance = np.empty(0)

    def transform(self, transform: WindowTransform) -> None:
        """Make ``frames`` from the stored features."""
        self.frames = np.empty((self.bounds[-1], transform.dim), np.float32)

        def one(utterance: int) -> None:
            self.frames[self._span(utterance)] = transform(self.features[utterance])

        with ThreadWorkers(min(self.jobs, os.cpu_count() or 1)) as pool:  # on this machine
            list(pool.map(one, range(len(self.features))))
        self.shared = share(self.frames)
        self.variance = self.frames.var(0)

    def equal_path(self, space: StateSpace) -> np.ndarray:
        """The flat start: each utterance in equal parts, one for each node of a plain path through its graph."""
        aligner, paths = Aligner(space, self.graphs), []
        for utterance, frames in enumerate(np.diff(self.bounds)):
            nodes = _plain_path(self.graphs, utterance)
            if len(nodes) <= frames:
                paths.append(nodes[np.arange(frames) * len(nodes) // frames])
            else:  # only a path without its silences, or with shorter pronunciations, fits
                flat = np.zeros((frames, len(aligner.states(utterance))), np.float32)
                paths.append(aligner.best_path(utterance, flat)[0])
        return np.concatenate(paths)

    def best_path(self, space: StateSpace, gmm: Gmm, beam: float) -> np.ndarray:
        """The Viterbi path under ``gmm``, with whose transform ``frames`` were made."""
        scores = _Scores(gmm, self.shared, self.bounds)
        return np.concatenate([path for path, _ in align_all(Aligner(space, self.graphs), scores, beam, self.jobs)])

    def keys(self, path: np.ndarray) -> np.ndarray:
        """Left, phone, right and position of each frame, ``[frames, 4]``."""
        graphs = self.graphs
        return np.stack([graphs.left[path], graphs.phone[path], graphs.right[path], graphs.position[path]], 1)

    def log_loops(self, path: np.ndarray, states: np.ndarray, num_states: int) -> np.ndarray:
        """Natural log of each state's self-loop probability, ``[states]``, from how long the path stays.

        Each state is taken to have been seen five more times, for four frames each.
        """
        enters = np.append(True, path[1:] != path[:-1])
        enters[self.bounds[:-1]] = True
        frames = np.bincount(states, minlength=num_states) + 20
        visits = np.bincount(states[enters], minlength=num_states) + 5
        return np.log(np.clip(1 - visits / frames, 0.05, 0.99)).astype(np.float32)

    def window_sums(
        self, labels: np.ndarray, classes: int, window: int, keep: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For the windows of frames that ``keep`` marks: count and sum by label, and the sum of outer products."""
        size = window * self.features[0].shape[1]
        first, scatter = np.zeros((classes, size)), np.zeros((size, size))
        for start in range(0, len(self.features), _BATCH):
            batch = [self.features[i] for i in range(start, min(start + _BATCH, len(self.features)))]
            span = slice(self.bounds[start], self.bounds[start + len(batch)])
            windows = np.concatenate([splice(item, window) for item in batch])[keep[span]].astype(np.float64)
            np.add.at(first, labels[span][keep[span]], windows)
            scatter += windows.T @ windows
        return np.bincount(labels[keep], minlength=classes).astype(np.float64), first, scatter

    def _span(self, utterance: int) -> slice:
        return slice(self.bounds[utterance], self.bounds[utterance + 1])


def _plain_path(graphs: UtteranceGraphs, utterance: int) -> np.ndarray:
    """The nodes of silence, each word's first pronunciation, silence."""
    base, node = int(graphs.bounds[utterance]), int(graphs.bounds[utterance + 1]) - 1  # it ends in the closing silence
    nodes = []
    while node >= base:
        nodes.append(node)
        preds = graphs.preds[graphs.pred_bounds[node] : graphs.pred_bounds[node + 1]]
        opening = preds[0] == START and len(preds) > 1  # the first word may follow the start or, here, silence
        node = base + int(preds[1] if opening else preds[0])
    return np.array(nodes[::-1], np.int32)
