"""The state space that training starts from: each phone has its own chain of states, independent of context."""

import numpy as np

from asr_kd.hmm.lexicon import SILENCE, UNKNOWN_PHONE, Lexicon
from asr_kd.hmm.states import StateSpace, check_phones

NOISE = (UNKNOWN_PHONE,)


def monophone_space(
    lexicon: Lexicon, phone_positions: int = 3, silence_positions: int = 5, loop: float = 0.75
) -> StateSpace:
    """A context-independent space over the lexicon's phones and silence; silence and noise have longer chains.

    ``phone_positions`` and ``silence_positions`` are also the minimum duration of such a phone in frames; ``loop`` is
    the self-loop probability that every state begins with.
    """
    phones = (SILENCE, *(phone for phone in lexicon.phones if phone != SILENCE))
    check_phones(len(phones), "the lexicon")
    silence = (SILENCE, *(phone for phone in phones if phone in NOISE))
    lengths = np.array([silence_positions if phone in silence else phone_positions for phone in phones], np.int32)
    chains = np.full((len(phones), lengths.max()), -1, np.int32)
    inside = np.arange(lengths.max()) < lengths[:, None]
    chains[inside] = np.arange(inside.sum())
    table = np.broadcast_to(chains[None, :, None], (len(phones), len(phones), len(phones), lengths.max())).copy()
    return StateSpace(phones, silence, lengths, table, np.full(inside.sum(), np.log(loop), np.float32))
