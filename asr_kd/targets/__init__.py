"""Soft targets: what an ensemble says of each frame, in three forms, written to and read from frame stores."""

from asr_kd.targets.config import TargetConfig
from asr_kd.targets.forms import Dense, Sampled, SoftTargets, TopK
from asr_kd.targets.store import TargetStore
from asr_kd.targets.write import Estimate, estimate, write_targets

__all__ = [
    "Dense",
    "Estimate",
    "Sampled",
    "SoftTargets",
    "TargetConfig",
    "TargetStore",
    "TopK",
    "estimate",
    "write_targets",
]
