"""Several networks that score as one.

The result is the mean of their distributions (Hinton et al. 2015, section 2), or the joint distribution of a generalist
and its specialists (section 5).
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from asr_kd import gpu_kernels
from asr_kd.config import shown
from asr_kd.errors import UserError, counted
from asr_kd.kernels import bits_of, exponentials, greatest_of, in_threads, load, row_kernel, scratch_rows
from asr_kd.limits import MEMBERS, PATH_LENGTH
from asr_kd.nets.acoustic_model import AcousticModel, outputs_within
from asr_kd.nets.gpu_mean import add_softmax_
from asr_kd.nets.joint import active_specialists, check_members, joint, own_and_dustbin


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """``ensemble.yaml``: the folders of the ``members``, relative to the ensemble's, and how they are averaged.

    ``mean``: ``arithmetic``, of the probabilities, or ``geometric``, of the log-probabilities, normalised again.
    ``weights``: one for each member, or none for equal ones. ``hashes``: the SHA-256 of each ``model.safetensors``.

    ``joint``: the first member is a generalist of all states, and each other one a specialist, whose outputs are the
    states that ``own`` lists for it and a dustbin for all others. For each frame the specialists that own one of the
    generalist's ``active`` most probable states are used (``asr_kd.nets.joint``). ``whole``: specialists have an output
    for every state, and the probabilities of the states that they do not own add up to the dustbin.
    """

    members: tuple[str, ...] = ()
    mean: Literal["arithmetic", "geometric", "joint"] = "arithmetic"
    weights: tuple[float, ...] = ()
    hashes: tuple[str, ...] = ()
    own: tuple[tuple[int, ...], ...] = ()
    active: int = 1
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("the ensemble has no members; give at least one trained network")
        if len(self.members) > MEMBERS:
            raise UserError(f"an ensemble of {counted(len(self.members), 'member')}; at most {MEMBERS:,} are possible")
        for member in self.members:
            if not 0 < len(member) <= PATH_LENGTH or "\0" in member:
                raise UserError(f"ensemble member {shown(member)}; expected the path of a folder")
        if len(self.weights) not in (0, len(self.members)):
            raise UserError(
                f"{counted(len(self.weights), 'weight')} for {counted(len(self.members), 'member')}; give one for"
                " each, or none"
            )
        if self.weights and not (min(self.weights) >= 0 < sum(self.weights) < math.inf):
            raise UserError(f"weights {list(self.weights)}; expected finite numbers of 0 or more, not all 0")
        if self.mean == "joint" and (len(self.own) != len(self.members) - 1 or not self.own or self.weights):
            raise UserError(
                f"{counted(len(self.members), 'member')} with the states of {counted(len(self.own), 'specialist')} and"
                f" {len(self.weights)} weights; a joint ensemble is a generalist and one or more specialists, without"
                " weights"
            )
        if self.mean == "joint" and not 1 <= self.active <= len(self.own):
            raise UserError(
                f"active is {self.active} for {counted(len(self.own), 'specialist')}; expected 1 to {len(self.own)} of"
                " the generalist's most probable states, to choose among them"
            )
        if self.mean != "joint" and (self.own or self.whole):
            raise UserError(f"states of specialists are only for mean: joint, not for {self.mean}")

    @property
    def shares(self) -> list[float]:
        """The members' weights, which add up to 1; of a joint ensemble the generalist has all of it."""
        if self.mean == "joint":
            return [1.0] + [0.0] * len(self.own)
        weights = self.weights or (1.0,) * len(self.members)
        return [weight / sum(weights) for weight in weights]

    @property
    def content_hash(self) -> str:
        """Hexadecimal SHA-256 of what the ensemble computes: its members, their weights and the mean."""
        shares = (f"{weights} {share!r}" for weights, share in zip(self.hashes, self.shares, strict=True))
        specialists = [f"{self.own} {self.active}{' whole' * self.whole}"] if self.mean == "joint" else []
        return hashlib.sha256("\n".join([self.mean, *shares, *specialists]).encode()).hexdigest()


class Ensemble(nn.Module):
    """An acoustic model like its members: features -> logits, which are log-probabilities.

    ``left_context`` and ``right_context`` are the widest of the members. ``log_prior`` is the log of their mean prior,
    or the generalist's.
    """

    log_prior: Tensor
    normalised = True

    def __init__(self, config: EnsembleConfig, members: Sequence[AcousticModel]) -> None:
        super().__init__()
        self.mean_kind, self.shares = config.mean, config.shares
        self.members: Sequence[AcousticModel] = nn.ModuleList(members)  # type: ignore[assignment]
        self.left_context = max(member.left_context for member in members)
        self.right_context = max(member.right_context for member in members)
        self.own, self.active, self.whole = [np.array(own) for own in config.own], config.active, config.whole
        check_members(self.own, self.num_states)
        for place, member, states in zip(config.members, members, self._outputs(), strict=True):
            if (member.num_states, member.bins) != (states, self.bins):
                raise UserError(
                    f"{place}: {counted(member.num_states, 'state')} from {member.bins} bins; expected {states} from"
                    f" {self.bins}, since {config.members[0]} has {counted(self.num_states, 'state')} and {self.bins}"
                    " bins"
                )
        priors = torch.stack([m.log_prior.exp() for m, share in zip(members, self.shares, strict=True) if share])
        self.register_buffer("log_prior", (torch.tensor([share for share in self.shares if share]) @ priors).log())

    @property
    def num_states(self) -> int:
        """Number of outputs."""
        return self.members[0].num_states

    @property
    def bins(self) -> int:
        """Width of a feature frame."""
        return self.members[0].bins

    def _outputs(self) -> list[int]:
        """The number of outputs that each member should have."""
        if self.mean_kind == "joint" and not self.whole:
            return [self.num_states, *(len(own) + 1 for own in self.own)]
        return [self.num_states] * len(self.members)

    def forward(self, features: Tensor, every: int = 1) -> Tensor:
        """``[batch, frames, bins]`` -> log-probabilities ``[batch, frames - left - right, states]`` in float32.

        The mean is accumulated member by member, in two tensors of the result's size.
        """
        if self.mean_kind == "joint":
            return self._joint(features, every)
        mean: Tensor | None = None
        for member, share in zip(self.members, self.shares, strict=True):
            if not share:
                continue
            logits = outputs_within(member, features, self.left_context, self.right_context, every)
            mean = _added(mean, logits, share, self.mean_kind == "geometric")
        assert mean is not None  # the shares add up to 1
        if self.mean_kind == "geometric":
            return mean.log_softmax(-1)
        return mean.clamp_(min=torch.finfo(mean.dtype).tiny).log_()  # never -inf

    def _joint(self, features: Tensor, every: int) -> Tensor:
        outputs = [
            outputs_within(member, features, self.left_context, self.right_context, every).float().log_softmax(-1)
            for member in self.members
        ]
        general, *special = (output.flatten(0, 1) for output in outputs)
        if self.whole:
            special = [own_and_dustbin(log_r, own) for log_r, own in zip(special, self.own, strict=True)]
        log_q = joint(general, special, self.own, active_specialists(general, self.own, self.active))
        return log_q.unflatten(0, outputs[0].shape[:2])


def _added(mean: Tensor | None, logits: Tensor, share: float, geometric: bool) -> Tensor:
    """``mean`` plus ``share`` times a member's distribution, in float32, in one pass over memory."""
    on_cpu = logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16)
    if geometric or torch.is_grad_enabled() or not (on_cpu or gpu_kernels.serves(logits)):
        scores = logits.float().log_softmax(-1) if geometric else logits.float().softmax(-1)
        return scores.mul_(share) if mean is None else mean.add_(scores, alpha=share)
    mean = torch.zeros(logits.shape, device=logits.device) if mean is None else mean
    if not on_cpu:
        add_softmax_(mean, logits, share)
        return mean
    in_threads(_add_softmax, mean.flatten(0, -2).numpy(), bits_of(logits.flatten(0, -2).contiguous()), share)
    return mean


@row_kernel
def _add_softmax(mean, logits, share, begin, end):  # type: ignore[no-untyped-def]
    states = logits.shape[1]
    scratch = scratch_rows(3, states)
    row, prob, bits = scratch[0, :states], scratch[1, :states], scratch[2, :states].view(np.int32)
    raw = row.view(np.uint32)
    for i in range(begin, end):
        load(logits[i], raw)
        factor = np.float32(share / exponentials(row, np.float32(1), greatest_of(row), prob, bits))
        for j in range(states):
            mean[i, j] += factor * prob[j]
