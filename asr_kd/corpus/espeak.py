"""espeak-ng, a formant synthesiser installed as a wheel, called through ctypes: text -> samples, reproducibly."""

import _ctypes
import ctypes
import functools
from pathlib import Path

import numpy as np

from asr_kd.errors import UserError

SAMPLE_RATE = 22050
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_RATE, _PITCH, _RANGE = 1, 3, 4
_UTF8 = 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def synthesise(text: str, voice: str, rate: int = 175, pitch: int = 50, pitch_range: int = 50) -> np.ndarray:
    """``text`` spoken by ``voice`` (``ACCENT+VARIANT``) as int16 ``[samples]`` at 22,050 Hz.

    ``rate`` is in words per minute; ``pitch`` and ``pitch_range`` run from 0 to 99. The library keeps state between
    utterances (wave phases, flutter, random numbers), so the same call would give different samples. It is therefore
    reloaded for each call, which takes about as long as the synthesis itself.
    """
    chunks: list[np.ndarray] = []

    @_Callback
    def collect(wave, samples, events):  # type: ignore[no-untyped-def]
        if wave and samples > 0:
            chunks.append(np.ctypeslib.as_array(wave, (samples,)).copy())
        return 0

    library = ctypes.CDLL(_library_path())
    try:
        if library.espeak_Initialize(_SYNCHRONOUS, 0, str(_data_path()).encode(), _DONT_EXIT) != SAMPLE_RATE:
            raise UserError(f"espeak-ng cannot read its data in {_data_path()}; reinstall espeakng-loader")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # by default, the seed is the time of day
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(voice.encode()):
            raise UserError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        content = text.encode()
        if library.espeak_Synth(content, len(content) + 1, 0, 1, 0, _UTF8, None, None):
            raise UserError(f"espeak-ng could not speak {text!r}")
        library.espeak_Terminate()
    finally:
        _unload(library)
    return np.concatenate(chunks)


@functools.cache
def variants() -> tuple[str, ...]:
    """The names of all voice variants, sorted."""
    return tuple(sorted(path.name for path in (_data_path() / "voices" / "!v").iterdir()))


def _library_path() -> str:
    import espeakng_loader

    return str(espeakng_loader.get_library_path())


def _data_path() -> Path:
    import espeakng_loader

    return Path(espeakng_loader.get_data_path())


def _unload(library: ctypes.CDLL) -> None:
    unload = getattr(_ctypes, "dlclose", None) or _ctypes.FreeLibrary  # type: ignore[attr-defined] # Windows
    unload(library._handle)
