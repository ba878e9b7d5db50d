"""LibriSpeech and mini_librispeech: read English, ``PART/SPEAKER/CHAPTER/*.trans.txt`` beside the audio."""

from pathlib import Path

from asr_kd.corpus.datadir import DataDir, write_data_dir
from asr_kd.corpus.download import Archive
from asr_kd.corpus.splits import find_root, shuffled
from asr_kd.errors import UserError
from asr_kd.files import read_lines, write_bytes, write_text

RELEASE = (  # checksums: md5sum.txt on the two resource pages
    Archive("https://www.openslr.org/resources/31/train-clean-5.tar.gz", "5df7d4e78065366204ca6845bb08f490"),
    Archive("https://www.openslr.org/resources/12/test-clean.tar.gz", "32fa31d27d2e1cad72775fee3f4849a9"),
)
LANGUAGE = (  # no checksums are published for these
    Archive("https://www.openslr.org/resources/11/3-gram.pruned.3e-7.arpa.gz"),
    Archive("https://www.openslr.org/resources/11/librispeech-lexicon.txt"),
)
SUFFIXES = (".flac", ".opus", ".wav")


def prepare_librispeech(
    corpus_dir: str | Path,
    out: str | Path,
    train_part: str = "train-clean-5",
    eval_part: str = "test-clean",
    dev_speakers: int = 6,
    seed: int = 0,
) -> dict[str, DataDir]:
    """Data directories ``train``, ``dev`` and ``test`` in ``out``; the audio is not copied.

    ``dev`` is ``dev_speakers`` speakers of ``eval_part``, half of them women (``SPEAKERS.TXT``); ``test`` is the rest.
    """
    root = find_root(corpus_dir, train_part, f"LibriSpeech's layout: SPEAKERS.TXT, {train_part}, {eval_part}")
    dev = set(_dev_speakers(root, eval_part, dev_speakers, seed))
    test = {path.name for path in _folders(root / eval_part)} - dev
    train = {path.name for path in _folders(root / train_part)}
    parts = {"train": (train_part, train), "dev": (eval_part, dev), "test": (eval_part, test)}
    return {name: _write(root / part, speakers, Path(out) / name) for name, (part, speakers) in parts.items()}


def prepare_language(lm_dir: str | Path, out: str | Path) -> None:
    """``lexicon.txt`` and ``lm.arpa.gz`` in ``out``, from the ``*lexicon*.txt`` and ``*.arpa.gz`` of a folder.

    Stress marks are removed (``AH0`` -> ``AH``): five hours of speech are too little for three versions of each vowel.
    """
    lexicon, model = (_only(Path(lm_dir), pattern) for pattern in ("*lexicon*.txt", "*.arpa.gz"))
    lines = (line.split() for line in read_lines(lexicon) if line.strip())
    bare = dict.fromkeys(" ".join([word, *(phone.rstrip("012") for phone in phones)]) for word, *phones in lines)
    write_text(Path(out) / "lexicon.txt", "".join(f"{entry}\n" for entry in bare))
    write_bytes(Path(out) / "lm.arpa.gz", model.read_bytes())


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"{folder}: expected one {pattern}, found {names}; give a folder with exactly one")
    return found[0]


def _dev_speakers(root: Path, part: str, count: int, seed: int) -> list[str]:
    """``count`` speakers of ``part`` in shuffled order, women and men alternating."""
    sex = {}
    for number, line in enumerate(read_lines(root / "SPEAKERS.TXT"), 1):
        if line.strip() and not line.startswith(";"):
            speaker, letter = [field.strip() for field in (line + "|").split("|")[:2]]
            if letter not in ("F", "M"):
                raise UserError(f"{root / 'SPEAKERS.TXT'}:{number}: expected SPEAKER | F or M | ..., found {line!r}")
            sex[speaker] = letter
    speakers = [path.name for path in _folders(root / part)]
    if unknown := [speaker for speaker in speakers if speaker not in sex]:
        raise UserError(f"{root / 'SPEAKERS.TXT'}: speaker {unknown[0]} of {part} is not listed; download it again")
    if not 0 < count < len(speakers):
        raise UserError(
            f"{root / part}: {count} dev speakers requested, but the part has {len(speakers)} in total; lower"
            " --dev-speakers"
        )
    women = shuffled((speaker for speaker in speakers if sex[speaker] == "F"), seed)
    men = shuffled((speaker for speaker in speakers if sex[speaker] == "M"), seed)
    turn = {speaker: rank for ranked in (women, men) for rank, speaker in enumerate(ranked)}
    return sorted(shuffled(speakers, seed), key=turn.__getitem__)[:count]


def _write(part: Path, speakers: set[str], path: Path) -> DataDir:
    wav: dict[str, Path] = {}
    text: dict[str, list[str]] = {}
    for transcript in sorted(part.glob("*/*/*.trans.txt")):
        if transcript.parts[-3] not in speakers:
            continue
        audio = {file.stem: file.resolve() for file in transcript.parent.iterdir() if file.suffix in SUFFIXES}
        lines = [line.split() or [""] for line in read_lines(transcript)]
        for number, (utt, *words) in enumerate(lines, 1):
            if not utt:
                raise UserError(f"{transcript}:{number}: the line is empty; expected UTTERANCE WORD ...")
            if utt not in audio:
                raise UserError(f"{transcript}:{number}: {utt} has no audio beside it ({', '.join(SUFFIXES)})")
            wav[utt], text[utt] = audio[utt], words
        if surplus := sorted(audio.keys() - {utt for utt, *_ in lines}):
            raise UserError(f"{audio[surplus[0]]}: no transcript in {transcript.name}")
    if not wav:
        raise UserError(f"{part}: no SPEAKER/CHAPTER/*.trans.txt found; download this part again")
    return write_data_dir(path, wav, text, {utt: utt.split("-")[0] for utt in wav})


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a part of LibriSpeech (--train-part, --eval-part)")
    return sorted(entry for entry in path.iterdir() if entry.is_dir())
