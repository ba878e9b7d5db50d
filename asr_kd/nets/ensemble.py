"""Several networks that score as one: the mean of their distributions (Hinton et al. 2015, section 2)."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from asr_kd.errors import UserError
from asr_kd.nets.model import AcousticModel, outputs_within


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """``ensemble.yaml``: the ``members``' folders (relative ones from the ensemble's folder) and how they are averaged.

    ``mean``: ``arithmetic`` of the probabilities, or ``geometric`` (of the log-probabilities, normalised again).
    ``weights``, one for each member; none: equal ones. ``hashes``: the SHA-256 of each member's ``model.safetensors``.
    """

    members: tuple[str, ...] = ()
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    weights: tuple[float, ...] = ()
    hashes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("an ensemble without members; name at least one trained network")
        if len(self.weights) not in (0, len(self.members)):
            raise UserError(f"{len(self.weights)} weights for {len(self.members)} members; give one for each, or none")
        if self.weights and not (min(self.weights) >= 0 < sum(self.weights) < math.inf):
            raise UserError(f"weights {list(self.weights)}; expected finite numbers of 0 or more, not all 0")

    @property
    def shares(self) -> list[float]:
        """The members' weights, adding up to 1."""
        weights = self.weights or (1.0,) * len(self.members)
        return [weight / sum(weights) for weight in weights]

    @property
    def content_hash(self) -> str:
        """Hexadecimal SHA-256 of what the ensemble computes: its members' weights, their shares and the mean."""
        shares = (f"{weights} {share!r}" for weights, share in zip(self.hashes, self.shares, strict=True))
        return hashlib.sha256("\n".join([self.mean, *shares]).encode()).hexdigest()


class Ensemble(nn.Module):
    """An acoustic model like its members: features -> logits, which here are log-probabilities.

    ``left_context`` and ``right_context`` are the widest of the members'; ``log_prior`` is the log of the mean prior.
    """

    log_prior: Tensor

    def __init__(self, config: EnsembleConfig, members: Sequence[AcousticModel]) -> None:
        super().__init__()
        self.mean_kind, self.shares = config.mean, config.shares
        self.members: Sequence[AcousticModel] = nn.ModuleList(members)  # type: ignore[assignment]
        self.left_context = max(member.left_context for member in members)
        self.right_context = max(member.right_context for member in members)
        for place, member in zip(config.members, members, strict=True):
            for what in ("num_states", "bins"):
                if getattr(member, what) != getattr(self, what):
                    raise UserError(
                        f"{place}: {what} is {getattr(member, what)}, but {getattr(self, what)} in {config.members[0]};"
                        " the members of an ensemble predict the same states from the same features"
                    )
        priors = torch.stack([member.log_prior.exp() for member in members])
        self.register_buffer("log_prior", (torch.tensor(self.shares) @ priors).log())

    @property
    def num_states(self) -> int:
        """Number of outputs."""
        return self.members[0].num_states

    @property
    def bins(self) -> int:
        """Width of a feature frame."""
        return self.members[0].bins

    def forward(self, features: Tensor, every: int = 1) -> Tensor:
        """``[batch, frames, bins]`` -> log-probabilities ``[batch, frames - left - right, states]`` in float32.

        The mean is built member by member, in two tensors of the result's size.
        """
        mean: Tensor | None = None
        for member, share in zip(self.members, self.shares, strict=True):
            if not share:
                continue
            logits = outputs_within(member, features, self.left_context, self.right_context, every)
            log_prob = logits.float().log_softmax(-1)
            if self.mean_kind == "geometric":
                mean = log_prob.mul_(share) if mean is None else mean.add_(log_prob, alpha=share)
            else:
                prob = log_prob.exp_()
                mean = prob.mul_(share) if mean is None else mean.add_(prob, alpha=share)
        assert mean is not None  # the shares add up to 1
        if self.mean_kind == "geometric":
            return mean.log_softmax(-1)
        return mean.clamp_(min=torch.finfo(mean.dtype).tiny).log_()  # a state that no member believes in is not -inf
