"""Triton kernels of the distillation objective: one program computes the loss and the gradient of one row of logits.

The formulas are those of ``asr_kd.train.reference``. A row passes through memory once, and so does its gradient. Every
exponential is relative to a maximum, so that neither a small mass outside the k states nor logits of 1e4 cost digits.

No program reads or writes outside its row. A label or a state of a target that the student does not have makes the
row's loss NaN. Sums have a fixed order, so equal input gives equal bits.

Import this module only where Triton is installed: ``asr_kd.train.gpu_rows`` does, on the first call.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

from asr_kd.triton_parts import (
    LEAST,
    LN_2,
    LOG2_E,
    MINUS_INFINITY,
    bases,
    columns,
    exponentials,
    exponents,
    filled,
    greatest_of,
    load,
    log_sums,
    store,
    sums_of,
)


@triton.jit
def top_k(logits, state, log_prob, log_tail, labels, weights, gradient, lost, temperature, length,
          CHOSEN: tl.constexpr, WIDTH: tl.constexpr, ALL: tl.constexpr,
          BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The objective of a row with top-k targets.

    ``WIDTH``: the least power of two that is at least ``CHOSEN``. ``ALL``: all states are chosen.
    """
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * length, gradient + number * length, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, lost, length, BLOCK)
    else:
        state, scale = state + number * CHOSEN, (1 / temperature) * LOG2_E
        own, exists, inside, lacking = _chosen(row, state, length, CHOSEN, WIDTH)
        label, counts, known, unknown = _label(row, labels + number, to_hard, length)
        prob, log_of_prob, tail, log_of_tail = _teacher(
            log_prob + number * CHOSEN, log_tail + number, scale, CHOSEN, WIDTH
        )
        top = tl.full([], LEAST, tl.float32)
        total, total_at_one = tl.full([], 0.0, tl.float32), tl.full([], 0.0, tl.float32)
        if not ALL:
            top, total, total_at_one = log_sums(row, state, scale, length, CHOSEN, BLOCK, POWER)

        # From here on all is relative to the greatest logit, which may be far above those outside.
        base, base_at_one = bases(tl.maximum(top, tl.max(inside)), scale, POWER)
        inside_soft, inside_at_one = exponentials(inside, base, base_at_one, scale, POWER)
        inside_log, _ = exponents(inside, base, base_at_one, scale, POWER)
        _, known_log_at_one = exponents(known, base, base_at_one, scale, POWER)
        outer, outer_at_one = bases(top, scale, POWER)
        share, share_at_one = tl.exp2(outer - base), tl.exp2(outer_at_one - base_at_one)
        inside_sum, inside_sum_at_one = sums_of(inside_soft, inside_at_one, POWER)
        mass, mass_at_one = inside_sum + total * share, inside_sum_at_one + total_at_one * share_at_one
        log_mass = tl.log2(mass)
        apart = tl.where(prob > 0, prob * (log_of_prob - (inside_log - log_mass)), 0.0)
        tail_apart = log_of_tail - ((outer - base) + tl.log2(total) - log_mass)
        divergence = LN_2 * (tl.sum(apart) + tl.where(tail > 0, tail * tail_apart, 0.0))
        hard_loss = to_hard * LN_2 * (tl.log2(mass_at_one) - known_log_at_one)
        _store_loss(lost, to_soft * divergence + tl.where(counts, hard_loss, 0.0), lacking + unknown)

        pull, hard = to_soft / temperature, to_hard / mass_at_one
        spread = pull * (share / mass - tl.where(tail > 0, tail / total, 0.0))  # p's tail is spread as q's is
        hard_spread = hard * share_at_one
        _store_mixed(row, gradient, outer, outer_at_one, scale, spread, hard_spread, length, BLOCK, POWER)
        tl.debug_barrier()  # each chosen state's gradient after the one that it replaces
        at_states = pull * (inside_soft / mass - prob) + hard * inside_at_one
        at_label = _mixed(known, outer, outer_at_one, scale, spread, hard_spread, POWER)
        _store_chosen(gradient, own, exists, at_states, label, counts, at_label, to_hard)


@triton.jit
def _teacher(log_prob, log_tail, scale, CHOSEN: tl.constexpr, WIDTH: tl.constexpr):
    """The teachers' probabilities of the chosen states at T and their log2, ``[WIDTH]``; both of the tail."""
    place, log_tail = tl.arange(0, WIDTH), tl.load(log_tail).to(tl.float32)
    given = tl.load(log_prob + place, mask=place < CHOSEN, other=MINUS_INFINITY).to(tl.float32)
    scaled = (given - tl.max(given)) * scale
    tail = tl.exp2(log_tail * LOG2_E)
    # 1 - exp(t) would have few digits where t is small: a part of its series has them all.
    series = -log_tail * (1 + log_tail / 2 * (1 + log_tail / 3 * (1 + log_tail / 4 * (1 + log_tail / 5))))
    kept = tl.where(log_tail > -0.1, series, 1 - tail)
    total = tl.sum(tl.exp2(scaled))
    return tl.exp2(scaled) * (kept / total), scaled + (tl.log2(kept) - tl.log2(total)), tail, log_tail * LOG2_E


@triton.jit
def sampled(logits, state, weight, labels, weights, gradient, lost, temperature, length,
            CHOSEN: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The objective of a row with sampled targets; ``WIDTH`` as for ``top_k``."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * length, gradient + number * length, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, lost, length, BLOCK)
    else:
        state, weight, scale = state + number * CHOSEN, weight + number * CHOSEN, (1 / temperature) * LOG2_E
        own, exists, inside, lacking = _chosen(row, state, length, CHOSEN, WIDTH)
        label, counts, known, unknown = _label(row, labels + number, to_hard, length)
        place = tl.arange(0, WIDTH)
        drawn = tl.load(weight + place, mask=place < CHOSEN, other=0.0).to(tl.float32)
        of_state = tl.zeros([WIDTH], tl.float32)  # a state may have been drawn twice
        for other in range(CHOSEN):
            again = own == tl.load(state + other).to(tl.int32)
            of_state += tl.where(again, tl.load(weight + other).to(tl.float32), 0.0)
        top, total, total_at_one = log_sums(row, row, scale, length, 0, BLOCK, POWER)
        base, base_at_one = bases(top, scale, POWER)

        mass = tl.sum(drawn)
        inside_log, _ = exponents(inside, base, base_at_one, scale, POWER)
        divergence = LN_2 * (mass * tl.log2(total) - tl.sum(tl.where(exists, drawn * inside_log, 0.0)))
        _, known_log_at_one = exponents(known, base, base_at_one, scale, POWER)
        hard_loss = to_hard * LN_2 * (tl.log2(total_at_one) - known_log_at_one)
        _store_loss(lost, to_soft * divergence + tl.where(counts, hard_loss, 0.0), lacking + unknown)

        pull, hard = to_soft / temperature, to_hard / total_at_one
        spread = pull * mass / total
        _store_mixed(row, gradient, base, base_at_one, scale, spread, hard, length, BLOCK, POWER)
        tl.debug_barrier()  # each chosen state's gradient after the one that it replaces
        at_states = _mixed(inside, base, base_at_one, scale, spread, hard, POWER) - pull * of_state
        at_label = _mixed(known, base, base_at_one, scale, spread, hard, POWER)
        _store_chosen(gradient, own, exists, at_states, label, counts, at_label, to_hard)


@triton.jit
def dense(logits, log_prob, labels, weights, gradient, lost, temperature, length,
          BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The objective of a row with the log-probability of every state."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * length, gradient + number * length, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, lost, length, BLOCK)
    else:
        log_prob, scale = log_prob + number * length, (1 / temperature) * LOG2_E
        label, counts, known, unknown = _label(row, labels + number, to_hard, length)
        given = tl.load(log_prob + label, mask=counts, other=0.0).to(tl.float32)
        base, base_at_one = bases(greatest_of(row, length, BLOCK), scale, POWER)
        teacher_base = greatest_of(log_prob, length, BLOCK) * scale
        soft_sums, sums_at_one = filled(0.0, BLOCK), filled(0.0, BLOCK)
        teacher_sums, cross_sums = filled(0.0, BLOCK), filled(0.0, BLOCK)
        for start in range(0, length, BLOCK):
            values = load(row, start, length, BLOCK)
            soft, at_one = exponentials(values, base, base_at_one, scale, POWER)
            log_soft, _ = exponents(values, base, base_at_one, scale, POWER)
            log_of_prob = tl.fma(load(log_prob, start, length, BLOCK), scale, -teacher_base)
            prob = tl.exp2(log_of_prob)
            soft_sums += soft
            teacher_sums += prob
            cross_sums += tl.where(prob > 0, prob * (log_of_prob - log_soft), 0.0)
            if POWER != 1:
                sums_at_one += at_one
        total, total_at_one = sums_of(soft_sums, sums_at_one, POWER)
        teacher_total = tl.sum(teacher_sums)

        divergence = LN_2 * (tl.sum(cross_sums) / teacher_total + (tl.log2(total) - tl.log2(teacher_total)))
        _, known_log_at_one = exponents(known, base, base_at_one, scale, POWER)
        hard_loss = to_hard * LN_2 * (tl.log2(total_at_one) - known_log_at_one)
        _store_loss(lost, to_soft * divergence + tl.where(counts, hard_loss, 0.0), unknown)

        pull, hard = to_soft / temperature, to_hard / total_at_one
        spread, less = pull / total, pull / teacher_total
        for start in range(0, length, BLOCK):
            values = load(row, start, length, BLOCK)
            mixed = _mixed(values, base, base_at_one, scale, spread, hard, POWER)
            prob = tl.exp2(tl.fma(load(log_prob, start, length, BLOCK), scale, -teacher_base))
            store(gradient, start, mixed - less * prob, length, BLOCK)
        tl.debug_barrier()  # the label's gradient after the one that it replaces
        at_label = _mixed(known, base, base_at_one, scale, spread, hard, POWER) - less * tl.exp2(
            tl.fma(given, scale, -teacher_base)
        )
        _scatter(gradient, label, counts, at_label - to_hard)


@triton.jit
def labelled(logits, labels, weights, gradient, lost, smoothing, length, BLOCK: tl.constexpr):
    """The hard term of a row alone, with label smoothing; only the second column of ``weights`` counts."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * length, gradient + number * length, lost + number
    to_hard = tl.load(weights + 2 * number + 1)
    if to_hard == 0:
        _clear(gradient, lost, length, BLOCK)
    else:
        label, counts, known, unknown = _label(row, labels + number, to_hard, length)
        base = greatest_of(row, length, BLOCK) * LOG2_E
        sums, log_sums = filled(0.0, BLOCK), filled(0.0, BLOCK)
        for start in range(0, length, BLOCK):
            exponent = tl.fma(load(row, start, length, BLOCK), LOG2_E, -base)
            sums += tl.exp2(exponent)
            log_sums += tl.where(columns(start, BLOCK) < length, exponent, 0.0)
        total, mean_log = tl.sum(sums), tl.sum(log_sums) / length
        known_log = tl.fma(known, LOG2_E, -base)
        loss = tl.log2(total) - (1 - smoothing) * known_log - smoothing * mean_log
        _store_loss(lost, to_hard * LN_2 * loss, unknown)

        hard, even = to_hard / total, to_hard * smoothing / length
        for start in range(0, length, BLOCK):
            prob = tl.exp2(tl.fma(load(row, start, length, BLOCK), LOG2_E, -base))
            store(gradient, start, hard * prob - even, length, BLOCK)
        tl.debug_barrier()  # the label's gradient after the one that it replaces
        at_label = hard * tl.exp2(known_log) - even - to_hard * (1 - smoothing)
        _scatter(gradient, label, counts, at_label)


@triton.jit
def matched(logits, teacher, labels, weights, gradient, lost, length, BLOCK: tl.constexpr):
    """The objective of logit matching of a row, and the hard term."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * length, gradient + number * length, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, lost, length, BLOCK)
    else:
        teacher += number * length
        label, counts, known, unknown = _label(row, labels + number, to_hard, length)
        given = tl.load(teacher + label, mask=counts, other=0.0).to(tl.float32)
        greatest, sums = filled(LEAST, BLOCK), filled(0.0, BLOCK)
        for start in range(0, length, BLOCK):
            values = load(row, start, length, BLOCK)
            greatest = tl.maximum(greatest, values)
            sums += _apart(values, teacher, 0.0, start, length, BLOCK)
        base, mean = tl.max(greatest) * LOG2_E, tl.sum(sums) / length
        sums, squares = filled(0.0, BLOCK), filled(0.0, BLOCK)
        for start in range(0, length, BLOCK):
            values = load(row, start, length, BLOCK)
            apart = _apart(values, teacher, mean, start, length, BLOCK)
            sums += tl.exp2(tl.fma(values, LOG2_E, -base))
            squares += apart * apart
        total, pull = tl.sum(sums), to_soft / length
        known_log = tl.fma(known, LOG2_E, -base)
        hard_loss = to_hard * LN_2 * (tl.log2(total) - known_log)
        _store_loss(lost, pull * tl.sum(squares) / 2 + tl.where(counts, hard_loss, 0.0), unknown)

        hard = to_hard / total
        for start in range(0, length, BLOCK):
            values = load(row, start, length, BLOCK)
            apart = _apart(values, teacher, mean, start, length, BLOCK)
            store(gradient, start, pull * apart + hard * tl.exp2(tl.fma(values, LOG2_E, -base)), length, BLOCK)
        tl.debug_barrier()  # the label's gradient after the one that it replaces
        at_label = pull * (known - given - mean) + hard * tl.exp2(known_log)
        _scatter(gradient, label, counts, at_label - to_hard)


@triton.jit
def _apart(values, teacher, mean, start, length, BLOCK: tl.constexpr):
    """The student's logits minus the teachers' and ``mean``; 0 past the end."""
    apart = values - load(teacher, start, length, BLOCK) - mean
    return tl.where(columns(start, BLOCK) < length, apart, 0.0)


@triton.jit
def _chosen(row, state, length, CHOSEN: tl.constexpr, WIDTH: tl.constexpr):
    """The chosen states, whether each exists, their logits (-inf where it does not), and how many do not exist."""
    place = tl.arange(0, WIDTH)
    given = tl.load(state + place, mask=place < CHOSEN, other=-1)
    exists = (given >= 0) & (given < length)
    own = tl.where(exists, given, -1).to(tl.int32)
    logits = tl.load(row + own, mask=exists, other=MINUS_INFINITY).to(tl.float32)
    return own, exists, logits, CHOSEN - tl.sum(exists.to(tl.int32))


@triton.jit
def _label(row, labels, to_hard, length):
    """The row's label, whether it counts, its logit, and 1 if the student has no such state."""
    given = tl.load(labels)
    exists = (given >= 0) & (given < length)
    label = tl.where(exists, given, -1).to(tl.int32)
    logit = tl.load(row + label, mask=exists, other=0.0).to(tl.float32)
    return label, exists & (to_hard != 0), logit, ((given >= length) | (given < -1)).to(tl.int32)


@triton.jit
def _mixed(logits, base, base_at_one, scale, to_soft, to_hard, POWER: tl.constexpr):
    """The gradient of states that are not chosen: a multiple of each of their exponentials."""
    soft, at_one = exponentials(logits, base, base_at_one, scale, POWER)
    if POWER == 1:
        mixed = soft * (to_soft + to_hard)
    elif POWER == 2:
        mixed = soft * (to_soft + soft * to_hard)
    else:
        mixed = soft * to_soft + at_one * to_hard
    return mixed


@triton.jit
def _store_mixed(row, gradient, base, base_at_one, scale, to_soft, to_hard, length,
                 BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The gradient of all states as if none were chosen; those that are get theirs afterwards."""
    for start in range(0, length, BLOCK):
        values = load(row, start, length, BLOCK)
        store(gradient, start, _mixed(values, base, base_at_one, scale, to_soft, to_hard, POWER), length, BLOCK)


@triton.jit
def _store_chosen(gradient, own, exists, at_states, label, counts, at_label, to_hard):
    """The gradient at the chosen states, and at the label, which may be one of them."""
    _scatter(gradient, own, exists, at_states - tl.where((own == label) & counts, to_hard, 0.0))
    _scatter(gradient, label, counts & (tl.sum((own == label).to(tl.int32)) == 0), at_label - to_hard)


@triton.jit
def _scatter(gradient, state, mask, values):
    tl.store(gradient + state, values.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def _store_loss(lost, loss, lacking):
    tl.store(lost, tl.where(lacking != 0, float("nan"), loss))


@triton.jit
def _clear(gradient, lost, length, BLOCK: tl.constexpr):
    for start in range(0, length, BLOCK):
        store(gradient, start, filled(0.0, BLOCK), length, BLOCK)
    tl.store(lost, 0.0)


@triton.jit
def row_weights(labels, frames, weights, to_soft, to_hard, rows, FRAMES: tl.constexpr, BLOCK: tl.constexpr):
    """The weights of ``BLOCK`` rows: ``to_soft`` over the number of ``frames``, ``to_hard`` over that of labels.

    Every program counts them all, which takes less time than another launch. ``FRAMES``: whether ``frames`` are given.
    """
    place = tl.arange(0, BLOCK)
    of_frames, of_labels = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for start in range(0, rows, BLOCK):
        there = start + place < rows
        of_labels += (tl.load(labels + start + place, mask=there, other=-1) >= 0).to(tl.int32)
        if FRAMES:
            of_frames += (tl.load(frames + start + place, mask=there, other=0) != 0).to(tl.int32)
    number_of_frames = tl.sum(of_frames) if FRAMES else rows
    row = tl.program_id(0) * BLOCK + place
    there = row < rows
    soft = tl.where(there, to_soft / tl.maximum(number_of_frames, 1), 0.0)
    if FRAMES:
        soft = tl.where(tl.load(frames + row, mask=there, other=0) != 0, soft, 0.0)
    known = tl.load(labels + row, mask=there, other=-1) >= 0
    tl.store(weights + 2 * row, soft, mask=there)
    tl.store(weights + 2 * row + 1, tl.where(known, to_hard / tl.maximum(tl.sum(of_labels), 1), 0.0), mask=there)


@triton.jit
def scale_unless_one(gradient, factor, size, BLOCK: tl.constexpr):
    """Multiply ``gradient`` in place by the number at ``factor``; if that is 1, nothing else is read."""
    by = tl.load(factor).to(tl.float32)
    if by != 1:
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, tl.num_programs(0) * BLOCK):
            place = start + tl.arange(0, BLOCK)
            values = tl.load(gradient + place, mask=place < size, other=0.0).to(tl.float32)
            tl.store(gradient + place, (values * by).to(gradient.dtype.element_ty), mask=place < size)
