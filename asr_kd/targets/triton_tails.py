"""The Triton kernel of ``asr_kd.targets.gpu_tails``."""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

from asr_kd.triton_parts import LOG2_E, load_outside


@triton.jit
def tail_sums(log_prob, state, peak, temperatures, sums, length, CHOSEN: tl.constexpr, TEMPERATURES: tl.constexpr,
              SLOTS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The sums over a row of exp((log_prob - peak) / T) but for the chosen states, one for each temperature T.

    ``SLOTS``: the least power of two that is at least ``TEMPERATURES``.
    """
    number = tl.program_id(0).to(tl.int64)
    row, state, sums = log_prob + number * length, state + number * CHOSEN, sums + number * TEMPERATURES
    top, slot = tl.load(peak + number).to(tl.float32), tl.arange(0, SLOTS)
    totals = tl.zeros([SLOTS], tl.float32)
    for start in range(0, length, BLOCK):
        values = load_outside(row, start, state, length, CHOSEN, BLOCK) - top
        for place in range(TEMPERATURES):
            scale = (1 / tl.load(temperatures + place)) * LOG2_E
            totals += tl.where(slot == place, tl.sum(tl.exp2(values * scale)), 0.0)
    tl.store(sums + slot, totals, mask=slot < TEMPERATURES)
