"""A frame store of soft targets, checked for the student that trains on it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from asr_kd.config import from_dict, shown
from asr_kd.errors import UserError, counted
from asr_kd.frames import FrameStore
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.forms import Dense, Sampled, SoftTargets, TopK


class TargetStore:
    """Soft targets of utterances: the ``store`` that holds them, their form (``config``) and ``num_states``.

    Raises ``UserError`` for a store of another kind.
    """

    def __init__(self, store: FrameStore | str | Path) -> None:
        self.store = store if isinstance(store, FrameStore) else FrameStore(store)
        self.path = self.store.path
        if self.store.kind != "targets":
            raise UserError(f"{self.path}: holds {self.store.kind}; expected soft targets (asr-kd targets write)")
        num_states = self.store.num_states
        if num_states is None:
            raise UserError(
                f"{self.path}: does not record the number of states; write it again with asr-kd targets write or import"
            )
        self.num_states = num_states
        # "values" says what an imported archive held.
        recorded = {key: value for key, value in self.store.config.items() if key not in ("num_states", "values")}
        self.config = from_dict(TargetConfig, recorded, str(self.path))
        expected = {name: (spec.dtype, spec.shape) for name, spec in self.config.tensors(num_states).items()}
        found = {name: (spec.dtype, spec.shape) for name, spec in self.store.tensors.items()}
        if found != expected:
            raise UserError(
                f"{self.path}: tensors {shown(found)}, expected {shown(expected)} for {self.config.form} targets"
            )

    def check(self, num_states: int, features: FrameStore, temperature: float, match: str = "distribution") -> None:
        """``UserError`` unless a student of ``num_states`` can learn from these at ``temperature`` on ``features``."""
        if self.num_states != num_states:
            raise UserError(
                f"{self.path}: targets of {counted(self.num_states, 'state')}; the student has {num_states}; use"
                " targets and labels of the same HMM"
            )
        hashed = self.store.inputs.get("features")
        if hashed is not None and hashed != features.content_hash:
            raise UserError(
                f"{self.path}: these targets do not belong to the features {features.path} (hashes {hashed[:12]} and"
                f" {features.content_hash[:12]}); write targets for these, or give the teacher's features"
            )
        if match == "logits" and self.config.form != "dense":
            raise UserError(f"{self.path}: {self.config.form} targets have no logits to match; use --form dense")
        if self.config.form == "dense":
            return
        if temperature not in self.config.temperatures:
            known = ", ".join(f"{t:g}" for t in self.config.temperatures)
            raise UserError(
                f"{self.path}: the student's temperature is {temperature:g}, these {self.config.form} targets are for"
                f" {known}; set temperature to one of these, or write targets with --temperatures {temperature:g}"
            )

    def soft(self, tensors: Mapping[str, Tensor], temperature: float) -> SoftTargets:
        """Rows of the store's tensors, ``[frames, ...]``, in the form of the objective at ``temperature``."""
        return soft_targets(self.config, tensors, temperature)


def soft_targets(config: TargetConfig, tensors: Mapping[str, Tensor], temperature: float) -> SoftTargets:
    """``tensors`` ``[frames, ...]`` of a store with ``config``, as soft targets at ``temperature``."""
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
