"""Lists of utterances, to which a command restricts itself."""

from pathlib import Path

from asr_kd.errors import UserError
from asr_kd.files import fields_of, read_lines
from asr_kd.storage import exists, joined


def read_utterance_list(path: str | Path) -> list[str]:
    """The utterance ids in the first column of a file, or of the ``utt2spk`` of a data directory."""
    inside = joined(path, "utt2spk")
    path = inside if exists(inside) else path
    utterances = [fields[0] for line in read_lines(path) if (fields := fields_of(line, 1))]
    if not utterances:
        raise UserError(f"{path}: lists no utterances; expected one id per line")
    return utterances
