"""Which form of the teacher's distribution is stored."""

import dataclasses
import math
from typing import Literal

from asr_kd.errors import UserError, counted
from asr_kd.frames import TensorSpec
from asr_kd.nets import Precision

DEFAULT_K = 20  # the 20 best states hold all but a few per cent of the mass at the temperatures that students use


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """Form and size of soft targets; a target store records it.

    - ``form``: ``dense``, ``topk`` or ``sampled``; ``asr_kd.targets.forms`` says what each is.
    - ``k``: how many states a frame keeps in ``topk`` and ``sampled``; by default 20, or all where there are fewer.
    - ``temperatures``: those at which a student can train on ``topk``; the one at which ``sampled`` is drawn. ``dense``
      serves any temperature.
    - ``seed``: of the draws, which depend on it and on the utterance's id only.
    - ``precision``: of the teacher's matrix products. ``bf16`` takes about half the time on a processor that supports
      it; ``auto`` is ``bf16`` there and ``fp32`` elsewhere. A store records the one that was used.
    """

    form: Literal["dense", "topk", "sampled"] = "topk"
    k: int | None = None
    temperatures: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    seed: int = 0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise UserError(f"--k {self.k}: expected at least 1")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: expected 0 or more")
        if not self.temperatures or not all(0 < t < math.inf for t in self.temperatures):
            raise UserError(f"{self._given}: expected positive numbers")
        if len(set(self.temperatures)) != len(self.temperatures):
            raise UserError(f"{self._given}: one of them is repeated")
        if self.form == "sampled" and len(self.temperatures) != 1:
            raise UserError(
                f"{self._given}: sampled targets are drawn at one temperature; give the student's (--temperatures 2),"
                " and write one store for each"
            )

    @property
    def _given(self) -> str:
        return f"--temperatures {','.join(f'{t:g}' for t in self.temperatures)}"

    def states_kept(self, num_states: int) -> int:
        """How many of ``num_states`` states a frame keeps in ``topk`` and ``sampled``; ``UserError`` if k is larger."""
        if self.k is None:
            return min(DEFAULT_K, num_states)
        if self.k > num_states:
            has = counted(num_states, "state")
            raise UserError(f"--k {self.k}: the teacher has {has}; give a smaller --k, or --form dense")
        return self.k

    def for_states(self, num_states: int) -> "TargetConfig":
        """This configuration with ``k`` filled in; ``UserError`` if k is above ``num_states``."""
        if self.form == "dense":
            return dataclasses.replace(self, k=DEFAULT_K if self.k is None else self.k)
        return dataclasses.replace(self, k=self.states_kept(num_states))

    def tensors(self, num_states: int) -> dict[str, TensorSpec]:
        """The tensors of a store; ``UserError`` if k is above ``num_states``."""
        if self.form == "dense":
            return {"log_prob": TensorSpec("float16", (num_states,), "natural log of p(state) at T = 1")}
        k = self.states_kept(num_states)
        state = TensorSpec("uint16" if num_states <= 65_536 else "int32", (k,), "states of this frame")
        if self.form == "sampled":
            meaning = f"weights of the drawn states, 1 in all, at T = {self.temperatures[0]:g}"
            return {"target_state": state, "weight": TensorSpec("float16", (k,), meaning)}
        which = ", ".join(f"{t:g}" for t in self.temperatures)
        return {
            "target_state": state,
            "log_prob": TensorSpec("float16", (k,), "natural log of their probability at T = 1"),
            "log_tail": TensorSpec(
                "float16", (len(self.temperatures),), f"natural log of the other states' mass at T = {which}"
            ),
        }
