"""Parts of Triton kernels in which a program works on a row of a matrix, ``BLOCK`` columns at a time.

A row is read from memory once; later passes over it find it in the first cache. A block is ``[BLOCK / 32, 32]``: the
words and the bits of a set of columns. Arithmetic is float32.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LEAST = tl.constexpr(-3.0e38)  # a maximum of nothing, finite since -inf minus itself would be NaN
MINUS_INFINITY = tl.constexpr(-float("inf"))
SMALL_SUM, LARGE_SUM = tl.constexpr(1e-20), tl.constexpr(1e30)  # between which no exponential over- or underflows


@triton.jit
def columns(start, BLOCK: tl.constexpr):
    """The numbers of the columns from ``start`` on."""
    return start + tl.arange(0, BLOCK // 32)[:, None] * 32 + tl.arange(0, 32)[None, :]


@triton.jit
def load(row, start, length, BLOCK: tl.constexpr):
    """The columns from ``start`` on in float32; those past the end are -inf."""
    place = columns(start, BLOCK)
    return tl.load(row + place, mask=place < length, other=MINUS_INFINITY).to(tl.float32)


@triton.jit
def store(row, start, values, length, BLOCK: tl.constexpr):
    """The inverse of ``load``."""
    place = columns(start, BLOCK)
    tl.store(row + place, values.to(row.dtype.element_ty), mask=place < length)


@triton.jit
def filled(value, BLOCK: tl.constexpr):
    """A block of equal numbers."""
    return tl.full([BLOCK // 32, 32], value, tl.float32)


@triton.jit
def greatest_of(row, length, BLOCK: tl.constexpr):
    """The maximum of a row, finite if all are -inf; NaN is passed over."""
    greatest = filled(LEAST, BLOCK)
    for start in range(0, length, BLOCK):
        greatest = tl.maximum(greatest, load(row, start, length, BLOCK))
    return tl.max(greatest)


@triton.jit
def bases(top, scale, POWER: tl.constexpr):
    """What ``exponents`` are relative to, for the logit ``top``: at T (``scale`` is log2(e) / T), and at 1.

    ``POWER``: exponentials at 1 are this power of those at T (1 also where they are not needed); 0: neither 1 nor 2.
    """
    base = top * scale
    return base, top * LOG2_E if POWER == 0 else base * POWER


@triton.jit
def exponents(values, base, base_at_one, scale, POWER: tl.constexpr):
    """Logarithms to the base 2 of ``exponentials``. A fused operation rounds once, and what rounding made of the base
    is common to all, so that no digits are lost."""
    soft = tl.fma(values, scale, -base)
    return soft, tl.fma(values, LOG2_E, -base_at_one) if POWER == 0 else soft * POWER


@triton.jit
def exponentials(values, base, base_at_one, scale, POWER: tl.constexpr):
    """Exponentials of ``values``, over T and at 1, relative to ``bases``."""
    exponent, exponent_at_one = exponents(values, base, base_at_one, scale, POWER)
    soft = tl.exp2(exponent)
    if POWER == 1:
        at_one = soft
    elif POWER == 2:
        at_one = soft * soft
    else:
        at_one = tl.exp2(exponent_at_one)
    return soft, at_one


@triton.jit
def sums_of(soft, at_one, POWER: tl.constexpr):
    """The sums of both ``exponentials``."""
    total = tl.sum(soft)
    total_at_one = total
    if POWER != 1:
        total_at_one = tl.sum(at_one)
    return total, total_at_one


@triton.jit
def load_outside(row, start, state, length, CHOSEN: tl.constexpr, BLOCK: tl.constexpr):
    """As ``load``, but -inf at the ``CHOSEN`` columns that ``state`` points to.

    The set of bits takes a fraction of the time of comparing each column with each chosen one.
    """
    values, word = load(row, start, length, BLOCK), start // 32 + tl.arange(0, BLOCK // 32)
    bits = tl.zeros([BLOCK // 32], tl.int32)
    for number in range(CHOSEN):
        place = tl.load(state + number).to(tl.int32)
        bits |= tl.where(word == (place >> 5), 1 << (place & 31), 0)
    chosen = bits[:, None] & (1 << tl.arange(0, 32))[None, :]
    return tl.where(chosen != 0, MINUS_INFINITY, values)


@triton.jit
def greatest_outside(row, state, length, CHOSEN: tl.constexpr, BLOCK: tl.constexpr):
    """The maximum of a row but for the chosen columns, finite if all are -inf; NaN is passed over."""
    greatest = filled(LEAST, BLOCK)
    for start in range(0, length, BLOCK):
        greatest = tl.maximum(greatest, load_outside(row, start, state, length, CHOSEN, BLOCK))
    return tl.max(greatest)


@triton.jit
def sums_outside(row, top, state, scale, length, CHOSEN: tl.constexpr, BLOCK: tl.constexpr, POWER: tl.constexpr):
    """The sums over a row, but for the chosen columns, of both ``exponentials`` relative to ``top``."""
    base, base_at_one = bases(top, scale, POWER)
    soft_sums, sums_at_one = filled(0.0, BLOCK), filled(0.0, BLOCK)
    for start in range(0, length, BLOCK):
        values = load_outside(row, start, state, length, CHOSEN, BLOCK)
        soft, at_one = exponentials(values, base, base_at_one, scale, POWER)
        soft_sums += soft
        if POWER != 1:
            sums_at_one += at_one
    return sums_of(soft_sums, sums_at_one, POWER)


@triton.jit
def log_sums(row, state, scale, length, CHOSEN: tl.constexpr, BLOCK: tl.constexpr, POWER: tl.constexpr):
    """A logit, and the ``sums_outside`` relative to it.

    It is the greatest of the first block; if others are so far above it, or all so far below, that digits could be
    lost, the greatest of all: a pass that is hardly ever taken.
    """
    top = tl.max(tl.maximum(load_outside(row, 0, state, length, CHOSEN, BLOCK), LEAST))
    total, total_at_one = sums_outside(row, top, state, scale, length, CHOSEN, BLOCK, POWER)
    if (tl.minimum(total, total_at_one) < SMALL_SUM) | (tl.maximum(total, total_at_one) > LARGE_SUM):
        top = greatest_outside(row, state, length, CHOSEN, BLOCK)
        total, total_at_one = sums_outside(row, top, state, scale, length, CHOSEN, BLOCK, POWER)
    return top, total, total_at_one
