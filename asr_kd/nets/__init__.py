"""Acoustic networks and ensembles of them: features -> a score for each state."""

from asr_kd.nets.acoustic_model import (
    AcousticModel,
    StateModel,
    log_posteriors,
    log_prob_by_chunk,
    log_prob_packed,
    logits_by_chunk,
    num_parameters,
    outputs_within,
    pad_edges,
)
from asr_kd.nets.config import NetConfig
from asr_kd.nets.ensemble import Ensemble, EnsembleConfig
from asr_kd.nets.folder import (
    copy_model,
    is_ensemble,
    load_model,
    model_files,
    model_hash,
    open_model,
    save_ensemble,
    save_model,
)
from asr_kd.nets.precision import Precision, autocast, hold_weights, settle_precision

__all__ = [
    "AcousticModel",
    "Ensemble",
    "EnsembleConfig",
    "NetConfig",
    "Precision",
    "StateModel",
    "autocast",
    "copy_model",
    "hold_weights",
    "is_ensemble",
    "load_model",
    "log_posteriors",
    "log_prob_by_chunk",
    "log_prob_packed",
    "logits_by_chunk",
    "model_files",
    "model_hash",
    "num_parameters",
    "open_model",
    "outputs_within",
    "pad_edges",
    "save_ensemble",
    "save_model",
    "settle_precision",
]
