"""The frame store: sharded tensors keyed by utterance, written by idempotent tasks, read memory-mapped."""

from asr_kd.frames.description import StoreContent, TensorSpec
from asr_kd.frames.shard import Shard
from asr_kd.frames.store import FrameStore, JoinedStore, open_joined
from asr_kd.frames.writer import (
    DEFAULT_OPTIONS,
    Unfinished,
    WriteOptions,
    find_store,
    one_by_one,
    write_arrays,
    write_store,
)

__all__ = [
    "DEFAULT_OPTIONS",
    "FrameStore",
    "JoinedStore",
    "Shard",
    "StoreContent",
    "TensorSpec",
    "Unfinished",
    "WriteOptions",
    "find_store",
    "one_by_one",
    "open_joined",
    "write_arrays",
    "write_store",
]
