"""The distillation objective, forward and backward, against torch's ``kl_div`` and ``cross_entropy``."""

import math
import time
from collections.abc import Callable

import torch
from measuring import row, threads_and_rounds
from torch import Tensor
from torch.nn import functional

from asr_kd.targets import Dense, Sampled, SoftTargets, TopK
from asr_kd.train.distillation import distillation_loss

FRAMES, STATES, CHOSEN, TEMPERATURE, HARD = 4096, 2000, 20, 2.0, 0.5


def main() -> None:
    """Run in turns, and compare the best turn of each."""
    options = threads_and_rounds(__doc__)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logits = torch.randn(FRAMES, STATES, requires_grad=True)
    log_prob = (3 * torch.randn(FRAMES, STATES)).log_softmax(1)
    labels = torch.randint(STATES, (FRAMES,))
    forms = {f"top-{CHOSEN}": top_k(log_prob), "dense": Dense(log_prob.half()), "sampled": sampled(log_prob)}

    def plain() -> Tensor:
        student, teacher = (logits / TEMPERATURE).log_softmax(1), (log_prob / TEMPERATURE).softmax(1)
        soft = functional.kl_div(student, teacher, reduction="batchmean")
        return TEMPERATURE**2 * soft + HARD * functional.cross_entropy(logits, labels)

    def ours(targets: SoftTargets) -> Callable[[], Tensor]:
        return lambda: distillation_loss(logits, targets, labels, TEMPERATURE, 1.0, HARD)

    peer, *times = best(logits, [plain, *map(ours, forms.values())], options.rounds)
    against = f"torch's kl_div and cross_entropy ({1000 * peer:.0f} ms)"
    for (form, bar), seconds in zip({f"top-{CHOSEN}": 0.25, "dense": 0.5, "sampled": None}.items(), times, strict=True):
        name = f"soft and hard loss, {form}, {FRAMES} x {STATES}, {options.threads} threads"
        row(name, seconds / peer, f"times as long ({1000 * seconds:.0f} ms)", against, most=bar)


def top_k(log_prob: Tensor) -> TopK:
    """The most probable states, and the probability mass of the others."""
    values, states = log_prob.topk(CHOSEN)
    others = (log_prob / TEMPERATURE).log_softmax(1).scatter(1, states, -math.inf)
    return TopK(states.int(), values.half(), others.logsumexp(1))


def sampled(log_prob: Tensor) -> Sampled:
    """Twelve draws for each frame."""
    states = torch.multinomial((log_prob / TEMPERATURE).softmax(1), 12, replacement=True)
    return Sampled(states.int(), torch.full(states.shape, 1 / 12))


def best(logits: Tensor, losses: list[Callable[[], Tensor]], rounds: int) -> list[float]:
    """Seconds of the best turn of each loss and its gradient, after a warm-up turn."""
    times = [math.inf] * len(losses)
    for turn in range(rounds + 1):
        for number, loss in enumerate(losses):
            began = time.perf_counter()
            torch.autograd.grad(loss(), logits)
            if turn:
                times[number] = min(times[number], time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main()
