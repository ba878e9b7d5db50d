"""Hypotheses as lines of text."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from asr_kd.decode.model_folder import Model
from asr_kd.decode.recognise import DecodingFailure, Hypothesis
from asr_kd.decode.search import SearchOptions
from asr_kd.files import write_text


def as_text(hypothesis: Hypothesis) -> str:
    """Kaldi's ``text``: the name and the words. An n-best list has a line per hypothesis, with its rank in the name."""
    name = utterance_id(hypothesis.name)
    if not hypothesis.nbest:
        return " ".join((name, *hypothesis.words))
    return "\n".join(" ".join((f"{name}-{rank}", *words)) for rank, (words, _) in enumerate(hypothesis.nbest, 1))


def as_trn(hypothesis: Hypothesis) -> str:
    """NIST's ``trn``: the words, then the name in parentheses."""
    return " ".join((*hypothesis.words, f"({utterance_id(hypothesis.name)})"))


def as_ctm(hypothesis: Hypothesis) -> str:
    """NIST's ``ctm``: one line per word: name, channel, begin, duration (seconds), word and confidence."""
    name = utterance_id(hypothesis.name)
    return "\n".join(
        f"{name} 1 {word.begin:.2f} {word.end - word.begin:.2f} {word.text} {word.confidence:.3f}"
        for word in hypothesis.timed
    )


def as_json(hypothesis: Hypothesis) -> str:
    """One JSON object per line with everything that was computed."""
    content: dict[str, Any] = {
        "name": hypothesis.name,
        "text": " ".join(hypothesis.words),
        "seconds": round(hypothesis.seconds, 2),
        "cost": round(hypothesis.cost, 4),
        "complete": hypothesis.complete,
        "words": [
            {"word": w.text, "begin": round(w.begin, 2), "end": round(w.end, 2), "confidence": round(w.confidence, 4)}
            for w in hypothesis.timed
        ],
    }
    if hypothesis.nbest:
        content["nbest"] = [{"text": " ".join(words), "cost": round(cost, 4)} for words, cost in hypothesis.nbest]
    return json.dumps(content, ensure_ascii=False)


FORMATS: dict[str, Callable[[Hypothesis], str]] = {"text": as_text, "json": as_json, "ctm": as_ctm, "trn": as_trn}


def summarise(
    model: Model,
    search: SearchOptions,
    hypotheses: Sequence[Hypothesis],
    failures: Sequence[DecodingFailure],
    input_kind: Literal["audio", "features"],
) -> dict[str, Any]:
    """The content of ``decode.json``.

    The real-time factor is the computing time of all processes, from ``input_kind`` to words, over the length of the
    audio. ``train_frame_accuracy`` was measured in training; ``frame_accuracy`` is that of the decoded utterances.
    """
    frames = sum(hypothesis.frames for hypothesis in hypotheses)
    judged = [hypothesis for hypothesis in hypotheses if hypothesis.right_frames is not None]
    judged_frames = sum(hypothesis.frames for hypothesis in judged)
    seconds = sum(hypothesis.seconds for hypothesis in hypotheses)
    cpu = sum(hypothesis.cpu for hypothesis in hypotheses)
    return {
        "model": str(model.path),
        "parameters": model.scorer.parameters,
        "acoustic_scale": search.acoustic_scale,
        "word_penalty": search.word_penalty,
        "tuned_on": model.config.tuned_on,
        "beam": search.beam,
        "max_active": search.max_active,
        "utterances": len(hypotheses),
        "frames": frames,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 3),
        "real_time_factor": round(cpu / seconds, 5) if seconds else None,
        "real_time_factor_from": input_kind,
        "train_frame_accuracy": model.config.provenance.get("training", {}).get("train_accuracy"),
        "frame_accuracy": sum(h.right_frames or 0 for h in judged) / judged_frames if judged_frames else None,
        "unfinished": [hypothesis.name for hypothesis in hypotheses if not hypothesis.complete],
        "bad": {failure.name: failure.reason for failure in failures},
    }


def write_decode_dir(
    out: str | Path, hypotheses: Sequence[Hypothesis], summary: dict[str, Any], timed: bool = True
) -> None:
    """Write ``text``, ``ctm`` if the words are ``timed``, and, last, ``decode.json`` into ``out``."""
    out = Path(out)
    for name in ("decode.json", "wer.json", "frames.json", "ctm"):  # an earlier decoding's must not pass for this one's
        (out / name).unlink(missing_ok=True)
    write_text(out / "text", "".join(" ".join((utterance_id(h.name), *h.words)) + "\n" for h in hypotheses))
    if timed:
        write_text(out / "ctm", "".join(as_ctm(h) + "\n" for h in hypotheses if h.timed))
    write_text(out / "decode.json", json.dumps(summary, indent=2) + "\n")


def utterance_id(name: str) -> str:
    """``name`` with each white space replaced by an underscore, since white space separates fields."""
    return re.sub(r"\s", "_", name)
