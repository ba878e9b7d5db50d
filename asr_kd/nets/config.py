"""The configuration of an acoustic network."""

import dataclasses
from typing import Literal

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.limits import CONTEXT_FRAMES, LAYERS, WEIGHTS

INPUT_FRAMES = 5  # that the first layer of a ``tdnn`` sees: two on each side


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """The shape of an acoustic network; the defaults are the paper's kind, in a size for AN4.

    - ``kind``: a ``dnn`` sees a window of frames and predicts one of them; a ``tdnn`` is a stack of factored dilated
      convolutions over the utterance.
    - ``bins``, ``states``: width of a feature frame and of the output; 0: training takes it from the data.
    - ``width``: units of a hidden layer.
    - ``layers``: hidden layers of a ``dnn``.
    - ``left_context``, ``right_context``: the window of a ``dnn``: 20 frames before the predicted one and 5 after it
      make the paper's 26. The context of a ``tdnn`` is the sum of its layers'.
    - ``dilations``: a ``tdnn`` has one hidden layer for each entry d; it sees frames t - d, t and t + d of the layer
      below.
    - ``bottleneck``: the width of the factor inside a layer of a ``tdnn``.
    - ``activation``: the nonlinearity of the hidden layers: ``relu``, ``gelu`` or ``silu``.
    - ``norm``: the normalisation of the hidden layers: ``batch``, ``layer`` or ``none``.
    - ``dropout``: the fraction of a hidden layer's outputs that a training step drops.
    - ``input_dropout``: the same for the standardised features.
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
            raise UserError(
                f"net.dilations is {shown(list(self.dilations))}; expected one or more whole numbers above 0"
            )
        self._check_size()

    def _check_size(self) -> None:
        """Raise ``UserError`` for a network that no machine could hold, before memory is taken for it."""
        layers = max(self.layers, len(self.dilations))
        if layers > LAYERS:
            raise UserError(f"net has {layers:,} layers; at most {LAYERS:,} are possible")
        contexts = {
            "net.left_context": self.left_context,
            "net.right_context": self.right_context,
            "the sum of net.dilations": sum(self.dilations),
        }
        for what, frames in contexts.items():
            if frames > CONTEXT_FRAMES:
                raise UserError(f"{what} is {frames:,}; expected at most {CONTEXT_FRAMES:,} frames")
        if self.num_weights > WEIGHTS:
            raise UserError(f"net has {self.num_weights:,} weights; at most {WEIGHTS:,} are possible: lower net.width")

    @property
    def num_weights(self) -> int:
        """Elements of the network's weight matrices; biases and normalisation, which are few, are not counted."""
        if self.kind == "dnn":
            window = (self.left_context + 1 + self.right_context) * self.bins
            return self.width * (window + (self.layers - 1) * self.width + self.states)
        layer = 4 * self.bottleneck * self.width
        return self.width * (INPUT_FRAMES * self.bins + self.states) + len(self.dilations) * layer
