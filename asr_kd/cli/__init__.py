"""The command line: ``asr-kd VERB ...``; one module for each verb, imported only when it runs."""

import argparse
import contextlib
import errno
import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from asr_kd import __version__
from asr_kd.errors import UsageError, UserError

if TYPE_CHECKING:
    import torch

VERBS = {
    "corpus": "audio and transcripts -> data directories: prepare, validate, info, subset, perturb, ...",
    "feats": "data directory -> feature store (log-mel frames or cepstra)",
    "frames": "inspect, check and convert frame stores: info, verify, copy, export, import",
    "hmm": "features and words -> GMM-HMMs and state alignments: train, align, pronunciations, import-alignment",
    "lm": "n-gram language models: estimate, perplexity",
    "graph": "language model, lexicon and states -> decoding graph: compile, import",
    "targets": "teacher and features -> soft targets: write, compare, import, info, verify",
    "train": "features with states or soft targets -> acoustic network",
    "specialists": "networks for confusable states: cluster, prepare, join, compare",
    "model": "network, states and graph -> one deployable folder: build, info, ensemble, calibrate",
    "decode": "audio or a data directory -> words",
    "score": "words against a reference -> WER",
    "compare": "several scored systems -> one table with significance",
    "plot": "training curves, or results against a variable (size, temperature) -> figures: curves, against",
    "experiment": "a table of systems -> trained, tested and reported: run, status, commands, sizes",
    "report": "a recipe's measurements -> RESULTS.md and results.json",
}
_STORES = {("feats", ""), ("frames", "copy"), ("targets", "write"), ("targets", "import"), ("hmm", "align")}  # written


def add_action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", verb: str, name: str, purpose: str, example: str
) -> argparse.ArgumentParser:
    """The parser of ``asr-kd VERB NAME``, whose help ends with ``example``, the words after the name."""
    epilog = f"example:\n  asr-kd {verb} {name} {example}"
    form = argparse.RawDescriptionHelpFormatter
    return actions.add_parser(name, help=purpose, description=sentence(purpose), epilog=epilog, formatter_class=form)


def sentence(purpose: str) -> str:
    """What an action does, as the first line of its help."""
    return f"{purpose[0].upper()}{purpose[1:]}."


def numbers(option: str, text: str) -> list[float]:
    """The numbers in a list such as ``1,2,0.5``; anything else is a ``UserError`` that names the ``option``."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"{option} {text}: expected numbers separated by commas, such as 1,2,0.5") from None


def whole_numbers(option: str, text: str) -> list[int]:
    """As ``numbers``, for a list such as ``5,10,20``; a fraction is a ``UserError`` too."""
    found = numbers(option, text)
    if not all(number.is_integer() for number in found):
        raise UserError(f"{option} {text}: expected whole numbers separated by commas, such as 5,10,20")
    return [int(number) for number in found]


def add_device(parser: argparse.ArgumentParser, remark: str = "") -> None:
    """The option ``--device``, with the same default for every verb that runs a network."""
    text = f"device of the network: cpu, cuda, cuda:1, ... (default: a GPU if there is one){remark and f'; {remark}'}"
    parser.add_argument("--device", default="auto", metavar="DEVICE", help=text)


def add_jobs(parser: argparse.ArgumentParser, default: int = 1, unit: str = "processes") -> None:
    """The options ``--jobs``, with its ``default`` on one machine, and ``--engine``."""
    text = f"number of {unit} (default: {default}; with --engine ray, every CPU of the cluster)"
    parser.add_argument("--jobs", type=int, metavar="N", help=text)
    parser.set_defaults(default_jobs=default)
    add_engine(parser)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The option ``--engine``."""
    text = (
        "local: this machine; ray: the Ray cluster at $RAY_ADDRESS, or one that is started on this machine"
        " (default: local)"
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help=text)


@contextlib.contextmanager
def _chosen_engine(options: argparse.Namespace) -> Iterator[None]:
    """Within the block, independent work goes where ``--engine`` says, and ``options.jobs`` is known."""
    jobs = getattr(options, "jobs", None)
    if getattr(options, "engine", "local") == "local":
        if jobs is None:
            options.jobs = getattr(options, "default_jobs", 1)
        yield
        return
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine ray needs Ray, which is not installed: pip install 'asr-kd[ray]'")
    from asr_kd.parallel import using
    from asr_kd.parallel.ray_engine import RayEngine

    engine = RayEngine(jobs if jobs is not None else getattr(options, "threads", None))
    with using(engine):
        options.jobs = engine.jobs
        yield


def torch_device(name: str) -> "torch.device":
    """The device that ``--device`` names; ``auto`` is a GPU if there is one. ``UserError`` if this machine lacks it."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,4})?", name):
        raise UserError(f"--device {name}: unknown; expected cpu, cuda or cuda:NUMBER")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        has = f"this machine has cuda:0 to cuda:{found - 1}" if found else "no usable GPU here; give --device cpu"
        raise UserError(f"--device {name}: {has}") from None


def main(arguments: list[str] | None = None) -> int:
    """Run ``asr-kd``; returns the exit status.

    0; 1 after a user's mistake; 2 for wrong options; 130 when interrupted; 141 when the reader of the output has gone
    (``| head``), as a program that SIGPIPE ends.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _write_utf8()
    verb = next((word for word in arguments if not word.startswith("-")), "")
    options = argparse.Namespace()

    def name() -> str:
        """The command, as argparse names it in its own errors: ``asr-kd VERB ACTION``."""
        return " ".join(["asr-kd", *([verb] if verb in VERBS else []), *filter(None, [getattr(options, "action", "")])])

    try:
        _parser(verb).parse_args(arguments, options)
        _check_output(options)
        with _chosen_engine(options):
            options.run(options)
        sys.stdout.flush()  # here, where what goes wrong is still reported
    except UserError as error:
        return _fail(name(), str(error), 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        return 141
    except MemoryError:
        return _fail(name(), "not enough memory; use fewer --jobs, a smaller input, or a machine with more memory")
    except OSError as error:  # no permission, no space, no such folder: the machine's state, not ours
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        place = f"{error.filename}: " if error.filename else ""
        return _fail(name(), f"{place}{error.strerror}")
    except (KeyboardInterrupt, SystemError) as error:
        if not _is_interrupt(error):
            raise
        resume = "; run the same command again to resume" if getattr(options, "resumes", False) else ""
        print(f"{name()}: interrupted{resume}", file=sys.stderr)
        return 130
    return 0


def _check_output(options: argparse.Namespace) -> None:
    """``UserError`` for an output at a URL that is not a frame store: it would become a local folder of that name."""
    for name in ("out", "output"):
        place = str(getattr(options, name, None) or "")
        is_store = (options.verb, getattr(options, "action", "")) in _STORES
        if not is_store and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", place):
            raise UserError(f"{place}: only frame stores are written to a URL; give a folder on a disk, and copy it")


def _parser(verb: str) -> argparse.ArgumentParser:
    """The parser of all verbs; only ``verb`` gets its options, so that no other module is imported."""
    parser = argparse.ArgumentParser(
        prog="asr-kd",
        description="Distil acoustic models for hybrid HMM speech recognition. The verbs follow the data:",
        epilog="example:\n  asr-kd decode exp/model speech.flac\n\n"
        "Each verb explains itself with an example: asr-kd VERB --help. Complete experiments: recipes/*/run.sh.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"asr-kd {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for each, purpose in VERBS.items():
        child = verbs.add_parser(each, help=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
        if each == verb:
            importlib.import_module(f"asr_kd.cli.{verb}").configure(child)
    return parser


def _fail(name: str, message: str, status: int = 1) -> int:
    print(f"{name}: error: {message}", file=sys.stderr)
    return status


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind ``error``: compiled code turns the ``KeyboardInterrupt`` inside it into SystemError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _write_utf8() -> None:
    """Write UTF-8 whatever the locale, as every file here is UTF-8; a file name that is not keeps its bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
