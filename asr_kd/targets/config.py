"""What is stored of the teachers' distribution."""

import dataclasses
import math
from typing import Literal

from asr_kd.errors import UserError
from asr_kd.frames import TensorSpec
from asr_kd.nets import Precision


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """Form and size of soft targets; a target store records it.

    - ``form``: ``dense``, ``topk`` or ``sampled``; ``asr_kd.targets.forms`` says what each is.
    - ``k``: states of a frame in the last two.
    - ``temperatures``: those at which a student can learn from ``topk``; the one at which ``sampled`` is drawn. From
      ``dense`` a student learns at any temperature.
    - ``seed`` of the draws, which also depend on the utterance's id and on nothing else.
    - ``precision``: that of the teachers' products; ``bf16`` takes about half the time on a processor that has it,
      and ``auto`` is ``bf16`` there and ``fp32`` elsewhere; a store records which it was.
    """

    form: Literal["dense", "topk", "sampled"] = "topk"
    k: int = 20
    temperatures: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    seed: int = 0
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k is {self.k}; expected at least 1 state for each frame")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; expected 0 or more")
        if not self.temperatures or not all(0 < t < math.inf for t in self.temperatures):
            raise UserError(f"temperatures {list(self.temperatures)}; expected numbers above 0")
        if len(set(self.temperatures)) != len(self.temperatures):
            raise UserError(f"temperatures {list(self.temperatures)}: one is there twice")
        if self.form == "sampled" and len(self.temperatures) != 1:
            raise UserError(
                f"temperatures {list(self.temperatures)}: sampled targets are drawn at one temperature; give the"
                " student's (--temperatures 2), and write one store for each"
            )

    def tensors(self, num_states: int) -> dict[str, TensorSpec]:
        """The tensors of a store; ``UserError`` where there are not k states."""
        if self.form == "dense":
            return {"log_prob": TensorSpec("float16", (num_states,), "natural log of p(state) at T = 1")}
        if self.k > num_states:
            raise UserError(f"k is {self.k}, but the teacher has {num_states} states; give a smaller --k, or dense")
        state = TensorSpec("uint16" if num_states <= 65_536 else "int32", (self.k,), "states of this frame")
        if self.form == "sampled":
            meaning = f"weights of the drawn states, 1 in all, at T = {self.temperatures[0]:g}"
            return {"target_state": state, "weight": TensorSpec("float16", (self.k,), meaning)}
        which = ", ".join(f"{t:g}" for t in self.temperatures)
        return {
            "target_state": state,
            "log_prob": TensorSpec("float16", (self.k,), "natural log of their probability at T = 1"),
            "log_tail": TensorSpec(
                "float16", (len(self.temperatures),), f"natural log of the other states' mass at T = {which}"
            ),
        }
