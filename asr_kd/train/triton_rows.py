"""Triton kernels of the distillation objective: one program computes the loss and the gradient of one row of logits.

The formulas are those of ``asr_kd.train.reference``. A row is read once, its exponentials stay in registers, and its
gradient is written once. Only states beyond the first ``BLOCK`` are read again, from a cache. Arithmetic is float32.
Every exponential is relative to a maximum, that of the states outside the k or that of all, so that neither a small
mass nor logits of 1e4 cost digits.

No program reads or writes outside its row. A label or a state of a target that the student does not have makes the
row's loss NaN. Sums have a fixed order, so equal input gives equal bits.

Import this module only where Triton is installed: ``asr_kd.train.gpu_rows`` does, on the first call.
"""

# mypy: disable-error-code="no-untyped-def"
import triton
import triton.language as tl

from asr_kd.triton_parts import LEAST, LOG2_E, MINUS_INFINITY, columns, load, load_outside, store


@triton.jit
def _scale(temperature):
    return (1 / temperature) * LOG2_E


@triton.jit
def _exponentials(values, top, scale, POWER: tl.constexpr):
    """Exponentials of ``values - top``, over T (``scale`` is log2(e) / T) and at 1.

    ``POWER``: the second is this power of the first (1 also where there is no hard term); 0 if it is none.
    """
    soft = tl.exp2((values - top) * scale)
    if POWER == 1:
        at_one = soft
    elif POWER == 2:
        at_one = soft * soft
    else:
        at_one = tl.exp2((values - top) * LOG2_E)
    return soft, at_one


@triton.jit
def _sums(soft, at_one, POWER: tl.constexpr):
    total = tl.sum(soft)
    total_at_one = total
    if POWER != 1:
        total_at_one = tl.sum(at_one)
    return total, total_at_one


@triton.jit
def _join(values, top, total, total_at_one, scale, POWER: tl.constexpr):
    """The maximum and the sums of exponentials of what was seen before and of ``values``."""
    new = tl.maximum(top, tl.max(values))
    soft, at_one = _exponentials(values, new, scale, POWER)
    more, more_at_one = _sums(soft, at_one, POWER)
    before, before_at_one = _exponentials(top, new, scale, POWER)
    return new, total * before + more, total_at_one * before_at_one + more_at_one


@triton.jit
def _mix(soft, to_soft, at_one, to_hard, POWER: tl.constexpr):
    return soft * (to_soft + to_hard) if POWER == 1 else soft * to_soft + at_one * to_hard


@triton.jit
def _store_mixed(row, gradient, soft, at_one, top, to_soft, to_hard, scale,
                 STATES, MANY: tl.constexpr, BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The gradient of all states as if none were chosen; those that are chosen get theirs afterwards."""
    store(gradient, 0, _mix(soft, to_soft, at_one, to_hard, POWER), STATES, BLOCK)
    if MANY:
        for start in range(BLOCK, STATES, BLOCK):
            more, more_at_one = _exponentials(load(row, start, STATES, BLOCK), top, scale, POWER)
            store(gradient, start, _mix(more, to_soft, more_at_one, to_hard, POWER), STATES, BLOCK)


@triton.jit
def _clear(gradient, STATES, BLOCK: tl.constexpr):
    for start in range(0, STATES, BLOCK):
        store(gradient, start, tl.zeros([BLOCK // 32, 32], tl.float32), STATES, BLOCK)


@triton.jit
def _less_than_one(log_prob):
    """1 - exp(``log_prob``) to all digits where that is small (Kahan's expm1), ``log_prob`` at most 0."""
    prob = tl.exp(log_prob)
    exact = (1 - prob) * log_prob / tl.log(prob)
    return tl.where(prob == 1, -log_prob, tl.where(prob > 0, exact, 1.0))


@triton.jit
def _chosen(row, state, STATES, CHOSEN: tl.constexpr, WIDTH: tl.constexpr):
    """The chosen states, whether each exists, their logits (-inf where it does not), and how many do not exist."""
    number = tl.arange(0, WIDTH)
    own = tl.load(state + number, mask=number < CHOSEN, other=-1)
    exists = (own >= 0) & (own < STATES)
    logits = tl.load(row + own, mask=exists, other=MINUS_INFINITY).to(tl.float32)
    return own, exists, logits, CHOSEN - tl.sum(exists.to(tl.int32))


@triton.jit
def _label(row, labels, to_hard, STATES: tl.constexpr):
    """The row's label, whether it counts, its logit, and 1 if the student has no such state."""
    label = tl.load(labels)
    exists = (label >= 0) & (label < STATES)
    logit = tl.load(row + label, mask=exists, other=0.0).to(tl.float32)
    return label, exists & (to_hard != 0), logit, ((label >= STATES) | (label < -1)).to(tl.int32)


@triton.jit
def _store_loss(lost, loss, lacking):
    tl.store(lost, tl.where(lacking != 0, float("nan"), loss))


@triton.jit
def top_k(logits, state, log_prob, log_tail, labels, weights, gradient, lost, temperature,
          STATES, CHOSEN: tl.constexpr, WIDTH: tl.constexpr,
          ALL: tl.constexpr, MANY: tl.constexpr, BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The objective of a row with top-k targets; ``WIDTH``: the power of two from ``CHOSEN`` on."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * STATES, gradient + number * STATES, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, STATES, BLOCK)
        tl.store(lost, 0.0)
    else:
        state, scale = state + number * CHOSEN, _scale(temperature)
        values = load_outside(row, 0, state, STATES, CHOSEN, ALL, BLOCK)
        first = tl.maximum(tl.max(values), LEAST)
        soft, at_one = _exponentials(values, first, scale, POWER)
        total, total_at_one = _sums(soft, at_one, POWER)
        top = first
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                more = load_outside(row, start, state, STATES, CHOSEN, ALL, BLOCK)
                top, total, total_at_one = _join(more, top, total, total_at_one, scale, POWER)

        # From here on all is relative to the greatest logit, which may be far above the greatest outside.
        own, exists, inside, lacking = _chosen(row, state, STATES, CHOSEN, WIDTH)
        peak = tl.maximum(top, tl.max(inside))
        inside_soft, inside_at_one = _exponentials(inside, peak, scale, POWER)
        share, share_at_one = _exponentials(top, peak, scale, POWER)
        inside_sum, inside_sum_at_one = _sums(inside_soft, inside_at_one, POWER)
        mass = inside_sum + total * share
        divergence, prob, tail = _top_k_divergence(
            (inside - peak) / temperature - tl.log(mass),
            (top - peak) / temperature + tl.log(total) - tl.log(mass),
            log_prob + number * CHOSEN, tl.load(log_tail + number).to(tl.float32), temperature, CHOSEN, WIDTH,
        )  # fmt: skip
        mass_at_one = inside_sum_at_one + total_at_one * share_at_one
        pull, hard = to_soft / temperature, to_hard / mass_at_one
        spread = pull * (share / mass - tl.where(tail > 0, tail / total, 0.0))  # p's tail is spread as q's is

        label, counts, known, unknown = _label(row, labels + number, to_hard, STATES)
        hard_loss = to_hard * (tl.log(mass_at_one) - (known - peak))
        _store_loss(lost, to_soft * divergence + tl.where(counts, hard_loss, 0.0), lacking + unknown)
        if MANY:
            before, before_at_one = _exponentials(first, top, scale, POWER)
            soft, at_one = soft * before, at_one * before_at_one
        _store_mixed(row, gradient, soft, at_one, top, spread, hard * share_at_one, scale, STATES, MANY, BLOCK, POWER)
        tl.debug_barrier()  # each chosen state's gradient after the one that it replaces
        at_states = pull * (inside_soft / mass - prob) + hard * inside_at_one
        at_states -= tl.where((own == label) & counts, to_hard, 0.0)
        _scatter(gradient, own, exists, at_states)
        of_label = _mixed_at(known, top, spread, hard * share_at_one, scale, POWER) - to_hard
        _scatter(gradient, label, counts & (tl.sum((own == label).to(tl.int32)) == 0), of_label)


@triton.jit
def _top_k_divergence(student, student_tail, log_prob, log_tail, temperature,
                      CHOSEN: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    """The divergence of k + 1 classes, the teachers' probabilities at T ``[WIDTH]``, and that of their tail."""
    number = tl.arange(0, WIDTH)
    wanted = tl.load(log_prob + number, mask=number < CHOSEN, other=MINUS_INFINITY).to(tl.float32)
    scaled = (wanted - tl.max(wanted)) / temperature
    kept, tail = _less_than_one(log_tail), tl.exp(log_tail)
    sum_of_all = tl.sum(tl.exp(scaled))
    prob = tl.exp(scaled) / sum_of_all * kept
    log_of_prob = scaled - tl.log(sum_of_all) + tl.log(kept)
    divergence = tl.sum(tl.where(prob > 0, prob * (log_of_prob - student), 0.0))
    return divergence + tl.where(tail > 0, tail * (log_tail - student_tail), 0.0), prob, tail


@triton.jit
def _mixed_at(logit, top, to_soft, to_hard, scale, POWER: tl.constexpr):
    """What ``_store_mixed`` stores at a state with this ``logit``."""
    soft, at_one = _exponentials(logit, top, scale, POWER)
    return _mix(soft, to_soft, at_one, to_hard, POWER)


@triton.jit
def _scatter(gradient, state, mask, values):
    tl.store(gradient + state, values.to(gradient.dtype.element_ty), mask=mask)


@triton.jit
def sampled(logits, state, weight, labels, weights, gradient, lost, temperature,
            STATES, CHOSEN: tl.constexpr, WIDTH: tl.constexpr,
            MANY: tl.constexpr, BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The objective of a row with sampled targets."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * STATES, gradient + number * STATES, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, STATES, BLOCK)
        tl.store(lost, 0.0)
    else:
        state, weight, scale = state + number * CHOSEN, weight + number * CHOSEN, _scale(temperature)
        values = load(row, 0, STATES, BLOCK)
        first = tl.maximum(tl.max(values), LEAST)
        soft, at_one = _exponentials(values, first, scale, POWER)
        total, total_at_one = _sums(soft, at_one, POWER)
        top = first
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                more = load(row, start, STATES, BLOCK)
                top, total, total_at_one = _join(more, top, total, total_at_one, scale, POWER)

        own, exists, inside, lacking = _chosen(row, state, STATES, CHOSEN, WIDTH)
        place = tl.arange(0, WIDTH)
        drawn = tl.load(weight + place, mask=place < CHOSEN, other=0.0).to(tl.float32)
        mass = tl.sum(drawn)
        divergence = mass * tl.log(total) - tl.sum(tl.where(exists, drawn * (inside - top), 0.0)) / temperature
        label, counts, known, unknown = _label(row, labels + number, to_hard, STATES)
        hard_loss = to_hard * (tl.log(total_at_one) - (known - top))
        _store_loss(lost, to_soft * divergence + tl.where(counts, hard_loss, 0.0), lacking + unknown)

        pull, hard = to_soft / temperature, to_hard / total_at_one
        spread = pull * mass / total
        if MANY:
            before, before_at_one = _exponentials(first, top, scale, POWER)
            soft, at_one = soft * before, at_one * before_at_one
        _store_mixed(row, gradient, soft, at_one, top, spread, hard, scale, STATES, MANY, BLOCK, POWER)
        tl.debug_barrier()  # each chosen state's gradient after the one that it replaces
        weight_of_state = tl.zeros([WIDTH], tl.float32)  # a state may have been drawn twice
        for other in range(CHOSEN):
            again = own == tl.load(state + other)
            weight_of_state += tl.where(again, tl.load(weight + other).to(tl.float32), 0.0)
        at_states = _mixed_at(inside, top, spread, hard, scale, POWER) - pull * weight_of_state
        at_states -= tl.where((own == label) & counts, to_hard, 0.0)
        _scatter(gradient, own, exists, at_states)
        of_label = _mixed_at(known, top, spread, hard, scale, POWER) - to_hard
        _scatter(gradient, label, counts & (tl.sum((own == label).to(tl.int32)) == 0), of_label)


@triton.jit
def _teacher(wanted, best, values, top, scale):
    """The teachers' exponentials, their sum, and their sum times T x (log teacher - log student), both unnormalised."""
    prob = tl.exp2((wanted - best) * scale)
    apart = (wanted - best) - (values - top)
    return prob, tl.sum(prob), tl.sum(tl.where(prob > 0, prob * apart, 0.0))


@triton.jit
def dense(logits, log_prob, labels, weights, gradient, lost, temperature,
          STATES, MANY: tl.constexpr, BLOCK: tl.constexpr, POWER: tl.constexpr):  # fmt: skip
    """The objective of a row with the log-probability of every state."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * STATES, gradient + number * STATES, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, STATES, BLOCK)
        tl.store(lost, 0.0)
    else:
        log_prob, scale = log_prob + number * STATES, _scale(temperature)
        values, wanted = load(row, 0, STATES, BLOCK), load(log_prob, 0, STATES, BLOCK)
        first, first_best = tl.maximum(tl.max(values), LEAST), tl.maximum(tl.max(wanted), LEAST)
        soft, at_one = _exponentials(values, first, scale, POWER)
        total, total_at_one = _sums(soft, at_one, POWER)
        prob, teacher_total, cross = _teacher(wanted, first_best, values, first, scale)
        top, best = first, first_best
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                values, wanted = load(row, start, STATES, BLOCK), load(log_prob, start, STATES, BLOCK)
                new, total, total_at_one = _join(values, top, total, total_at_one, scale, POWER)
                new_best = tl.maximum(best, tl.max(wanted))
                _, more, more_cross = _teacher(wanted, new_best, values, new, scale)
                before = tl.exp2((best - new_best) * scale)
                cross = before * (cross - teacher_total * ((new_best - best) - (new - top))) + more_cross
                teacher_total = teacher_total * before + more
                top, best = new, new_best

        divergence = cross / teacher_total / temperature - tl.log(teacher_total) + tl.log(total)
        label, counts, known, unknown = _label(row, labels + number, to_hard, STATES)
        hard_loss = to_hard * (tl.log(total_at_one) - (known - top))
        _store_loss(lost, to_soft * divergence + tl.where(counts, hard_loss, 0.0), unknown)

        spread, hard = to_soft / temperature / total, to_hard / total_at_one
        less = to_soft / temperature / teacher_total
        if MANY:
            before, before_at_one = _exponentials(first, top, scale, POWER)
            soft, at_one, prob = soft * before, at_one * before_at_one, prob * tl.exp2((first_best - best) * scale)
        store(gradient, 0, _mix(soft, spread, at_one, hard, POWER) - less * prob, STATES, BLOCK)
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                mixed = _mixed_at(load(row, start, STATES, BLOCK), top, spread, hard, scale, POWER)
                prob_there = tl.exp2((load(log_prob, start, STATES, BLOCK) - best) * scale)
                store(gradient, start, mixed - less * prob_there, STATES, BLOCK)
        tl.debug_barrier()  # the label's gradient after the one that it replaces
        wanted_there = tl.load(log_prob + label, mask=counts, other=0.0).to(tl.float32)
        of_label = _mixed_at(known, top, spread, hard, scale, POWER) - less * tl.exp2((wanted_there - best) * scale)
        _scatter(gradient, label, counts, of_label - to_hard)


@triton.jit
def labelled(logits, labels, weights, gradient, lost, smoothing, STATES, MANY: tl.constexpr, BLOCK: tl.constexpr):
    """The hard term of a row alone, with label smoothing; only the second column of ``weights`` counts."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * STATES, gradient + number * STATES, lost + number
    to_hard = tl.load(weights + 2 * number + 1)
    if to_hard == 0:
        _clear(gradient, STATES, BLOCK)
        tl.store(lost, 0.0)
    else:
        values = load(row, 0, STATES, BLOCK)
        first = tl.maximum(tl.max(values), LEAST)
        prob = tl.exp2((values - first) * LOG2_E)
        total, top, below = tl.sum(prob), first, _sum_below(values, first, 0, STATES, BLOCK)
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                more = load(row, start, STATES, BLOCK)
                below += _sum_below(more, first, start, STATES, BLOCK)
                top, total, _ = _join(more, top, total, total, LOG2_E, 1)
        label, counts, known, unknown = _label(row, labels + number, to_hard, STATES)
        mean = below / STATES + (first - top)  # of the logits, relative to the greatest
        _store_loss(lost, to_hard * (tl.log(total) - (1 - smoothing) * (known - top) - smoothing * mean), unknown)

        even = to_hard * smoothing / STATES
        store(gradient, 0, to_hard / total * tl.exp2((first - top) * LOG2_E) * prob - even, STATES, BLOCK)
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                prob = tl.exp2((load(row, start, STATES, BLOCK) - top) * LOG2_E)
                store(gradient, start, to_hard / total * prob - even, STATES, BLOCK)
        tl.debug_barrier()  # the label's gradient after the one that it replaces
        of_label = to_hard * (tl.exp2((known - top) * LOG2_E) / total - (1 - smoothing)) - even
        _scatter(gradient, label, counts, of_label)


@triton.jit
def _sum_below(values, top, start, STATES, BLOCK: tl.constexpr):
    return tl.sum(tl.where(columns(start, BLOCK) < STATES, values - top, 0.0))


@triton.jit
def matched(logits, teacher, labels, weights, gradient, lost, STATES, MANY: tl.constexpr, BLOCK: tl.constexpr):
    """The objective of logit matching of a row, and the hard term."""
    number = tl.program_id(0).to(tl.int64)
    row, gradient, lost = logits + number * STATES, gradient + number * STATES, lost + number
    to_soft, to_hard = tl.load(weights + 2 * number), tl.load(weights + 2 * number + 1)
    if (to_soft == 0) & (to_hard == 0):
        _clear(gradient, STATES, BLOCK)
        tl.store(lost, 0.0)
    else:
        teacher += number * STATES
        values = load(row, 0, STATES, BLOCK)
        apart = _apart(values, teacher, 0, STATES, BLOCK)
        first = tl.maximum(tl.max(values), LEAST)
        prob = tl.exp2((values - first) * LOG2_E)
        total, top, mean = tl.sum(prob), first, tl.sum(apart)
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                more = load(row, start, STATES, BLOCK)
                mean += tl.sum(_apart(more, teacher, start, STATES, BLOCK))
                top, total, _ = _join(more, top, total, total, LOG2_E, 1)
        mean, pull, hard = mean / STATES, to_soft / STATES, to_hard / total
        prob *= tl.exp2((first - top) * LOG2_E)
        squares = _sum_of_squares(apart - mean, 0, STATES, BLOCK)
        store(gradient, 0, pull * (apart - mean) + hard * prob, STATES, BLOCK)
        if MANY:
            for start in range(BLOCK, STATES, BLOCK):
                more = load(row, start, STATES, BLOCK)
                apart = _apart(more, teacher, start, STATES, BLOCK) - mean
                squares += _sum_of_squares(apart, start, STATES, BLOCK)
                store(gradient, start, pull * apart + hard * tl.exp2((more - top) * LOG2_E), STATES, BLOCK)

        label, counts, known, unknown = _label(row, labels + number, to_hard, STATES)
        hard_loss = to_hard * (tl.log(total) - (known - top))
        _store_loss(lost, pull * squares / 2 + tl.where(counts, hard_loss, 0.0), unknown)
        tl.debug_barrier()  # the label's gradient after the one that it replaces
        apart_there = known - tl.load(teacher + label, mask=counts, other=0.0).to(tl.float32) - mean
        of_label = pull * apart_there + hard * tl.exp2((known - top) * LOG2_E) - to_hard
        _scatter(gradient, label, counts, of_label)


@triton.jit
def _apart(values, teacher, start, STATES, BLOCK: tl.constexpr):
    """The student's logits minus the teachers', 0 past the end."""
    return tl.where(columns(start, BLOCK) < STATES, values - load(teacher, start, STATES, BLOCK), 0.0)


@triton.jit
def _sum_of_squares(apart, start, STATES, BLOCK: tl.constexpr):
    return tl.sum(tl.where(columns(start, BLOCK) < STATES, apart * apart, 0.0))


@triton.jit
def scale_unless_one(gradient, factor, size, BLOCK: tl.constexpr):
    """Multiply ``gradient`` in place by the number at ``factor``; if that is 1, nothing else is read."""
    by = tl.load(factor).to(tl.float32)
    if by != 1:
        place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(gradient + place, mask=place < size, other=0.0).to(tl.float32)
        tl.store(gradient + place, (values * by).to(gradient.dtype.element_ty), mask=place < size)
