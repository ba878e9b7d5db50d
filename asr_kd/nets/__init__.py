"""Acoustic networks: features -> a score for each state."""

from asr_kd.nets.config import NetConfig
from asr_kd.nets.folder import load_model, save_model
from asr_kd.nets.model import AcousticModel, log_posteriors, logits_by_chunk, num_parameters, pad_edges

__all__ = [
    "AcousticModel",
    "NetConfig",
    "load_model",
    "log_posteriors",
    "logits_by_chunk",
    "num_parameters",
    "pad_edges",
    "save_model",
]
