"""How a network is trained."""

import dataclasses
from typing import Literal

from asr_kd.config import shown
from asr_kd.errors import UserError
from asr_kd.limits import AUGMENTATIONS, CHUNK_FRAMES
from asr_kd.nets.config import NetConfig
from asr_kd.nets.precision import Precision


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the weights, besides the data.

    - ``epochs``: passes over the data. ``batch_frames``: output frames of one step.
    - ``chunk``: output frames of one example, cut from one piece of speech. The default suits the kind of network (1,
      single frames drawn at random, for a ``dnn``; 150 for a ``tdnn``). ``every``: train on each ``every``-th frame of
      a chunk only, with another offset in each epoch. At 3, a ``tdnn`` whose dilations are multiples of 3 does a third
      of the work.
    - ``learning_rate``: AdamW's peak. It is reached after the fraction ``warmup`` of the training, and then falls to
      zero as ``decay`` says. ``weight_decay`` leaves biases and normalisation alone. ``clip_norm``: the largest
      gradient norm. ``max_norm``: the largest norm of the weights into a hidden unit (0: no limit; Hinton et al. 2012).
    - ``standardise``: the network subtracts a mean and divides by a deviation: of each of the ``bins``, or of the
      ``whole`` frame. The latter suits pixels, since some are always empty.
    - ``precision``: ``bf16`` multiplies in bfloat16, with weights in fp32 (``torch.autocast``). ``auto`` takes it where
      the processor or the GPU has such instructions, and ``fp32`` elsewhere. A GPU multiplies ``fp32`` in full, and in
      TF32 only where the environment has torch's variable ``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1``.
    - ``label_smoothing``: the part of a hard target that is spread over all states.
    - With soft targets: ``temperature``, ``soft_weight`` and ``hard_weight`` of the objective. Its soft term is
      multiplied by the square of the temperature (``asr_kd.train.distillation``). The default of ``hard_weight`` is
      0.5, and 0 if no frame has a label. ``match: logits`` compares centred logits instead of distributions, and has
      no temperature.
    - ``channel``: standard deviation (nats) of a smooth curve over the bins that is added to each example. ``scale``:
      standard deviation of the log of the factor that each example is multiplied by.
    - ``frequency_masks`` bands of up to ``frequency_width`` bins, and ``time_masks`` stretches of up to ``time_width``
      frames, of each example are replaced by the mean of the training data (SpecAugment, Park et al. 2019).
    - ``jitter``: frames are square images, and each is moved by up to so many pixels in both directions; zeros move in.
    - ``splices``: how many times an example continues, from a random frame on, with the frames of another example of
      the step. Labels do not follow, so this needs a live teacher and ``hard_weight`` 0.
    - ``evaluate_epochs``: epochs between evaluations. ``keep``: keep the weights of the ``best`` dev frame accuracy, or
      the ``last``. The default is the best when training on labels, and the last when training on soft targets, which
      do not overfit. Training stops after ``patience`` evaluations without a better one (0: never).
    - ``checkpoint_steps``: steps between checkpoints, besides the one after each evaluation.
    - ``pool_frames``: how many frames are in memory to be shuffled, if they fit into ``pool_mib`` MiB
      (``asr_kd.train.reader`` says what a frame takes). On a GPU there are two such pools.
    """

    net: NetConfig = dataclasses.field(default_factory=NetConfig)
    seed: int = 0
    epochs: int = 20
    batch_frames: int = 512
    chunk: int | None = None
    every: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.05
    decay: Literal["cosine", "linear"] = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.999)
    clip_norm: float = 5.0
    max_norm: float = 0.0
    standardise: Literal["bins", "whole"] = "bins"
    precision: Precision = "fp32"
    label_smoothing: float = 0.0
    temperature: float = 2.0
    soft_weight: float = 1.0
    hard_weight: float | None = None
    match: Literal["distribution", "logits"] = "distribution"
    channel: float = 0.0
    scale: float = 0.0
    frequency_masks: int = 0
    frequency_width: int = 8
    time_masks: int = 0
    time_width: int = 8
    jitter: int = 0
    splices: int = 0
    evaluate_epochs: int = 1
    keep: Literal["best", "last"] | None = None
    patience: int = 0
    checkpoint_steps: int = 2000
    pool_frames: int = 2_000_000
    pool_mib: int = 1024

    def __post_init__(self) -> None:
        at_least_one = (
            "epochs", "batch_frames", "every", "evaluate_epochs", "checkpoint_steps", "pool_frames", "pool_mib",
            "frequency_width", "time_width",
        )  # fmt: skip
        for key in at_least_one:
            if getattr(self, key) < 1:
                raise UserError(f"{key} is {getattr(self, key)}; expected at least 1")
        not_negative = ("seed", "patience", "frequency_masks", "time_masks", "jitter", "splices")
        for key in (*not_negative, "channel", "scale", "weight_decay", "max_norm", "soft_weight", "hard_weight"):
            if (getattr(self, key) or 0) < 0:
                raise UserError(f"{key} is {getattr(self, key)}; expected 0 or more")
        for key in ("learning_rate", "clip_norm", "temperature"):
            if getattr(self, key) <= 0:
                raise UserError(f"{key} is {getattr(self, key)}; expected a number above 0")
        for key in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, key) < 1:
                raise UserError(f"{key} is {getattr(self, key)}; expected a fraction below 1")
        for key in ("frequency_masks", "time_masks", "jitter", "splices"):
            if getattr(self, key) > AUGMENTATIONS:
                raise UserError(f"{key} is {getattr(self, key)}; at most {AUGMENTATIONS:,} are possible")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas is {shown(list(self.betas))}; expected two numbers from 0 to below 1")
        if self.chunk is not None and not 1 <= self.chunk <= CHUNK_FRAMES:
            raise UserError(f"chunk is {self.chunk}; expected 1 to {CHUNK_FRAMES:,} frames")
