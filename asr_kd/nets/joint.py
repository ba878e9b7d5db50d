"""The joint distribution of a generalist and its active specialists (Hinton et al. 2015, section 5.4).

For one frame, p is the generalist's distribution. Each active specialist m has r_m over its own states S_m, and the
mass d_m of its dustbin, which stands for all others. The result is the distribution q that minimises

    KL(p || q) + sum_m KL(r_m, d_m || q on S_m, D_m),   D_m = the sum of q over the states outside S_m,

Up to a constant this is -sum_i w_i log q_i - sum_m d_m log D_m, with w_i = p_i + the sum of r_m,i over the m that own
i, and it is convex in q. The paper minimises it by gradient descent on the logits of q, for each input. Here it is
solved exactly:

- States owned by the same active specialists form an *atom*. They share its mass Q_a in proportion to their w_i, so
  only the masses Q_a are unknown.
- Let y_m be the multiplier of the constraint that defines D_m. The Lagrange dual maximises
  sum_a w_a log c_a + sum_m d_m log y_m, where c_a = W - the sum of y_m over the m that do not own a. W, the sum of all
  w and d, is 1 + the number of active specialists. At the optimum each product equals its weight: Q_a c_a = w_a and D_m
  y_m = d_m.
- One active specialist: y = d / D, so that q_i = w_i / 2 on S_m and all others are scaled to (p's rest + d) / 2.
- Several: Newton's method on all products at once. At first no target is below a bar, which then falls to 0 (a
  primal-dual interior-point method; Jansen, Roos, Terlaky and Vial, "Primal-dual target-following algorithms for linear
  programming", Annals of Operations Research 62, 1996). Its matrix is regular as long as all quantities are positive:
  after eliminating the steps of c and y it is diag(Q c) + sum_m y_m / D_m Q_m Q_m', which is positive definite (Q_m:
  the masses outside S_m). To first order a step moves all products by the same fraction of the way to their targets, so
  backtracking on the largest relative distance always terminates, and the distance falls to 0.

Newton's method on the primal or the dual alone fails where p and some r_m are nearly 0 on an atom that dustbins fill:
its c_a is then near 0 and lost in rounding. The products keep the relative accuracy of each factor.

An atom's weight is taken to be at least e^-690. In an atom whose weights are all 0, the states share evenly what the
dustbins give. A specialist that owns all states has an empty dustbin: it is left out, and W is smaller by its mass.
"""

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from asr_kd.compiling import compiled
from asr_kd.errors import UserError

BLOCK = 1 << 20  # log-probabilities per block: 8 MB in float64
LEAST = math.exp(-690)
NEAR = 3.0  # the bar falls once the relative distance from all targets is below this
EXACT = 1e-10  # the search ends below this distance
ROUGH, NOTHING = 1e-6, 1e-16  # relative and absolute errors of products that may remain after all steps
STEPS = 200  # of Newton's method; 5 to 20 are usual, about 60 where weights are near LEAST
REACH = 1 - 1e-6  # the fraction of the way to the first zero that a step may go
SUMS_TO = 0.01  # relative tolerance of the sum of all given probabilities
_WRONG_SUM, _NO_END = 1, 2


def active_specialists(log_p: Tensor, members: Sequence[np.ndarray], n: int) -> Tensor:
    """The specialists that own at least one of the ``n`` most probable states: bool ``[frames, specialists]``.

    ``log_p`` ``[frames, states]`` of the generalist; ``members``: the states of each specialist. Raises ``UserError``
    for an ``n`` below 1 or above the number of states, and for members that are not among these states.
    """
    states = log_p.shape[1]
    if not 1 <= n <= states:
        raise UserError(f"active is {n} for {states} states; expected 1 to {states}")
    check_members(members, states)
    best = torch.zeros(log_p.shape, dtype=torch.bool, device=log_p.device)
    best.scatter_(1, log_p.topk(n, dim=1).indices, True)
    active = torch.zeros(len(log_p), len(members), dtype=torch.bool, device=log_p.device)
    for number, own in enumerate(members):
        active[:, number] = best[:, torch.from_numpy(own).to(log_p.device)].any(1)
    return active


def joint(log_p: Tensor, log_r: Sequence[Tensor], members: Sequence[np.ndarray], active: Tensor) -> Tensor:
    """Natural log of the q defined above, ``[frames, states]``, in the type and on the device of ``log_p``.

    It is computed on the CPU in float64, with as many threads as torch uses.

    ``log_p`` ``[frames, states]`` of the generalist; ``log_r``: of each specialist ``[frames, its states + 1]``, in the
    order of its ``members``, the dustbin last; natural logs of distributions. ``active`` ``[frames, specialists]``
    bool: the outputs of other specialists are ignored, and a frame without any has q = p. Specialists may overlap.
    Where p is positive, so is q.

    Time per frame: linear in the states, plus the cube of the number of atoms and active specialists. Memory: the
    result and a few times ``BLOCK`` log-probabilities. Raises ``UserError`` if shapes do not fit, and for the first
    frame whose distributions do not add up to 1.
    """
    _check_shapes(log_p, log_r, members, active)
    owned = np.concatenate([np.zeros(0, np.int64), *members])
    starts = np.cumsum([0, *map(len, members)])
    log_q = torch.empty_like(log_p, device="cpu", requires_grad=False)
    status = np.zeros(len(log_p), np.int8)
    rows, threads = max(1, BLOCK // log_p.shape[1]), torch.get_num_threads()
    with ThreadPoolExecutor(threads, "joint") as pool:
        for begin in range(0, len(log_p), rows):
            part = slice(begin, begin + rows)
            answer, *special = (tensor[part].detach().cpu().double() for tensor in (log_p, *log_r))
            answer = answer.clone(memory_format=torch.contiguous_format)
            outputs = torch.cat([answer[:, :0], *special], 1)
            arrays = answer.numpy(), outputs.numpy(), active[part].cpu().contiguous().numpy(), status[part]
            shares = [np.array_split(array, threads) for array in arrays]
            list(pool.map(_frames, *shares, itertools.repeat(owned), itertools.repeat(starts)))
            log_q[part] = answer
    _check_status(status, active)
    return log_q.to(log_p.device)


def own_and_dustbin(log_r: Tensor, own: np.ndarray) -> Tensor:
    """Log-probabilities of all states ``[frames, states]`` -> of the states ``own``, and of the others together (the
    dustbin), ``[frames, own + 1]``."""
    index = torch.from_numpy(own).to(log_r.device)
    others = log_r.index_fill(1, index, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([log_r[:, index], others], 1)


def check_members(members: Sequence[np.ndarray], states: int) -> None:
    """``UserError`` unless each of ``members`` is one or more different states of ``states``."""
    for number, own in enumerate(members):
        if not len(own) or len(np.unique(own)) < len(own):
            raise UserError(f"specialist {number} has states {own.tolist()}; expected one or more, each once")
        if own.min() < 0 or own.max() >= states:
            raise UserError(f"specialist {number} has states {own.min()} to {own.max()}; the generalist has {states}")


def _check_shapes(log_p: Tensor, log_r: Sequence[Tensor], members: Sequence[np.ndarray], active: Tensor) -> None:
    frames, states = log_p.shape
    check_members(members, states)
    if len(log_r) != len(members) or active.shape != (frames, len(members)):
        raise UserError(
            f"outputs of {len(log_r)} specialists and choices of shape {list(active.shape)} for {frames} frames and the"
            f" states of {len(members)} specialists; the numbers must agree"
        )
    for number, (outputs, own) in enumerate(zip(log_r, members, strict=True)):
        if outputs.shape != (frames, len(own) + 1):
            raise UserError(
                f"specialist {number}: outputs of shape {list(outputs.shape)}; expected {[frames, len(own) + 1]}: its"
                f" {len(own)} states and the dustbin"
            )


def _check_status(status: np.ndarray, active: Tensor) -> None:
    if not status.any():
        return
    frame = int(np.flatnonzero(status)[0])
    who = ", ".join(map(str, active[frame].nonzero().flatten().tolist()))
    if status[frame] == _NO_END:
        raise ArithmeticError(
            f"frame {frame}, specialists {who}: the joint inference did not converge in {STEPS} steps"
        )
    raise UserError(
        f"frame {frame}: the probabilities of the generalist or of a specialist ({who} are active) do not add up to 1;"
        " expected natural logs of distributions"
    )


_compiled = compiled(error_model="numpy")


@_compiled
def _frames(log_q, outputs, active, status, owned, starts):  # type: ignore[no-untyped-def]
    """Replace log p of each frame by log q; ``outputs``: the outputs of all specialists side by side."""
    for f in range(len(log_q)):
        slots = np.flatnonzero(active[f])
        if len(slots):
            status[f] = _frame(log_q[f], outputs[f], slots, owned, starts)


@_compiled
def _frame(log_w, outputs, slots, owned, starts):  # type: ignore[no-untyped-def]
    """Replace ``log_w [states]``, initially log p, by log q, with the specialists ``slots`` active; m's states are
    ``owned[starts[m] : starts[m + 1]]``. Returns a status, 0 for success."""
    atom, outside = _atoms(slots, owned, starts, len(log_w))
    dustbin = np.empty(len(slots))
    for k in range(len(slots)):
        m = slots[k]
        for j in range(starts[m], starts[m + 1]):
            log_w[owned[j]] = _log_add(log_w[owned[j]], outputs[j + m])
        dustbin[k] = math.exp(outputs[starts[m + 1] + m])
    log_weight = _log_sums(log_w, atom, outside.shape[1])
    given = np.exp(log_weight).sum() + dustbin.sum()
    if not abs(given - 1 - len(slots)) <= SUMS_TO * (1 + len(slots)):  # so NaN is wrong too
        return _WRONG_SUM

    live = 0
    for k in range(len(slots)):
        if dustbin[k] > LEAST and outside[k].any():
            dustbin[live] = dustbin[k]
            outside[live] = outside[k]
            live += 1
    offset, found = _masses(np.maximum(np.exp(log_weight), LEAST), dustbin[:live], outside[:live])
    for a in range(len(offset)):
        offset[a] = math.log(offset[a])
        offset[a] -= log_weight[a] if log_weight[a] > -np.inf else math.log((atom == a).sum())
    for i in range(len(log_w)):
        log_w[i] = offset[atom[i]] + (log_w[i] if log_weight[atom[i]] > -np.inf else 0.0)
    return 0 if found else _NO_END


@_compiled
def _atoms(slots, owned, starts, states):  # type: ignore[no-untyped-def]
    """The atom of each state, and ``outside [slots, atoms]``: whether the atom lies outside the specialist's states."""
    atom, size, moved = np.zeros(states, np.int64), np.zeros(states, np.int64), np.zeros(states, np.int64)
    outside = np.zeros((len(slots), states), np.bool_)
    atoms, size[0] = 1, states
    for k in range(len(slots)):
        first, end = starts[slots[k]], starts[slots[k] + 1]
        inside = np.zeros(atoms, np.int64)
        for j in range(first, end):
            inside[atom[owned[j]]] += 1
        for a in range(len(inside)):
            moved[a] = a
            outside[k, a] = inside[a] < size[a]
            if 0 < inside[a] < size[a]:  # split it; otherwise it is inside or outside as a whole
                moved[a] = atoms
                for earlier in range(k):
                    outside[earlier, atoms] = outside[earlier, a]
                size[atoms] = inside[a]
                size[a] -= inside[a]
                atoms += 1
        for j in range(first, end):
            atom[owned[j]] = moved[atom[owned[j]]]
    return atom, outside[:, :atoms]


@_compiled
def _log_add(one, other):  # type: ignore[no-untyped-def]
    if one < other:
        one, other = other, one
    return one if other == -np.inf else one + math.log1p(math.exp(other - one))


@_compiled
def _log_sums(log_w, atom, atoms):  # type: ignore[no-untyped-def]
    """The log of the sum of the weights of each atom."""
    top = np.full(atoms, -np.inf)
    for i in range(len(log_w)):
        top[atom[i]] = max(top[atom[i]], log_w[i])
    for a in range(atoms):
        top[a] = top[a] if top[a] > -np.inf else 0.0
    total = np.zeros(atoms)
    for i in range(len(log_w)):
        total[atom[i]] += math.exp(log_w[i] - top[atom[i]])
    return top + np.log(total)


@_compiled
def _masses(weight, dustbin, outside):  # type: ignore[no-untyped-def]
    """Q ``[atoms]`` from their weights, and whether the search converged."""
    atoms, live = len(weight), len(dustbin)
    whole = weight.sum() + dustbin.sum()
    if live < 2:
        mass = weight.copy()
        for k in range(live):
            mass += outside[k] * weight * (dustbin[k] / (outside[k] * weight).sum())
        return mass / whole, True
    wanted = np.concatenate((weight, dustbin))
    primal = np.full(atoms + live, 1 / atoms)  # Q and D
    dual = np.full(atoms + live, whole / (2 * live))  # c and y
    for a in range(atoms):
        dual[a] = whole - outside[:, a].sum() * dual[atoms]
    _sum_outside(primal, outside)
    bar = 1.0
    target = np.maximum(wanted, bar)
    distance = _distance(primal, dual, target)
    for _ in range(STEPS):
        while bar > 0 and distance < NEAR:
            bar *= max(1e-6, min(0.01, bar))  # the lower it is, the better a step predicts the next solution
            if bar <= wanted.min():
                bar = 0.0
            target = np.maximum(wanted, bar)
            distance = _distance(primal, dual, target)
        if bar == 0 and distance < EXACT:
            break
        nearer = _step(primal, dual, target, outside, whole)
        if nearer == distance:
            break
        distance = nearer
    # Where Q and c of an atom both tend to 0, rounding stops the search, or it is slow. The result counts as found if
    # all products equal their weights up to what the divergences, too, lose in rounding; small masses then follow from
    # c.
    found = True
    for i in range(len(wanted)):
        found = found and abs(primal[i] * dual[i] - wanted[i]) <= ROUGH * wanted[i] + NOTHING
    mass = np.empty(atoms)
    for a in range(atoms):
        mass[a] = weight[a] / dual[a] if dual[a] > primal[a] else primal[a]
    return mass / mass.sum(), found


@_compiled
def _sum_outside(primal, outside):  # type: ignore[no-untyped-def]
    """Fill in D, the mass outside each specialist, after the masses of the atoms."""
    live, atoms = outside.shape
    for k in range(live):
        total = 0.0
        for a in range(atoms):
            total += outside[k, a] * primal[a]
        primal[atoms + k] = total


@_compiled
def _distance(primal, dual, target):  # type: ignore[no-untyped-def]
    """The largest relative difference between the products and their targets."""
    far = 0.0
    for i in range(len(target)):
        far = max(far, abs(primal[i] * dual[i] / target[i] - 1))
    return far


@_compiled
def _step(primal, dual, target, outside, whole):  # type: ignore[no-untyped-def]
    """Move ``primal`` and ``dual`` so that their products come closer to ``target``, unless rounding prevents it.

    Returns the distance."""
    atoms, pairs = outside.shape[1], len(target)
    distance = _distance(primal, dual, target)
    rise, fall = _direction(primal, dual, target, outside, whole)
    steepest = -min(rise.min(), fall.min())
    step = 1.0 if steepest < REACH else REACH / steepest
    there, prices = np.empty(pairs), np.empty(pairs)
    while step > 1e-4:
        for a in range(atoms):
            there[a] = primal[a] * (1 + step * rise[a])
        _sum_outside(there, outside)
        central = True  # no product may fall far below its target
        for i in range(pairs):
            prices[i] = dual[i] * (1 + step * fall[i])
            central = central and there[i] * prices[i] >= 0.1 * min(target[i], primal[i] * dual[i])
        far = _distance(there, prices, target)
        if central and far <= (1 - step / 4) * distance:
            primal[:] = there
            dual[:] = prices
            return far
        step /= 2
    return distance


@_compiled
def _direction(primal, dual, target, outside, whole):  # type: ignore[no-untyped-def]
    """Newton's relative steps u of Q ``[atoms]`` and v of y; returns u and the relative steps of ``dual``.

    With lack = target / product - 1: c_a u_a - the sum of y_m v_m over the m that do not own a = c_a lack_a, since the
    step of c_a is minus that sum; and the mean of u over the atoms outside S_m, weighted by Q, + v_m = lack_m.
    """
    live, atoms = outside.shape
    matrix = np.zeros((atoms + live, atoms + live))
    right = np.empty(atoms + live)
    for i in range(atoms + live):
        matrix[i, i] = dual[i] / whole if i < atoms else 1.0  # a row's entries are at most 1, for the choice of pivots
        right[i] = matrix[i, i] * (target[i] / (primal[i] * dual[i]) - 1)
    for k in range(live):
        for a in range(atoms):
            if outside[k, a]:
                matrix[a, atoms + k] = -dual[atoms + k] / whole
                matrix[atoms + k, a] = primal[a] / primal[atoms + k]
    _eliminate(matrix, right)
    fall = right.copy()
    for a in range(atoms):
        fall[a] = target[a] / (primal[a] * dual[a]) - 1 - right[a]
    return right[:atoms], fall


@_compiled
def _eliminate(matrix, right):  # type: ignore[no-untyped-def]
    """Replace ``right`` by the solution of ``matrix @ x = right``: Gaussian elimination with partial pivoting."""
    n = len(right)
    for j in range(n):
        pivot = j
        for i in range(j + 1, n):
            pivot = i if abs(matrix[i, j]) > abs(matrix[pivot, j]) else pivot
        for i in range(j, n):
            matrix[j, i], matrix[pivot, i] = matrix[pivot, i], matrix[j, i]
        right[j], right[pivot] = right[pivot], right[j]
        for i in range(j + 1, n):
            if matrix[i, j] != 0:
                factor = matrix[i, j] / matrix[j, j]
                for column in range(j + 1, n):
                    matrix[i, column] -= factor * matrix[j, column]
                right[i] -= factor * right[j]
    for j in range(n - 1, -1, -1):
        for i in range(j + 1, n):
            right[j] -= matrix[j, i] * right[i]
        right[j] /= matrix[j, j]
