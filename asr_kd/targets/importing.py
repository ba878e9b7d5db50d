"""The outputs of another toolkit's network, in a Kaldi archive -> a store of soft targets."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from asr_kd.config import to_dict
from asr_kd.errors import UserError, counted
from asr_kd.frames import DEFAULT_OPTIONS, FrameStore, StoreContent, WriteOptions, write_store
from asr_kd.frames.kaldi_archives import ReadTensor, survey, unpacked
from asr_kd.targets.config import TargetConfig
from asr_kd.targets.encode import draws_of, encode
from asr_kd.targets.target_store import TargetStore

Values = Literal["logits", "log-prob", "prob"]
TOLERANCE = 0.02  # how far the log of a frame's summed probabilities may be from 0: text archives round
LEAST = float(np.finfo(np.float32).tiny)  # replaces a probability of 0


@dataclasses.dataclass(frozen=True)
class NetworkOutputs:
    """The outputs of another toolkit's network in a Kaldi ``archive`` (``.ark`` or ``.scp``) of ``[frames, states]``.

    - ``values``: unnormalised ``logits``, natural logs of probabilities, or probabilities; a probability of 0
      becomes the smallest normal float32.
    - ``features``: the network's input. Their frame counts are checked, and a student with other features is refused.
      The archive may hold only some of their utterances.
    - ``num_states``: the expected number of columns, by default that of the first matrix.
    """

    archive: str | Path
    values: Values = "logits"
    features: FrameStore | None = None
    num_states: int | None = None


def import_targets(
    outputs: NetworkOutputs, out: str | Path, config: TargetConfig, options: WriteOptions = DEFAULT_OPTIONS
) -> TargetStore:
    """Write the outputs of another network as soft targets, or the shards that ``out`` lacks.

    The teacher's identity is a hash of the archive's utterances and matrices, the same for ``.ark`` and ``.scp``. The
    archive is read twice, in any order. Memory: one shard and one matrix for each job.

    Raises ``UserError`` as ``read_kaldi`` and ``write_store`` do, and for an utterance that occurs twice, has the wrong
    number of columns, is missing from the features or has another number of frames there, or whose values are not of
    the given kind. ``options.skip_bad`` leaves utterances with one of the last three faults out and lists them.
    """
    features = outputs.features
    with unpacked(outputs.archive, out) as archive:
        found = survey(archive, False, options.skip_bad, outputs.num_states)
        if not found.shape:
            first = next(iter(found.frame_counts))
            raise UserError(f"{outputs.archive}: utterance {first} is a vector, expected a matrix of frames and states")
        num_states = found.shape[0]
        config = config.for_states(num_states)
        bad = {} if features is None else _mismatches(found.frame_counts, features)
        if bad and not options.skip_bad:
            utterance, reason = next(iter(bad.items()))
            raise UserError(
                f"{outputs.archive}: utterance {utterance}: {reason} ({len(bad):,} such utterances in total; --skip-bad"
                " leaves them out)"
            )
        content = StoreContent(
            "targets",
            config.tensors(num_states),
            {**to_dict(config), "num_states": num_states, "values": outputs.values},
            {"teacher": found.digest, **({} if features is None else {"features": features.content_hash})},
            found.bad | bad,
        )
        counts = {utterance: frames for utterance, frames in found.frame_counts.items() if utterance not in bad}
        convert = _ConvertShard(ReadTensor(found.entries, "values", False), outputs.values, config)
        return TargetStore(write_store(out, content, counts, convert, options))


def log_probabilities(matrix: np.ndarray, values: Values) -> Tensor:
    """Natural log of probabilities that add up to 1, float32 ``[frames, states]``.

    Raises ``UserError``, with the frame, where ``matrix`` does not hold ``values``.
    """
    given = torch.tensor(matrix, dtype=torch.float64)
    if values == "prob":
        if (given < 0).any():
            frame, state = (given < 0).nonzero()[0].tolist()
            value = float(given[frame, state])
            raise UserError(f"frame {frame}, state {state} has the probability {value:g}; expected at least 0")
        given = given.clamp(min=LEAST).log()
    total = given.logsumexp(1, keepdim=True)
    off = total.abs()[:, 0] > TOLERANCE
    if values != "logits" and off.any():
        frame = int(off.nonzero()[0, 0])
        mass = math.exp(min(float(total[frame]), 700.0))
        raise UserError(
            f"frame {frame}: its probabilities add up to {mass:.4g}, expected 1; for unnormalised values, give --values"
            " logits"
        )
    return (given - total).float()


def _mismatches(counts: Mapping[str, int], features: FrameStore) -> dict[str, str]:
    """Why utterances cannot be targets for ``features``."""
    features.expect("features")
    bad = {}
    for utterance, frames in counts.items():
        if utterance not in features:
            bad[utterance] = f"not in {features.path}"
        elif (known := features.frame_counts[utterance]) != frames:
            bad[utterance] = f"{counted(frames, 'frame')}, but {known:,} in {features.path}"
    return bad


@dataclasses.dataclass(frozen=True)
class _ConvertShard:
    """The targets of one shard's utterances."""

    read: ReadTensor
    values: Values
    config: TargetConfig

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, dict[str, np.ndarray] | UserError]]:
        for utterance, arrays in self.read(utterances):
            if isinstance(arrays, UserError):
                yield utterance, arrays
                continue
            try:
                log_prob = log_probabilities(arrays["values"], self.values)
                yield utterance, encode(log_prob, self.config, draws_of(utterance, self.config.seed))
            except UserError as error:
                yield utterance, error
