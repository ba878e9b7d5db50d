"""Writing frame stores: every shard an idempotent task, the index last."""

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from asr_kd.errors import UserError, counted
from asr_kd.frames.description import Description, StoreContent, TensorSpec
from asr_kd.frames.folder import StoreFolder
from asr_kd.frames.folders import folder_at
from asr_kd.frames.plan import SHARD_FRAMES, PlannedShard, plan_shards
from asr_kd.frames.shard import Shard
from asr_kd.frames.store import FrameStore
from asr_kd.parallel import parallel_map
from asr_kd.progress import Progress
from asr_kd.storage import UnavailableError

Arrays = Mapping[str, np.ndarray]
Computed = TypeVar("Computed", bound=Arrays)
ComputeShard = Callable[[Sequence[str]], Iterator[tuple[str, Arrays | UserError]]]


class Unfinished(Exception):
    """A part of a store is written, and shards of other parts are still missing."""


@dataclasses.dataclass(frozen=True)
class WriteOptions:
    """How a store is written.

    - ``jobs``: processes, which take a shard each; ``shard_frames``: frames of a shard, at most.
    - ``skip_bad``: leave out an utterance that is bad, and list it, instead of raising an error.
    - ``force``: first delete another store at the same path.
    - ``part``: ``(i, n)`` writes every n-th shard from the i-th on, so that n processes or machines share the work. The
      last to finish completes the store; the others raise ``Unfinished``.
    """

    jobs: int = 1
    shard_frames: int = SHARD_FRAMES
    skip_bad: bool = False
    force: bool = False
    part: tuple[int, int] = (0, 1)


DEFAULT_OPTIONS = WriteOptions()


def write_store(
    path: str | Path,
    content: StoreContent,
    frame_counts: Mapping[str, int],
    compute: ComputeShard,
    options: WriteOptions = DEFAULT_OPTIONS,
    prepare: Callable[[], None] | None = None,
) -> FrameStore:
    """Write the store at ``path``, or the shards that it lacks, and return it opened.

    ``compute(utterances)`` is called with the utterances of one shard, in one of ``jobs`` processes (so it must be
    picklable). It yields each utterance, in any order, with ``{name: [frames, ...]}``, or with the ``UserError`` that
    says why it is bad. Values are cast to the tensor's dtype, which must be of the same kind, and must be finite and in
    range. A shard at ``path`` with the same ``content`` and the right checksum is kept. ``prepare`` runs first if any
    shard is missing. Memory: one shard for each job.

    Raises ``UserError`` for a store of other content at ``path`` (unless ``options.force``), too little disk space, and
    an utterance that is bad, missing or has another number of frames (unless ``options.skip_bad``).
    """
    folder = folder_at(path)
    plan = plan_shards(frame_counts, options.shard_frames)
    description = Description.of(content, plan)
    store = None if options.force else _complete_store(folder, description)
    if store is None:
        _check_space(folder, description, plan, options.force)
        with folder.writing(description.identity, options.force):
            _check_no_other_store(folder, description)
            try:
                if prepare is not None:
                    prepare()
                store = _write_shards(_ShardWriter(folder, description, compute, options.skip_bad), plan, options)
            except (UserError, OSError):
                # Another process may have completed the same store, and deleted what it was made from.
                store = _complete_store(folder, description)
                if store is None:
                    raise
    _check_skipped(store, options.skip_bad)
    return store


def _write_shards(writer: "_ShardWriter", plan: Sequence[PlannedShard], options: WriteOptions) -> FrameStore:
    """Write the shards of one part, and complete the store if those of all parts are there."""
    folder, mine = writer.folder, plan[options.part[0] :: options.part[1]]
    with Progress(sum(shard.frames for shard in mine), f"writing {folder.path}", "frames") as bar:
        for frames in parallel_map(_write, mine, options.jobs, _start, (writer,)):
            bar.advance(frames)
    present = folder.present()
    if missing := [shard for shard in plan if shard.number not in present]:
        raise Unfinished(f"{folder.path}: {len(plan) - len(missing):,} of {len(plan):,} shards are there")
    folder.publish()
    return FrameStore(folder.path)


def one_by_one(
    utterances: Sequence[str], compute: Callable[[str], Computed]
) -> Iterator[tuple[str, Computed | UserError]]:
    """The result of ``compute`` for each utterance, or its ``UserError``, as ``write_store`` takes them.

    Any other exception becomes a ``UserError`` too, so that one unreadable utterance does not end a run over millions.
    ``MemoryError`` is raised: it says nothing about the utterance.
    """
    for utterance in utterances:
        try:
            yield utterance, compute(utterance)
        except UserError as error:
            yield utterance, error
        except MemoryError:
            raise
        except Exception as error:
            unforeseen = UserError(
                f"unexpected {type(error).__name__}: {error}: a bug; please report it with the input that caused it"
            )
            unforeseen.__cause__ = error
            yield utterance, unforeseen


def write_arrays(
    path: str | Path, content: StoreContent, arrays: Mapping[str, Arrays], options: WriteOptions = DEFAULT_OPTIONS
) -> FrameStore:
    """Write ``{utterance: {name: [frames, ...]}}``, which fits in memory, as a store; see ``write_store``.

    A hash of the arrays is added to the inputs, so other arrays are never mistaken for those at ``path``.
    """
    digest = hashlib.sha256()
    for utterance in sorted(arrays):
        for name in sorted(arrays[utterance]):
            array = np.ascontiguousarray(arrays[utterance][name])
            digest.update(f"{utterance} {name} {array.dtype} {array.shape}\n".encode(errors="surrogatepass"))
            digest.update(array.tobytes())
    lengths = {utterance: len(next(iter(values.values()))) for utterance, values in arrays.items()}
    content = dataclasses.replace(content, inputs={**content.inputs, "arrays": digest.hexdigest()})
    return write_store(path, content, lengths, _Lookup(arrays), options)


def find_store(path: str | Path, kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> FrameStore | None:
    """The store at ``path`` if it is complete, of this ``kind`` and ``config``, and made from ``inputs``."""
    try:
        store = FrameStore(path)
    except UserError:  # none, or one that is damaged or not finished
        return None
    made_from = {name: store.inputs.get(name) for name in inputs}
    return store if (store.kind, store.config, made_from) == (kind, dict(config), dict(inputs)) else None


@dataclasses.dataclass(frozen=True)
class _Lookup:
    arrays: Mapping[str, Arrays]

    def __call__(self, utterances: Sequence[str]) -> Iterator[tuple[str, Arrays]]:
        return ((utterance, self.arrays[utterance]) for utterance in utterances)


@dataclasses.dataclass(frozen=True)
class _ShardWriter:
    folder: StoreFolder
    description: Description
    compute: ComputeShard
    skip_bad: bool

    def write(self, planned: PlannedShard) -> int:
        """Write one shard unless it is there already; returns its planned frames."""
        if not self.folder.is_finished(planned.number, self.description):
            shard, skipped = self._fill(planned)
            self.folder.write(planned.number, self.description, skipped, shard)
        return planned.frames

    def _fill(self, planned: PlannedShard) -> tuple[Shard, dict[str, str]]:
        """The shard's frames, each utterance checked, and the dropped utterances with the reason."""
        specs = self.description.tensors
        tensors = {n: np.empty((planned.frames, *spec.shape), spec.dtype) for n, spec in specs.items()}
        starts = np.cumsum((0, *planned.frame_counts))
        position = {utterance: i for i, utterance in enumerate(planned.utterances)}
        bad = dict.fromkeys(planned.utterances, "missing: nothing was computed for it")
        for utterance, arrays in self.compute(planned.utterances):
            if utterance not in position:
                raise ValueError(f"compute gave utterance {utterance}, which is not in shard {planned.number}")
            start, end = starts[position[utterance]], starts[position[utterance] + 1]
            try:
                if isinstance(arrays, UserError):
                    raise arrays
                for name, spec in specs.items():
                    tensors[name][start:end] = _checked(arrays, name, spec, int(end - start))
                del bad[utterance]
            except UserError as error:
                bad[utterance] = str(error)
                self._refuse(utterance, bad)
        for utterance in bad:
            self._refuse(utterance, bad)
        return _without(Shard(planned.utterances, starts, tensors), bad), bad

    def _refuse(self, utterance: str, bad: Mapping[str, str]) -> None:
        if not self.skip_bad:
            raise UserError(f"{self.folder.path}: utterance {utterance}: {bad[utterance]} (--skip-bad leaves it out)")


_writer: _ShardWriter


def _start(writer: _ShardWriter) -> None:
    global _writer
    _writer = writer


def _write(planned: PlannedShard) -> int:
    return _writer.write(planned)


def _checked(arrays: Arrays, name: str, spec: TensorSpec, frames: int) -> np.ndarray:
    """``arrays[name]`` in the dtype of ``spec``, every value checked."""
    if name not in arrays:
        raise UserError(f"no tensor {name!r} was computed, only {', '.join(arrays) or 'nothing'}")
    array = np.asarray(arrays[name])
    if array.ndim and len(array) != frames:
        raise UserError(f"{counted(len(array), 'frame')} of {name}, expected {frames:,}")
    if array.shape != (frames, *spec.shape):
        raise UserError(f"{name} has the shape {list(array.shape)}, expected {[frames, *spec.shape]}")
    wanted = np.dtype(spec.dtype)
    if wanted.kind == "f" and array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            cast = array.astype(wanted, copy=False)
        if not np.isfinite(cast).all():
            frame = int(np.argwhere(~np.isfinite(cast))[0][0])
            raise UserError(f"{name} of frame {frame} has a value that is not a finite {wanted} number: {array[frame]}")
        return cast
    if wanted.kind in "iu" and array.dtype.kind in "iu":
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise UserError(f"{name} has values from {array.min()} to {array.max()}, which {wanted} cannot hold")
    elif wanted != array.dtype:
        raise UserError(f"{name} is {array.dtype}, expected {wanted}")
    return array.astype(wanted, copy=False)


def _without(shard: Shard, bad: Mapping[str, str]) -> Shard:
    """The shard without its bad utterances."""
    if not bad:
        return shard
    good = np.array([utterance not in bad for utterance in shard.utterances])
    counts = np.diff(shard.offsets)
    kept = np.repeat(good, counts)
    return Shard(
        tuple(utterance for utterance in shard.utterances if utterance not in bad),
        np.concatenate(([0], np.cumsum(counts[good]))),
        {name: tensor[kept] for name, tensor in shard.tensors.items()},
    )


def _complete_store(folder: StoreFolder, wanted: Description) -> FrameStore | None:
    """The store at ``folder`` if it is complete and matches ``wanted``; otherwise ``None``."""
    try:
        if folder.read_index().description.differences(wanted):
            return None
        return FrameStore(folder.path)
    except UnavailableError:
        raise
    except UserError:  # no index, or a shard is missing or cut
        return None


def _check_no_other_store(folder: StoreFolder, wanted: Description) -> None:
    listed = []
    with contextlib.suppress(UserError):  # missing or damaged: it will be rewritten
        listed.append(folder.read_index().description)
    for description in itertools.chain(listed, folder.descriptions(wanted)):
        if differences := description.differences(wanted):
            raise UserError(
                f"{folder.path}: holds another store ({'; '.join(differences[:3])}); "
                "choose another folder, or --force to replace it"
            )


def _check_space(folder: StoreFolder, description: Description, plan: Sequence[PlannedShard], force: bool) -> None:
    if (free := folder.free(force)) is None:
        return
    present = set() if force else folder.present()
    missing = [shard for shard in plan if shard.number not in present]
    names = sum(len(utterance) + 16 for shard in missing for utterance in shard.utterances)
    needed = description.bytes_per_frame * sum(shard.frames for shard in missing) + names + 4096 * len(missing)
    if needed > free:
        raise UserError(
            f"{folder.path}: the store needs {needed:,} more bytes ({description.bytes_per_frame:,} a frame), "
            f"and the disk has {free:,} free; free some space or choose another disk"
        )


def _check_skipped(store: FrameStore, skip_bad: bool) -> None:
    if not len(store):
        utterance, reason = next(iter(store.skipped.items()))
        raise UserError(f"{store.path}: no usable utterance; the first, {utterance}: {reason}")
    bad = [utterance for utterance in store.skipped if utterance not in store.description.left_out]
    if bad and not skip_bad:
        raise UserError(
            f"{store.path}: skipped {counted(len(bad), 'utterance')} when it was written, first {bad[0]}: "
            f"{store.skipped[bad[0]]}; --skip-bad accepts that"
        )
