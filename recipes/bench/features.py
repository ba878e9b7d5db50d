"""Features from compressed audio to the frame store, on one core: speed, and growth of memory with the corpus."""

import argparse
import shutil
import time
from pathlib import Path

from measuring import ASR_KD, Cost, row, run

from asr_kd.corpus.audio import audio_info, read_audio
from asr_kd.corpus.datadir import DataDir, read_data_dir, write_data_dir
from asr_kd.corpus.librispeech import prepare_librispeech

COPIES = 4


def main() -> None:
    """Measure the corpus alone and ``COPIES`` times repeated; the speed is the latter's, program start included."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="name of the corpus and its audio format")
    parser.add_argument("data", type=Path, help="data directory, longer than a shard of a store (17 minutes)")
    parser.add_argument("work", type=Path, help="folder for the stores; removed at the end")
    parser.add_argument(
        "--librispeech", action="store_true", help="DATA is a LibriSpeech release; its test-clean is used"
    )
    options = parser.parse_args()
    if options.librispeech:
        data = prepare_librispeech(options.data, options.work)["test"]
    else:
        data = read_data_dir(options.data)
    large = repeat(data, options.work / "large")
    once, often = (extract(folder, options.work / "store") for folder in (data.path, large.path))
    decoding, seconds = decode(large)
    opening, reading = read(large)
    shutil.rmtree(options.work)
    name = f"features, {options.name}"
    row(name, seconds / often.cpu, "times real time on one core", "the length of the audio", least=500)
    row(f"{name}: total time", often.cpu / decoding, "times as long", "bare decoding of the audio by soundfile")
    row(f"reading, {options.name}", reading / decoding, "times as long", "bare decoding by soundfile", most=1.2)
    row(f"opening, {options.name}", opening / decoding, "times as long", "decoding all of it by soundfile", most=0.15)
    row(
        f"{name}: {COPIES} times the corpus",
        often.memory / once.memory,
        f"times the peak memory ({often.memory:.0f} MB)",
        "the corpus once",
        most=1.1,
    )


def repeat(data: DataDir, path: Path) -> DataDir:
    """``COPIES`` of a corpus of whole recordings, each with speakers of its own."""
    copies = range(COPIES)
    wav = {f"copy{i}-{utt}": file for i in copies for utt, file in data.wav.items()}
    speakers = {f"copy{i}-{utt}": f"copy{i}-{speaker}" for i in copies for utt, speaker in data.utt2spk.items()}
    return write_data_dir(path, wav, {}, speakers)


def extract(data: Path, store: Path) -> Cost:
    """The cost of ``asr-kd feats``."""
    shutil.rmtree(store, ignore_errors=True)
    return run(*ASR_KD, "feats", data, store, "--jobs", "1")


def read(data: DataDir) -> tuple[float, float]:
    """Computing time of finding the length of every file, and of reading every file, in seconds."""
    began = time.process_time()
    rates = [(path, audio_info(path).sample_rate) for path in data.wav.values()]
    opened = time.process_time()
    for path, rate in rates:
        read_audio(path, rate)
    return opened - began, time.process_time() - opened


def decode(data: DataDir) -> tuple[float, float]:
    """CPU time of decoding every file, and the duration of the audio, in seconds."""
    import soundfile

    began, seconds = time.process_time(), 0.0
    for path in data.wav.values():
        samples, rate = soundfile.read(path, dtype="float32")
        seconds += len(samples) / rate
    return time.process_time() - began, seconds


if __name__ == "__main__":
    main()
