"""Check that the values of a target store are distributions."""

import numpy as np

from asr_kd.errors import UserError
from asr_kd.frames import Shard
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.target_store import TargetStore

TOLERANCE = 0.02  # float16 keeps a log-probability of -8 to 0.004


def check_values(targets: TargetStore) -> None:
    """Read every frame; ``UserError`` names an utterance and frame whose values are not a distribution over states."""
    for shard in targets.store.shards():
        for number, utterance in enumerate(shard.utterances):
            rows = slice(shard.offsets[number], shard.offsets[number + 1])
            good, what = _judge(shard, rows, targets.config, targets.num_states)
            if not good.all():
                frame = int(np.argmin(good))
                raise UserError(
                    f"{targets.path}: utterance {utterance}, frame {frame}: {what}; the store was not written by"
                    " `asr-kd targets`, or is damaged: write it again"
                )


def _judge(shard: Shard, rows: slice, config: TargetConfig, num_states: int) -> tuple[np.ndarray, str]:
    """Which frames are good, and what is wrong with the others."""
    tensors = {name: tensor[rows] for name, tensor in shard.tensors.items()}
    if config.form != "dense":
        state = np.sort(tensors["target_state"].astype(np.int64), axis=1)
        good = (state[:, 0] >= 0) & (state[:, -1] < num_states) & (np.diff(state, axis=1) > 0).all(axis=1)
        if not good.all():
            return good, f"a state that is not below {num_states}, or a state that occurs twice"
    if config.form == "sampled":
        mass = tensors["weight"].astype(np.float64).sum(1)
        return np.abs(mass - 1) < TOLERANCE, "its weights do not add up to 1"
    mass = np.exp(tensors["log_prob"].astype(np.float64)).sum(1)
    if config.form == "topk":
        good = mass < 1 + TOLERANCE
        if 1 in config.temperatures:
            tail = np.exp(tensors["log_tail"][:, config.temperatures.index(1)].astype(np.float64))
            good = np.abs(mass + tail - 1) < TOLERANCE
        return good & (tensors["log_tail"] <= 0).all(axis=1), "its probabilities and their tail do not add up to 1"
    return np.abs(mass - 1) < TOLERANCE, "its probabilities do not add up to 1"
