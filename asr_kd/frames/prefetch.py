"""Fetching the next shards of a store into the cache, in threads, while the current ones are read."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from asr_kd.file_cache import FileCache
from asr_kd.frames.shard import ShardHeader

_THREADS = 3
_SHARE = 8  # at most this part of the cache is fetched ahead: several stores and processes may share it


class Prefetcher:
    """Calls ``fetch`` for the next shards that a reader wants. A thread ends when nothing is left to do."""

    def __init__(self, cache: FileCache, fetch: Callable[[ShardHeader], None]) -> None:
        self._cache, self._fetch = cache, fetch
        self._lock = threading.Lock()
        self._wanted: deque[ShardHeader] = deque()
        self._running = 0

    def want(self, headers: Sequence[ShardHeader]) -> None:
        """Fetch these in this order, as many as may be ahead, instead of what was wanted before."""
        room, wanted = self._cache.limit // _SHARE, deque[ShardHeader]()
        for header in headers:
            room -= header.bytes
            if room < 0 and wanted:
                break
            if header.sha256 not in self._cache:
                wanted.append(header)
        with self._lock:
            self._wanted = wanted
            for _ in range(min(len(wanted), _THREADS) - self._running):
                self._running += 1
                threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._running -= 1
                    return
                header = self._wanted.popleft()
            try:
                self._fetch(header)
            except Exception:  # the reader asks for this shard itself, and reports what is wrong with it
                with self._lock:
                    self._wanted.clear()
