"""PocketSphinx with its en-us acoustic model on a data directory: ``text``, and ``decode.json`` with its speed."""

import argparse
import json
import time
from pathlib import Path

import pocketsphinx
import soundfile

from asr_kd.corpus.datadir import read_data_dir

SAMPLE_RATE = 16000  # hertz, expected by the en-us model


def main() -> None:
    """Recognise every utterance with PocketSphinx's default settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="data directory")
    parser.add_argument("arpa", type=Path)
    parser.add_argument("lexicon", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    data = read_data_dir(options.data)
    decoder = pocketsphinx.Decoder(lm=str(options.arpa), dict=str(options.lexicon), loglevel="FATAL")
    began, seconds, lines = time.process_time(), 0.0, []
    for utt, path in data.wav.items():
        samples, rate = soundfile.read(path, dtype="int16")
        assert rate == SAMPLE_RATE, f"{path}: {rate} Hz"
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        lines.append(f"{utt} {found.hypstr if found else ''}".rstrip() + "\n")
        seconds += len(samples) / rate
    factor = (time.process_time() - began) / seconds
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "text").write_text("".join(lines))
    (options.out / "decode.json").write_text(json.dumps({"real_time_factor": factor}))


if __name__ == "__main__":
    main()
