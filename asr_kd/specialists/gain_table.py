"""Clusters of states for people to read: their phones and contexts."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from asr_kd.hmm.states import StateSpace

SHOWN = 4  # phones of a context that are named; the others are counted


def state_names(space: StateSpace) -> list[str]:
    """A name for each tied state: ``B|D-AA.2+N`` is the second state of AA after B or D and before N.

    A side on which any phone is possible is left out. The name of a state that several phones share has all of them.
    """
    known = space.table >= 0  # [left, phone, right, position]
    everywhere = [
        [_phones(space, np.any(known[:, centre], axis=axis)) for axis in ((1, 2), (0, 2))]
        for centre in range(len(space.phones))
    ]
    names = []
    for state in range(space.num_states):
        left, centre, right, position = np.nonzero(space.table == state)
        parts = []
        for phone, place in sorted(set(zip(centre.tolist(), position.tolist(), strict=True))):
            own = (centre == phone) & (position == place)
            before, after = (sorted({space.phones[i] for i in side[own]}) for side in (left, right))
            before, after = (
                [] if side == whole else side for side, whole in zip((before, after), everywhere[phone], strict=True)
            )
            parts.append(f"{_some(before, '', '-')}{space.phones[phone]}.{place + 1}{_some(after, '+', '')}")
        names.append(" or ".join(parts) or "unused")
    return names


def summaries(space: StateSpace, clusters: Sequence[np.ndarray]) -> list[str]:
    """The phones of each cluster's states with their numbers of states, the most frequent first."""
    centres = [sorted({space.phones[i] for i in np.nonzero(space.table == s)[1]}) for s in range(space.num_states)]
    texts = []
    for own in clusters:
        counts = Counter(phone for state in own for phone in centres[state])
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        texts.append(" ".join(phone if number == 1 else f"{phone}({number})" for phone, number in ordered))
    return texts


def _phones(space: StateSpace, mask: np.ndarray) -> list[str]:
    return sorted(space.phones[i] for i in np.flatnonzero(mask))


def _some(phones: Sequence[str], before: str, after: str) -> str:
    if not phones:
        return ""
    more = f"|+{len(phones) - SHOWN}" if len(phones) > SHOWN else ""
    return f"{before}{'|'.join(phones[:SHOWN])}{more}{after}"
