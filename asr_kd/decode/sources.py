"""What there is to decode: audio files, data directories and feature stores, cut into tasks that yield features."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from asr_kd.corpus.audio import load_audio, read_audio
from asr_kd.corpus.datadir import DataDir
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import compute_features
from asr_kd.features.normalise import normalise, speaker_means
from asr_kd.frames import FrameStore

BATCH = 16  # stored utterances that one task decodes


class Source(Protocol):
    """One task's utterances; ``features`` yields each with its normalised features ``[frames, bins]`` or its fault."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def features(self, config: FeatureConfig) -> Iterator[tuple[str, np.ndarray | UserError]]: ...


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """One audio file of any format and rate, its speaker's only utterance; its name is the path as it was given."""

    path: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path,)

    def features(self, config: FeatureConfig) -> Iterator[tuple[str, np.ndarray | UserError]]:
        try:
            samples = read_audio(self.path, config.sample_rate)
            yield self.path, normalise(compute_features(samples, config), config)
        except UserError as error:
            yield self.path, _named(self.path, error)


@dataclasses.dataclass(frozen=True)
class Utterances:
    """Utterances of a data directory: all of one speaker, whose mean normalises each, or a single one."""

    datadir: DataDir

    @property
    def names(self) -> tuple[str, ...]:
        return self.datadir.utterances

    def features(self, config: FeatureConfig) -> Iterator[tuple[str, np.ndarray | UserError]]:
        found: dict[str, np.ndarray | UserError] = {}
        for utterance in self.names:
            try:
                found[utterance] = compute_features(load_audio(self.datadir, utterance, config.sample_rate), config)
            except UserError as error:
                found[utterance] = _named(utterance, error)
        good = {utterance: features for utterance, features in found.items() if isinstance(features, np.ndarray)}
        speaker = self.datadir.utt2spk
        means = speaker_means(((speaker[utterance], features) for utterance, features in good.items()), config)
        for utterance in self.names:
            if utterance in good:
                yield utterance, normalise(good[utterance], config, means[speaker[utterance]])
            else:
                yield utterance, found[utterance]


@dataclasses.dataclass(frozen=True)
class Stored:
    """Utterances of a feature store, normalised already."""

    store: FrameStore
    names: tuple[str, ...]

    def features(self, config: FeatureConfig) -> Iterator[tuple[str, np.ndarray | UserError]]:
        for utterance in self.names:
            try:
                yield utterance, self.store.read(utterance)[config.kind].astype(np.float32)
            except UserError as error:  # not stored, perhaps because its audio was bad
                yield utterance, error


def datadir_sources(datadir: DataDir, config: FeatureConfig, utterances: Sequence[str] | None = None) -> list[Source]:
    """A task for each utterance, or for each speaker where features are normalised by speaker."""
    if utterances is not None:
        if unknown := [utterance for utterance in utterances if utterance not in datadir.utt2spk]:
            raise UserError(f"{datadir.path}: no utterance {unknown[0]!r}")
        datadir = datadir.subset(utterances)
    if config.normalise == "speaker":
        return [Utterances(datadir.subset(members)) for members in datadir.speakers.values()]
    return [Utterances(datadir.subset([utterance])) for utterance in datadir.utterances]


def store_sources(store: FrameStore, config: FeatureConfig, utterances: Sequence[str] | None = None) -> list[Source]:
    """Tasks of ``BATCH`` utterances; ``UserError`` unless the store holds the features that ``config`` describes."""
    if config.kind not in store.tensors or store.tensors[config.kind].shape != (config.dimension,):
        found = ", ".join(f"{name} {spec.shape}" for name, spec in store.tensors.items())
        raise UserError(f"{store.path}: holds {found}; this model needs {config.kind} ({config.dimension},)")
    for key, wanted in (("normalise", config.normalise), ("sample_rate", config.sample_rate)):
        if store.config.get(key, wanted) != wanted:
            raise UserError(f"{store.path}: {key} is {store.config[key]!r}; this model was trained on {wanted!r}")
    chosen = store.utterances if utterances is None else tuple(sorted(utterances))
    return [Stored(store, chosen[start : start + BATCH]) for start in range(0, len(chosen), BATCH)]


def _named(name: str, error: UserError) -> UserError:
    """``error`` with ``name`` in front unless it says it already."""
    return error if name in str(error) else UserError(f"{name}: {error}")
