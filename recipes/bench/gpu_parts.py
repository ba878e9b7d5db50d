"""The parts of ``gpu.py``: reads their names from standard input and writes their rows to standard output."""

import argparse
import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from made import BINS, make_stores
from measuring import ASR_KD, row
from paper import CONFIG, products, report
from stepping import Trainer, wait
from training import best
from writing import save_random_ensemble

from asr_kd.nets import NetConfig, settle_precision
from asr_kd.targets import Dense, Sampled, SoftTargets, TargetConfig, TargetStore, Teacher, TopK, write_targets
from asr_kd.train import TrainConfig, TrainingData
from asr_kd.train.distillation import cross_entropy, distillation_loss, logit_matching_loss
from asr_kd.train.reader import Reader

ROOT = Path(__file__).resolve().parents[2]
TOP20 = TargetConfig("topk", 20)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much each part does."""

    device: torch.device
    net: NetConfig  # the paper's, or a small one
    batches: tuple[int, ...]
    frames: int  # of the store that the paper's network is trained from
    pool: int  # frames of a pool
    seconds: float  # that a speed is measured for, at least
    side: int  # of square matrices
    copied: int  # bytes
    steps: int  # in a turn
    written: tuple[int, int]  # frames of soft targets


FULL = Sizes(
    torch.device("cuda"), CONFIG.net, (8192, 16384), 2_000_000, 250_000, 4.0, 8192, 1 << 32, 20, (100_000, 1_100_000)
)
SMALL = Sizes(
    torch.device("cpu"),
    NetConfig(bins=BINS, states=50, layers=2, width=64, norm="none"),
    (256, 512), 6000, 2000, 0.0, 64, 1 << 16, 2, (500, 5000),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """Where the parts work: ``work`` for stores, ``folder`` for results; and how much they do."""

    sizes: Sizes
    work: Path
    folder: Path

    @property
    def where(self) -> str:
        """The name of the device."""
        return torch.cuda.get_device_name() if self.sizes.device.type == "cuda" else "CPU"

    def data(self, frames: int, states: int, form: TargetConfig | None = TOP20) -> TrainingData:
        """Synthetic features and labels, with soft targets of ``form`` unless it is None."""
        folder = self.work / f"{frames}x{states}"
        features, labels, targets = make_stores(folder, frames, states, form or TOP20)
        return TrainingData(features, labels, None, TargetStore(targets) if form else None)


def machine(run: Run) -> None:
    """What the machine is, and its peaks."""
    device, side = run.sizes.device, run.sizes.side
    about: dict[str, object] = {"card": run.where, "cores": len(os.sched_getaffinity(0))}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {"multiprocessors": properties.multi_processor_count, "card_memory": properties.total_memory}
        about |= {"cuda": torch.version.cuda, "triton": version("triton")}
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
            about["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    print(json.dumps({"about": about}), flush=True)
    source = torch.randn(run.sizes.copied // 4, device=device)
    target = torch.empty_like(source)
    took = seconds_of(lambda: target.copy_(source), device)
    row("copy within the device's memory", 2 * run.sizes.copied / took / 1e12, "TB/s, read and written", "")
    source = source[: source.numel() // 4]
    pinned = source.cpu().pin_memory() if device.type == "cuda" else source.clone()
    took = seconds_of(lambda: target[: len(pinned)].copy_(pinned), device)
    row("copy from pinned memory to the device", run.sizes.copied / 4 / took / 1e9, "GB/s", "")
    for precision in ("fp32", "tf32", "bf16"):
        with matmul_precision(precision):
            speed = max(products(precision, device, side, 10 * 2 * side**3, side) for _ in range(2))
        row(f"matrix products {side} x {side} x {side}, {precision}", speed / 1e12, "TFLOP/s", "")


def paper(run: Run, precision: str) -> None:
    """The paper's network from top-20 shards."""
    for batch in run.sizes.batches if precision == "bf16" else run.sizes.batches[:1]:
        with matmul_precision(precision):
            _paper(run, precision, batch)


def _paper(run: Run, precision: str, batch: int) -> None:
    start_of_memory()
    sizes = run.sizes
    trainer = _trainer_of_paper(run, precision, batch)
    each = -(-sizes.pool // batch)  # steps of a pool; whole pools are measured, with the time it takes to read them
    trainer.steps(max(each, 8))
    wait(sizes.device)
    began, done, peak = time.perf_counter(), 0, 0.0
    while not done or time.perf_counter() - began < sizes.seconds:
        done += trainer.steps(each)
        wait(sizes.device)
    took = time.perf_counter() - began
    for _ in range(2):
        of_a_pool = sizes.pool * trainer.operations
        peak = max(peak, products(precision, sizes.device, batch, of_a_pool, sizes.net.width))
    least = 0.6 if precision == "bf16" and sizes.device.type == "cuda" else None
    report(trainer, done / took, peak, f"{precision}, {run.where}", least)
    memory(f"the paper's network, batches of {batch}, {precision}")
    (fixed,) = trainer.batches(1)
    trainer.repeated(fixed, 3)
    starts = []
    for _ in range(3):  # one of them may read what the last 50 steps counted, and wait
        began = time.perf_counter()
        for _ in range(4):  # few enough to fit into the GPU's queue
            trainer.step(fixed)
        starts.append(250 * (time.perf_counter() - began))
        wait(sizes.device)
    row(f"CPU time to launch a step of {batch} frames, {precision}", min(starts), "ms", "")
    (rate,) = best((lambda: trainer.repeated(fixed, each),), 2)
    share = trainer.operations * rate / peak
    row(
        f"the paper's network on one batch on the device, batches of {batch}, {precision}",
        share,
        f"of the FLOP/s ({rate:,.0f} frames/s)",
        "",
    )


def _trainer_of_paper(run: Run, precision: str, batch: int, **changes: object) -> Trainer:
    known = "fp32" if precision == "tf32" else precision
    config = dataclasses.replace(CONFIG, net=run.sizes.net, batch_frames=batch, precision=known, **changes)
    config = dataclasses.replace(config, pool_frames=run.sizes.pool)
    return Trainer(config, run.data(run.sizes.frames, run.sizes.net.states), run.sizes.device)


def profile(run: Run) -> None:
    """20 steps of the paper's network: a table of where the time goes, and synchronisations of a step."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity

    trainer = _trainer_of_paper(run, "bf16", run.sizes.batches[0])
    trainer.steps(5)
    wait(run.sizes.device)
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (run.sizes.device.type == "cuda")]
    with torch.profiler.profile(activities=activities) as profiler:
        began = time.perf_counter()
        trainer.steps(20)
        wait(run.sizes.device)
        took = time.perf_counter() - began
    averages = profiler.key_averages()
    text = [f"20 steps in {took:.3f} s with the profiler\n"]
    for key, rows in (("self_cuda_time_total", 25), ("self_cpu_time_total", 15)):
        text.append(averages.table(sort_by=key, row_limit=rows, max_name_column_width=90))
    (run.folder / "profile.txt").write_text("\n".join(text), encoding="utf-8")
    profiler.export_chrome_trace(str(run.folder / "profile_trace.json.gz"))
    counts = {average.key: average.count for average in averages}
    for name in ("aten::item", "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpyAsync", "cudaLaunchKernel"):
        row(f"{name} in a step", counts.get(name, 0) / 20, "calls", "")
    to_host = sum(count for name, count in counts.items() if "DtoH" in name)
    row("copies to the host in a step", to_host / 20, "copies", "")
    kernels = [average for average in averages if average.device_type != DeviceType.CPU]
    busy = sum(kernel.self_device_time_total for kernel in kernels) / 1e6
    unit = "of the wall time of 20 steps, under the profiler (streams overlap)"  # so it can exceed 1
    row("GPU busy time", busy / took, unit, f"{took:.3f} s")


def steps(run: Run) -> None:
    """Steps of the paper's network on soft targets against those on labels, on one batch each."""
    device, batch = run.sizes.device, run.sizes.batches[0]
    config = dataclasses.replace(CONFIG, net=run.sizes.net, batch_frames=batch, precision="bf16")
    frames = -(-batch // 500) * 500
    kinds = {
        "labels": (config, None), "top-20": (config, TOP20), "dense": (config, TargetConfig("dense")),
        "logits": (dataclasses.replace(config, match="logits"), TargetConfig("dense")),
        "sampled-12": (config, TargetConfig("sampled", 12, (2.0,))),
    }  # fmt: skip
    works = []
    for changed, form in kinds.values():
        trainer = Trainer(changed, run.data(frames, run.sizes.net.states, form), device)
        (fixed,) = trainer.batches(1)
        works.append(functools.partial(trainer.repeated, fixed, run.sizes.steps))
    hard, *rates = best(tuple(works), 3)
    for name, rate in zip(list(kinds)[1:], rates, strict=True):
        unit, against = (
            f"times as long ({1000 * batch / rate:.2f} ms)",
            f"a step on labels ({1000 * batch / hard:.2f} ms)",
        )
        most = 1.05 if name == "top-20" and device.type == "cuda" else None
        row(f"a step of {batch} frames on {name} targets, bf16", hard / rate, unit, against, most=most)


def objective(run: Run) -> None:
    """The objective alone, forward and backward, from logits in bfloat16."""
    device, frames, states = run.sizes.device, run.sizes.batches[0], run.sizes.net.states
    logits = (3 * torch.randn(frames, states, device=device)).bfloat16().requires_grad_()
    labels = torch.randint(states, (frames,), device=device)
    log_prob = (3 * torch.randn(frames, states, device=device)).log_softmax(1).half()
    values, best_states = log_prob.topk(20)
    state = torch.randint(states, (frames, 12), device=device)
    forms: dict[str, SoftTargets] = {
        "top-20": TopK(best_states, values.float(), torch.full((frames,), -2.0, device=device)),
        "dense": Dense(log_prob),
        "sampled-12": Sampled(state, torch.full((frames, 12), 1 / 12, device=device)),
    }
    losses: dict[str, Callable[[], torch.Tensor]] = {
        "labels": lambda: cross_entropy(logits, labels),
        "logits": lambda: logit_matching_loss(logits, Dense(log_prob), labels, 1.0, 0.5),
        **{
            f"{name}, T = {temperature:g}": functools.partial(
                distillation_loss, logits, form, labels, temperature, 1.0, 0.5
            )
            for name, form in forms.items()
            for temperature in (1.0, 2.0)
        },
    }
    for name, loss in losses.items():
        start_of_memory()
        held = torch.cuda.memory_allocated() if device.type == "cuda" else 0

        def work(loss: Callable[[], torch.Tensor] = loss) -> object:
            return torch.autograd.grad(loss(), logits)

        alone = seconds_of(work, device)
        peak = (torch.cuda.max_memory_allocated() if device.type == "cuda" else 0) - held
        took = device_seconds(work) if device.type == "cuda" else alone
        unit = f"ms for {frames} x {states} logits in bf16, peak {peak / logits.numel():.1f} bytes per logit"
        row(f"objective: {name}", 1000 * took, unit, f"run alone, kernel launches included: {1000 * alone:.2f} ms")


def tests(run: Run) -> None:
    """The tests that need a GPU, and those of GPUs that need none."""
    folders = [f"tests/{name}" for name in ("gpu", "nets", "targets", "train")]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        *folders,
    ]
    log = run.folder / "tests_gpu.log"
    environment = {**os.environ, "OMP_NUM_THREADS": str(min(8, len(os.sched_getaffinity(0))))}  # of the references
    with log.open("wb") as stream:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    row("tests that need a GPU", float(done.returncode), f"exit status: {lines[-1].strip('= ')}", "")
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if failed or done.returncode:
        raise RuntimeError("; ".join(failed[:10]) or f"pytest's exit status is {done.returncode}")


def resume(run: Run) -> None:
    """A run that was killed and resumed against an uninterrupted one."""
    data = run.data(25_000 if run.sizes.device.type == "cuda" else 2000, 100)
    stores = data.features.path, data.states.path, data.targets.path  # type: ignore[union-attr]
    options = ["--feats", stores[0], "--states", stores[1], "--targets", stores[2], "--dev-feats", stores[0]]
    options += ["--dev-states", stores[1], "--device", str(run.sizes.device), "--seed", "1", "--threads", "2"]
    for setting in ("net.width=256", "net.layers=2", "net.dropout=0.1", "epochs=3", "checkpoint_steps=10"):
        options += ["--set", setting]
    whole, killed = ([*ASR_KD, "train", *map(str, options), "--out", str(run.work / name)] for name in ("whole", "cut"))
    checkpoint = run.work / "cut" / "checkpoint.safetensors"
    both = subprocess.Popen(whole, stdout=sys.stderr), subprocess.Popen(killed, stdout=sys.stderr)
    while both[1].poll() is None and not checkpoint.exists():
        time.sleep(0.001)
    both[1].send_signal(signal.SIGKILL)
    if both[1].wait() == 0:
        raise RuntimeError("the run ended before it could be killed")
    subprocess.run(killed, check=True, stdout=sys.stderr)
    if status := both[0].wait():
        raise RuntimeError(f"exit status {status} of the uninterrupted run")
    hashes = {_hash(run.work / name) for name in ("whole", "cut")}
    row("a killed and resumed run has the weights of an uninterrupted one", float(len(hashes) == 1), "(1: yes)", "")
    if len(hashes) > 1:
        raise RuntimeError("the weights of the resumed run differ")


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def loader(run: Run) -> None:
    """Reading alone: frames of the paper's size, shuffled, in windows, without a network."""
    sizes = run.sizes
    data = run.data(sizes.frames, sizes.net.states)
    config = dataclasses.replace(CONFIG, net=sizes.net, batch_frames=sizes.batches[0], pool_frames=sizes.pool)
    for device in dict.fromkeys((sizes.device, torch.device("cpu"))):
        began, done = time.perf_counter(), 0
        for batch in Reader(data, config, 20, 5, 1, device).epoch(0):
            done += len(batch.labels)
            if time.perf_counter() - began > 4 * max(sizes.seconds, 1):
                break
        wait(device)
        rate = done / (time.perf_counter() - began)
        row(f"reader, to {device.type}", rate / 1e6, "million frames/s", f"{done:,} frames")


def writing(run: Run) -> None:
    """Top-20 targets of four networks."""
    sizes, net = run.sizes, run.sizes.net
    folder = save_random_ensemble(run.work / "teachers", net)
    config = dataclasses.replace(TOP20, precision=settle_precision("auto", sizes.device))
    took = []
    for frames in (sizes.written[0], *sizes.written):  # the first to warm up
        features = run.data(frames, net.states).features
        out = run.work / f"written{frames}"
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        write_targets(Teacher(folder, features, device=str(sizes.device)), out, config)
        took.append(time.perf_counter() - began)
    apart = max(took[2] - took[1], 1e-9)
    rate = (sizes.written[1] - sizes.written[0]) / apart
    name = f"writing top-20 targets of 4 networks {net.layers}x{net.width}, {net.states:,} states, {config.precision}"
    row(name, rate, "frames/s", f"loading apart ({took[1] - sizes.written[0] / rate:.1f} s)")
    teacher = Teacher(folder, run.data(sizes.written[1], net.states).features, config.precision, str(sizes.device))
    spoken = list(teacher.features.utterances)
    for _ in teacher.log_probs(spoken[:2]):
        wait(sizes.device)
    began = time.perf_counter()
    for _ in teacher.log_probs(spoken):
        pass
    wait(sizes.device)
    row("their forward passes and mean alone", sizes.written[1] / (time.perf_counter() - began), "frames/s", "")


def small_networks(run: Run) -> None:
    """The recipes' networks, whose products are small."""
    device = run.sizes.device
    states = 2000 if device.type == "cuda" else 50
    data = run.data(200_000 if device.type == "cuda" else 6000, states, None)
    tdnn = NetConfig(kind="tdnn", width=320, bottleneck=80, dilations=(3,) * 6, dropout=0.05)
    configs = [
        (name, dataclasses.replace(config, batch_frames=batch, precision=settle_precision("auto", device)))
        for name, config, own, large in (
            ("4x512", TrainConfig(), 512, 8192), ("TDNN-F 6x320", TrainConfig(net=tdnn, every=3), 800, 12_800)
        )
        for batch in ((own, large) if device.type == "cuda" else (own,))
    ]  # fmt: skip
    for name, config in configs:
        trainer = Trainer(config, data, device)
        count = run.sizes.steps * (1 if config.batch_frames > 1000 or device.type == "cpu" else 5)
        trainer.steps(min(5, count))  # the pool is read
        wait(device)

        def turn(trainer: Trainer = trainer, count: int = count) -> int:
            done = trainer.steps(count) * trainer.config.every
            wait(device)
            return done

        (rate,) = best((turn,), 2)
        title = f"training {name}, batches of {config.batch_frames}, {config.precision}, on labels"
        row(
            title,
            rate,
            "frames/s",
            f"{states} states; {1000 * config.batch_frames * config.every / rate:.2f} ms a step",
        )


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Matrix products of float32 tensors in TF32, if ``precision`` says so."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def seconds_of(function: Callable[[], object], device: torch.device, repeats: int = 15) -> float:
    """The median time of a call, after three to warm up."""
    times = []
    for number in range(3 + repeats):
        wait(device)
        began = time.perf_counter()
        function()
        wait(device)
        if number >= 3:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def device_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """The time that the GPU computes in a call, whatever it waits for in between."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            function()
        torch.cuda.synchronize()
    return sum(each.self_device_time_total for each in profiler.key_averages()) / 1e6 / repeats


def start_of_memory() -> None:
    """Free what is not used, and measure peak memory from now on."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(name: str) -> None:
    """The row of peak memory."""
    if torch.cuda.is_available():
        row(f"peak memory: {name}", torch.cuda.max_memory_allocated() / 2**30, "GiB", "")


PARTS: dict[str, Callable[[Run], None]] = {
    "machine": machine, "profile": profile, "steps": steps, "objective": objective, "tests": tests, "resume": resume,
    "loader": loader, "writing": writing, "small_networks": small_networks,
    **{f"paper_{precision}": functools.partial(paper, precision=precision) for precision in ("bf16", "tf32", "fp32")},
}  # fmt: skip


def main() -> None:
    """Do parts until there are no more names, or one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    run = Run(SMALL if options.small else FULL, options.work, options.folder)
    for line in sys.stdin:
        print(f"== {line.strip()}", file=sys.stderr, flush=True)
        torch.manual_seed(0)
        try:
            PARTS[line.strip()](run)
        except Exception as error:
            traceback.print_exc()
            print(json.dumps({"outcome": f"{type(error).__name__}: {str(error)[:1000]}"}), flush=True)
            return
        start_of_memory()
        print(json.dumps({"outcome": "done"}), flush=True)


if __name__ == "__main__":
    main()
