"""CMU AN4 ("census"): 948 training and 130 test utterances of alphanumeric strings and commands."""

import re
from pathlib import Path

import numpy as np

from asr_kd.corpus.audio import audio_info, write_flac
from asr_kd.corpus.datadir import DataDir, write_data_dir
from asr_kd.corpus.download import Archive
from asr_kd.corpus.splits import find_root, hold_out
from asr_kd.errors import UserError, counted
from asr_kd.files import file_name, read_bytes, read_lines, read_text, write_text
from asr_kd.progress import progress

RELEASE = (Archive("http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz"),)  # CMU states no checksum
SAMPLE_RATE = 16000  # hertz, of the headerless files
DEV_FRACTION = 0.1
CLEAR = 0.85  # of the bits of the wrong byte order; speech needs about half of them
_LINE = re.compile(r"(.*)\((\S+)\)\s*$")


def prepare_an4(corpus_dir: str | Path, out: str | Path, seed: int = 0) -> dict[str, DataDir]:
    """Data directories ``train``, ``dev`` and ``test`` and ``lexicon.txt`` in ``out``.

    ``test`` is the official test set; ``dev`` is whole speakers held out of training, about 10 % of the duration. Ids
    are ``SPEAKER-NAME``. The audio may be ``.flac``, ``.sph``, ``.wav``, or headerless ``.raw`` in either byte order,
    which is copied as FLAC to ``out/audio``.
    """
    root = find_root(corpus_dir, "etc/an4.dic", "AN4's layout: etc/an4.dic, wav/an4_clstk, wav/an4test_clstk")
    out = Path(out)
    train = _read_part(root, "train", out, {})
    durations: dict[str, float] = {}
    for speaker, path, _ in train.values():
        durations[speaker] = durations.get(speaker, 0.0) + audio_info(path).seconds
    dev_speakers = hold_out(durations, DEV_FRACTION, seed)
    parts = {
        "train": {utt: entry for utt, entry in train.items() if entry[0] not in dev_speakers},
        "dev": {utt: entry for utt, entry in train.items() if entry[0] in dev_speakers},
        "test": _read_part(root, "test", out, train),
    }
    lines = (line.split() for line in read_lines(root / "etc" / "an4.dic"))
    write_text(out / "lexicon.txt", "".join(" ".join(line) + "\n" for line in lines if line))
    return {part: _write(out / part, entries) for part, entries in parts.items()}


Entries = dict[str, tuple[str, Path, list[str]]]  # utterance -> speaker, audio file, words


def _write(path: Path, entries: Entries) -> DataDir:
    return write_data_dir(
        path,
        wav={utt: audio for utt, (_, audio, _) in entries.items()},
        text={utt: words for utt, (_, _, words) in entries.items()},
        utt2spk={utt: speaker for utt, (speaker, _, _) in entries.items()},
    )


def _read_part(root: Path, part: str, out: Path, others: Entries) -> Entries:
    """The utterances of ``etc/an4_PART.fileids`` with their transcripts in ``etc/an4_PART.transcription``.

    Raises ``UserError`` for an id that is there twice, or among ``others``: the audio of one would replace the other's.
    """
    fileids = read_text(root / "etc" / f"an4_{part}.fileids").split()
    transcription = root / "etc" / f"an4_{part}.transcription"
    lines = read_lines(transcription)
    if len(lines) != len(fileids):
        raise UserError(
            f"{transcription}: {counted(len(lines), 'transcript')} for {counted(len(fileids), 'file')}; download it"
            " again"
        )
    entries: Entries = {}
    for number, (fileid, line) in enumerate(progress(zip(fileids, lines, strict=True), len(lines), f"an4 {part}"), 1):
        found = _LINE.match(line)
        *folders, name = fileid.split("/")
        if not folders:
            raise UserError(f"{root / 'etc' / f'an4_{part}.fileids'}: expected FOLDER/SPEAKER/NAME, found {fileid!r}")
        if found is None or found[2] != name:
            raise UserError(f"{transcription}:{number}: expected WORDS ({name}), found {line!r}")
        speaker = folders[-1]
        utt = f"{speaker}-{name}"
        if utt in entries or utt in others:
            raise UserError(f"{transcription}:{number}: a second utterance {name!r} of the speaker {speaker!r}")
        words = [word for word in found[1].split() if word not in ("<s>", "</s>")]
        entries[utt] = speaker, _audio(root / "wav" / fileid, utt, out), words
    return entries


def _audio(stem: Path, utt: str, out: Path) -> Path:
    """The audio file of ``stem``; a headerless file is converted to FLAC."""
    for suffix in (".flac", ".sph", ".wav"):
        path = stem.parent / (stem.name + suffix)
        if path.exists():
            return path.resolve()
    raw = stem.parent / f"{stem.name}.raw"
    if not raw.exists():
        raise UserError(f"{stem}: no audio; expected .raw, .sph, .wav or .flac")
    path = out.resolve() / "audio" / f"{file_name(utt)}.flac"
    write_flac(path, _decode_raw(raw), SAMPLE_RATE)
    return path


def _decode_raw(path: Path) -> np.ndarray:
    """The 16-bit samples of a headerless file, in the byte order that its content shows.

    The official release is big-endian, other copies are little-endian, and the README that comes with some is wrong.
    In the wrong order the low byte, which is nearly random, becomes the high byte: speech becomes white noise. The
    right order is therefore the one in which neighbouring samples differ less. Raises ``UserError`` if neither order is
    clearly better.
    """
    content = read_bytes(path)
    if not content or len(content) % 2:
        raise UserError(f"{path}: {len(content)} bytes; 16-bit samples were expected: the file is empty or truncated")
    little, big = (np.frombuffer(content, order).astype(np.int16) for order in ("<i2", ">i2"))
    little_bits, big_bits = _bits_to_code(little), _bits_to_code(big)
    if big_bits < CLEAR * little_bits or np.array_equal(little, big):
        return big
    if little_bits < CLEAR * big_bits:
        return little
    raise UserError(
        f"{path}: the byte order cannot be determined: the samples look like noise in either order; convert the "
        "file to .wav or .flac, for example with sox"
    )


def _bits_to_code(samples: np.ndarray) -> float:
    """Mean number of bits in the difference between neighbouring samples, after division by a common factor."""
    differences = np.abs(np.diff(samples.astype(np.int64)))
    factor = max(1, int(np.gcd.reduce(samples.astype(np.int64))))
    return float(np.log2(1 + differences / factor).mean()) if len(differences) else 0.0
