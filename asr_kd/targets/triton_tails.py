"""The Triton kernel of ``asr_kd.targets.gpu_tails``."""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

from asr_kd.triton_parts import LOG2_E, load_outside


@triton.jit
def tail_sums(log_prob, state, peak, temperatures, sums, STATES, CHOSEN: tl.constexpr, TEMPERATURES: tl.constexpr,
              ALL: tl.constexpr, MANY: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """The sums over a row of exp((log_prob - peak) / T) but for the chosen states, one for each temperature T."""
    number = tl.program_id(0).to(tl.int64)
    row, state, sums = log_prob + number * STATES, state + number * CHOSEN, sums + number * TEMPERATURES
    top = tl.load(peak + number).to(tl.float32)
    values = load_outside(row, 0, state, STATES, CHOSEN, ALL, BLOCK) - top
    for place in range(TEMPERATURES):
        scale = (1 / tl.load(temperatures + place)) * LOG2_E
        total = tl.sum(tl.exp2(values * scale))
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                more = load_outside(row, start, state, STATES, CHOSEN, ALL, BLOCK) - top
                total += tl.sum(tl.exp2(more * scale))
        tl.store(sums + place, total)
