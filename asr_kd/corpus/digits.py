"""The built-in corpus: digit strings and short commands spoken by espeak-ng, with noise and reverberation.

It needs no data and no network and can have any size; the same seed gives the same bytes. The speakers of train, dev
and test are different voices. Each utterance is a pure function of (seed, part, number), so it depends neither on the
number of processes nor on the size of the corpus.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from asr_kd.corpus import espeak
from asr_kd.corpus.acoustics import add_noise, reverberate
from asr_kd.corpus.audio import write_flac
from asr_kd.corpus.datadir import DataDir, read_data_dir, write_data_dir
from asr_kd.corpus.made import begin_making, end_making, is_made
from asr_kd.corpus.splits import shuffled
from asr_kd.errors import UserError
from asr_kd.files import data_file, read_lines, read_text, sha256, write_text
from asr_kd.parallel import parallel_map
from asr_kd.progress import progress

Item = TypeVar("Item")

SAMPLE_RATE = 16000
PARTS = ("train", "dev", "test")
MEAN_SECONDS = 2.1  # of an utterance
LEAST_EVAL_HOURS = 0.1  # minimum for dev and for test, which are otherwise a tenth of train

ACCENTS = (
    "en",
    "en-us",
    "en-us-nyc",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
)  # for every voice
UNUSED_VOICES = (
    *("Demonic", "UniRobot", "Tweaky", "anikaRobot", "whisper", "whisperf"),  # not human voices
    *("Alicia", "kaukovalta", "travis", "zac"),  # nor these: formants halved, or raised by half
    *("Reed", "caleb"),  # not reproducible: they use the C library's random numbers
)

LEXICON = read_text(data_file("digits/lexicon.txt"))
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_TEENS = ("TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN", "SEVENTEEN", "EIGHTEEN", "NINETEEN")
_TENS = ("TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY")


@dataclasses.dataclass(frozen=True)
class Task:
    """One utterance to synthesise: its place in the corpus and the folder for its audio."""

    seed: int
    part: str
    number: int
    folder: Path


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One synthesised utterance."""

    part: str
    utt: str
    speaker: str
    words: tuple[str, ...]
    path: Path


def prepare_digits(out: str | Path, hours: float = 1.0, seed: int = 0, jobs: int = 1) -> dict[str, DataDir]:
    """Data directories ``train``, ``dev`` and ``test`` and ``lexicon.txt`` in ``out``, audio in ``out/audio``.

    ``train`` has about ``hours`` hours; ``dev`` and ``test`` have a tenth of that each, but at least 6 minutes. An
    ``out`` that was made with the same hours and seed is kept.
    """
    if not 0 < hours < 10_000:
        raise UserError(f"--hours {hours:g}: expected a positive number of hours of training speech")
    out, language = Path(out), [sha256(data_file(f"digits/{name}.txt")) for name in ("lexicon", "grammar")]
    settings = {"hours": hours, "seed": seed, "language": language}
    if is_made(out, settings):
        return {part: read_data_dir(out / part) for part in PARTS}
    begin_making(out)
    sizes = {part: hours if part == "train" else max(hours / 10, LEAST_EVAL_HOURS) for part in PARTS}
    tasks = [
        Task(seed, part, number, out.resolve() / "audio" / part)
        for part in PARTS
        for number in range(max(1, round(sizes[part] * 3600 / MEAN_SECONDS)))
    ]
    made = list(progress(parallel_map(speak, tasks, jobs), len(tasks), "digits"))
    write_text(out / "lexicon.txt", LEXICON)
    parts = {part: _write(out / part, [spoken for spoken in made if spoken.part == part]) for part in PARTS}
    end_making(out, settings)
    return parts


def _write(path: Path, made: list[Spoken]) -> DataDir:
    return write_data_dir(
        path,
        wav={spoken.utt: spoken.path for spoken in made},
        text={spoken.utt: spoken.words for spoken in made},
        utt2spk={spoken.utt: spoken.speaker for spoken in made},
    )


def speak(task: Task) -> Spoken:
    """Synthesise one utterance and write its audio."""
    rng = np.random.default_rng([task.seed, PARTS.index(task.part), task.number])
    variant = _choose(rng, _choose(rng, families(task.part)))
    accent = _choose(rng, ACCENTS)
    words = sentence(rng)
    speech = espeak.synthesise(
        " ".join(words).lower(),
        voice=f"{accent}+{variant}",
        rate=int(rng.integers(100, 190)),
        pitch=int(rng.integers(35, 65)),
        pitch_range=int(rng.integers(20, 80)),
    )
    samples = _record(speech, rng)
    speaker = f"{variant.replace(' ', '_')}-{accent}"
    utt = f"{speaker}-{task.number:06d}"
    path = task.folder / f"{utt}.flac"
    write_flac(path, samples, SAMPLE_RATE)
    return Spoken(task.part, utt, speaker, words, path)


@functools.cache
def families(part: str) -> tuple[tuple[str, ...], ...]:
    """The voices of a part, grouped into families that sound alike; train has 70 % of the families, dev and test 15 %.

    ``klatt2`` and ``klatt5`` are one family, as are ``mike2`` and ``Mike``; ``m1`` and ``m2`` are separate ones.
    """
    alike: dict[str, list[str]] = {}
    for voice in espeak.variants():
        if voice not in UNUSED_VOICES:
            stem = voice.lower().rstrip("0123456789")
            alike.setdefault(stem if len(stem) > 1 else voice, []).append(voice)
    order = shuffled(alike, seed=0)
    first, second = round(0.7 * len(order)), round(0.85 * len(order))
    own = {"train": order[:first], "dev": order[first:second], "test": order[second:]}[part]
    return tuple(tuple(alike[stem]) for stem in own)


@functools.cache
def grammar() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The commands, and the words that each class such as ``<state>`` stands for."""
    lines = [line.partition(" = ") for line in read_lines(data_file("digits/grammar.txt"))]
    commands = tuple(line for line, equals, _ in lines if not equals)
    return commands, {name: tuple(words.split()) for name, equals, words in lines if equals}


def sentence(rng: np.random.Generator) -> tuple[str, ...]:
    """The words of an utterance: with probability one half 1 to 7 digits, otherwise a command."""
    if rng.random() < 0.5:
        return _digits(rng, 1, 7)
    words: list[str] = []
    commands, classes = grammar()
    for token in _choose(rng, commands).split():
        if token == "<digits>":
            words += _digits(rng, 3, 7)
        elif token == "<number>":
            words += _number(rng)
        else:
            words.append(_choose(rng, classes.get(token, (token,))))
    return tuple(words)


def _digits(rng: np.random.Generator, least: int, most: int) -> tuple[str, ...]:
    digits = rng.integers(0, 10, size=int(rng.integers(least, most + 1)))
    zero = _choose(rng, ("ZERO", "OH"))  # the same throughout an utterance
    return tuple(DIGITS[digit] if digit else zero for digit in digits)


def _number(rng: np.random.Generator) -> list[str]:
    """1 to 99 in words."""
    tens, units = divmod(int(rng.integers(1, 100)), 10)
    if tens == 0:
        return [DIGITS[units]]
    if tens == 1:
        return [_TEENS[units]]
    return [_TENS[tens - 2], DIGITS[units]] if units else [_TENS[tens - 2]]


def _choose(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    return items[int(rng.integers(len(items)))]


def _record(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Simulate a recording in a room: pauses around the speech, reverberation, noise, level."""
    import soxr

    speech = soxr.resample(speech.astype(np.float32) / 32768, espeak.SAMPLE_RATE, SAMPLE_RATE)
    before, after = rng.integers(SAMPLE_RATE // 10, SAMPLE_RATE // 2, size=2)
    samples = reverberate(np.pad(speech, (before, after)), SAMPLE_RATE, rng)
    samples = add_noise(samples, rng)
    level = 10 ** rng.uniform(-1.0, -0.1)
    return np.asarray(samples * (level / np.abs(samples).max()), dtype=np.float32)
