"""The mean of an ensemble's distributions on a GPU: a member is added in one pass over memory."""

from torch import Tensor

from asr_kd.gpu_kernels import by_rows, kernels, operator


def add_softmax_(mean: Tensor, logits: Tensor, share: float) -> None:
    """Add ``share`` times the softmax of ``logits [..., states]`` to ``mean``, float32 and contiguous.

    ``gpu_kernels.serves`` the logits.
    """
    _add_softmax(mean, logits.contiguous(), share)


@operator("add_softmax_(Tensor(a!) mean, Tensor logits, float share) -> ()")
def _add_softmax(mean: Tensor, logits: Tensor, share: float) -> None:
    by_rows(kernels("nets.triton_mean").add_softmax, logits.flatten(0, -2), mean, share)
