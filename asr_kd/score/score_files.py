"""The files of scoring: transcripts, ``wer.json`` or ``frames.json``, and the decoder's summary ``decode.json``."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np

from asr_kd.config import shown
from asr_kd.errors import UserError, counted
from asr_kd.files import check_folder, fields_of, read_json, read_lines, write_text
from asr_kd.score.bootstrap import DRAWS, LEVEL
from asr_kd.score.wer import Score, Tally

FILES = {"words": "wer.json", "frames": "frames.json"}  # unit of a score -> its file in a folder of results
TUNING = ("acoustic_scale", "word_penalty", "beam", "max_active", "tuned_on")
MOST_COUNTED = 2**31  # words or frames of one utterance: sums over all utterances stay exact
LARGEST = 2**53  # number that a table shows: beyond it floating point is not exact
_NUMBERS = (
    "train_frame_accuracy", "frame_accuracy", "parameters", "real_time_factor",
    "acoustic_scale", "word_penalty", "beam", "max_active",
)  # fmt: skip
_TEXTS = ("tuned_on", "real_time_factor_from")


def read_transcripts(path: str | Path) -> dict[str, tuple[str, ...]]:
    """``UTTERANCE WORD WORD ...`` lines in any order, from a file or from ``text`` in a folder; no word is allowed.

    Raises ``UserError`` with the line for an empty line or a second transcript of the same utterance.
    """
    path = Path(path)
    if path.is_dir():
        check_folder(path, "text", "a decode folder or data directory", "give the --output folder of asr-kd decode")
        path = path / "text"
    transcripts: dict[str, tuple[str, ...]] = {}
    vocabulary: dict[str, str] = {}  # so that every distinct word is in memory once
    for number, line in enumerate(read_lines(path), 1):
        utt, *words = fields_of(line, 1) or [""]
        if not utt:
            raise UserError(f"{path}:{number}: the line is empty; expected UTTERANCE WORD WORD ...")
        if utt in transcripts:
            raise UserError(f"{path}:{number}: a second transcript of {utt!r}; remove one")
        found = words[0].split() if words else ()
        transcripts[utt] = tuple(vocabulary.setdefault(word, word) for word in found)
    return transcripts


def read_speakers(path: str | Path) -> dict[str, str]:
    """``UTTERANCE SPEAKER`` lines; ``UserError`` for a line of another length."""
    transcripts = read_transcripts(path)
    for utt, words in transcripts.items():
        if len(words) != 1:
            raise UserError(f"{path}: {utt!r} has {counted(len(words), 'word')} after it; expected UTTERANCE SPEAKER")
    return {utt: words[0] for utt, words in transcripts.items()}


def save_score(score: Score, path: str | Path) -> None:
    """Write ``wer.json`` or ``frames.json``: totals to read, and the counts of each utterance for ``load_score``."""
    interval = score.interval
    content = {
        "unit": score.unit,
        "wer": score.total.wer,
        "wer_interval": [interval.low, interval.high],
        "interval": {"level": LEVEL, "unit": score.cluster_unit, "clusters": interval.clusters, "draws": DRAWS},
        **_tally(score.total),
        "normaliser": score.normaliser,
        "jiwer": score.jiwer,
        "missing": score.missing,
        "speakers": {name: {"wer": part.wer, **_tally(part)} for name, part in score.by_speaker.items()},
        "confused": [[*pair, count] for pair, count in score.confused],
        "deleted": score.deleted,
        "inserted": score.inserted,
        "columns": ["speaker", "words", "substitutions", "deletions", "insertions"],
        "utterances": {
            utt: [None if score.speakers is None else score.speakers[row], *map(int, score.counts[row])]
            for row, utt in enumerate(score.utterances)
        },
    }
    lines = [f"{json.dumps(key)}: {_dump(value)}" for key, value in content.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load_score(path: str | Path) -> Score:
    """Read what ``save_score`` wrote; ``UserError`` for anything else."""
    content = _read_object(path)
    try:
        rows = content["utterances"]
        speakers = tuple(_text(row[0]) for row in rows.values() if row[0] is not None)
        _expect(len(rows) > 0 and len(speakers) in (0, len(rows)), "no utterances, or a speaker for some of them only")
        unit = content.get("unit", "words")
        _expect(unit in FILES, f"unit {shown(unit)}")
        return Score(
            utterances=tuple(map(_text, rows)),
            speakers=speakers or None,
            counts=np.array([_counts(row) for row in rows.values()], np.int64),
            missing=tuple(map(_text, _list(content["missing"]))),
            confused=tuple(
                ((_text(spoken), _text(decoded)), _count(count))
                for spoken, decoded, count in _list(content["confused"])
            ),
            deleted=tuple((_text(word), _count(count)) for word, count in _list(content["deleted"])),
            inserted=tuple((_text(word), _count(count)) for word, count in _list(content["inserted"])),
            normaliser=_text(content["normaliser"]),
            jiwer=_text(content["jiwer"]),
            unit=unit,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not a wer.json of asr-kd score: {reason}; score the decode folder again") from None


def score_in(folder: str | Path) -> Score:
    """The score of words in a folder of results, else that of frames. ``UserError`` if there is neither."""
    for name in FILES.values():
        if (Path(folder) / name).is_file():
            return load_score(Path(folder) / name)
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; expected a decode folder")
    raise UserError(f"{folder}: no wer.json; score it first: asr-kd score --ref DATA_DIR --hyp {folder}")


def read_decode_summary(folder: str | Path) -> dict[str, Any]:
    """What tables show of a decode folder's ``decode.json``: frame accuracies, parameters, real-time factor, tuning.

    Empty if there is no such file. Raises ``UserError`` for a value of another type.
    """
    path = Path(folder) / "decode.json"
    content = _read_object(path) if path.exists() else {}
    found = {key: content[key] for key in (*_NUMBERS, *_TEXTS) if content.get(key) is not None}
    for key, value in found.items():
        if not (is_text(value) if key in _TEXTS else is_number(value)):
            expected = "text" if key in _TEXTS else "a number"
            raise UserError(f"{path}: {key} is {shown(value)}; expected {expected}. Decode this set again")
    return found


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number that a table can show."""
    return type(value) in (int, float) and abs(value) <= LARGEST  # false of NaN


def is_text(value: Any) -> bool:
    """Whether a value from JSON is text that UTF-8 can store: JSON itself allows halves of surrogate pairs."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _read_object(path: str | Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {shown(content)}")
    return content


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _text(value: Any) -> str:
    _expect(is_text(value), f"expected text, found {shown(value)}")
    return cast(str, value)


def _list(value: Any) -> list[Any]:
    _expect(isinstance(value, list), f"expected a list, found {shown(value)}")
    return cast(list[Any], value)


def _count(value: Any) -> int:
    _expect(type(value) is int and 0 <= value <= MOST_COUNTED, f"expected a count, found {shown(value)}")
    return cast(int, value)


def _counts(row: Any) -> list[int]:
    """Words, substitutions, deletions and insertions of one utterance; its speaker comes before them."""
    counts = list(map(_count, _list(row)[1:]))
    _expect(len(counts) == 4, f"expected a speaker and 4 counts, found {shown(row)}")
    _expect(counts[1] + counts[2] <= counts[0], f"more substitutions and deletions than words: {shown(row)}")
    return counts


def _tally(part: Tally) -> dict[str, Any]:
    return {
        "errors": part.errors,
        "words": part.words,
        "substitutions": part.substitutions,
        "deletions": part.deletions,
        "insertions": part.insertions,
        "sentences": part.utterances,
        "sentence_errors": part.wrong_utterances,
        "sentence_error_rate": part.sentence_error_rate,
    }


def _dump(value: Any) -> str:
    """JSON with one line for each entry of a mapping of records, so that people can read it and ``diff`` works."""
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
        entries = (f"  {json.dumps(key, ensure_ascii=False)}: {_dump(item)}" for key, item in value.items())
        return "{\n" + ",\n".join(entries) + "\n}"
    return json.dumps(value, ensure_ascii=False)
