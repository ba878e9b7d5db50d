"""Reading frame stores: memory-mapped, by utterance or shard by shard, one store or several joined."""

import bisect
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError, counted
from asr_kd.frames.description import TensorSpec
from asr_kd.frames.folders import folder_at
from asr_kd.frames.index import Index, check_order, check_place, entry_of
from asr_kd.frames.shard import Shard, map_shard, sum_of_content
from asr_kd.limits import STATES

RUN_FRAMES = 10_000  # of utterances read together: enough to save time, and cheap to copy
_AHEAD = 64  # shards that may be fetched before they are read; the cache's size limits them further
_MAPPED = 2  # shards that stay mapped: their pages count as memory of the process, and mapping one again is cheap


class FrameStore:
    """A complete frame store, opened for reading; nothing is loaded before it is used.

    Opening reads the index and the shards' headers, and raises ``UserError`` for a store that is incomplete, or has a
    shard that is missing, cut, swapped or of another store. ``verify`` reads every byte. A store can be pickled: the
    other process opens it again. Shards of a store at a URL (``s3://...``) are fetched one by one (``file_cache``).
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = folder_at(path)
        self.path = self.folder.path
        index = self.folder.read_index()
        description = index.description
        self.description = description
        self.kind: str = description.kind
        self.tensors: dict[str, TensorSpec] = description.tensors
        self.config: dict[str, Any] = description.config
        self.inputs: dict[str, str] = description.inputs
        self.version: str = description.version
        self.skipped: dict[str, str] = {**description.left_out, **index.skipped}
        #: Depends on utterances and frames only, not on shards or versions; in schema 1 on the bytes of the shards.
        self.content_hash = _content_hash(index)
        self.headers = self.folder.opened(index)
        for number, (header, entry) in enumerate(zip(self.headers, index.shards, strict=True)):
            check_place(header, number, description)
            if entry_of(header) != entry:
                raise UserError(
                    f"{header.path}: not the shard that the index lists; run asr-kd frames verify for details"
                )
        check_order(self.headers)
        #: Every utterance, sorted.
        self.utterances: tuple[str, ...] = tuple(itertools.chain(*(header.utterances for header in self.headers)))
        self._ranks = dict(zip(self.utterances, range(len(self.utterances)), strict=True))
        self._firsts = list(itertools.accumulate((len(header.utterances) for header in self.headers), initial=0))
        self._map = functools.lru_cache(_MAPPED)(self._mapped)

    @property
    def num_states(self) -> int | None:
        """Number of states of its labels or targets, None if not recorded; ``UserError`` if invalid."""
        value = self.config.get("num_states")
        if value is None or (type(value) is int and 0 < value <= STATES):
            return value
        raise UserError(f"{self.path}: num_states is {shown(value)}, expected a number of states")

    def expect(self, kind: str) -> None:
        """``UserError`` unless this is a store of ``features`` or ``states`` with their one tensor."""
        if self.kind != kind:
            raise UserError(f"{self.path}: holds {self.kind}; expected {kind}")
        for name, spec in self.tensors.items():
            is_state = name == "state" and not spec.shape and np.dtype(spec.dtype).kind in "iu"
            is_feature = len(spec.shape) == 1 and np.dtype(spec.dtype).kind == "f"
            if len(self.tensors) > 1 or not (is_state if kind == "states" else is_feature):
                wanted = "state [frames] of integers" if kind == "states" else "a tensor [frames, n] of floats"
                raise UserError(f"{self.path}: holds {name} {spec.dtype} {['frames', *spec.shape]}, expected {wanted}")

    def expect_width(self, width: int, model: str | Path) -> None:
        """``UserError`` unless these are features ``[frames, width]``, as ``model`` expects."""
        self.expect("features")
        ((name, spec),) = self.tensors.items()
        if spec.shape != (width,):
            raise UserError(
                f"{self.path}: {spec.shape[0]} {name} coefficients per frame; {model} expects {width}: give the"
                " features of its training"
            )

    def _mapped(self, number: int) -> Shard:
        header = self.headers[number]
        return map_shard(header, self.folder.open(header))

    def __reduce__(self) -> tuple[type["FrameStore"], tuple[str | Path]]:
        return FrameStore, (self.path,)

    def __len__(self) -> int:
        return len(self.utterances)

    def __contains__(self, utterance: object) -> bool:
        return utterance in self._ranks

    @functools.cached_property
    def frame_counts(self) -> dict[str, int]:
        """Frames of each utterance."""
        lengths = itertools.chain(*(np.diff(header.offsets).tolist() for header in self.headers))
        return dict(zip(self.utterances, lengths, strict=True))

    @property
    def total_frames(self) -> int:
        """Frames of all utterances."""
        return sum(header.frames for header in self.headers)

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(header.bytes for header in self.headers)

    def read(self, utterance: str) -> dict[str, np.ndarray]:
        """``{name: [frames, ...]}`` of one utterance, read-only views of the mapped file."""
        return next(self.runs([utterance])).tensors

    def runs(self, utterances: Sequence[str]) -> Iterator[Shard]:
        """The frames of ``utterances`` in their order, those of neighbours in a shard together, up to ``RUN_FRAMES``:
        read-only views."""
        return _runs([self], utterances)

    def place(self, utterance: str) -> tuple[int, int]:
        """The shard of an utterance, and its place there; ``UserError`` if it is in none."""
        rank = self._ranks.get(utterance)
        if rank is None:
            reason = self.skipped.get(utterance)
            known = f"it has {len(self):,} others, such as {', '.join(self.utterances[:1])}"
            why = f"it was skipped: {reason}" if reason else known
            raise UserError(f"{self.path}: no utterance {utterance}; {why}")
        number = bisect.bisect_right(self._firsts, rank) - 1
        return number, rank - self._firsts[number]

    def shard(self, number: int) -> Shard:
        """Shard ``number``, mapped."""
        return self._map(number)

    def shards(self) -> Iterator[Shard]:
        """Every shard in order, mapped one after the other; to stream, keep none."""
        for number in range(len(self.headers)):
            self.folder.ahead(self.headers[number + 1 : number + 1 + _AHEAD])
            yield self._mapped(number)

    def ahead(self, utterances: Sequence[str]) -> None:
        """These utterances are read next: begin to fetch their shards, if the store is at a URL."""
        if self.folder.remote:
            numbers = dict.fromkeys(self.place(utterance)[0] for utterance in utterances)
            self.folder.ahead([self.headers[number] for number in itertools.islice(numbers, _AHEAD)])

    def verify(self) -> Iterator[int]:
        """Check every shard's checksum, yielding each one's bytes; ``UserError`` names a damaged shard."""
        for header in self.headers:
            self.folder.verify(header)
            yield header.bytes


class JoinedStore:
    """Several stores of the same utterances read as one; made by ``open_joined``."""

    def __init__(self, stores: Sequence[FrameStore], utterances: Sequence[str]) -> None:
        self.stores = tuple(stores)
        self.utterances = tuple(utterances)
        counts = self.stores[0].frame_counts
        self.frame_counts = {utterance: counts[utterance] for utterance in utterances}
        self.total_frames = sum(self.frame_counts.values())
        self.tensors = {name: spec for store in stores for name, spec in store.tensors.items()}

    def read(self, utterance: str) -> dict[str, np.ndarray]:
        """``{name: [frames, ...]}`` of one utterance from every store."""
        return next(self.runs([utterance])).tensors

    def runs(self, utterances: Sequence[str]) -> Iterator[Shard]:
        """The frames of ``utterances`` in their order, with the tensors of all stores; those of utterances that are
        neighbours in a shard of each store together, up to ``RUN_FRAMES``: read-only views."""
        return _runs(self.stores, utterances)

    @property
    def remote(self) -> bool:
        """Whether any of the stores is at a URL."""
        return any(store.folder.remote for store in self.stores)

    def ahead(self, utterances: Sequence[str]) -> None:
        """As ``FrameStore.ahead``."""
        for store in self.stores:
            store.ahead(utterances)


def open_joined(stores: Sequence[FrameStore | str | Path], utterances: Sequence[str] | None = None) -> JoinedStore:
    """Read several stores by utterance id, as one with the tensors of all.

    All must have the same utterances, unless ``utterances`` says which to read; these must be in each. Raises
    ``UserError`` naming an utterance that a store lacks or that has another number of frames there (with both
    counts), or a tensor that two stores have.
    """
    opened = [store if isinstance(store, FrameStore) else FrameStore(store) for store in stores]
    first = opened[0]
    wanted = first.utterances if utterances is None else sorted(set(utterances))
    for position, store in enumerate(opened):
        if missing := [utterance for utterance in wanted if utterance not in store]:
            raise UserError(_missing(missing, store, first if position else None))
        if utterances is None and len(store) != len(first):
            raise UserError(_missing([u for u in store.utterances if u not in first], first, store))
        for utterance in wanted:
            here, there = first.frame_counts[utterance], store.frame_counts[utterance]
            if here != there:
                raise UserError(
                    f"utterance {utterance}: {counted(here, 'frame')} in {first.path}, {there:,} in {store.path}; make"
                    " both from the same audio"
                )
        for earlier in opened[:position]:
            if common := earlier.tensors.keys() & store.tensors.keys():
                raise UserError(f"{earlier.path} and {store.path} both hold a tensor {min(common)!r}; join only one")
    return JoinedStore(opened, wanted)


def _content_hash(index: Index) -> str:
    if index.description.schema == 1:
        return hashlib.sha256("".join(entry.sha256 for entry in index.shards).encode()).hexdigest()
    return sum_of_content(int(entry.content, 16) for entry in index.shards)


def _missing(missing: Sequence[str], store: FrameStore, other: FrameStore | None) -> str:
    source = f"{other.path} has" if other else "you requested"
    more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
    advice = "name the utterances to use (--utterances LIST)"
    return f"{store.path}: lacks utterance {missing[0]}{more}, which {source}; {advice}"


def _runs(stores: Sequence[FrameStore], utterances: Sequence[str]) -> Iterator[Shard]:
    places = [[store.place(utterance) for utterance in utterances] for store in stores]
    ahead = [_Ahead(store, there) for store, there in zip(stores, places, strict=True) if store.folder.remote]
    counts = stores[0].frame_counts
    begin, frames = 0, 0
    for end in range(1, len(utterances) + 1):
        frames += counts[utterances[end - 1]]
        more = end < len(utterances) and frames + counts[utterances[end]] <= RUN_FRAMES
        if more and all(there[end] == _after(there[end - 1]) for there in places):
            continue
        for each in ahead:
            each.reading(begin)
        tensors: dict[str, np.ndarray] = {}
        for store, there in zip(stores, places, strict=True):
            number, first = there[begin]
            shard = store.shard(number)
            offsets = shard.offsets[first : there[end - 1][1] + 2]
            tensors |= {name: tensor[offsets[0] : offsets[-1]] for name, tensor in shard.tensors.items()}
        yield Shard(tuple(utterances[begin:end]), offsets - offsets[0], tensors)
        begin, frames = end, 0


def _after(place: tuple[int, int]) -> tuple[int, int]:
    return place[0], place[1] + 1


class _Ahead:
    """Asks for the next shards of a store at a URL, whenever the reader of ``places`` comes to another shard."""

    def __init__(self, store: FrameStore, places: Sequence[tuple[int, int]]) -> None:
        self._store, self._begins = store, [0] if places else []
        self._begins += [i for i in range(1, len(places)) if places[i][0] != places[i - 1][0]]
        self._headers = [store.headers[places[begin][0]] for begin in self._begins]
        self._next = 0

    def reading(self, place: int) -> None:
        """Utterance number ``place`` is read now."""
        if self._next < len(self._begins) and place >= self._begins[self._next]:
            self._next = bisect.bisect_right(self._begins, place)
            if coming := self._headers[self._next : self._next + _AHEAD]:
                self._store.folder.ahead(coming)
