"""Time and peak memory of whatever goes over all utterances: with 1 million, against ten times 100 thousand."""

import argparse
import contextlib
import sys
import wave
from pathlib import Path

from measuring import ASR_KD, Cost, row, run

TOGETHER, RATE, SAMPLES = 1000, 2000, 100  # utterances of a recording, its hertz, and samples of an utterance
LEAST = 10_000  # utterances whose peak memory is that of the program itself
SNIPPETS = {
    "making the stores": "from asr_kd.frames import *; import numpy as np\n"
    "def compute(utterances): return ((u, {'state': np.full(2, int(u[5:]) % 2000)}) for u in utterances)\n"
    "counts = {f'speak{n:07d}': 2 for n in range(SIZE)}\n"
    "for name in ('states', 'labels'):\n"
    "    spec = {name: TensorSpec('uint16')}\n"
    "    take = lambda us: ((u, {name: a['state']}) for u, a in compute(us))\n"
    "    write_store(f'WORK/{name}', StoreContent('states', spec), counts, take, WriteOptions(shard_frames=10_000))",
    "reading a data directory": "from asr_kd.corpus.datadir import read_data_dir; read_data_dir('WORK/data')",
    "opening a store": "from asr_kd.frames import FrameStore; FrameStore('WORK/states')",
    "joining two stores": "from asr_kd.frames import open_joined; open_joined(['WORK/states', 'WORK/labels'])",
    "planning the shards of a store": "from asr_kd.frames.plan import plan_hash, plan_shards\n"
    "plan_hash(plan_shards({f'speak{n:07d}': 2 for n in range(SIZE)}))",
    "reading a store in random order": "from asr_kd.frames import FrameStore; import random\n"
    "store = FrameStore('WORK/states'); names = list(store.utterances); random.Random(0).shuffle(names)\n"
    "for name in names: store.read(name)",
    "reading a store in its order": "from asr_kd.frames import FrameStore; store = FrameStore('WORK/states')\n"
    "for run in store.runs(store.utterances): pass",
}
COMMANDS = {
    "validating a data directory": ("corpus", "validate", "WORK/data"),
    "corpus info": ("corpus", "info", "WORK/data"),
    "a subset of half": ("corpus", "subset", "WORK/data", "WORK/half", "--fraction", "0.5"),
    "frames info": ("frames", "info", "WORK/states"),
    "scoring": ("score", "--ref", "WORK/data", "--hyp", "WORK/hyp", "-o", "WORK/wer.json"),
}


def main() -> None:
    """Each operation at each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the made-up data")
    parser.add_argument("--sizes", default="10000,100000,1000000", help="numbers of utterances, the smallest first")
    parser.add_argument("--only", default="", help="only operations whose name has this in it")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    costs: dict[str, list[Cost]] = {}
    for size in sizes:
        folder = options.work / str(size)
        if not (folder / "data" / "wav.scp").exists():
            make_data(folder, size)
        for name in (*SNIPPETS, *COMMANDS):
            if options.only in name or name.startswith("making"):
                costs.setdefault(name, []).append(cost := measured(name, folder, size))
                print(f"{name}, {size:,}: {cost.cpu:.1f} s, {cost.memory:,.0f} MB", file=sys.stderr, flush=True)
    for name, found in costs.items():
        if name.startswith("making"):
            continue
        small, before, after = found[0], found[-2], found[-1]
        ratio = after.cpu / (before.cpu * sizes[-1] / sizes[-2])
        times = f"{before.cpu:,.1f} s for {sizes[-2]:,} utterances"
        row(f"{name}: {sizes[-1]:,} utterances", ratio, "times the time in proportion", times, most=1.15)
        each = (after.memory - small.memory) * 1e6 / (sizes[-1] - sizes[0])
        row(f"{name}: memory", each, "bytes an utterance", f"peak of {after.memory:,.0f} MB", most=1500)


def measured(name: str, folder: Path, size: int) -> Cost:
    """The cost of one operation."""
    if name in COMMANDS:
        return run(*ASR_KD, *(word.replace("WORK", str(folder)) for word in COMMANDS[name]))
    return run(sys.executable, "-c", SNIPPETS[name].replace("WORK", str(folder)).replace("SIZE", str(size)))


def make_data(folder: Path, size: int) -> None:
    """A data directory of segments, and hypotheses in which every seventh word is wrong."""
    data = folder / "data"
    for path in (data / "wav", folder / "hyp"):
        path.mkdir(parents=True, exist_ok=True)
    content = bytes(range(256)) * (TOGETHER * SAMPLES * 2 // 256 + 1)
    names = [data / name for name in ("text", "utt2spk", "segments", "spk2utt")] + [folder / "hyp" / "text"]
    recordings = []
    with contextlib.ExitStack() as stack:
        text, utt2spk, segments, spk2utt, hypotheses = (stack.enter_context(open(name, "w")) for name in names)
        for first in range(0, size, TOGETHER):
            name = f"speak{first:07d}"
            recordings.append(f"{name} {data}/wav/{name}.wav\n")
            with wave.open(f"{data}/wav/{name}.wav", "wb") as stream:
                stream.setparams((1, 2, RATE, 0, "NONE", ""))
                stream.writeframes(content[: 2 * TOGETHER * SAMPLES])
            utterances = [f"speak{number:07d}" for number in range(first, min(first + TOGETHER, size))]
            spk2utt.write(f"{name} {' '.join(utterances)}\n")
            for place, utterance in enumerate(utterances):
                words = [f"word{(first + place * 31 + k * k) % 5000}" for k in range(7)]
                text.write(f"{utterance} {' '.join(words)}\n")
                hypotheses.write(f"{utterance} {' '.join([*words[:6], 'wrong'])}\n")
                utt2spk.write(f"{utterance} {name}\n")
                begin = place * SAMPLES / RATE
                segments.write(f"{utterance} {name} {begin:.3f} {begin + SAMPLES / RATE:.3f}\n")
    (data / "wav.scp").write_text("".join(recordings))


if __name__ == "__main__":
    main()
