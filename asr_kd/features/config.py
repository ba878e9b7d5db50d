"""The definition of a feature frame, saved with stores and models so that all parts of a system agree."""

import dataclasses
from typing import Literal

from asr_kd.config import from_dict
from asr_kd.errors import UserError, counted
from asr_kd.frames import FrameStore
from asr_kd.limits import AUDIO_RATES, BINS

FRAME_LENGTH = 0.025  # seconds
FRAME_SHIFT = 0.010  # seconds
# Seconds added to a frame's number times FRAME_SHIFT to give the time of its beginning in the audio. The window of
# frame k is centred 12.5 ms after 10 k ms; with 10 ms, word boundaries came closest to those of another aligner.
FRAME_CENTRE_OFFSET = 0.010


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """Kaldi's log-mel filter bank or cepstra, 25 ms every 10 ms, without dither.

    - ``kind``: ``fbank``, log-mel energies, or ``mfcc``, cepstra.
    - ``sample_rate``: in hertz; audio of another rate is resampled.
    - ``bins``: number of mel filters.
    - ``cepstra``: mfcc: number of cepstra.
    - ``low_hz``: lower edge of the first filter.
    - ``high_hz``: upper edge of the last filter; 0 or below: an offset from half the sample rate (Nyquist).
    - ``energy``: mfcc: the frame's log energy instead of the first cepstrum, Kaldi's --use-energy.
    - ``normalise``: the mean to subtract from each coefficient: that of the ``utterance``, of all utterances of the
      ``speaker``, of the recent past (``online``: the last 6 seconds, smoothed at the beginning with ``global_mean``),
      or ``none``.
    - ``global_mean``: for ``online``: the mean of the training data, ``[dimension]``.
    """

    kind: Literal["fbank", "mfcc"] = "fbank"
    sample_rate: int = 16000
    bins: int = 40
    cepstra: int = 13
    low_hz: float = 20.0
    high_hz: float = 0.0
    energy: bool = False
    normalise: Literal["none", "utterance", "speaker", "online"] = "speaker"
    global_mean: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        lowest, highest = AUDIO_RATES
        if not lowest <= self.sample_rate <= highest:
            raise UserError(f"sample_rate is {self.sample_rate}; expected {lowest:,} to {highest:,} Hz")
        if not 0 <= self.low_hz < self.top_hz <= self.sample_rate / 2:
            raise UserError(
                f"low_hz and high_hz give filters from {self.low_hz:g} to {self.top_hz:g} Hz; expected a range within"
                f" 0 to {self.sample_rate / 2:g} Hz, half the sample rate"
            )
        if not 1 <= self.bins <= BINS:
            raise UserError(f"bins is {self.bins}; expected 1 to {BINS:,} mel filters")
        if self.kind == "mfcc" and not 1 <= self.cepstra <= self.bins:
            raise UserError(f"cepstra is {self.cepstra}; expected 1 to {self.bins}, the number of bins")
        if self.energy and self.kind == "fbank":
            raise UserError("energy: true requires kind: mfcc; filter banks have no energy coefficient")
        if self.global_mean and len(self.global_mean) != self.dimension:
            raise UserError(f"global_mean has {counted(len(self.global_mean), 'value')}, expected {self.dimension}")

    @property
    def dimension(self) -> int:
        """Coefficients of a frame."""
        return self.bins if self.kind == "fbank" else self.cepstra

    @property
    def top_hz(self) -> float:
        """Upper edge of the last filter in hertz."""
        return self.high_hz if self.high_hz > 0 else self.sample_rate / 2 + self.high_hz

    @property
    def window(self) -> int:
        """Samples in a frame."""
        return round(FRAME_LENGTH * self.sample_rate)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next."""
        return round(FRAME_SHIFT * self.sample_rate)

    def num_frames(self, samples: int) -> int:
        """Number of whole frames in ``samples`` samples (Kaldi's ``snip-edges``).

        Raises ``UserError`` for audio shorter than one frame.
        """
        if samples < self.window:
            raise UserError(
                f"the audio is too short: {counted(samples, 'sample')} ({samples / self.sample_rate:.4f} s), less than"
                f" one frame ({counted(self.window, 'sample')})"
            )
        return 1 + (samples - self.window) // self.shift


def stored_config(store: FrameStore) -> FeatureConfig:
    """The configuration that the features in ``store`` were computed with; ``UserError`` if it records none."""
    store.expect("features")
    if "kind" not in store.config:
        raise UserError(
            f"{store.path}: does not record how its features were computed, as imported features do not; write it to a"
            " YAML file (asr-kd feats --print-config shows the keys) and give that instead"
        )
    return from_dict(FeatureConfig, store.config, str(store.path))
