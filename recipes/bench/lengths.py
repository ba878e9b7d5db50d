"""Words with times and confidences of ever longer audio: computing time and memory against the length."""

import argparse
from pathlib import Path

import numpy as np
import soundfile
from measuring import ASR_KD, row, run

MINUTES = (5, 10, 20, 60)
RATE = 16000


def main() -> None:
    """Decode the same five minutes, repeated: what follows can only cost more if length itself does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("data", type=Path, help="data directory of audio files at 16 kHz")
    parser.add_argument("work", type=Path, help="folder for the audio")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    entries = [line.split(maxsplit=1)[1] for line in (options.data / "wav.scp").read_text().splitlines()]
    samples = np.concatenate([soundfile.read(path, dtype="int16")[0] for path in entries])
    unit = np.resize(samples, MINUTES[0] * 60 * RATE)
    files, peaks = [], []
    for minutes in MINUTES:
        audio, out = options.work / f"{minutes}.flac", options.work / f"decode_{minutes}"
        soundfile.write(audio, np.tile(unit, minutes // MINUTES[0]), RATE)
        cost = run(*ASR_KD, "decode", options.model, audio, "--output", out)
        files.append(audio)
        peaks.append(cost.memory)
    factors = real_time_factors(options.model, files)
    shown = ", ".join(f"{factor:.5f}" for factor in factors)
    lengths = f"of {', '.join(map(str, MINUTES))} minutes of audio ({shown})"
    row("decoding with times, from 5 minutes to an hour", max(factors) / min(factors), "largest by smallest "
        f"real-time factor {lengths}", "the same audio, repeated", most=1.1)  # fmt: skip
    against = f"{MINUTES[0]} minutes ({peaks[0]:,.0f} MB)"
    row("decoding with times, an hour: memory", peaks[-1] - peaks[0], "MB more at the peak", against, most=1200)


def real_time_factors(model: Path, files: list[Path]) -> list[float]:
    """CPU time over length of each file, in one process that has decoded the first already."""
    import torch  # here: a process that imports it adds its memory to that of the processes it starts

    from asr_kd.decode.model_folder import load_model_folder
    from asr_kd.decode.recognise import Hypothesis, OutputOptions, Recogniser
    from asr_kd.decode.sources import AudioFile

    torch.set_num_threads(1)
    recogniser = Recogniser(load_model_folder(model), outputs=OutputOptions(timed=True))
    results = [next(recogniser.recognise(AudioFile(str(path)))) for path in [files[0], *files]]
    return [result.cpu / result.seconds for result in results[1:] if isinstance(result, Hypothesis)]


if __name__ == "__main__":
    main()
