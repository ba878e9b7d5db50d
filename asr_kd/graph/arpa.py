"""Back-off n-gram language models in the ARPA format."""

import dataclasses
import gzip
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import atomic_write

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
LOG_ZERO = -99.0  # how the format writes the log10 of zero


@dataclasses.dataclass(frozen=True)
class Grams:
    """The n-grams of one order: ``words`` ``[n, order]`` int32, and float64 ``log_prob`` and ``backoff`` ``[n]``.

    Both are log10, as in the file; the back-off weight is 0 where the file has none.
    """

    words: np.ndarray
    log_prob: np.ndarray
    backoff: np.ndarray


@dataclasses.dataclass(frozen=True)
class Arpa:
    """A language model: ``vocabulary`` (the unigrams' words, in order) and ``grams`` of order 1, 2, ...

    A word's number is its place in ``vocabulary``. The n-grams of each order are sorted by their numbers, so that the
    unigram of word ``w`` is row ``w``; every n-gram's first n - 1 words are an n-gram too.
    """

    vocabulary: tuple[str, ...]
    grams: tuple[Grams, ...]
    _keys: list[np.ndarray] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        keys = [np.arange(len(self.vocabulary), dtype=np.int64)]  # history's row and last word as one sorted number
        object.__setattr__(self, "_keys", keys)
        for order, grams in enumerate(self.grams[1:], 2):
            history = self.find(grams.words[:, :-1])
            if (history < 0).any():
                words = [self.vocabulary[word] for word in grams.words[np.argmin(history)]]
                raise UserError(
                    f"the history {' '.join(words[:-1])!r} of the {order}-gram {' '.join(words)!r} is not among the"
                    f" {order - 1}-grams"
                )
            keys.append(history * len(self.vocabulary) + grams.words[:, -1])

    @property
    def order(self) -> int:
        """The length of the longest n-grams."""
        return len(self.grams)

    def find(self, words: np.ndarray) -> np.ndarray:
        """The row of each n-gram ``words`` ``[n, k]`` among the n-grams of order k; -1 if it is absent."""
        row = words[:, 0].astype(np.int64)
        for k in range(1, words.shape[1]):
            keys = self._keys[k]
            key = row * len(self.vocabulary) + words[:, k]
            place = np.minimum(np.searchsorted(keys, key), max(len(keys) - 1, 0))
            found = (row >= 0) & (words[:, k] >= 0) & (keys[place] == key if len(keys) else False)
            row = np.where(found, place, -1)
        return row


def write_arpa(arpa: Arpa, path: str | Path) -> None:
    """Write an ARPA file atomically, gzip-compressed where its name ends in ``.gz``; same model, same bytes."""
    with atomic_write(path, "wb") as stream:
        compressed = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if str(path).endswith(".gz") else None
        out = compressed or stream
        counts = "".join(f"ngram {order}={len(grams.words)}\n" for order, grams in enumerate(arpa.grams, 1))
        out.write(f"\\data\\\n{counts}".encode())
        vocabulary = arpa.vocabulary
        for order, grams in enumerate(arpa.grams, 1):
            out.write(f"\n\\{order}-grams:\n".encode())
            rows = zip(grams.words.tolist(), grams.log_prob.tolist(), grams.backoff.tolist(), strict=True)
            for words, log_prob, backoff in rows:
                tail = f"\t{backoff:.7g}" if order < arpa.order else ""
                out.write(f"{log_prob:.7g}\t{' '.join(vocabulary[word] for word in words)}{tail}\n".encode())
        out.write(b"\n\\end\\\n")
        if compressed:
            compressed.close()
