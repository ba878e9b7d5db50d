"""Self-loops: how long each HMM state lasts."""

import numpy as np

from asr_kd.graph.fst import EPSILON, Fst, distinct, ranges


def add_self_loops(fst: Fst, log_loop: np.ndarray, log_next: np.ndarray) -> Fst:
    """Let the tied state of each arc (input label - 1) last for one frame or more, with its transition costs.

    A state of the graph gets a self-loop over the label of the arcs that enter it, so it is split into one for each
    such label, and one without a loop for epsilon arcs and for the start. Two HMM positions in a row with the same
    tied state stay two states of the graph, each with its loop.
    """
    labels = len(log_loop) + 1
    key = fst.nextstate.astype(np.int64) * labels + fst.ilabel  # a state and the label that enters it
    keys = distinct(np.append(key, fst.start * labels + EPSILON))
    state, label = np.divmod(keys, labels)
    source, arc = ranges(fst.offsets[state], np.diff(fst.offsets)[state])
    leave = np.concatenate([[0], -log_next])[fst.ilabel[arc]]  # paid on entering; every entry leaves once
    looping = np.flatnonzero(label != EPSILON)
    return Fst.from_arcs(
        int(np.searchsorted(keys, fst.start * labels + EPSILON)),
        fst.final[state],
        np.concatenate([source, looping]),
        np.concatenate([fst.ilabel[arc], label[looping]]),
        np.concatenate([fst.olabel[arc], np.zeros(len(looping))]),
        np.concatenate([fst.weight[arc] + leave, -log_loop[label[looping] - 1]]),
        np.concatenate([np.searchsorted(keys, key)[arc], looping]),
    )
