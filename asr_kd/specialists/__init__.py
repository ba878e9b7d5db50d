"""Specialists: which states are confusable, how networks for them are trained, and how they are joined.

- ``Confusion``, ``cluster_states``: a generalist's predictions -> the states of each specialist, kept as ``Clusters``.
- ``load_generalist``, ``count_labels``, ``Specialist``, ``write_labels``, ``begin_specialist``: what ``asr_kd.train``
  needs to train one.
- ``join_specialists``: trained specialists, corrected by ``correct_dustbin`` or ``correct_own`` -> an ensemble, which
  combines their outputs (``asr_kd.nets.joint``).
- ``state_names``, ``summaries``: clusters for people to read.
"""

from asr_kd.specialists.cluster import Clusters, Confusion, check_sizes, cluster_states
from asr_kd.specialists.gain_table import state_names, summaries
from asr_kd.specialists.join import join_specialists
from asr_kd.specialists.labels import (
    KEPT,
    Specialist,
    begin_specialist,
    correct_dustbin,
    correct_own,
    count_labels,
    load_generalist,
    own_share,
    write_labels,
)

__all__ = [
    "KEPT",
    "Clusters",
    "Confusion",
    "Specialist",
    "begin_specialist",
    "check_sizes",
    "cluster_states",
    "correct_dustbin",
    "correct_own",
    "count_labels",
    "join_specialists",
    "load_generalist",
    "own_share",
    "state_names",
    "summaries",
    "write_labels",
]
