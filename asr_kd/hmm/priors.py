"""How frequent each state is: what turns a network's posteriors into scaled likelihoods."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from asr_kd.errors import UserError
from asr_kd.files import write_bytes
from asr_kd.frames import FrameStore


def log_priors(store: FrameStore) -> np.ndarray:
    """Natural log of each state's share of the labelled frames of a ``states`` store, ``[states]`` float32.

    One is added to each count, so that a state without frames has a prior too. ``UserError`` for another kind of
    store, or one that does not say how many states its labels are of.
    """
    if store.kind != "states" or "num_states" not in store.config:
        raise UserError(f"{store.path}: a store of {store.kind}; expected the states written by asr-kd hmm align")
    counts = np.ones(int(store.config["num_states"]))
    for shard in store.shards():
        states = shard.tensors["state"]
        counts += np.bincount(states[states >= 0], minlength=len(counts))
    return np.log(counts / counts.sum()).astype(np.float32)


def save_priors(priors: np.ndarray, path: str | Path) -> None:
    """Write ``log_prior`` ``[states]`` as safetensors."""
    write_bytes(path, save({"log_prior": priors}))


def load_priors(path: str | Path) -> np.ndarray:
    """Read what ``save_priors`` wrote; ``UserError`` if it is missing or something else."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; asr-kd hmm priors makes it from a store of states")
    try:
        return load_file(path)["log_prior"]
    except Exception as error:
        raise UserError(f"{path}: not a file of priors: {error}") from None
