"""Data directory -> feature store."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from asr_kd.config import to_dict
from asr_kd.corpus.audio import load_audio
from asr_kd.corpus.datadir import DataDir
from asr_kd.errors import UserError
from asr_kd.features.config import FeatureConfig
from asr_kd.features.extract import compute_features
from asr_kd.features.normalise import normalise, speaker_means
from asr_kd.features.survey import Survey, survey
from asr_kd.frames import FrameStore, StoreContent, TensorSpec, WriteOptions, one_by_one, write_store
from asr_kd.frames.plan import SHARD_FRAMES
from asr_kd.storage import delete_folder, joined, read_file, write_file

_SAMPLE = 100  # utterances from which a global mean is estimated
_MEANS = "means.safetensors"
_MEANS_BYTES = 1 << 30  # of a million speakers

Computed = Iterator[tuple[str, dict[str, np.ndarray] | UserError]]


def write_features(
    datadir: DataDir,
    out: str | Path,
    config: FeatureConfig,
    jobs: int = 1,
    skip_bad: bool = False,
    force: bool = False,
    shard_frames: int = SHARD_FRAMES,
) -> FrameStore:
    """Compute the normalised features of a data directory into the store ``out``, or resume doing so.

    The store has one tensor, ``fbank`` or ``mfcc`` ``[frames, dimension]`` float16, and ``config`` as its
    configuration; online normalisation without a global mean estimates it from these data and records it there.
    Speaker means need all frames first: these are kept in ``out/raw`` until the end, at twice the size of the store.

    Raises ``UserError`` naming the utterance whose audio is unreadable or shorter than a frame; with ``skip_bad`` it
    is left out and listed in the store. Memory: one shard for each of ``jobs``.
    """
    audio = survey(datadir, config, jobs)
    _check(datadir, audio, skip_bad)
    if config.normalise == "online" and not config.global_mean:
        config = dataclasses.replace(config, global_mean=_global_mean(datadir, config, sorted(audio.frame_counts)))
    raw = _RawFeatures(joined(out, "raw"), datadir, config, audio, jobs, skip_bad, shard_frames)
    by_speaker = config.normalise == "speaker"
    content = StoreContent(
        "features",
        {config.kind: TensorSpec("float16", (config.dimension,), _meaning(config))},
        to_dict(config),
        {"audio": audio.sha256} | ({"speakers": raw.speakers_sha256} if by_speaker else {}),
        left_out=audio.bad,
    )
    store = write_store(
        out,
        content,
        audio.frame_counts,
        _SubtractSpeakerMeans(raw.path, datadir.utt2spk, config) if by_speaker else _Extract(datadir, config),
        WriteOptions(jobs, shard_frames, skip_bad, force),
        prepare=raw.write if by_speaker else None,
    )
    if by_speaker:
        delete_folder(raw.path)
    return store


def _check(datadir: DataDir, audio: Survey, skip_bad: bool) -> None:
    if audio.bad and not skip_bad:
        utterance, reason = next(iter(audio.bad.items()))
        count = len(audio.bad)
        raise UserError(f"utterance {utterance}: {reason} ({count:,} bad in total; --skip-bad leaves them out)")
    if not audio.frame_counts:
        raise UserError(f"{datadir.path}: none of its utterances ({len(datadir.utterances):,}) has readable audio")


def _meaning(config: FeatureConfig) -> str:
    what = "natural log of mel filter energies" if config.kind == "fbank" else "mel-frequency cepstra"
    return what if config.normalise == "none" else f"{what}, less the {config.normalise} mean"


def _global_mean(datadir: DataDir, config: FeatureConfig, utterances: Sequence[str]) -> tuple[float, ...]:
    """Mean over utterances spread evenly over the corpus: a sample is enough, and quick."""
    plain = _Extract(datadir, dataclasses.replace(config, normalise="none"))
    sample = utterances[:: -(-len(utterances) // _SAMPLE)]
    good = ((config.kind, arrays[config.kind]) for _, arrays in plain(sample) if not isinstance(arrays, UserError))
    mean = speaker_means(good, config).get(config.kind)
    if mean is None:
        raise UserError(f"{datadir.path}: no audio could be read for the global mean")
    return tuple(float(value) for value in mean.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class _Extract:
    """Audio -> features of one shard's utterances."""

    datadir: DataDir
    config: FeatureConfig

    def __call__(self, utterances: Sequence[str]) -> Computed:
        return one_by_one(utterances, self._compute)

    def _compute(self, utterance: str) -> dict[str, np.ndarray]:
        samples = load_audio(self.datadir, utterance, self.config.sample_rate)
        return {self.config.kind: normalise(compute_features(samples, self.config), self.config)}


@dataclasses.dataclass(frozen=True)
class _RawFeatures:
    """Unnormalised frames and each speaker's mean, which speaker normalisation needs first."""

    path: str | Path
    datadir: DataDir
    config: FeatureConfig
    audio: Survey
    jobs: int
    skip_bad: bool
    shard_frames: int

    @property
    def speakers_sha256(self) -> str:
        lines = (f"{utterance} {self.datadir.utt2spk[utterance]}\n" for utterance in sorted(self.audio.frame_counts))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def write(self) -> None:
        """Write the store and, in its folder, the means."""
        plain = dataclasses.replace(self.config, normalise="none")
        tensors: dict[str, TensorSpec] = {plain.kind: TensorSpec("float32", (plain.dimension,), _meaning(plain))}
        content = StoreContent("features", tensors, to_dict(plain), {"audio": self.audio.sha256})
        options = WriteOptions(self.jobs, self.shard_frames, self.skip_bad)
        store = write_store(self.path, content, self.audio.frame_counts, _Extract(self.datadir, plain), options)
        pairs = ((self.datadir.utt2spk[name], store.read(name)[plain.kind]) for name in store.utterances)
        write_file(joined(self.path, _MEANS), save(speaker_means(pairs, plain)))


@dataclasses.dataclass(frozen=True)
class _SubtractSpeakerMeans:
    """Frames of the store ``raw`` -> the same frames minus their speaker's mean."""

    raw: str | Path
    utt2spk: dict[str, str]
    config: FeatureConfig

    @functools.cached_property  # opened once in each process, when the store has been written
    def _opened(self) -> tuple[FrameStore, dict[str, np.ndarray]]:
        return FrameStore(self.raw), load(read_file(joined(self.raw, _MEANS), _MEANS_BYTES))

    def __call__(self, utterances: Sequence[str]) -> Computed:
        store, means = self._opened
        for utterance in utterances:
            if utterance in store.skipped:
                yield utterance, UserError(store.skipped[utterance])
            else:
                features = store.read(utterance)[self.config.kind]
                yield utterance, {self.config.kind: normalise(features, self.config, means[self.utt2spk[utterance]])}
