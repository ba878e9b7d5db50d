"""The built-in corpus: reproducible to the byte, disjoint in its voices, and acoustically what it says."""

from pathlib import Path

import numpy as np
import pytest

from asr_kd.corpus import acoustics, espeak
from asr_kd.corpus.audio import audio_info, read_audio
from asr_kd.corpus.digits import (
    ACCENTS,
    DIGITS,
    LEXICON,
    PARTS,
    UNUSED_VOICES,
    Task,
    families,
    prepare_digits,
    sentence,
    speak,
)
from asr_kd.errors import UserError

VOICES = {part: [voice for family in families(part) for voice in family] for part in PARTS}
WORDS = {line.split()[0] for line in LEXICON.splitlines()}


def test_every_voice_speaks_the_same_samples_whatever_was_said_before() -> None:
    voices = [f"{ACCENTS[n % 6]}+{voice}" for part in PARTS for n, voice in enumerate(VOICES[part])]
    assert {voice.split("+")[1] for voice in voices} == set(espeak.variants()) - set(UNUSED_VOICES)
    first = [espeak.synthesise("five", voice) for voice in voices]
    assert min(map(len, first)) > 0.1 * espeak.SAMPLE_RATE
    backwards = [espeak.synthesise("five", voice) for voice in reversed(voices)]
    for voice, before, after in zip(voices, first, reversed(backwards), strict=True):
        assert np.array_equal(before, after), voice


def test_an_unknown_accent_is_refused() -> None:
    with pytest.raises(UserError, match="no voice 'en-nowhere'"):
        espeak.synthesise("five", "en-nowhere")


def test_rate_and_pitch_are_obeyed() -> None:
    slow, fast = (espeak.synthesise("one two three four", "en-us", rate=rate) for rate in (100, 200))
    assert len(slow) > 1.4 * len(fast)
    low, high = (espeak.synthesise("oh", "en-us", pitch=pitch, pitch_range=0) for pitch in (10, 90))
    assert _pitch(high) > 1.5 * _pitch(low)


def _pitch(samples: np.ndarray) -> float:
    """Hertz, from the largest autocorrelation of the middle of the sound between 60 and 400 Hz."""
    middle = samples[len(samples) // 3 : 2 * len(samples) // 3].astype(float)
    correlation = np.correlate(middle, middle, "full")[len(middle) :]
    lags = slice(espeak.SAMPLE_RATE // 400, espeak.SAMPLE_RATE // 60)
    return espeak.SAMPLE_RATE / (lags.start + int(correlation[lags].argmax()) + 1)


def test_an_utterance_is_the_same_bytes_each_time_and_another_with_another_seed(tmp_path: Path) -> None:
    tasks = [Task(3, "train", number, tmp_path / "a") for number in range(4)]
    first = {speak(task).path.name: speak(task).path.read_bytes() for task in tasks}
    for task in reversed(tasks):
        made = speak(Task(task.seed, task.part, task.number, tmp_path / "b"))
        assert made.path.read_bytes() == first[made.path.name]
    assert speak(Task(4, "train", 0, tmp_path / "c")).path.read_bytes() not in first.values()


def test_the_corpus_does_not_depend_on_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_kd.corpus.digits.LEAST_EVAL_HOURS", 0.001)
    one = prepare_digits(tmp_path / "one", hours=0.004, seed=1, jobs=1)
    two = prepare_digits(tmp_path / "two", hours=0.004, seed=1, jobs=2)
    for part in PARTS:
        assert (one[part].text, one[part].utt2spk) == (two[part].text, two[part].utt2spk)
        for utt in one[part].utterances:
            assert Path(one[part].wav[utt]).read_bytes() == Path(two[part].wav[utt]).read_bytes()


def test_voices_of_the_parts_are_disjoint_and_do_not_sound_alike() -> None:
    assert sum(map(len, VOICES.values())) == len({voice for voices in VOICES.values() for voice in voices}) > 90
    for stem in ("klatt", "robosoft", "iven", "steph", "mike"):
        assert sum(any(voice.lower().startswith(stem) for voice in voices) for voices in VOICES.values()) == 1
    assert sum("m" + digit in VOICES["train"] for digit in "12345678") < 8


def test_sentences_use_the_whole_lexicon_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    sentences = [sentence(rng) for _ in range(3000)]
    assert {word for words in sentences for word in words} == WORDS
    digits = [words for words in sentences if set(words) <= {*DIGITS, "OH"}]
    assert 0.4 < len(digits) / len(sentences) < 0.6


def test_noise_has_the_ratio_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    speech = np.sin(np.arange(16000) / 5) * (np.arange(16000) > 8000)
    for kind in acoustics.NOISES:
        monkeypatch.setattr(acoustics, "NOISES", (kind,))
        monkeypatch.setattr(acoustics, "SIGNAL_TO_NOISE", (7.0, 7.0))
        noise = acoustics.add_noise(speech, np.random.default_rng(0)) - speech
        assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(7.0)


def test_pink_noise_falls_3_decibels_an_octave() -> None:
    power = np.abs(np.fft.rfft(acoustics._noise("pink", np.zeros(1 << 16), np.random.default_rng(0)))) ** 2
    octaves = [10 * np.log10(power[1 << k : 2 << k].mean()) for k in range(8, 15)]
    assert np.diff(octaves) == pytest.approx(-3.0, abs=0.7)


def test_reverberation_decays_by_60_decibels_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acoustics, "REVERBERATION_TIME", (0.5, 0.5))
    click = np.zeros(16000)
    click[0] = 1.0
    response = acoustics.reverberate(click, 16000, np.random.default_rng(0))
    early, late = (np.mean(response[start : start + 800] ** 2) for start in (1, 1 + 3200))
    assert 10 * np.log10(early / late) == pytest.approx(60 * 3200 / 8000, abs=1.5)
    assert response[0] == 1.0


def test_recordings_are_16_khz_of_a_sensible_length_and_level(tmp_path: Path) -> None:
    for number in range(10):
        made = speak(Task(0, "dev", number, tmp_path))
        info = audio_info(made.path)
        assert (info.sample_rate, info.channels, info.format) == (16000, 1, "FLAC")
        assert 0.1 < info.seconds / (len(made.words) + 1) < 1.0
        assert 0.09 < np.abs(read_audio(made.path, 16000)).max() < 0.81


def test_a_wrong_number_of_hours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--hours -1"):
        prepare_digits(tmp_path, hours=-1)
