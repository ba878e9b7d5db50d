"""``asr-kd score``."""

import argparse
from pathlib import Path

from asr_kd.errors import UserError
from asr_kd.score.normalise_text import NORMALISERS


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the verb and add its options."""
    parser.description = (
        "Print the word error rate of hypotheses against references, matched by utterance id. If an utterance has no\n"
        "hypothesis, all its words count as deletions. A hypothesis without a reference is an error."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd score --ref data/test --hyp exp/hard/decode_test\n"
        "writes exp/hard/decode_test/wer.json, which asr-kd compare reads. Any two files with lines\n"
        "UTTERANCE WORD WORD ... can be scored as well:\n"
        "  asr-kd score --ref reference.txt --hyp hypothesis.txt -o wer.json"
    )
    parser.add_argument(
        "--ref", required=True, type=Path, metavar="DIR|FILE", help="data directory, or a file like its text"
    )
    parser.add_argument(
        "--hyp", required=True, type=Path, metavar="DIR|FILE", help="decode folder, or a file like its text"
    )
    parser.add_argument(
        "--utt2spk", type=Path, metavar="FILE", help="speaker of each utterance (default: utt2spk in --ref, if any)"
    )
    normaliser = "none, or upper-strip-punct: upper case, punctuation removed (default: none)"
    parser.add_argument("--normaliser", default="none", choices=NORMALISERS, help=normaliser)
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="show the N most frequent errors (default: 10)"
    )
    output = (
        "file to write, replacing an existing one (default: wer.json in the decode folder; none if --hyp is a file)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=output)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score, store and print."""
    from asr_kd.score.score_files import read_speakers, read_transcripts, save_score
    from asr_kd.score.summary import summary
    from asr_kd.score.wer import score

    if options.top < 0:
        raise UserError(f"--top {options.top}: expected 0 or more")
    utt2spk = options.utt2spk or (options.ref / "utt2spk" if (options.ref / "utt2spk").is_file() else None)
    result = score(
        read_transcripts(options.ref),
        read_transcripts(options.hyp),
        None if utt2spk is None else read_speakers(utt2spk),
        options.normaliser,
    )
    output = options.output or (options.hyp / "wer.json" if options.hyp.is_dir() else None)
    if output is not None:
        save_score(result, output)
    print(summary(result, options.top), end="")
