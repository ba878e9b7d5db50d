"""Sun's and NeXT's AU: a fixed header, then samples to the end."""

import struct

from asr_kd.corpus.containers.lengths import check_rest, sound_bytes
from asr_kd.corpus.containers.source import LARGEST_HEADER, Part, Source

_TO_THE_END = 0xFFFFFFFF
_BITS = {2: 8, 3: 16, 4: 24, 5: 32, 6: 32, 7: 64, 23: 4, 24: 4, 25: 3, 26: 5, 27: 8}  # encoding -> bits; others: 8


def find_parts(source: Source) -> tuple[Part, ...]:
    """The samples of an AU file."""
    order = ">" if source.at(0, 4) == b".snd" else "<"
    head = source.at(0, 24)
    if len(head) < 24:
        return ()
    begin, declared, encoding, rate, channels = struct.unpack(order + "5I", head[4:])
    found = sound_bytes(source, begin, declared)
    if found == declared:
        check_rest(source, begin + found, max(1.0, rate * channels * _BITS.get(encoding, 8) / 8))
        return ()
    if declared == _TO_THE_END or not 24 <= begin <= LARGEST_HEADER:
        return ()
    header = source.read(0, begin)
    return (Part(header[:8] + struct.pack(order + "I", _TO_THE_END) + header[12:], begin, source.size),)
