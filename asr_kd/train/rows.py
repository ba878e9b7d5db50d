"""The distillation objective on a CPU, for logits in float32 or bfloat16: compiled, a row at a time.

The formulas are those of ``asr_kd.train.distillation``. Logits, targets and gradient pass through memory once. All else
of the width of a row stays in the processor's caches, and threads synchronise once instead of at each operation.

The numbers of a row are float32; those of its few chosen states, and its sums, are float64.
"""

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import UserError
from asr_kd.kernels import (
    bits_of,
    exponentials,
    greatest_of,
    in_threads,
    load,
    row_inlined,
    row_kernel,
    scratch_rows,
    store,
)
from asr_kd.targets.forms import Dense, SoftTargets, TopK


def serves(logits: Tensor) -> bool:
    """Whether ``objective`` can take such logits."""
    return logits.device.type == "cpu" and logits.dtype in (torch.float32, torch.bfloat16)


def objective(
    logits: Tensor, targets: SoftTargets, labels: Tensor, temperature: float, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, a sum over rows, and its gradient, in the shape and type of ``logits [rows, states]``.

    ``weights [rows, 2]``: soft and hard. A row with two weights of 0 gets the gradient 0 and is not read. Raises
    ``UserError`` for a label or a target's state that the student does not have, and ``ValueError`` for targets of
    another shape.
    """
    check_shapes(logits, targets, labels, weights)
    _check_states(labels, -1, logits.shape[1], "label")
    logits, lost = logits.contiguous(), np.zeros(len(logits))
    gradient = torch.empty_like(logits)
    rows, weighed = bits_of(logits), weights.double().numpy()
    common = (labels.numpy(), weighed, float(temperature), bits_of(gradient), lost)
    if isinstance(targets, Dense):
        dense = targets.log_prob if targets.log_prob.dtype == torch.float16 else targets.log_prob.float()
        in_threads(_dense, rows, bits_of(dense.contiguous()), *common)
    else:
        _check_states(targets.state, 0, logits.shape[1], "soft target")
        state = targets.state.long().contiguous().numpy()
        if isinstance(targets, TopK):
            log_prob, log_tail = targets.log_prob.double().contiguous(), targets.log_tail.double().contiguous()
            in_threads(_top_k, rows, state, log_prob.numpy(), log_tail.numpy(), *common)
        else:
            in_threads(_sampled, rows, state, targets.weight.double().contiguous().numpy(), *common)
    return torch.tensor(lost.sum(), dtype=torch.float32), gradient


def check_shapes(logits: Tensor, targets: SoftTargets, labels: Tensor, weights: Tensor) -> None:
    """Compiled code would read past the end of a shorter array."""
    rows = len(logits)
    expected: dict[str, tuple[int, ...]]
    if isinstance(targets, Dense):
        expected = {"log_prob": tuple(logits.shape)}
    elif isinstance(targets, TopK):
        expected = {"state": (rows, *targets.log_prob.shape[1:]), "log_tail": (rows,)}
        expected["log_prob"] = expected["state"]
    else:
        expected = {"state": (rows, *targets.weight.shape[1:])}
        expected["weight"] = expected["state"]
    found = {name: tuple(getattr(targets, name).shape) for name in expected}
    expected |= {"labels": (rows,), "weights": (rows, 2)}
    found |= {"labels": tuple(labels.shape), "weights": tuple(weights.shape)}
    if found != expected:
        raise ValueError(f"targets {found} for logits {tuple(logits.shape)}; expected {expected}")


def _check_states(numbers: Tensor, least: int, states: int, what: str) -> None:
    """Compiled code would write past the end of the row."""
    if numbers.numel() and not (least <= int(numbers.min()) and int(numbers.max()) < states):
        wrong = numbers[(numbers < least) | (numbers >= states)][0]
        raise UserError(f"a {what} is state {int(wrong)}; the student has states 0 to {states - 1}")


@row_inlined
def _load_targets(row, bits):  # type: ignore[no-untyped-def]
    """As ``load``, for float32 or float16, whose exponents have another bias; infinities and NaN stay."""
    if row.itemsize == 4:
        bits[:] = row
        return
    for j in range(len(row)):
        size = (np.uint32(row[j]) & np.uint32(0x7FFF)) << np.uint32(13)
        special = np.uint32(0x70000000) if size >= np.uint32(0x0F800000) else np.uint32(0)
        bits[j] = (size + special) | ((np.uint32(row[j]) & np.uint32(0x8000)) << np.uint32(16))
    value = bits.view(np.float32)
    for j in range(len(row)):
        value[j] *= np.float32(2.0**112)


@row_inlined
def _both(row, greatest, temperature, hard, soft, at_one, bits):  # type: ignore[no-untyped-def]
    """Exponentials of the logits minus ``greatest``: at T in ``soft``, and at 1 if ``hard`` is not 0; both sums."""
    scale = np.float32(1 / temperature)
    total, total_at_one = exponentials(row, scale, greatest * scale, soft, bits), np.float32(0)
    if hard == 0:
        return total, 0.0
    if temperature == 1:
        at_one[:] = soft
        return total, total
    if temperature == 2:  # the square of an exponential is cheaper than another one
        for j in range(len(row)):
            at_one[j] = soft[j] * soft[j]
            total_at_one += at_one[j]
        return total, np.float64(total_at_one)
    return total, exponentials(row, np.float32(1), greatest, at_one, bits)


@row_inlined
def _mix(soft, factor, at_one, hard):  # type: ignore[no-untyped-def]
    """The gradient so far, in ``soft``: ``factor`` times the exponentials at T plus ``hard`` times those at 1."""
    factor, other = np.float32(factor), np.float32(hard)
    if hard == 0:
        for j in range(len(soft)):
            soft[j] *= factor
    else:
        for j in range(len(soft)):
            soft[j] = factor * soft[j] + other * at_one[j]


@row_kernel
def _top_k(logits, state, log_prob, log_tail, labels, weights, temperature, gradient, lost, begin, end):  # type: ignore[no-untyped-def]
    states, k = logits.shape[1], state.shape[1]
    scratch = scratch_rows(4, states)
    row, soft, at_one = scratch[0, :states], scratch[1, :states], scratch[2, :states]
    raw, bits = row.view(np.uint32), scratch[3, :states].view(np.int32)
    inside, teacher, chosen = np.empty(k), np.empty(k), np.empty(k)
    for i in range(begin, end):
        to_soft, to_hard = weights[i]
        if to_soft == 0 and to_hard == 0:
            gradient[i] = 0
            continue
        load(logits[i], raw)
        known = row[labels[i]] if to_hard else np.float32(0)
        for c in range(k):
            inside[c] = row[state[i, c]]
        greatest = greatest_of(row) if k == states else np.float32(0)
        for c in range(k):
            row[state[i, c]] = -np.inf
        greatest = greatest if k == states else greatest_of(row)
        outside, outside_at_one = _both(row, greatest, temperature, to_hard, soft, at_one, bits)

        # All chosen states are relative to the greatest of them, which may be far above the greatest outside.
        most, total = _soften(inside, temperature, chosen)
        best, teacher_total = _soften(log_prob[i], temperature, teacher)
        apart = (most - greatest) / temperature
        log_inside, log_outside = apart + np.log(total), np.log(outside)
        log_sum = _log_add(log_inside, log_outside)
        tail = np.exp(log_tail[i])
        log_kept = np.log1p(-tail)

        divergence = tail * (log_tail[i] - (log_outside - log_sum)) if tail > 0 else 0.0
        pull = to_soft / temperature
        to_chosen = np.exp(apart - log_sum)
        for c in range(k):
            prob = teacher[c] / teacher_total * np.exp(log_kept)
            if prob > 0:
                log_teacher = (log_prob[i, c] - best) / temperature - np.log(teacher_total) + log_kept
                divergence += prob * (log_teacher - ((inside[c] - greatest) / temperature - log_sum))
            teacher[c] = pull * (chosen[c] * to_chosen - prob)  # the gradient there
        lost[i] = to_soft * divergence
        spread = np.exp(-log_sum) - (tail / outside if tail > 0 else 0.0)  # p's tail is spread as q's is

        hard = 0.0
        if to_hard:
            _, total = _soften(inside, 1.0, chosen)
            apart = most - np.float64(greatest)
            log_sum = _log_add(apart + np.log(total), np.log(outside_at_one))
            lost[i] += to_hard * (log_sum - (np.float64(known) - greatest))
            hard, to_chosen = to_hard * np.exp(-log_sum), to_hard * np.exp(apart - log_sum)
            for c in range(k):
                teacher[c] += to_chosen * chosen[c]
        _mix(soft, pull * spread, at_one, hard)
        for c in range(k):
            soft[state[i, c]] = teacher[c]
        if to_hard:
            soft[labels[i]] -= np.float32(to_hard)
        store(soft.view(np.uint32), gradient[i])


@row_inlined
def _soften(values, temperature, result):  # type: ignore[no-untyped-def]
    """Exponentials of a few values over T, minus the greatest value; returns that value and their sum."""
    greatest, total = values.max(), 0.0
    for c in range(len(values)):
        result[c] = np.exp((values[c] - greatest) / temperature)
        total += result[c]
    return greatest, total


@row_inlined
def _log_add(one, other):  # type: ignore[no-untyped-def]
    low, high = min(one, other), max(one, other)
    return high + np.log1p(np.exp(low - high)) if low > -np.inf else high


@row_kernel
def _sampled(logits, state, weight, labels, weights, temperature, gradient, lost, begin, end):  # type: ignore[no-untyped-def]
    states = logits.shape[1]
    scratch = scratch_rows(4, states)
    row, soft, at_one = scratch[0, :states], scratch[1, :states], scratch[2, :states]
    raw, bits = row.view(np.uint32), scratch[3, :states].view(np.int32)
    for i in range(begin, end):
        to_soft, to_hard = weights[i]
        if to_soft == 0 and to_hard == 0:
            gradient[i] = 0
            continue
        load(logits[i], raw)
        greatest = greatest_of(row)
        total, total_at_one = _both(row, greatest, temperature, to_hard, soft, at_one, bits)
        mass = drawn = 0.0
        for c in range(state.shape[1]):
            mass += weight[i, c]
            drawn += weight[i, c] * (np.float64(row[state[i, c]]) - greatest)
        lost[i] = to_soft * (mass * np.log(total) - drawn / temperature)
        pull = to_soft / temperature
        _mix(soft, pull * mass / total, at_one, to_hard / total_at_one if to_hard else 0.0)
        for c in range(state.shape[1]):
            soft[state[i, c]] -= np.float32(pull * weight[i, c])
        if to_hard:
            lost[i] += to_hard * (np.log(total_at_one) - (np.float64(row[labels[i]]) - greatest))
            soft[labels[i]] -= np.float32(to_hard)
        store(soft.view(np.uint32), gradient[i])


@row_kernel
def _dense(logits, log_prob, labels, weights, temperature, gradient, lost, begin, end):  # type: ignore[no-untyped-def]
    states = logits.shape[1]
    scratch = scratch_rows(6, states)
    row, soft, at_one = scratch[0, :states], scratch[1, :states], scratch[2, :states]
    raw, bits = row.view(np.uint32), scratch[3, :states].view(np.int32)
    wanted, teacher = scratch[4, :states], scratch[5, :states]
    given = wanted.view(np.uint32)
    scale = np.float32(1 / temperature)
    for i in range(begin, end):
        to_soft, to_hard = weights[i]
        if to_soft == 0 and to_hard == 0:
            gradient[i] = 0
            continue
        load(logits[i], raw)
        _load_targets(log_prob[i], given)
        greatest, best = greatest_of(row), greatest_of(wanted)
        total, total_at_one = _both(row, greatest, temperature, to_hard, soft, at_one, bits)
        teacher_total = exponentials(wanted, scale, best * scale, teacher, bits)
        cross = np.float32(0)
        for j in range(states):
            apart = (wanted[j] - best) * scale
            apart = np.float32(-1e30) if apart < np.float32(-1e30) else apart  # so that 0 log 0 is 0
            cross += teacher[j] * (apart - (row[j] - greatest) * scale)
        lost[i] = to_soft * (cross / teacher_total - np.log(teacher_total) + np.log(total))
        pull = to_soft / temperature
        _mix(soft, pull / total, at_one, to_hard / total_at_one if to_hard else 0.0)
        less = np.float32(pull / teacher_total)
        for j in range(states):
            soft[j] -= less * teacher[j]
        if to_hard:
            lost[i] += to_hard * (np.log(total_at_one) - (np.float64(row[labels[i]]) - greatest))
            soft[labels[i]] -= np.float32(to_hard)
        store(soft.view(np.uint32), gradient[i])
