"""The Triton kernel of ``asr_kd.nets.gpu_mean``."""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

from asr_kd.triton_parts import LEAST, LOG2_E, load, store


@triton.jit
def add_softmax(logits, mean, share, STATES, MANY: tl.constexpr, BLOCK: tl.constexpr):
    """Add ``share`` times the softmax of a row of ``logits`` to the same row of ``mean``."""
    number = tl.program_id(0).to(tl.int64)
    logits, mean = logits + number * STATES, mean + number * STATES
    values = load(logits, 0, STATES, BLOCK)
    first = tl.maximum(tl.max(values), LEAST)
    prob = tl.exp2((values - first) * LOG2_E)
    total, top = tl.sum(prob), first
    if MANY:
        for start in range(BLOCK, STATES, BLOCK):
            more = load(logits, start, STATES, BLOCK)
            new = tl.maximum(top, tl.max(more))
            total = total * tl.exp2((top - new) * LOG2_E) + tl.sum(tl.exp2((more - new) * LOG2_E))
            top = new
    factor = share * tl.exp2((first - top) * LOG2_E) / total
    store(mean, 0, load(mean, 0, STATES, BLOCK) + factor * prob, STATES, BLOCK)
    if MANY:
        for start in range(BLOCK, STATES, BLOCK):
            prob = tl.exp2((load(logits, start, STATES, BLOCK) - top) * LOG2_E)
            store(mean, start, load(mean, start, STATES, BLOCK) + share / total * prob, STATES, BLOCK)
