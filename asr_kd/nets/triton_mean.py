"""The Triton kernel of ``asr_kd.nets.gpu_mean``."""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

from asr_kd.triton_parts import LOG2_E, load, log_sums, store


@triton.jit
def add_softmax(logits, mean, share, length, BLOCK: tl.constexpr):
    """Add ``share`` times the softmax of a row of ``logits`` to the same row of ``mean``."""
    number = tl.program_id(0).to(tl.int64)
    logits, mean = logits + number * length, mean + number * length
    top, total, _ = log_sums(logits, logits, LOG2_E, length, 0, BLOCK, 1)
    base = top * LOG2_E
    for start in range(0, length, BLOCK):
        prob = tl.exp2(tl.fma(load(logits, start, length, BLOCK), LOG2_E, -base))
        store(mean, start, load(mean, start, length, BLOCK) + share / total * prob, length, BLOCK)
