"""Right contexts, grouped by the chain of tied states that a phone has before them."""

import numpy as np

from asr_kd.graph.expand import Chains
from asr_kd.graph.fst import EPSILON, ranges
from asr_kd.graph.sets import PhoneSets
from asr_kd.hmm.states import StateSpace


class RightContexts:
    """For each left phone and phone: the distinct ``chains``, each with the set of right contexts that have it.

    ``chains`` has labels tied state + 1, and epsilon alone in row 0. ``left`` ``[phones, phones]`` is, for a left
    phone and a phone, the first left phone with the same chains in all right contexts, which can represent it.
    """

    def __init__(self, space: StateSpace, sets: PhoneSets) -> None:
        self._sets, self._phones = sets, len(space.phones)
        count, positions = self._phones, space.table.shape[3]
        distinct, row = np.unique(space.table.reshape(-1, positions), axis=0, return_inverse=True)
        rows = 1 + row.reshape(count, count, count)
        rows = np.concatenate([rows, rows[:, :, [space.index(space.silence[0])]]], axis=2)  # the end is like silence
        labels = np.concatenate([np.full((1, positions), -1), np.where(distinct >= 0, distinct + 1, -1)])
        labels[0, 0] = EPSILON
        self.chains = Chains(labels.astype(np.int32), (labels >= 0).sum(axis=1))

        phone = np.arange(count * count) % count
        same = np.unique(
            np.column_stack([phone, rows.reshape(len(phone), -1)]), axis=0, return_index=True, return_inverse=True
        )
        self.left = (same[1][same[2].ravel()] // count).reshape(count, count)

        pair = np.arange(count * count).repeat(count + 1)
        classes, member = np.unique(pair * len(labels) + rows.ravel(), return_inverse=True)
        self._row = classes % len(labels)
        self._offsets = np.searchsorted(classes, np.arange(count * count + 1) * len(labels))
        bits = np.zeros((len(classes), sets.words), np.uint64)
        np.bitwise_or.at(bits, member, sets.singles(np.tile(np.arange(count + 1), count * count)))
        self._contexts = sets.add(bits)

    def outcomes(
        self, left: np.ndarray, phone: np.ndarray, following: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The chains of ``phone`` after ``left`` and before any member of the set ``following``, ``[items]`` each.

        Returns, for each of the chains: the item, the chain's row, and the number of the set of right contexts.
        """
        pair = left * self._phones + phone
        item, place = ranges(self._offsets[pair], self._offsets[pair + 1] - self._offsets[pair])
        contexts = self._sets.meet(self._contexts[place], following[item])
        possible = contexts != self._sets.empty
        return item[possible], self._row[place[possible]], contexts[possible]
