"""What an acoustic network is made of."""

import dataclasses
from typing import Literal

from asr_kd.errors import UserError


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """The shape of an acoustic network; the defaults are the paper's kind at the size that suits AN4.

    - ``kind``: ``dnn`` sees a window of frames and predicts one of them; ``tdnn`` is a stack of factored dilated
      convolutions over the utterance.
    - ``bins``, ``states``: width of a feature frame and of the output; training takes them from the data where 0.
    - ``left_context``, ``right_context``: the window of a ``dnn``: 20 frames before and 5 after the predicted one make
      the paper's 26. A ``tdnn`` has the context that its layers add up to.
    - ``layers``: hidden layers of a ``dnn``; ``dilations``: one hidden layer of a ``tdnn`` for each entry, which sees
      frames t - d, t and t + d of the layer below; ``bottleneck``: the width of the factor inside such a layer.
    - ``dropout``: the fraction of a hidden layer's outputs that a training step does without; ``input_dropout``: of the
      standardised features.
    """

    kind: Literal["dnn", "tdnn"] = "dnn"
    bins: int = 0
    states: int = 0
    width: int = 512
    layers: int = 4
    left_context: int = 20
    right_context: int = 5
    dilations: tuple[int, ...] = (1, 1, 1, 3, 3, 3, 3, 3)
    bottleneck: int = 128
    activation: Literal["relu", "gelu", "silu"] = "relu"
    norm: Literal["none", "batch", "layer"] = "batch"
    dropout: float = 0.0
    input_dropout: float = 0.0

    def __post_init__(self) -> None:
        for key in ("width", "layers", "bottleneck"):
            if getattr(self, key) < 1:
                raise UserError(f"net.{key} is {getattr(self, key)}; expected at least 1")
        for key in ("bins", "states", "left_context", "right_context"):
            if getattr(self, key) < 0:
                raise UserError(f"net.{key} is {getattr(self, key)}; expected 0 or more")
        for key in ("dropout", "input_dropout"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"net.{key} is {getattr(self, key)}; expected a probability below 1")
        if not self.dilations or min(self.dilations) < 1:
            raise UserError(f"net.dilations is {list(self.dilations)}; expected one or more whole numbers from 1")
