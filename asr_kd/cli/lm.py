"""``asr-kd lm``: n-gram language models."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.errors import counted

if TYPE_CHECKING:
    from asr_kd.graph.ngram import Text


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.description = (
        "Estimate n-gram language models (interpolated modified Kneser-Ney, ARPA format), and measure perplexity.\n"
        "Each action explains its options: asr-kd lm ACTION --help"
    )
    parser.epilog = (
        "examples:\n  asr-kd lm estimate data/an4/train data/an4/lm.arpa.gz --order 3\n"
        "  asr-kd lm perplexity data/an4/lm.arpa.gz data/an4/test"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = _add(
        actions,
        "estimate",
        "text -> ARPA file",
        "Estimate a language model. The vocabulary is that of the text, or of a word list or lexicon (--vocabulary).\n"
        "With --unk, <unk> stands for the words outside it.",
        "data/an4/train data/an4/lm.arpa.gz --order 3",
    )
    make.add_argument("text", type=Path, metavar="TEXT", help="data directory, or a file with one sentence per line")
    make.add_argument(
        "out", type=Path, metavar="OUT.arpa[.gz]", help="language model to write; an existing file is replaced"
    )
    make.add_argument("--order", type=int, default=3, metavar="N", help="length of the longest n-grams (default: 3)")
    make.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="take the words from this word list, lexicon or words.txt"
    )
    make.add_argument(
        "--unk", action="store_true", help="open vocabulary: add <unk> (default: a word outside it is an error)"
    )
    make.add_argument("--unknown", dest="unk", action="store_true", help=argparse.SUPPRESS)
    make.set_defaults(run=_estimate)
    score = _add(
        actions,
        "perplexity",
        "perplexity of a model on a text, and the text's out-of-vocabulary rate",
        "Print a model's perplexity on a text, including sentence ends, and the text's out-of-vocabulary rate.",
        "data/an4/lm.arpa.gz data/an4/test",
    )
    score.add_argument("arpa", type=Path, metavar="ARPA", help="language model")
    score.add_argument("text", type=Path, metavar="TEXT", help="data directory, or a file with one sentence per line")
    score.set_defaults(run=_perplexity)
    for child in (make, score):
        child.add_argument("--ids", action="store_true", help="lines of TEXT begin with an utterance id (Kaldi's text)")


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, purpose: str, text: str, example: str
) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=purpose,
        description=text,
        epilog=f"example:\n  asr-kd lm {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _estimate(options: argparse.Namespace) -> None:
    from asr_kd.graph.arpa import write_arpa
    from asr_kd.graph.ngram import estimate, read_vocabulary

    vocabulary = read_vocabulary(options.vocabulary) if options.vocabulary else None
    text = _read(options)
    model = estimate(text.sentences, options.order, vocabulary, options.unk)
    write_arpa(model, options.out)
    sizes = ", ".join(f"{len(grams.words):,} {order}-grams" for order, grams in enumerate(model.grams, 1))
    print(f"{options.out}: {sizes} from {counted(len(text.sentences), 'sentence')}")


def _read(options: argparse.Namespace) -> "Text":
    """The text, with a remark on empty lines and a warning where its lines seem to begin with ids."""
    from asr_kd.graph.ngram import read_sentences

    text = read_sentences(options.text, options.ids)
    if text.empty:
        print(f"{options.text}: left out {counted(text.empty, 'line')} without words", file=sys.stderr)
    if text.may_have_ids:
        print(
            f"warning: {options.text}: each line begins with a word that occurs nowhere else, such as"
            f" {text.sentences[0][0]!r}; if these are utterance ids, give --ids",
            file=sys.stderr,
        )
    return text


def _perplexity(options: argparse.Namespace) -> None:
    from asr_kd.graph.arpa_reader import read_arpa
    from asr_kd.graph.ngram import measure

    result = measure(read_arpa(options.arpa), _read(options).sentences)
    with_oov = result.perplexity_with_oov
    print(
        f"perplexity {result.perplexity:.2f} over {counted(result.words - result.oov, 'word')} and"
        f" {counted(result.sentences, 'sentence end')}; {result.oov:,} of {counted(result.words, 'word')} out of"
        f" vocabulary ({100 * result.oov_rate:.2f} %)"
        + (f"; perplexity with these as <unk> {with_oov:.2f}" if with_oov and result.oov else "")
    )
