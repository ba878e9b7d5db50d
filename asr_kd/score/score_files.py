"""What scoring reads and writes: transcripts, ``wer.json``, and what the decoder tells about itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.errors import UserError
from asr_kd.files import read_lines, read_text, write_text
from asr_kd.score.bootstrap import DRAWS, LEVEL
from asr_kd.score.wer import Score, Tally

FILES = {"words": "wer.json", "frames": "frames.json"}  # unit of a score -> its file in a folder of results
TUNING = ("acoustic_scale", "word_penalty", "beam", "max_active", "tuned_on")
TOLD_BY_DECODE = ("train_frame_accuracy", "frame_accuracy", "parameters", "real_time_factor", *TUNING)


def read_transcripts(path: str | Path) -> dict[str, tuple[str, ...]]:
    """``UTTERANCE WORD WORD ...`` lines in any order, from a file or from ``text`` in a folder; no word is allowed.

    Raises ``UserError`` with the line for an empty line or a second transcript of the same utterance.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "text"
    transcripts: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line and number == 1:
            break  # an empty file holds nothing
        utt, *words = line.split() or [""]
        if not utt:
            raise UserError(f"{path}:{number}: the line is empty; expected UTTERANCE WORD WORD ...")
        if utt in transcripts:
            raise UserError(f"{path}:{number}: a second transcript of {utt!r}; an utterance has one")
        transcripts[utt] = tuple(words)
    return transcripts


def read_speakers(path: str | Path) -> dict[str, str]:
    """``UTTERANCE SPEAKER`` lines; ``UserError`` for a line of another length."""
    transcripts = read_transcripts(path)
    for utt, words in transcripts.items():
        if len(words) != 1:
            raise UserError(f"{path}: {utt!r} has {len(words)} words after it; expected UTTERANCE SPEAKER")
    return {utt: words[0] for utt, words in transcripts.items()}


def save_score(score: Score, path: str | Path) -> None:
    """Write ``wer.json``, or ``frames.json`` of frames: totals to read, and each utterance's counts, from which
    ``load_score`` builds the score."""
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
    content = read_json(path)
    try:
        rows = content["utterances"]
        speakers = tuple(row[0] for row in rows.values())
        return Score(
            utterances=tuple(rows),
            speakers=None if None in speakers else speakers,
            counts=np.array([row[1:] for row in rows.values()], np.int64).reshape(-1, 4),
            missing=tuple(content["missing"]),
            confused=tuple(((said, heard), count) for said, heard, count in content["confused"]),
            deleted=tuple((word, count) for word, count in content["deleted"]),
            inserted=tuple((word, count) for word, count in content["inserted"]),
            normaliser=content["normaliser"],
            jiwer=content["jiwer"],
            unit=content.get("unit", "words"),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a wer.json of asr-kd score ({error!r}); score the decode folder again") from None


def score_in(folder: str | Path) -> Score:
    """The score in a folder of results: of words, or else of frames. ``UserError`` where there is neither."""
    for name in FILES.values():
        if (Path(folder) / name).is_file():
            return load_score(Path(folder) / name)
    raise UserError(f"{folder}: no wer.json; score it first: asr-kd score --ref DATA_DIR --hyp {folder}")


def read_told(folder: str | Path) -> dict[str, Any]:
    """What ``decode.json`` of a decode folder tells of ``TOLD_BY_DECODE``; nothing where there is no such file."""
    path = Path(folder) / "decode.json"
    content = read_json(path) if path.exists() else {}
    return {key: content[key] for key in TOLD_BY_DECODE if content.get(key) is not None}


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; ``UserError`` for anything else."""
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


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
    """JSON with one line for each entry of a mapping of records, so that a person can read it and ``diff`` works."""
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
        entries = (f"  {json.dumps(key, ensure_ascii=False)}: {_dump(item)}" for key, item in value.items())
        return "{\n" + ",\n".join(entries) + "\n}"
    return json.dumps(value, ensure_ascii=False)
