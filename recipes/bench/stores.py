"""Opening frame stores against bare JSON of the same headers, and reading Kaldi archives against kaldi_io."""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import kaldi_io
import numpy as np
from measuring import row

from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, write_arrays
from asr_kd.frames.kaldi_archives import read_kaldi
from asr_kd.frames.kaldi_objects import write_array


def main() -> None:
    """Write the files, then read each several times in turns with the peer, and compare the fastest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the stores and archives")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name, utterances, frames in (("2,000 shards", 20_000, 10), ("300,000 utterances", 300_000, 10**7)):
        folder = options.work / name.replace(" ", "_")
        arrays = {f"utt{n:06d}": {"state": np.zeros(1, np.uint16)} for n in range(utterances)}
        content = StoreContent("states", {"state": TensorSpec("uint16")})
        write_arrays(folder, content, arrays, WriteOptions(shard_frames=frames))
        ratio = compared(lambda path: FrameStore(path), parse_headers, folder, options.rounds)
        row(f"opening a store of {name}", ratio, "times as long on one core", "json.loads of the same headers", most=4)
    write_archives(options.work)
    for name, ours, peer in (
        ("binary", read_kaldi, kaldi_io.read_mat_ark),
        ("text", read_kaldi, kaldi_io.read_mat_ark),
        ("alignment", lambda path: read_kaldi(path, integers=True), kaldi_io.read_vec_int_ark),
    ):
        ratio = compared(exhausted(ours), exhausted(peer), options.work / f"{name}.ark", options.rounds)
        row(f"reading a Kaldi archive: {name}", ratio, "times as long on one core", "kaldi_io", most=1.1)


def compared(ours: Callable[[Path], Any], peer: Callable[[Path], Any], path: Path, rounds: int) -> float:
    """CPU time of ``ours`` by that of ``peer``, each the least of ``rounds``."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        for read, found in zip((ours, peer), times, strict=True):
            began = time.process_time()
            read(path)
            found.append(time.process_time() - began)
    return min(times[0]) / min(times[1])


def exhausted(read: Callable[[str], Iterable[Any]]) -> Callable[[Path], None]:
    """Read all objects, and keep none."""

    def run(path: Path) -> None:
        for _ in read(str(path)):
            pass

    return run


def parse_headers(folder: Path) -> list[Any]:
    """The index and the metadata of every shard, as bare JSON."""
    found = [json.loads((folder / "index.json").read_text())]
    for entry in found[0]["shards"]:
        with open(folder / entry["file"], "rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        found.append(json.loads(header["__metadata__"]["asr_kd"]))
    return found


def write_archives(folder: Path) -> None:
    """80 MB of matrices in binary, 20 MB of text, and 4,000 alignments."""
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((500, 40)).astype(np.float32) for _ in range(100)]
    with open(folder / "binary.ark", "wb") as binary, open(folder / "text.ark", "w") as text:
        for number, matrix in enumerate(matrices):
            for repeat in range(10):
                binary.write(f"u{number}-{repeat} ".encode())
                write_array(binary, matrix)
            lines = ("  " + " ".join(f"{value:.7g}" for value in values) for values in matrix)
            text.write(f"u{number}  [\n" + " \n".join(lines) + " ]\n")
    with open(folder / "alignment.ark", "wb") as stream:
        for number in range(4000):
            stream.write(f"u{number} ".encode())
            write_array(stream, rng.integers(2000, size=500))


if __name__ == "__main__":
    main()
