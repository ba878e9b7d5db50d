"""``asr-kd corpus``: audio and transcripts -> data directories."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.cli import add_jobs, numbers
from asr_kd.errors import UserError, counted

if TYPE_CHECKING:
    from asr_kd.corpus.datadir import DataDir

    Actions = argparse._SubParsersAction[argparse.ArgumentParser]

CORPORA = ("an4", "librispeech", "fsdd", "digits", "mnist")
OUT = "folder to write; files in it are replaced"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.description = (
        "Make, check and change data directories in Kaldi's format (wav.scp, text, utt2spk, spk2utt, segments).\n"
        "Each action explains its options: asr-kd corpus ACTION --help"
    )
    parser.epilog = "example:\n  asr-kd corpus prepare digits data/digits --hours 0.5 --jobs 2"
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_prepare(actions)
    _configure_validate(actions)
    _configure_info(actions)
    _configure_subset(actions)
    _configure_perturb(actions)
    _configure_combine(actions)
    _configure_lexicon(actions)
    _configure_spreadsheet(actions)


def _add(actions: "Actions", name: str, purpose: str, description: str, example: str) -> argparse.ArgumentParser:
    return actions.add_parser(
        name,
        help=purpose,
        description=description,
        epilog=f"example:\n  asr-kd corpus {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _configure_prepare(actions: "Actions") -> None:
    parser = _add(
        actions,
        "prepare",
        "a corpus -> data directories train, dev and test",
        "Write OUT/train, OUT/dev and OUT/test from an official release, and OUT/lexicon.txt if the corpus has one.\n"
        "Without --corpus-dir, the release is downloaded to data/corpora/ (an interrupted download is resumed).\n"
        "digits is the built-in corpus of synthetic digit strings and commands; it needs no internet access.\n"
        "mnist has no audio: its images become OUT/SET/feats and OUT/SET/states, frame stores of one-frame utterances.",
        "an4 data/an4 --corpus-dir ~/corpora/an4",
    )
    parser.add_argument("corpus", metavar="CORPUS", choices=CORPORA, help=", ".join(CORPORA))
    parser.add_argument("out", type=Path, metavar="OUT", help=OUT)
    parser.add_argument(
        "--corpus-dir", type=Path, metavar="DIR", help="folder of the unpacked release (default: download it)"
    )
    downloads = "where to download without --corpus-dir (default: data/corpora)"
    parser.add_argument("--downloads", type=Path, default=Path("data") / "corpora", metavar="DIR", help=downloads)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the dev split and of the digits corpus (default: 0)"
    )
    add_jobs(parser, os.cpu_count() or 1)
    parser.add_argument(
        "--hours", type=float, default=1.0, metavar="H", help="digits: hours of training speech (default: 1)"
    )
    part = "librispeech: the part to train on (default: train-clean-5)"
    parser.add_argument("--train-part", default="train-clean-5", metavar="PART", help=part)
    part = "librispeech: the part to split into dev and test (default: test-clean)"
    parser.add_argument("--eval-part", default="test-clean", metavar="PART", help=part)
    parser.add_argument(
        "--lm-dir",
        type=Path,
        metavar="DIR",
        help="librispeech: folder with lexicon.txt and a *.arpa.gz (default: download them)",
    )
    parser.add_argument(
        "--dev-speakers",
        type=int,
        default=6,
        metavar="N",
        help="librispeech: number of dev speakers (default: 6)",
    )
    parser.set_defaults(run=prepare)


def _configure_validate(actions: "Actions") -> None:
    parser = _add(
        actions,
        "validate",
        "list every problem by file and line",
        "Check the tables of a data directory and read all its audio. The exit status is 1 if there are errors.\n"
        "If a file has many problems of one kind, the first three are shown and the others are counted.",
        "data/an4/train --lexicon data/an4/lexicon.txt",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="data directory")
    parser.add_argument(
        "--lexicon", type=Path, metavar="FILE", help="count words that are missing from this lexicon as errors"
    )
    parser.add_argument("--all", action="store_true", help="show every problem")
    parser.add_argument("--allow-pipes", action="store_true", help="run the shell commands in wav.scp")
    add_jobs(parser, os.cpu_count() or 1)
    parser.set_defaults(run=validate)


def _configure_info(actions: "Actions") -> None:
    parser = _add(
        actions,
        "info",
        "count utterances, speakers, hours, words",
        "Print the contents of data directories: utterances, speakers, duration, words.",
        "data/an4/dev",
    )
    parser.add_argument("dir", type=Path, nargs="+", metavar="DIR", help="data directories")
    parser.set_defaults(run=info)


def _configure_lexicon(actions: "Actions") -> None:
    parser = _add(
        actions,
        "lexicon",
        "transcripts -> a grapheme lexicon",
        "Write a lexicon in which each word is pronounced as its letters, for a language without a dictionary.",
        "exp/lexicon.txt data/train",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="lexicon to write")
    parser.add_argument("dir", type=Path, nargs="+", metavar="DIR", help="data directories to take the words from")
    parser.add_argument("--arpa", type=Path, metavar="FILE", help="also take the words of this language model")
    parser.set_defaults(run=lexicon)


def _configure_spreadsheet(actions: "Actions") -> None:
    parser = _add(
        actions,
        "spreadsheet",
        "audio files and a spreadsheet of transcripts -> data directories",
        "Write a data directory OUT/SET for each value of the column set, or OUT without such a column. FILE is CSV\n"
        "or TSV; its first line names the columns: path, text, and optionally speaker and set.",
        "transcripts.csv data --audio recordings",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="spreadsheet (CSV or TSV)")
    parser.add_argument("out", type=Path, metavar="OUT", help=OUT)
    audio = "folder that the paths are relative to (default: that of FILE)"
    parser.add_argument("--audio", type=Path, metavar="DIR", help=audio)
    column = "the column KEY (path, text, speaker or set) is called NAME; repeatable"
    parser.add_argument("--column", metavar="KEY=NAME", action="append", default=[], help=column)
    case = "case of the words (default: lower)"
    parser.add_argument("--case", choices=("lower", "upper", "keep"), default="lower", help=case)
    parser.add_argument("--keep-punctuation", action="store_true", help="keep punctuation as part of the words")
    parser.set_defaults(run=spreadsheet)


def _configure_subset(actions: "Actions") -> None:
    parser = _add(
        actions,
        "subset",
        "a reproducible fraction of a data directory",
        "Choose whole utterances at random, about the fraction F of each speaker's duration.",
        "data/an4/train data/an4/train_3 --fraction 0.03 --seed 1",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="data directory")
    parser.add_argument("out", type=Path, metavar="OUT", help=OUT)
    parser.add_argument(
        "--fraction", type=float, required=True, metavar="F", help="fraction of the duration, above 0 and at most 1"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the choice of utterances (default: 0)"
    )
    parser.set_defaults(run=subset)


def _configure_perturb(actions: "Actions") -> None:
    parser = _add(
        actions,
        "perturb",
        "faster, slower and shifted copies",
        "Write a copy of the audio as FLAC for each speed and each shift. Join copies with: asr-kd corpus combine\n"
        "A shift of F drops the first F x 10 ms (the frame shift), so that all frames move.\n"
        "The ids of copies begin with sp0.9-, sp0.9-sh0.25- or, at speed 1, sh0.25-.\n"
        "A copy at another speed has its own speaker id (sp0.9-SPEAKER); a shifted copy keeps the speaker.\n"
        "Speed 1 with shift 0 is skipped, because it is DIR itself.",
        "data/an4/train data/an4/train_pool --speeds 0.8,0.9,1,1.1 --shifts 0,0.25,0.5,0.75",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="data directory")
    parser.add_argument("out", type=Path, metavar="OUT", help=OUT)
    parser.add_argument(
        "--speeds", metavar="S,S,...", help="factors from 0.5 to 2 (default: 0.9,1.1; with --shifts: 1)"
    )
    parser.add_argument("--shifts", metavar="F,F,...", help="fractions of 10 ms, from 0 to below 1 (default: 0)")
    add_jobs(parser, os.cpu_count() or 1)
    parser.set_defaults(run=perturb)


def _configure_combine(actions: "Actions") -> None:
    parser = _add(
        actions,
        "combine",
        "the union of data directories",
        "Write the union of data directories. An utterance id may occur in only one of them.",
        "data/an4/train_all data/an4/train data/an4/train_sp",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help=OUT)
    parser.add_argument("dir", type=Path, nargs="+", metavar="DIR", help="data directories to combine")
    parser.set_defaults(run=combine)


def prepare(options: argparse.Namespace) -> None:
    """Make the data directories of a corpus and print what they hold."""
    from asr_kd.corpus.an4 import prepare_an4
    from asr_kd.corpus.digits import prepare_digits
    from asr_kd.corpus.fsdd import prepare_fsdd
    from asr_kd.corpus.librispeech import prepare_language, prepare_librispeech

    out = options.out
    if options.corpus == "mnist":
        _prepare_mnist(options)
        return
    if options.corpus == "digits":
        parts = prepare_digits(out, options.hours, options.seed, options.jobs)
    elif options.corpus == "an4":
        parts = prepare_an4(_release(options), out, options.seed)
    elif options.corpus == "fsdd":
        parts = prepare_fsdd(_release(options), out)
    else:
        parts = prepare_librispeech(
            _release(options), out, options.train_part, options.eval_part, options.dev_speakers, options.seed
        )
        prepare_language(_language(options), out)
    for datadir in parts.values():
        _print_contents(datadir)


def _prepare_mnist(options: argparse.Namespace) -> None:
    from asr_kd.corpus.mnist import download_mnist, prepare_mnist

    corpus_dir = options.corpus_dir or download_mnist(options.downloads / "mnist")
    for name, part in prepare_mnist(corpus_dir, options.out).items():
        print(f"{options.out / name}: {counted(len(part.pixels), 'image')}")


def _release(options: argparse.Namespace) -> Path:
    """The folder of the official release, given by the user or downloaded."""
    from asr_kd.corpus import an4, fsdd, librispeech
    from asr_kd.corpus.download import fetch

    if options.corpus_dir is not None:
        return options.corpus_dir
    folder = options.downloads / options.corpus
    for archive in {"an4": an4, "fsdd": fsdd, "librispeech": librispeech}[options.corpus].RELEASE:
        fetch(archive, folder)
    return folder


def _language(options: argparse.Namespace) -> Path:
    """The folder of the language model and lexicon, given by the user or downloaded."""
    from asr_kd.corpus.download import download
    from asr_kd.corpus.librispeech import LANGUAGE

    folder = options.lm_dir or options.downloads / "librispeech-lm"
    if options.lm_dir is None:
        folder.mkdir(parents=True, exist_ok=True)
        for archive in LANGUAGE:
            download(archive, folder)
    return folder


def validate(options: argparse.Namespace) -> None:
    """Print the problems; ``UserError`` if any is an error."""
    from asr_kd.corpus import validate as validation
    from asr_kd.hmm.lexicon_reader import read_lexicon

    lexicon = read_lexicon(options.lexicon).entries if options.lexicon else None
    problems = validation.validate(options.dir, lexicon, options.allow_pipes, options.jobs)
    for line in problems if options.all else validation.summarise(problems):
        print(line)
    errors = sum(not problem.warning for problem in problems)
    warnings = len(problems) - errors
    counts = f"{errors:,} error{'s' * (errors != 1)}, {warnings:,} warning{'s' * (warnings != 1)}"
    if errors:
        raise UserError(f"{options.dir}: {counts}")
    print(f"{options.dir}: {counts}")


def info(options: argparse.Namespace) -> None:
    """Print what each directory holds."""
    from asr_kd.corpus.datadir import read_data_dir

    for path in options.dir:
        _print_contents(read_data_dir(path))


def spreadsheet(options: argparse.Namespace) -> None:
    """Write data directories from a spreadsheet."""
    import sys

    from asr_kd.corpus.spreadsheet import NEEDED, OPTIONAL, read_spreadsheet, unused_columns, write_spreadsheet

    columns = {}
    for each in options.column:
        key, equals, name = each.partition("=")
        if key not in (*NEEDED, *OPTIONAL) or not equals:
            raise UserError(f"--column {each}: expected KEY=NAME with the key {', '.join((*NEEDED, *OPTIONAL))}")
        columns[key] = name
    audio = options.audio or options.file.parent
    lines = read_spreadsheet(options.file, audio, columns, options.case, options.keep_punctuation)
    if unused := unused_columns(options.file, columns):
        print(
            f"columns that are not used: {', '.join(unused)} (--column {OPTIONAL[0]}=NAME names one)", file=sys.stderr
        )
    for datadir in write_spreadsheet(lines, options.out).values():
        _print_contents(datadir)


def lexicon(options: argparse.Namespace) -> None:
    """Write a grapheme lexicon."""
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.corpus.graphemes import grapheme_lexicon
    from asr_kd.files import write_text
    from asr_kd.graph.arpa_reader import read_arpa

    words = {word for path in options.dir for spoken in read_data_dir(path, True).text.values() for word in spoken}
    if options.arpa:
        words |= set(read_arpa(options.arpa).vocabulary) - {"<s>", "</s>", "<unk>", "<UNK>"}
    entries = grapheme_lexicon(words)
    if not entries:
        raise UserError(f"{' '.join(map(str, options.dir))}: no transcripts, so no words for a lexicon")
    write_text(options.out, "".join(f"{word} {' '.join(letters)}\n" for word, letters in entries.items()))
    units = {letter for letters in entries.values() for letter in letters}
    print(f"{options.out}: {counted(len(entries), 'word')} of {counted(len(units), 'grapheme')}")


def subset(options: argparse.Namespace) -> None:
    """Take a fraction and print the fraction reached."""
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.corpus.subset import take_fraction

    datadir, reached = take_fraction(read_data_dir(options.dir), options.out, options.fraction, options.seed)
    _print_contents(datadir)
    print(f"{reached:.3%} of the duration of {options.dir}")


def perturb(options: argparse.Namespace) -> None:
    """Make the copies and print what they hold."""
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.corpus.perturb import perturb_speed

    speeds = numbers("--speeds", options.speeds or ("1" if options.shifts else "0.9,1.1"))
    shifts = numbers("--shifts", options.shifts or "0")
    _print_contents(perturb_speed(read_data_dir(options.dir), options.out, speeds, shifts, options.jobs))


def combine(options: argparse.Namespace) -> None:
    """Join the directories and print what the union holds."""
    from asr_kd.corpus import subset as subsets
    from asr_kd.corpus.datadir import read_data_dir

    _print_contents(subsets.combine(options.out, [read_data_dir(path) for path in options.dir]))


def _print_contents(datadir: "DataDir") -> None:
    from asr_kd.corpus.subset import contents
    from asr_kd.progress import duration

    held = contents(datadir)
    words = f"{counted(held.words, 'word')}, {held.vocabulary:,} distinct" if held.transcribed else "no transcripts"
    print(
        f"{datadir.path}: {counted(held.utterances, 'utterance')}, {counted(held.speakers, 'speaker')},"
        f" {duration(held.seconds)}, {words}"
    )
