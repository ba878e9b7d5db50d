"""Opening the decoding graph of a large vocabulary, which checks every number in it."""

import argparse
import time
from pathlib import Path

import numpy as np
from measuring import row

from asr_kd.decode.graph import map_graph, write_graph
from asr_kd.decode.search_kernels import ARC, STATE, Graph

STATES, ARCS, WORDS = 8_300_000, 21_300_000, 100_000


def main() -> None:
    """Make a graph of the size, and open it in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the graph, removed in the end")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    path = options.work / "HCLG.fst"
    write_graph(made_graph(), path)
    size = path.stat().st_size / 1e6
    times = []
    for _ in range(options.rounds + 1):  # the first compiles
        began = time.process_time()
        map_graph(path, WORDS)
        times.append(time.process_time() - began)
    path.unlink()
    row(f"opening and checking a graph of {size:,.0f} MB", min(times[1:]), "s on one core", "the clock", most=0.5)


def made_graph() -> Graph:
    """Random arcs; in every other state the first has no input and goes to a lower state, as back-off arcs do."""
    rng = np.random.default_rng(0)
    states, arcs = np.zeros(STATES, STATE), np.zeros(ARCS, ARC)
    ends = np.sort(rng.integers(0, ARCS - 2 * STATES, STATES)) + 2 * np.arange(1, STATES + 1)
    ends[-1] = ARCS
    states["arcs"] = np.diff(ends, prepend=0)
    states["first"] = ends - states["arcs"]
    states["final"] = np.where(rng.random(STATES) < 0.01, 0, np.inf)
    arcs["label"], arcs["next"] = rng.integers(1, 5000, ARCS), rng.integers(0, STATES, ARCS)
    arcs["word"] = np.where(rng.random(ARCS) < 0.3, rng.integers(1, WORDS, ARCS), 0)
    silent = np.arange(1, STATES, 2)
    states["silent"][silent] = 1
    arcs["label"][states["first"][silent]] = 0
    arcs["next"][states["first"][silent]] = rng.integers(0, silent)
    states["wordless"] = np.add.reduceat(arcs["word"] == 0, states["first"])
    return Graph(0, states, arcs, 5000)


if __name__ == "__main__":
    main()
