"""Sets of phones, each stored once under a number."""

import numpy as np

from asr_kd.errors import UserError

MOST_SETS = 2**22


class PhoneSets:
    """Sets of members ``0..size - 1``; ``bits`` ``[sets, words]`` uint64: member m is bit m % 64 of word m // 64."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.words = -(-size // 64)
        self.bits = np.zeros((0, self.words), np.uint64)
        self._numbers: dict[bytes, int] = {}
        self.empty = int(self.add(np.zeros((1, self.words), np.uint64))[0])

    def singles(self, members: np.ndarray) -> np.ndarray:
        """The bits of the sets of one member each, ``[n, words]``."""
        bits = np.zeros((len(members), self.words), np.uint64)
        bits[np.arange(len(members)), members // 64] = np.uint64(1) << (members % 64).astype(np.uint64)
        return bits

    def add(self, bits: np.ndarray) -> np.ndarray:
        """The number of each row of ``bits`` ``[n, words]``; a set that is new gets a new number."""
        order = np.lexsort(bits.T)
        first = np.ones(len(bits), bool)
        first[1:] = (bits[order[1:]] != bits[order[:-1]]).any(axis=1)
        distinct = bits[order[first]]
        numbers = np.array([self._numbers.setdefault(row.tobytes(), len(self._numbers)) for row in distinct], np.int64)
        if len(self._numbers) > MOST_SETS:
            raise UserError(f"the graph needs more than {MOST_SETS:,} sets of phones; use fewer words or phones")
        new = numbers >= len(self.bits)
        self.bits = np.concatenate([self.bits, distinct[new][np.argsort(numbers[new])]])
        result = np.empty(len(bits), np.int64)
        result[order] = numbers[np.cumsum(first) - 1]
        return result

    def has(self, numbers: np.ndarray, members: np.ndarray) -> np.ndarray:
        """Whether ``numbers[i]`` has the member ``members[i]``, for each i."""
        shifts = (members % 64).astype(np.uint64)
        return (self.bits[numbers, members // 64] >> shifts & np.uint64(1)).astype(bool)

    def meet(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The number of the intersection of each set of ``one`` with that of ``other``."""
        pairs, inverse = np.unique(one << 32 | other, return_inverse=True)
        return self.add(self.bits[pairs >> 32] & self.bits[pairs & 2**32 - 1])[inverse]

    def only_member(self, numbers: np.ndarray) -> np.ndarray:
        """The member of each set that has just one; -1 for the others."""
        distinct, inverse = np.unique(numbers, return_inverse=True)
        members = np.unpackbits(self.bits[distinct].view(np.uint8), axis=1, bitorder="little")
        return np.where(members.sum(axis=1) == 1, members.argmax(axis=1), -1)[inverse]
