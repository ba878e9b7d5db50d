"""Free Spoken Digit Dataset: 3000 isolated digits of 6 speakers, 8 kHz, ``recordings/DIGIT_SPEAKER_INDEX.wav``."""

import re
from pathlib import Path

from asr_kd.corpus.datadir import DataDir, write_data_dir
from asr_kd.corpus.digits import DIGITS, LEXICON
from asr_kd.corpus.download import Archive
from asr_kd.corpus.splits import find_root
from asr_kd.errors import UserError
from asr_kd.files import write_text

# GitHub generates the archive on demand and publishes no checksum.
RELEASE = (Archive("https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"),)
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")


def prepare_fsdd(corpus_dir: str | Path, out: str | Path) -> dict[str, DataDir]:
    """Data directories ``train``, ``dev`` and ``test`` and ``lexicon.txt`` in ``out``; the audio is not copied.

    ``test`` is the official test set: indices 0 to 4 of each speaker and digit. ``dev`` is indices 5 to 9. All three
    sets share the 6 speakers.
    """
    root = find_root(corpus_dir, "recordings", "FSDD's layout: recordings/DIGIT_SPEAKER_INDEX.wav")
    parts: dict[str, dict[str, tuple[str, str, Path]]] = {"train": {}, "dev": {}, "test": {}}
    for path in sorted((root / "recordings").glob("*.wav")):
        found = _NAME.fullmatch(path.name)
        if found is None:
            raise UserError(f"{path}: expected a file name like 7_jackson_32.wav")
        digit, speaker, index = found.groups()
        part = "test" if int(index) < 5 else "dev" if int(index) < 10 else "train"
        parts[part][f"{speaker}-{digit}-{index}"] = speaker, DIGITS[int(digit)], path.resolve()
    if empty := [part for part, entries in parts.items() if not entries]:
        raise UserError(
            f"{root / 'recordings'}: no recordings of the {empty[0]} part; the release has 3,000 in total; download it"
            " again"
        )
    lines = [line for line in LEXICON.splitlines(keepends=True) if line.split()[0] in DIGITS]
    write_text(Path(out) / "lexicon.txt", "".join(lines))
    return {
        part: write_data_dir(
            Path(out) / part,
            wav={utt: path for utt, (_, _, path) in entries.items()},
            text={utt: [word] for utt, (_, word, _) in entries.items()},
            utt2spk={utt: speaker for utt, (speaker, _, _) in entries.items()},
        )
        for part, entries in parts.items()
    }
