"""The command line: ``asr-kd VERB ...``; one module for each verb, imported only when it runs."""

import argparse
import errno
import importlib
import os
import sys
from typing import TYPE_CHECKING

from asr_kd import __version__
from asr_kd.errors import UserError

if TYPE_CHECKING:
    import torch

VERBS = {
    "corpus": "audio and transcripts -> data directories: prepare, validate, info, subset, perturb, combine",
    "feats": "data directory -> feature store (log-mel frames or cepstra)",
    "frames": "look into, check and convert frame stores: info, verify, copy, export, import",
    "hmm": "GMM-HMM training and alignment: features and words -> a tied state for each frame",
    "lm": "n-gram language models: estimate, perplexity",
    "graph": "language model, lexicon and states -> decoding graph",
    "targets": "teacher and features -> soft targets: write, compare, import, info, verify",
    "train": "features, with states or soft targets -> acoustic network",
    "specialists": "networks for confusable states: cluster, prepare, join",
    "model": "network, states and graph -> one deployable folder",
    "decode": "audio or a data directory -> words",
    "score": "words against a reference -> WER",
    "compare": "several scored systems -> one table with significance",
    "plot": "curves of training, results against a quantity -> figures",
    "report": "what a recipe measured -> RESULTS.md and results.json",
}


def add_action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", verb: str, name: str, purpose: str, example: str
) -> argparse.ArgumentParser:
    """The parser of ``asr-kd VERB NAME``, whose help ends with ``example``, the words after the name."""
    epilog = f"example:\n  asr-kd {verb} {name} {example}"
    form = argparse.RawDescriptionHelpFormatter
    return actions.add_parser(name, help=purpose, description=purpose, epilog=epilog, formatter_class=form)


def numbers(option: str, text: str) -> list[float]:
    """The numbers of a list such as ``1,2,0.5``; ``UserError`` naming the ``option`` for anything else."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{option} {text}: expected numbers with commas between them, such as 1,2,0.5") from None


def whole_numbers(option: str, text: str) -> list[int]:
    """As ``numbers``, of a list such as ``5,10,20``; ``UserError`` for a fraction too."""
    found = numbers(option, text)
    if not all(number.is_integer() for number in found):
        raise UserError(f"{option} {text}: expected whole numbers with commas between them, such as 5,10,20")
    return [int(number) for number in found]


def torch_device(name: str) -> "torch.device":
    """What ``--device`` names, ``auto`` a GPU where there is one; ``UserError`` where this machine has no such."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; expected cpu, cuda or cuda:NUMBER") from None


def main(arguments: list[str] | None = None) -> int:
    """Run ``asr-kd``; returns the exit status: 0, 1 after a user's mistake, 2 for wrong options, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="asr-kd",
        description="Distil acoustic models for hybrid HMM speech recognition. The verbs, in the order of the data:",
        epilog="example:\n  asr-kd decode exp/model speech.flac\n\n"
        "Each verb explains itself with an example: asr-kd VERB --help. Whole experiments: recipes/*/run.sh.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"asr-kd {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    for verb, purpose in VERBS.items():
        child = verbs.add_parser(verb, help=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
        if verb == wanted:  # the other verbs' libraries stay unloaded
            importlib.import_module(f"asr_kd.cli.{verb}").configure(child)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except UserError as error:
        print(f"asr-kd {options.verb}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"asr-kd {options.verb}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # no permission, no space, no such folder: the machine's state, not ours
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"asr-kd {options.verb}: error: {place}{error.strerror}", file=sys.stderr)
        return 1
    return 0
