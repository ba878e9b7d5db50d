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

    - ``net``: the shape of the network.
    - ``seed``: seed of the initial weights and of the order of the data.
    - ``epochs``: passes over the data.
    - ``batch_frames``: output frames of one step.
    - ``chunk``: output frames of one example, from one piece of speech. Null: 1 for a ``dnn`` (single frames drawn at
      random), 150 for a ``tdnn``.
    - ``every``: train on each ``every``-th frame of a chunk only, with another offset in each epoch. At 3, a ``tdnn``
      whose dilations are multiples of 3 does a third of the work.
    - ``learning_rate``: the peak of AdamW's learning rate.
    - ``warmup``: fraction of the training after which the learning rate is at its peak.
    - ``decay``: how the learning rate then falls to zero: ``cosine`` or ``linear``.
    - ``weight_decay``: AdamW's weight decay. It leaves biases and normalisation alone.
    - ``betas``: AdamW's decay rates of the mean gradient and of its mean square.
    - ``clip_norm``: gradients are clipped to this norm.
    - ``max_norm``: the largest norm of the weights into a hidden unit; 0: no limit (Hinton et al. 2012).
    - ``standardise``: the network subtracts a mean and divides by a deviation: of each of the ``bins``, or of the
      ``whole`` frame. The latter suits pixels, since some are always zero.
    - ``precision``: the precision of matrix products. ``bf16`` multiplies in bfloat16, with weights in fp32
      (``torch.autocast``). ``auto`` is ``bf16`` if the processor or the GPU has such instructions, else ``fp32``. A GPU
      uses TF32 for ``fp32`` only if the environment sets torch's ``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1``.
    - ``label_smoothing``: the probability mass of a hard target that is spread over all states.
    - ``temperature``: with soft targets: temperature of the student and of the targets.
    - ``soft_weight``: with soft targets: weight of their term of the objective, which is also multiplied by the square
      of the temperature (``asr_kd.train.distillation``).
    - ``hard_weight``: with soft targets: weight of the labels' term. Null: 0.5, or 0 if no frame has a label.
    - ``match``: with soft targets: compare the ``distribution``, or centred ``logits``, which have no temperature.
    - ``channel``: standard deviation (nats) of a smooth curve over the bins that is added to each example.
    - ``scale``: standard deviation of the log of a random factor by which each example is multiplied.
    - ``frequency_masks``, ``frequency_width``: this many bands of each example, each up to ``frequency_width`` bins
      wide, are replaced by the mean of the training data (SpecAugment, Park et al. 2019).
    - ``time_masks``, ``time_width``: the same for stretches of up to ``time_width`` frames.
    - ``jitter``: for frames that are square images: shift each by up to this many pixels in both directions; the border
      is filled with zeros.
    - ``splices``: how many times an example switches, at a random frame, to the frames of another example of the batch.
      Labels are not spliced, so this needs live teachers (``--teacher``) and ``hard_weight`` 0.
    - ``evaluate_epochs``: epochs between evaluations on the dev set.
    - ``keep``: keep the weights of the ``best`` dev frame accuracy, or the ``last``. Null: the best when training on
      labels; the last when training on soft targets, which do not overfit.
    - ``patience``: stop after this many evaluations without an improvement; 0: never.
    - ``checkpoint_steps``: steps between checkpoints, besides the one after each evaluation.
    - ``pool_frames``, ``pool_mib``: frames in memory to be shuffled, if they fit into ``pool_mib`` MiB
      (``asr_kd.train.reader`` says what a frame takes). On a GPU there are two such pools.
    - ``block_frames``: fill pools with random blocks of neighbouring utterances, this many frames each; 0: with single
      utterances. 100000, the size of a shard, reads each shard once per epoch: use it for stores at a URL that are
      larger than the cache.
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
    block_frames: int = 0

    def __post_init__(self) -> None:
        at_least_one = (
            "epochs", "batch_frames", "every", "evaluate_epochs", "checkpoint_steps", "pool_frames", "pool_mib",
            "frequency_width", "time_width",
        )  # fmt: skip
        for key in at_least_one:
            if getattr(self, key) < 1:
                raise UserError(f"{key} is {getattr(self, key)}; expected at least 1")
        not_negative = ("seed", "patience", "frequency_masks", "time_masks", "jitter", "splices", "block_frames")
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
