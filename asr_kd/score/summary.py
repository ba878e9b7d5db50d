"""A score as text for the terminal."""

from collections.abc import Sequence

from asr_kd.errors import counted
from asr_kd.score.compare_systems import describe, unicode_note
from asr_kd.score.table import Column, percent, plain, render
from asr_kd.score.wer import Score

_SPEAKER = (
    Column("speaker", plain("speaker"), left=True),
    Column("WER %", percent("wer")),
    Column("errors", plain("errors")),
    Column("words", plain("words")),
    Column("utterances", plain("utterances")),
)


def summary(score: Score, top: int = 10) -> str:
    """The rates, one line per speaker, the ``top`` most frequent errors, and the footnote."""
    total, interval = score.total, score.interval
    lines = [
        f"WER {100 * total.wer:.2f} % (95 % CI {100 * interval.low:.1f} to {100 * interval.high:.1f}):"
        f" {total.errors:,} errors in {counted(total.words, 'word')}: {total.substitutions:,} substitutions,"
        f" {total.deletions:,} deletions, {total.insertions:,} insertions",
        f"sentences with an error: {100 * total.sentence_error_rate:.1f} %"
        f" ({total.wrong_utterances:,} of {total.utterances:,})",
    ]
    if score.missing:
        lines.append(
            f"no hypothesis: {counted(len(score.missing), 'utterance')}, first {score.missing[0]!r}; all words count"
            " as deletions"
        )
    if score.by_speaker:
        records = [
            {
                "speaker": name,
                "wer": part.wer,
                "errors": part.errors,
                "words": part.words,
                "utterances": part.utterances,
            }
            for name, part in score.by_speaker.items()
        ]
        lines += ["", render(records, _SPEAKER)]
    confused = [(" > ".join(pair), count) for pair, count in score.confused[:top]]
    lines += _most("confused (reference > hypothesis)", confused)
    lines += _most("deleted", score.deleted[:top])
    lines += _most("inserted", score.inserted[:top])
    return "\n".join([*lines, describe(score), *unicode_note("", score)]) + "\n"


def _most(title: str, counted: Sequence[tuple[str, int]]) -> list[str]:
    if not counted:
        return []
    return [f"most {title}: " + ", ".join(f"{word} ({count})" for word, count in counted)]
