"""Tuning of acoustic scale, word penalty and beam on a development set: decoding, counting errors, storing."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import save_config
from asr_kd.decode.model_folder import CONFIG, TUNING, Model, load_model_folder, read_model_config
from asr_kd.decode.search import Decoder, SearchOptions
from asr_kd.decode.sources import Source
from asr_kd.decode.tune_search import Point, Setting, Tuning, choose
from asr_kd.errors import UserError
from asr_kd.files import write_text
from asr_kd.parallel import workers
from asr_kd.progress import Progress


def tune(
    model: Model, sources: Sequence[Source], references: Mapping[str, Sequence[str]], dev_set: str, jobs: int = 1
) -> Tuning:
    """Choose acoustic scale, word penalty and beam by word errors, as ``choose`` does, and store them in the model.

    ``tune.json`` of the model folder has every setting tried; ``tuned_on`` of its configuration, and with it every
    decode.json and table, says ``dev_set`` and what the search left open. An utterance without words (silence) counts
    the words inserted. Raises ``UserError`` for an utterance that cannot be
    decoded or has no reference, and where no reference has words.
    """
    names = [name for source in sources for name in source.names]
    if missing := [name for name in names if name not in references]:
        raise UserError(
            f"no transcript of {missing[0]!r} to tune on; {len(missing)} of {len(names)} utterances have none: add"
            " them to text, or leave these utterances out (--utterances)"
        )
    if not (words := sum(len(references[name]) for name in names)):
        raise UserError(f"the transcripts of all {len(names)} utterances are empty; tuning needs words to count")
    pool = workers(jobs, _start, (str(model.path), model.scorer.device, dict(references)))
    with pool, Progress(None, "tuning", "passes over the development set") as bar:

        def evaluate(search: SearchOptions, grid: list[Setting]) -> tuple[Point, ...]:
            errors = np.zeros(len(grid), np.int64)
            parts = pool.map(_rescore, [(source, search, grid) for source in sources])
            for source, part in zip(sources, parts, strict=True):
                errors += part
                bar.advance(len(source.names) / len(names))
            return tuple(
                Point(*setting, search.beam, int(count), words) for setting, count in zip(grid, errors, strict=True)
            )

        tuning = choose(model.config.search, evaluate)
    _store(model.path, tuning, dev_set)
    return tuning


@dataclasses.dataclass(frozen=True)
class _Worker:
    model: Model
    references: dict[str, Sequence[str]]

    def errors(self, name: str, features: np.ndarray, decoder: Decoder, grid: list[Setting]) -> np.ndarray:
        """Word errors of one utterance at each setting of the grid."""
        decoder.start()
        for block in self.model.scorer.blocks(features):
            decoder.advance(block)
        decoder.path()
        lattice = decoder.lattice()
        memory: dict[tuple[int, ...], int] = {}  # most settings give the same words
        counts = []
        for scale, penalty in grid:
            rescored = lattice.rescored(scale - decoder.options.acoustic_scale, penalty - decoder.options.word_penalty)
            words = rescored.best()
            if words not in memory:
                memory[words] = _word_errors(self.references[name], [self.model.words[index] for index in words])
            counts.append(memory[words])
        return np.array(counts)


_worker: _Worker | None = None


def _start(path: str, device: str, references: dict[str, Sequence[str]]) -> None:
    import torch

    global _worker
    torch.set_num_threads(1)
    _worker = _Worker(load_model_folder(path, verify=False, device=device), references)


def _rescore(task: tuple[Source, SearchOptions, list[Setting]]) -> np.ndarray:
    assert _worker is not None, "_start runs first in every process"
    source, search, grid = task
    decoder = Decoder(_worker.model.graph, search, lattice=True)
    total = np.zeros(len(grid), np.int64)
    for name, features in source.features(_worker.model.config.features):
        if isinstance(features, UserError):
            raise features
        total += _worker.errors(name, features, decoder, grid)
    return total


def _word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    if not reference:
        return len(hypothesis)
    import jiwer

    output = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return output.substitutions + output.deletions + output.insertions


def _store(path: Path, tuning: Tuning, dev_set: str) -> None:
    config = read_model_config(path)
    chosen = {name: getattr(tuning.best, name) for name in ("acoustic_scale", "word_penalty", "beam")}
    tuned_on = dev_set + tuning.remark

    def rows(points: Sequence[Point]) -> list[dict[str, Any]]:
        return [{**dataclasses.asdict(point), "wer": round(point.wer, 3)} for point in points]

    best, more_active = rows([tuning.best, tuning.more_active])
    content = {
        "tuned_on": tuned_on,
        "at_edge": tuning.at_edge,
        "limited_by_max_active": tuning.limited,
        "best": best,
        "max_active": config.search.max_active,
        "with_twice_max_active": more_active,
        "rounds": [rows(points) for points in tuning.rounds],
        "beams": rows(tuning.beams),
        "starts": rows(tuning.starts),
    }
    write_text(path / TUNING, json.dumps(content, indent=1) + "\n")
    search = dataclasses.replace(config.search, **chosen)
    save_config(dataclasses.replace(config, search=search, tuned_on=tuned_on), path / CONFIG)
