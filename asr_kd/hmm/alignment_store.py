"""Alignments of a whole data directory as a frame store of kind ``states``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, find_store, write_arrays
from asr_kd.hmm.align import Aligner, align_all
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.training_data import Utterances
from asr_kd.progress import Progress

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def write_alignments(
    path: str | Path,
    utterances: Utterances,
    space: StateSpace,
    score: Score,
    inputs: dict[str, str],
    beam: float = 200.0,
    jobs: int = 1,
    force: bool = False,
) -> tuple[FrameStore, float | None]:
    """Align all ``utterances`` and write the tied state of each frame; the store and the log-likelihood per frame.

    Where that was done before, of the same utterances, ``inputs`` and ``beam``, there is no log-likelihood.

    ``score(features, states)`` gives the log-likelihoods ``[frames, len(states)]`` of some states; a Gaussian model
    (``Gmm.log_likelihoods``) or a network. ``inputs`` names the hashes of what ``score`` was made from.
    """
    config = {"num_states": space.num_states}
    inputs = {"utterances": utterances.fingerprint, "beam": f"{beam:g}", **inputs}
    if not force and (store := find_store(path, "states", config, inputs)):
        return store, None
    aligner = Aligner(space, utterances.graphs)
    dtype = "uint16" if space.num_states <= 1 << 16 else "int32"
    states, total = {}, 0.0

    def one(utterance: int, wanted: np.ndarray) -> np.ndarray:
        scores = score(np.asarray(utterances.features[utterance], np.float32), wanted)
        if not np.isfinite(scores).all():
            raise UserError(f"utterance {utterances.ids[utterance]}: the model's log-likelihoods are not all finite")
        return scores

    frames = sum(len(item) for item in utterances.features)
    with Progress(frames, "aligning", "frames") as bar:
        for utt, (nodes, value) in zip(utterances.ids, align_all(aligner, one, beam, jobs), strict=True):
            states[utt] = {"state": aligner.node_states[nodes].astype(dtype)}
            total += value
            bar.advance(len(nodes))
    tensors = {"state": TensorSpec(dtype, (), "tied HMM state of the frame, from 0")}
    content = StoreContent("states", tensors, config, inputs, utterances.skipped)
    store = write_arrays(path, content, states, WriteOptions(force=force))
    return store, total / frames
