"""Soft targets: what an ensemble says of each frame, in three forms, written to and read from frame stores.

- ``write_targets``, ``estimate``: a network or ensemble and features -> a store.
- ``import_targets``: another toolkit's outputs in a Kaldi archive -> a store.
- ``compare_forms``: what each form tells of a teacher, and what it costs.
- ``TargetStore``: a store as a student meets it; ``Dense``, ``TopK``, ``Sampled``: its frames.
"""

from asr_kd.targets.config import TargetConfig
from asr_kd.targets.form_comparison import FormComparison, FormQuality, compare_forms
from asr_kd.targets.forms import Dense, Sampled, SoftTargets, TopK
from asr_kd.targets.importing import NetworkOutputs, import_targets
from asr_kd.targets.target_store import TargetStore
from asr_kd.targets.teacher import Teacher
from asr_kd.targets.write_targets import Estimate, estimate, write_targets

__all__ = [
    "Dense",
    "Estimate",
    "FormComparison",
    "FormQuality",
    "NetworkOutputs",
    "Sampled",
    "SoftTargets",
    "TargetConfig",
    "TargetStore",
    "Teacher",
    "TopK",
    "compare_forms",
    "estimate",
    "import_targets",
    "write_targets",
]
