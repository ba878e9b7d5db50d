"""The shard plan: which utterances go into which shard, a pure function of names, frame counts and shard size."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from asr_kd.config import shown
from asr_kd.errors import UserError, counted

SHARD_FRAMES = 100_000  # about 17 minutes: 8 MB of 40-bin log-mel, small enough to distribute and to redo


@dataclasses.dataclass(frozen=True)
class PlannedShard:
    """Shard ``number`` holds ``utterances`` one after the other; ``frame_counts[i]`` frames of ``utterances[i]``."""

    number: int
    utterances: tuple[str, ...]
    frame_counts: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Frames of all utterances."""
        return sum(self.frame_counts)


def plan_shards(frame_counts: Mapping[str, int], shard_frames: int = SHARD_FRAMES) -> list[PlannedShard]:
    """Cut the sorted utterances into shards of at most ``shard_frames`` frames (a longer utterance is one shard).

    Raises ``UserError`` if there is no utterance, one without frames, or an id that is empty or has white space.
    """
    if shard_frames < 1:
        raise UserError(f"--shard-frames {shard_frames}: expected at least 1")
    if not frame_counts:
        raise UserError("there are no utterances to store")
    if problem := problem_of_ids(frame_counts):
        raise UserError(problem)
    groups: list[list[str]] = []
    room = 0
    for utterance in sorted(frame_counts):
        frames = frame_counts[utterance]
        if frames < 1:
            raise UserError(f"utterance {utterance}: {counted(frames, 'frame')}; a stored utterance has at least 1")
        if not groups or frames > room:
            groups.append([])
            room = shard_frames
        groups[-1].append(utterance)
        room -= frames
    return [PlannedShard(n, tuple(g), tuple(int(frame_counts[u]) for u in g)) for n, g in enumerate(groups)]


def problem_of_ids(utterances: Iterable[str]) -> str:
    """What is wrong with the first id that is empty, has ASCII white space or is not valid Unicode; empty if none."""
    utterances = tuple(utterances)
    try:
        text = "\n".join(utterances).encode()  # all at once: there may be millions
        spaces = len(text) - len(text.translate(None, b" \t\n\v\f\r"))
        if spaces == max(0, len(utterances) - 1) and all(utterances):
            return ""
    except UnicodeEncodeError:
        bad = next(utterance for utterance in utterances if utterance != utterance.encode(errors="ignore").decode())
        return f"utterance id {shown(bad)} is not valid Unicode"
    bad = next(utterance for utterance in utterances if utterance.encode().split() != [utterance.encode()])
    return f"utterance id {shown(bad)} is empty or has white space"


def packed(utterances: Iterable[str], frame_counts: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Group neighbouring utterances, up to ``most`` frames together, or a single one of more.

    The order is kept. Utterances without frames are left out."""
    together: list[str] = []
    frames = 0
    for utterance in utterances:
        count = frame_counts[utterance]
        if together and frames + count > most:
            yield together
            together, frames = [], 0
        if count:
            together.append(utterance)
            frames += count
    if together:
        yield together


def alike(utterances: Iterable[str], frame_counts: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Group neighbouring utterances of equal length, up to ``most`` frames together; images have one frame each.

    The order is kept. Utterances without frames are left out."""
    together: list[str] = []
    for utterance in utterances:
        frames = frame_counts[utterance]
        if together and (frames != frame_counts[together[0]] or (len(together) + 1) * frames > most):
            yield together
            together = []
        if frames:
            together.append(utterance)
    if together:
        yield together


def plan_hash(plan: Sequence[PlannedShard]) -> str:
    """Hexadecimal SHA-256 of every shard's utterances and frame counts."""
    digest = hashlib.sha256()
    for shard in plan:
        for utterance, frames in zip(shard.utterances, shard.frame_counts, strict=True):
            digest.update(f"{shard.number} {utterance} {frames}\n".encode())
    return digest.hexdigest()
