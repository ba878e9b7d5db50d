"""Joint inference of a generalist and its specialists: speed, and agreement with SciPy's minimiser."""

import math
import time

import numpy as np
import torch
from measuring import row, threads_and_rounds
from scipy.optimize import minimize
from torch import Tensor

from asr_kd.nets.joint import active_specialists, joint

STATES, FRAMES, CHECKED, SHARPNESS = 500, 20_000, 20, 3.0
SHAPES = ((12, 80), (8, 200))  # specialists, and the states of each: those of recipes/an4 and recipes/mini_librispeech


def main() -> None:
    """Two rows for each shape: frames per second, and the largest difference from SciPy's solution."""
    options = threads_and_rounds(__doc__)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    for specialists, size in SHAPES:
        own = [np.sort(random.choice(STATES, size, replace=False)) for _ in range(specialists)]
        log_p, *log_r = (made(FRAMES, states) for states in (STATES, *[size + 1] * specialists))
        name = f"joint inference, {STATES} states, {specialists} specialists of {size}, n = 1"
        active = active_specialists(log_p, own, 1)
        seconds = min(timed(log_p, log_r, own) for _ in range(options.rounds + 1))
        unit, asked = f"thousand frames/s, {options.threads} threads", float(active.sum(1).float().mean())
        row(name, FRAMES / seconds / 1000, unit, f"wall time; {asked:.1f} specialists active on average", least=20)
        answer = joint(log_p, log_r, own, active)[:CHECKED].double().exp().numpy()
        apart = max(abs(answer[i] - by_scipy(i, log_p, log_r, own, active)).max() for i in range(CHECKED))
        row(
            name,
            float(apart),
            "largest difference in any probability",
            "SciPy's L-BFGS-B, frame by frame",
            most=1e-5,
        )


def made(frames: int, states: int) -> Tensor:
    """Log-probabilities of random distributions."""
    return (SHARPNESS * torch.randn(frames, states)).log_softmax(1)


def timed(log_p: Tensor, log_r: list[Tensor], own: list[np.ndarray]) -> float:
    """Seconds to choose the active specialists and to solve for all frames."""
    began = time.perf_counter()
    joint(log_p, log_r, own, active_specialists(log_p, own, 1))
    return time.perf_counter() - began


def by_scipy(frame: int, log_p: Tensor, log_r: list[Tensor], own: list[np.ndarray], active: Tensor) -> np.ndarray:
    """The distribution q = softmax(z) ``[states]`` that minimises KL(p, q) and each active specialist's KL."""
    p = log_p[frame].double().exp().numpy()
    asked = [(own[m], log_r[m][frame].double().exp().numpy()) for m in np.flatnonzero(active[frame].numpy())]

    def divergence(z: np.ndarray) -> tuple[float, np.ndarray]:
        log_q = z - z.max() - math.log(np.exp(z - z.max()).sum())
        q, gradient = np.exp(log_q), -p
        loss = -(p @ log_q)
        for states, r in asked:
            others = np.ones(STATES, bool)
            others[states] = False
            rest = q[others].sum()
            loss -= r[:-1] @ log_q[states] + r[-1] * math.log(rest)
            gradient[states] -= r[:-1]
            gradient[others] -= r[-1] * q[others] / rest
        return float(loss), gradient + (1 + len(asked)) * q

    options = {"maxcor": 50, "ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000, "maxfun": 10_000}
    z = minimize(divergence, np.log(p), jac=True, method="L-BFGS-B", options=options).x
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


if __name__ == "__main__":
    main()
