"""Copying a store: a part of its utterances, or another shard size."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError
from asr_kd.frames.description import StoreContent
from asr_kd.frames.store import FrameStore
from asr_kd.frames.writer import DEFAULT_OPTIONS, WriteOptions, write_store


def copy_store(
    store: FrameStore,
    out: str | Path,
    utterances: Sequence[str] | None = None,
    options: WriteOptions = DEFAULT_OPTIONS,
) -> FrameStore:
    """Write ``utterances`` (all by default) of ``store`` to ``out``; ``UserError`` for one that it lacks."""
    chosen = store.utterances if utterances is None else utterances
    for utterance in chosen:
        if utterance not in store:
            raise UserError(f"{store.path}: no utterance {utterance}")
    counts = {utterance: store.frame_counts[utterance] for utterance in chosen}
    inputs = {**store.inputs, "store": store.content_hash}
    content = StoreContent(store.kind, store.tensors, store.config, inputs)
    return write_store(out, content, counts, _Copy(store), options)


@dataclasses.dataclass(frozen=True)
class _Copy:
    store: FrameStore

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        return ((utterance, self.store.read(utterance)) for utterance in utterances)
