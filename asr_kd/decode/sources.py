"""What to decode: audio files, data directories and feature stores, split into tasks that yield features."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from asr_kd.corpus.audio import load_audio_and_rate, read_audio_and_rate
from asr_kd.corpus.datadir import DataDir, read_data_dir
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import compute_features
from asr_kd.features.normalise import normalise, speaker_means
from asr_kd.frames import FrameStore

BATCH = 16  # stored utterances that one task decodes
AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".sph", ".aiff", ".au", ".m4a")  # in a folder, for an error message

Rates = dict[str, int]
Features = Iterator[tuple[str, np.ndarray | UserError]]


class Source(Protocol):
    """One task's utterances; ``features`` yields each with its normalised features ``[frames, bins]`` or an error.

    Where the features come from audio, ``rates`` gets the sample rate of each utterance's recording.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def features(self, config: FeatureConfig, rates: Rates | None = None) -> Features: ...

    def fingerprint(self) -> str:
        """A hash of the names and of what identifies their content: sizes and times of files, or a store's hash."""


@dataclasses.dataclass(frozen=True)
class AudioFile:
    """An audio file of any format and sample rate, its speaker's only utterance, named by the path as it was given."""

    path: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path,)

    def features(self, config: FeatureConfig, rates: Rates | None = None) -> Features:
        try:
            samples, rate = read_audio_and_rate(self.path, config.sample_rate)
            if rates is not None:
                rates[self.path] = rate
            yield self.path, normalise(compute_features(samples, config), config)
        except UserError as error:
            yield self.path, _named(self.path, error)

    def fingerprint(self) -> str:
        return _digest(["audio", self.path, _file_version(self.path)])


@dataclasses.dataclass(frozen=True)
class DataDirUtterances:
    """Utterances of a data directory: one, or all of a speaker, whose mean normalises each."""

    datadir: DataDir

    @property
    def names(self) -> tuple[str, ...]:
        return self.datadir.utterances

    def features(self, config: FeatureConfig, rates: Rates | None = None) -> Features:
        found: dict[str, np.ndarray | UserError] = {}
        for utterance in self.names:
            try:
                samples, rate = load_audio_and_rate(self.datadir, utterance, config.sample_rate)
                if rates is not None:
                    rates[utterance] = rate
                found[utterance] = compute_features(samples, config)
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

    def fingerprint(self) -> str:
        audio = {recording: [entry, _file_version(entry)] for recording, entry in self.datadir.wav.items()}
        return _digest(["data", audio, self.datadir.segments, self.datadir.utt2spk])


@dataclasses.dataclass(frozen=True)
class StoredUtterances:
    """Utterances of a feature store, which are normalised already."""

    store: FrameStore
    names: tuple[str, ...]

    def features(self, config: FeatureConfig, rates: Rates | None = None) -> Features:
        for utterance in self.names:
            try:
                yield utterance, self.store.read(utterance)[config.kind].astype(np.float32)
            except UserError as error:  # not stored, perhaps because its audio was bad
                yield utterance, error

    def fingerprint(self) -> str:
        return _digest(["stored", self.store.content_hash, self.names])


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """What may be given beside the inputs: a feature store, the ids to decode, and whether pipes may run."""

    feats: str | None = None
    utterances: Sequence[str] | None = None
    allow_pipes: bool = False


def open_inputs(inputs: Sequence[str], config: FeatureConfig, options: InputOptions) -> list[list[Source]]:
    """The tasks of each input: an audio file or a data directory, or the feature store if there are no inputs.

    Raises ``UserError`` for a folder that is not a data directory, and for what the functions below refuse.
    """
    if options.feats and (files := [path for path in inputs if not os.path.isdir(path)]):
        raise UserError(f"{files[0]}: with --feats, INPUT must be a data directory; leave --feats out to decode audio")
    store = FrameStore(options.feats) if options.feats else None
    if store is not None and not inputs:
        return [store_sources(store, config, options.utterances)]
    groups: list[list[Source]] = []
    for path in inputs:
        if not os.path.isdir(path):
            groups.append([AudioFile(path)])
            continue
        _check_is_data_dir(path)
        group = datadir_sources(read_data_dir(path, options.allow_pipes), config, options.utterances)
        if store is not None:
            group = store_sources(store, config, sorted(name for source in group for name in source.names))
        groups.append(group)
    return groups


def _check_is_data_dir(path: str) -> None:
    """``UserError`` for a folder without a ``wav.scp``; the message says how to decode audio files in it."""
    folder = Path(path)
    if (folder / "wav.scp").exists():
        return
    suffixes = [Path(name).suffix for _, _, names in os.walk(folder) for name in names]
    audio = [suffix for suffix in suffixes if suffix.lower() in AUDIO]
    if not audio:
        raise UserError(f"{path}: a folder without wav.scp, so not a data directory, and it holds no audio files")
    kinds = " -o ".join(f"-name '*{suffix}'" for suffix in sorted(set(audio)))
    find = f"find {path} {kinds}" if len(set(audio)) == 1 else f"find {path} \\( {kinds} \\)"
    raise UserError(
        f"{path}: a folder without wav.scp, so not a data directory. It holds {len(audio):,} audio files: decode them "
        f"with {find} | sort | asr-kd decode MODEL_DIR --list -"
    )


def datadir_sources(datadir: DataDir, config: FeatureConfig, utterances: Sequence[str] | None = None) -> list[Source]:
    """A task for each utterance, or for each speaker where features are normalised by speaker."""
    if utterances is not None:
        if unknown := [utterance for utterance in utterances if utterance not in datadir.utt2spk]:
            raise UserError(f"{datadir.path}: no utterance {unknown[0]!r}, which --utterances lists")
        datadir = datadir.subset(utterances)
    if config.normalise == "speaker":
        return [DataDirUtterances(datadir.subset(members)) for members in datadir.speakers.values()]
    return [DataDirUtterances(datadir.subset([utterance])) for utterance in datadir.utterances]


def store_sources(store: FrameStore, config: FeatureConfig, utterances: Sequence[str] | None = None) -> list[Source]:
    """Tasks of ``BATCH`` utterances; ``UserError`` unless the store holds the features that ``config`` describes."""
    if config.kind not in store.tensors or store.tensors[config.kind].shape != (config.dimension,):
        found = ", ".join(f"{' x '.join(map(str, spec.shape))} {name}" for name, spec in store.tensors.items())
        raise UserError(
            f"{store.path}: holds {found.strip()} coefficients; this model needs {config.dimension} {config.kind}"
        )
    for key, wanted in (("normalise", config.normalise), ("sample_rate", config.sample_rate)):
        if store.config.get(key, wanted) != wanted:
            raise UserError(
                f"{store.path}: {key} is {store.config[key]!r}, but this model was trained on {wanted!r}; compute the"
                " features with asr-kd feats --like the store of its training"
            )
    chosen = store.utterances if utterances is None else tuple(sorted(utterances))
    return [StoredUtterances(store, chosen[start : start + BATCH]) for start in range(0, len(chosen), BATCH)]


def _named(name: str, error: UserError) -> UserError:
    """``error`` with ``name`` in front unless it says it already."""
    return error if name in str(error) else UserError(f"{name}: {error}")


def _file_version(entry: str) -> list[int] | None:
    """Size and time of change of the file that a ``wav.scp`` entry names; None for a pipe or a missing file."""
    for path in (entry, re.sub(r":\d+$", "", entry)):  # the second is an archive
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            continue
        return [status.st_size, status.st_mtime_ns]
    return None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
