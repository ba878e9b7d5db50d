"""Specialists: which states are confusable, what a network for some of them learns, and from where it starts.

- ``Confusion``, ``cluster_states``: a generalist's predictions -> the states of each specialist.
- ``write_labels``, ``begin_specialist``, ``correct_dustbin``, ``correct_own`` with ``own_share``: what ``asr_kd.train``
  needs to train one, and what is to be put right after it.
- ``state_names``, ``summaries``: clusters for people to read.

What a generalist and its specialists say together is an ensemble: ``asr_kd.nets.joint``.
"""

from asr_kd.specialists.cluster import Confusion, cluster_states
from asr_kd.specialists.lesson import KEPT, begin_specialist, correct_dustbin, correct_own, own_share, write_labels
from asr_kd.specialists.table import state_names, summaries

__all__ = [
    "KEPT",
    "Confusion",
    "begin_specialist",
    "cluster_states",
    "correct_dustbin",
    "correct_own",
    "own_share",
    "state_names",
    "summaries",
    "write_labels",
]
