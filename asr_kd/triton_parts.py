"""Parts of Triton kernels that work on a row of a matrix, ``BLOCK`` columns at a time.

A block is ``[BLOCK / 32, 32]``: the words and the bits of a set of columns.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LEAST = tl.constexpr(-3.0e38)  # a maximum of nothing, finite since -inf minus itself would be NaN
MINUS_INFINITY = tl.constexpr(-float("inf"))


@triton.jit
def columns(start, BLOCK: tl.constexpr):
    """The numbers of the columns from ``start`` on."""
    return start + tl.arange(0, BLOCK // 32)[:, None] * 32 + tl.arange(0, 32)[None, :]


@triton.jit
def load(row, start, STATES, BLOCK: tl.constexpr):
    """The columns from ``start`` on in float32; those past the end are -inf."""
    place = columns(start, BLOCK)
    return tl.load(row + place, mask=place < STATES, other=MINUS_INFINITY).to(tl.float32)


@triton.jit
def store(row, start, values, STATES, BLOCK: tl.constexpr):
    """The inverse of ``load``."""
    place = columns(start, BLOCK)
    tl.store(row + place, values.to(row.dtype.element_ty), mask=place < STATES)


@triton.jit
def load_outside(row, start, state, STATES, CHOSEN: tl.constexpr, ALL: tl.constexpr, BLOCK: tl.constexpr):
    """As ``load``, but -inf at the ``CHOSEN`` columns that ``state`` points to, or at ``ALL``.

    The set of bits takes a fraction of the time of comparing each column with each chosen one.
    """
    if ALL:
        values = tl.full([BLOCK // 32, 32], MINUS_INFINITY, tl.float32)
    else:
        values, word = load(row, start, STATES, BLOCK), tl.arange(0, BLOCK // 32)
        bits = tl.zeros([BLOCK // 32], tl.int32)
        for number in range(CHOSEN):
            place = tl.load(state + number).to(tl.int32) - start
            bits |= tl.where(word == (place >> 5), 1 << (place & 31), 0)
        chosen = (bits[:, None] >> tl.arange(0, 32)[None, :]) & 1
        values = tl.where(chosen != 0, MINUS_INFINITY, values)
    return values
