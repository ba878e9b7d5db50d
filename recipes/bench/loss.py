"""The distillation objective, forward and backward, against torch's ``kl_div`` and ``cross_entropy``.

With ``--device cuda`` it is measured against a copy, in the GPU's memory, of as many bytes as it must read and write.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from measuring import row
from torch import Tensor
from torch.nn import functional

from asr_kd import gpu_kernels
from asr_kd.nets.ensemble import _added
from asr_kd.targets import Dense, Sampled, SoftTargets, TopK
from asr_kd.targets.forms import top_k as best_states
from asr_kd.train.distillation import cross_entropy, distillation_loss, logit_matching_loss

FRAMES, STATES, CHOSEN, TEMPERATURE, HARD = 4096, 2000, 20, 2.0, 0.5


def main() -> None:
    """On a CPU in turns, comparing the best turn of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tune", action="store_true", help="time the ways to launch the GPU's kernels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.device != "cpu":
        (tune if options.tune else on_gpu)(torch.device(options.device))
    else:
        on_cpu(options.threads, options.rounds)


def on_cpu(threads: int, rounds: int) -> None:
    """Rows for 4096 frames of 2000 states."""
    logits = torch.randn(FRAMES, STATES, requires_grad=True)
    log_prob = (3 * torch.randn(FRAMES, STATES)).log_softmax(1)
    labels = torch.randint(STATES, (FRAMES,))
    forms: dict[str, SoftTargets] = {
        f"top-{CHOSEN}": top_k(log_prob),
        "dense": Dense(log_prob.half()),
        "sampled": sampled(log_prob),
    }

    def plain() -> Tensor:
        student, teacher = (logits / TEMPERATURE).log_softmax(1), (log_prob / TEMPERATURE).softmax(1)
        soft = functional.kl_div(student, teacher, reduction="batchmean")
        return TEMPERATURE**2 * soft + HARD * functional.cross_entropy(logits, labels)

    def ours(targets: SoftTargets) -> Callable[[], Tensor]:
        return lambda: distillation_loss(logits, targets, labels, TEMPERATURE, 1.0, HARD)

    peer, *times = best(logits, [plain, *map(ours, forms.values())], rounds)
    against = f"torch's kl_div and cross_entropy ({1000 * peer:.0f} ms)"
    for (form, bar), seconds in zip({f"top-{CHOSEN}": 0.25, "dense": 0.5, "sampled": None}.items(), times, strict=True):
        name = f"soft and hard loss, {form}, {FRAMES} x {STATES}, {threads} threads"
        row(name, seconds / peer, f"times as long ({1000 * seconds:.0f} ms)", against, most=bar)


def on_gpu(device: torch.device, frames: int = 8192, states: int = 14_000) -> None:
    """Rows for ``frames`` of ``states`` in bfloat16 and float32."""
    for dtype in (torch.bfloat16, torch.float32):
        logits = torch.randn(frames, states, device=device).to(dtype).requires_grad_()
        of_copy = device_seconds(logits.detach().clone)
        for name, dense, loss in gpu_losses(logits):
            seconds, host = timed(gradient_of(loss, logits))
            necessary = 2 * dtype.itemsize + 2 * dense  # bytes for each logit
            least = of_copy * necessary / (2 * dtype.itemsize)
            speed = necessary * logits.numel() / least / 1e12
            row(
                f"objective on a GPU, {name}, {frames} x {states}, {str(dtype).removeprefix('torch.')}",
                seconds / least,
                f"times as long ({1000 * seconds:.3f} ms; launch {1000 * host:.3f} ms)",
                f"a copy of {necessary} bytes for each logit at {speed:.2f} TB/s ({1000 * least:.3f} ms)",
                most=1.5,
            )
    targets_on_gpu(device, frames, states)


def gpu_losses(logits: Tensor) -> list[tuple[str, bool, Callable[[], Tensor]]]:
    """Name, whether the targets are dense, and loss."""
    log_prob = (3 * torch.randn(logits.shape, device=logits.device)).log_softmax(1)
    halves = log_prob.half()
    labels = torch.randint(logits.shape[1], (len(logits),), device=logits.device)
    forms: dict[str, SoftTargets] = {
        f"top-{CHOSEN}": top_k(log_prob),
        "dense": Dense(halves),
        "sampled": sampled(log_prob),
    }

    def ours(targets: SoftTargets, temperature: float, hard: float) -> Callable[[], Tensor]:
        return lambda: distillation_loss(logits, targets, labels, temperature, 1.0, hard)

    return [
        ("labels", False, lambda: cross_entropy(logits, labels)),
        *((f"top-{CHOSEN}, T = {t:g}", False, ours(forms[f"top-{CHOSEN}"], t, HARD)) for t in (1.0, 2.0, 3.0)),
        ("dense, T = 2", True, ours(forms["dense"], 2.0, HARD)),
        ("dense without labels", True, ours(forms["dense"], 2.0, 0.0)),
        ("sampled, T = 2", False, ours(forms["sampled"], 2.0, HARD)),
        ("logits", True, lambda: logit_matching_loss(logits, Dense(halves), labels, 1.0, HARD)),
    ]


def tune(device: torch.device, frames: int = 8192) -> None:
    """Lines of milliseconds for each way to launch, not rows."""
    launches = [(1024, 1), (2048, 1), (2048, 2), (2048, 4), (4096, 4), (4096, 8), (16_384, 16)]
    for states in (14_000, 13_999):
        logits = torch.randn(frames, states, device=device).bfloat16().requires_grad_()
        wanted = ("labels", "top-20, T = 2", "dense, T = 2")
        losses = {name: loss for name, _, loss in gpu_losses(logits) if name in wanted}
        print(f"{states} states; copy {1000 * device_seconds(logits.detach().clone):.3f} ms")
        print("block", "warps", *losses, sep="\t", flush=True)
        for block, warps in launches if states == 14_000 else launches[2:4]:
            gpu_kernels.LARGEST_BLOCK = block
            gpu_kernels.COLUMNS_PER_WARP = gpu_kernels.CHOSEN_COLUMNS_PER_WARP = block // warps
            times = [device_seconds(gradient_of(loss, logits)) for loss in losses.values()]
            print(block, warps, *(f"{1000 * each:.3f}" for each in times), sep="\t", flush=True)


def targets_on_gpu(device: torch.device, frames: int = 8192, states: int = 14_000) -> None:
    """Rows for what becomes of the outputs of an ensemble of two members."""
    logits = torch.randn(frames, states, device=device).bfloat16()
    of_copy = device_seconds(logits.clone)
    log_prob = (3 * logits.float()).log_softmax(1)
    with torch.inference_mode():
        works: dict[str, Callable[[], object]] = {
            "torch's topk of 21 states": lambda: log_prob.topk(21, dim=1),
            "20 states and the tails at 3 temperatures": lambda: best_states(log_prob, 20, (1.0, 2.0, 4.0)),
            "mean of two members": lambda: _added(_added(None, logits, 0.5, False), logits, 0.5, False),
        }
        for name, work in works.items():
            seconds = device_seconds(work)
            of_logits = f"a copy of the logits in bfloat16 ({1000 * of_copy:.3f} ms)"
            row(f"{name}, {frames} x {states}", seconds / of_copy, f"times ({1000 * seconds:.3f} ms)", of_logits)


def gradient_of(loss: Callable[[], Tensor], logits: Tensor) -> Callable[[], object]:
    """Computes ``loss`` and its gradient."""
    return lambda: torch.autograd.grad(loss(), logits)


def device_seconds(work: Callable[[], object]) -> float:
    """The median time that the GPU takes for ``work``, after two warm-up turns."""
    return timed(work)[0]


def timed(work: Callable[[], object], turns: int = 20) -> tuple[float, float]:
    """Seconds that the GPU computes for ``work`` (the median) and that the host takes to start it (the mean)."""
    work(), work()
    torch.cuda.synchronize()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(turns)]
    torch.cuda._sleep(100_000_000)  # the host starts all turns before the GPU begins the first
    began = time.perf_counter()
    for begin, end in events:
        begin.record()
        work()
        end.record()
    host = (time.perf_counter() - began) / turns
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1000, host


def top_k(log_prob: Tensor) -> TopK:
    """The most probable states, and the probability mass of the others."""
    values, states = log_prob.topk(CHOSEN)
    others = (log_prob / TEMPERATURE).log_softmax(1).scatter(1, states, -math.inf)
    return TopK(states.int(), values.half(), others.logsumexp(1))


def sampled(log_prob: Tensor) -> Sampled:
    """Twelve draws for each frame."""
    states = torch.multinomial((log_prob / TEMPERATURE).softmax(1), 12, replacement=True)
    return Sampled(states.int(), torch.full(states.shape, 1 / 12, device=states.device))


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
