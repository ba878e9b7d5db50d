"""A frame store of soft targets, as a student meets it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from asr_kd.config import from_dict
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.forms import Dense, Sampled, SoftTargets, TopK


class TargetStore:
    """Soft targets of utterances; ``store`` holds them, ``config`` says in which form, ``num_states`` of how many.

    Raises ``UserError`` for a store of another kind.
    """

    def __init__(self, store: FrameStore | str | Path) -> None:
        self.store = store if isinstance(store, FrameStore) else FrameStore(store)
        self.path = self.store.path
        if self.store.kind != "targets":
            raise UserError(
                f"{self.path}: holds {self.store.kind}; soft targets were expected, as `asr-kd targets` writes"
            )
        recorded = dict(self.store.config)
        try:
            self.num_states = int(recorded.pop("num_states"))
        except KeyError:
            raise UserError(
                f"{self.path}: does not record how many states it is of; write it with `asr-kd targets`"
            ) from None
        recorded.pop("values", None)  # what an archive that was imported held
        self.config = from_dict(TargetConfig, recorded, str(self.path))

    def check(self, num_states: int, features: FrameStore, temperature: float, match: str = "distribution") -> None:
        """``UserError`` unless a student of ``num_states`` can learn from these at ``temperature`` on ``features``."""
        if self.num_states != num_states:
            raise UserError(f"{self.path}: targets of {self.num_states} states; the student has {num_states}")
        hashed = self.store.inputs.get("features")
        if hashed is not None and hashed != features.content_hash:
            raise UserError(
                f"{self.path}: the teacher heard other features than {features.path} (their hashes: {hashed[:12]}"
                f" and {features.content_hash[:12]}); write the targets of these, or name the features that it heard"
            )
        if match == "logits" and self.config.form != "dense":
            raise UserError(f"{self.path}: {self.config.form} targets lack logits to match; it takes --form dense")
        if self.config.form == "dense":
            return
        if temperature not in self.config.temperatures:
            known = ", ".join(f"{t:g}" for t in self.config.temperatures)
            raise UserError(
                f"{self.path}: the student's temperature is {temperature:g}, these {self.config.form} targets are for"
                f" {known}; set one of these, or write targets with --temperatures {temperature:g}"
            )

    def soft(self, tensors: Mapping[str, Tensor], temperature: float) -> SoftTargets:
        """Rows of the store's tensors, ``[frames, ...]``, as the objective at ``temperature`` takes them."""
        return soft_targets(self.config, tensors, temperature)


def soft_targets(config: TargetConfig, tensors: Mapping[str, Tensor], temperature: float) -> SoftTargets:
    """What ``tensors`` ``[frames, ...]``, stored as ``config`` says, tell a student at ``temperature``."""
    if config.form == "dense":
        return Dense(tensors["log_prob"])
    state = unsigned(tensors["target_state"])
    if config.form == "sampled":
        return Sampled(state, tensors["weight"].float())
    column = config.temperatures.index(temperature)
    return TopK(state, tensors["log_prob"].float(), tensors["log_tail"][:, column].float())


def unsigned(states: Tensor) -> Tensor:
    """State numbers as int64; an int16 is taken as the bits of an unsigned one, in which torch cannot index."""
    return states.long() & 0xFFFF if states.dtype == torch.int16 else states.long()
