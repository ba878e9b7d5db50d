"""Sizes of models for an amount of speech: where to begin with a new corpus.

They interpolate between the recipes that were tuned on dev, AN4 (0.7 hours) and mini_librispeech (5.3 hours), with the
square root of the hours, and are bounded outside of them.
"""

import math
from typing import Any

LOW_RATE = 8000  # hertz: telephone speech


def hmm_sizes(hours: float) -> dict[str, int]:
    """Tied states and Gaussians of ``asr-kd hmm train``."""
    states = _between(60, 600 * math.sqrt(hours), 8000)
    gaussians = 8 * states if hours >= 2 else 6 * states
    return {
        "mono_gaussians": _between(150, 1000 * math.sqrt(hours), 1000),
        "tri_states": states,
        "tri_gaussians": gaussians,
        "lda_states": states,
        "lda_gaussians": gaussians,
    }


def network_sizes(hours: float, copies: int) -> dict[str, int]:
    """Width and epochs of the networks of ``recipes/own``, with ``copies`` of each utterance at other speeds."""
    width = 320 if hours < 20 else 512 if hours < 200 else 1024
    epochs = _between(2, 12 * math.sqrt(3.5 / (hours * (1 + copies))), 15)
    return {
        "width": width,
        "bottleneck": width // 4,
        "epochs": epochs,
        "student_epochs": max(2, round(0.8 * epochs)),
        "batch_frames": 400 if hours < 0.5 else 800,
    }


def feature_settings(rates: set[int]) -> dict[str, Any]:
    """Settings of ``asr-kd feats``: 8 kHz if no audio has more."""
    return {"sample_rate": LOW_RATE} if max(rates) < 2 * LOW_RATE else {}


def _between(least: int, value: float, most: int) -> int:
    return max(least, min(round(value), most))
