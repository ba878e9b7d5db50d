"""Stores of synthetic frames, for measurements that depend on sizes alone."""

from pathlib import Path

import numpy as np

from asr_kd.config import to_dict
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, write_store
from asr_kd.targets import TargetConfig

BINS, LENGTH = 40, 500  # of a frame, and frames of an utterance


def make_stores(
    folder: Path, frames: int, states: int, config: TargetConfig
) -> tuple[FrameStore, FrameStore, FrameStore]:
    """Features, states and soft targets of ``frames`` frames, in utterances of equal length."""
    counts = {f"utterance{number:06d}": LENGTH for number in range(frames // LENGTH)}
    feats = StoreContent("features", {"fbank": TensorSpec("float16", (BINS,))}, inputs={"made": "up"})
    features = write_store(folder / "feats", feats, counts, _features)
    state = StoreContent("states", {"state": TensorSpec("uint16")}, {"num_states": states})
    labels = write_store(folder / "states", state, counts, _Labels(states))
    soft = StoreContent(
        "targets",
        config.tensors(states),
        {**to_dict(config), "num_states": states},
        {"features": features.content_hash},
    )
    targets = write_store(folder / f"{config.form}{config.k}", soft, counts, _Targets(states, config))
    return features, labels, targets


def _random(utterance: str) -> np.random.Generator:
    return np.random.default_rng(int(utterance[9:]))


def _features(utterances):  # type: ignore[no-untyped-def]
    for utterance in utterances:
        yield utterance, {"fbank": _random(utterance).standard_normal((LENGTH, BINS), np.float32).astype(np.float16)}


class _Labels:
    def __init__(self, states: int) -> None:
        self.states = states

    def __call__(self, utterances):  # type: ignore[no-untyped-def]
        for utterance in utterances:
            yield utterance, {"state": _random(utterance).integers(self.states, size=LENGTH).astype(np.uint16)}


class _Targets:
    """Random states with decreasing probabilities; for dense targets, random log-probabilities."""

    def __init__(self, states: int, config: TargetConfig) -> None:
        self.states, self.config = states, config

    def __call__(self, utterances):  # type: ignore[no-untyped-def]
        k = self.config.k
        for utterance in utterances:
            random = _random(utterance)
            if self.config.form == "dense":
                logits = 3 * random.standard_normal((LENGTH, self.states), np.float32)
                log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
                yield utterance, {"log_prob": log_prob.astype(np.float16)}
                continue
            state = (random.integers(self.states, size=(LENGTH, 1)) + np.arange(k)) % self.states
            if self.config.form == "sampled":
                weight = np.full((LENGTH, k), 1 / k, np.float16)
                yield utterance, {"target_state": state.astype(np.uint16), "weight": weight}
                continue
            tail = np.full((LENGTH, len(self.config.temperatures)), np.log(0.1))
            log_prob = np.log(0.9 / k) * np.ones((LENGTH, k))
            arrays = {"log_prob": log_prob.astype(np.float16), "log_tail": tail.astype(np.float16)}
            yield utterance, {"target_state": state.astype(np.uint16), **arrays}
