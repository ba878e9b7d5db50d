"""``asr-kd decode``: audio, data directories or stored features -> words."""

import argparse
import codecs
import collections
import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.cli import add_device, add_jobs, torch_device
from asr_kd.errors import UserError, counted

if TYPE_CHECKING:
    from asr_kd.decode.model_folder import Model
    from asr_kd.decode.recognise import DecodingFailure, Hypothesis
    from asr_kd.decode.sources import Source


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``decode``."""
    parser.description = (
        "Recognise audio files (any format and sample rate), data directories or stored features with a model folder.\n"
        "Prints a line for each utterance. With --tune, choose the model's acoustic scale, word penalty and beam on a\n"
        "data directory instead. With --output, the same command resumes after an interruption."
    )
    parser.epilog = (
        "examples:\n  asr-kd decode exp/model speech.flac more.wav\n"
        "  find . -name '*.opus' | asr-kd decode exp/model --list - --format ctm --jobs 8 --skip-bad > words.ctm\n"
        "  asr-kd decode exp/model data/test --output exp/model/decode_test\n"
        "  asr-kd decode exp/model data/dev --tune"
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="model folder, from `asr-kd model build`")
    parser.add_argument("inputs", nargs="*", default=[], metavar="INPUT", help="audio files and data directories")
    parser.add_argument("--list", metavar="FILE", help="more inputs, one path per line; - is standard input")
    feats = "feature store to decode instead of audio: all of it, or those of the data directory INPUT"
    parser.add_argument("--feats", metavar="STORE", help=feats)
    parser.add_argument("--utterances", metavar="LIST", help="use only the ids in this file, one per line")
    parser.add_argument(
        "--format", default="text", choices=("text", "json", "ctm", "trn"), help="output format (default: text)"
    )
    parser.add_argument(
        "--nbest",
        type=int,
        default=0,
        metavar="N",
        help="print the N best word sequences, for text and json (default: the best alone)",
    )
    add_jobs(parser)
    add_device(parser, "all processes share it")
    parser.add_argument("--output", metavar="DIR", help="also write text, ctm and decode.json here; resumable")
    parser.add_argument(
        "--no-times", action="store_true", help="with --output: no ctm file (computing confidences is slow)"
    )
    states = "states of the input: report frame accuracy, and write frames.json with --output"
    parser.add_argument("--states", metavar="STORE", help=states)
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out, count and list inputs that cannot be decoded"
    )
    parser.add_argument("--allow-pipes", action="store_true", help="run the shell commands in wav.scp")
    search = parser.add_argument_group("search", "defaults: the model's own values")
    search.add_argument("--acoustic-scale", type=float, metavar="SCALE", help="factor of the log-likelihoods")
    search.add_argument(
        "--word-penalty",
        type=float,
        metavar="COST",
        help="added cost of each word, in nats; a negative one favours words",
    )
    search.add_argument("--beam", type=float, metavar="COST", help="drop tokens that cost this much more than the best")
    search.add_argument("--max-active", type=int, metavar="N", help="approximate limit on the tokens in each frame")
    tune = "choose scale, penalty and beam by WER on INPUT, a data directory with text, and store them in MODEL_DIR"
    search.add_argument("--tune", action="store_true", help=tune)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Decode or tune."""
    from asr_kd.corpus.datadir import FILES
    from asr_kd.decode.model_folder import load_model_folder
    from asr_kd.storage import folder_or_file, is_url

    if options.nbest < 0:
        raise UserError(f"--nbest {options.nbest}: expected 0 or more")
    if options.no_times and options.format in ("json", "ctm"):
        raise UserError(f"--no-times and --format {options.format} contradict each other (it has times); leave one out")
    if options.nbest and options.format not in ("text", "json"):
        raise UserError(f"--nbest {options.nbest} needs --format text or json, not {options.format}")
    options.inputs = [folder_or_file(path, FILES) for path in options.inputs]
    if options.tune and is_url(options.model):
        raise UserError(f"{options.model}: --tune changes the model; copy it to a disk, tune it there and copy it back")
    if options.tune and not (len(options.inputs) == 1 and Path(options.inputs[0]).is_dir()):
        raise UserError("--tune needs one data directory with text: asr-kd decode MODEL_DIR DATADIR --tune")
    options.resumes = options.output is not None and not options.tune
    paths, failures = _paths(options)
    model = load_model_folder(options.model, device=str(torch_device(options.device)))
    if options.tune:
        _tune(model, paths, options)
    else:
        _decode(model, paths, failures, options)


def _decode(model: "Model", paths: list[str], failures: "list[DecodingFailure]", options: argparse.Namespace) -> None:
    import dataclasses

    from asr_kd.cli.model import search_options
    from asr_kd.corpus.audio import UtteranceInfo
    from asr_kd.decode.formats import FORMATS, summarise, write_decode_dir
    from asr_kd.decode.journal import Journal, settings_of
    from asr_kd.decode.recognise import DecodingFailure, Hypothesis, OutputOptions, in_order
    from asr_kd.decode.session import Session
    from asr_kd.features.survey import remarks
    from asr_kd.frames import FrameStore

    search = dataclasses.replace(model.config.search, **search_options(options))  # type: ignore[arg-type]
    timed = options.format in ("json", "ctm") or (options.output is not None and not options.no_times)
    outputs = OutputOptions(timed, options.nbest, FrameStore(options.states) if options.states else None)
    sources, names = _inputs(model, paths, options)
    hypotheses: list[Hypothesis] = []
    lines = _Lines(keep_on=options.output is not None)
    with contextlib.ExitStack() as stack:
        journal = None
        if options.output:
            journal = stack.enter_context(Journal(options.output, settings_of(model, search, outputs)))
        results = Session(model, search, outputs, options.jobs).decode(sources, journal)
        for result in in_order(stack.enter_context(contextlib.closing(results)), names):
            if isinstance(result, DecodingFailure):
                _report(result, options.skip_bad)
                failures.append(result)
                continue
            if not result.complete:
                print(
                    f"asr-kd decode: warning: {result.name}: no final state reached; the last word may be incomplete",
                    file=sys.stderr,
                )
            lines.print(FORMATS[options.format](result))
            hypotheses.append(result)
        summary = summarise(model, search, hypotheses, failures, "features" if options.feats else "audio")
        if journal is not None:
            write_decode_dir(options.output, hypotheses, summary, timed)
            _write_frames(options, hypotheses)
            journal.remove()
    infos = [UtteranceInfo(0, item.recorded_rate, False, False) for item in hypotheses if item.recorded_rate]
    for remark in remarks(infos, model.config.features.sample_rate):
        print(f"asr-kd decode: {remark}", file=sys.stderr)
    print(
        f"{counted(len(hypotheses), 'utterance')}, {summary['seconds']:,} s of audio, {summary['cpu_seconds']:,} s of"
        f" CPU time: real-time factor {summary['real_time_factor']}; {len(failures)} skipped",
        file=sys.stderr,
    )


class _Lines:
    """Standard output. With ``keep_on``, work whose results are also written elsewhere survives its reader."""

    def __init__(self, keep_on: bool) -> None:
        self._keep_on = keep_on

    def print(self, line: str) -> None:
        if not line:
            return
        try:
            print(line, flush=True)
        except BrokenPipeError:
            if not self._keep_on:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_frames(options: argparse.Namespace, hypotheses: "list[Hypothesis]") -> None:
    """Write the frame errors of the utterances with known states."""
    from asr_kd.score.frames import score_counts
    from asr_kd.score.score_files import FILES, read_speakers, save_score

    judged = {
        item.name: (item.frames, item.frames - item.right_frames)
        for item in hypotheses
        if item.right_frames is not None
    }
    if not judged:
        return
    tables = [Path(path) / "utt2spk" for path in options.inputs if Path(path).is_dir()]
    speakers = {utterance: speaker for table in tables for utterance, speaker in read_speakers(table).items()}
    save_score(score_counts(judged, speakers or None), Path(options.output) / FILES["frames"])


def _report(failure: "DecodingFailure", skip: bool) -> None:
    if not skip:
        raise UserError(f"{failure.reason} (--skip-bad continues without it)")
    print(f"asr-kd decode: skipped: {failure.reason}", file=sys.stderr)


def _paths(options: argparse.Namespace) -> tuple[list[str], list["DecodingFailure"]]:
    """The paths to decode, and a failure for each name that is not UTF-8.

    Without --skip-bad, such a name and a missing file raise ``UserError``, before the model is loaded.
    """
    from asr_kd.decode.recognise import DecodingFailure

    inputs, failures = [], []
    for path in [*options.inputs, *(_lines(options.list) if options.list else ())]:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        if shown != path:
            reason = f"{shown}: the file name is not UTF-8, so it cannot be an id in UTF-8 text; rename the file"
        elif not options.skip_bad and not any(map(os.path.lexists, (path, re.sub(r":\d+$", "", path)))):  # FILE:OFFSET
            reason = f"{path}: no such audio file or data directory"
        else:
            inputs.append(path)
            continue
        failures.append(DecodingFailure(shown, reason))
        _report(failures[-1], options.skip_bad)
    if not inputs and not options.feats and not failures:
        raise UserError("nothing to decode: give audio files, data directories, --list or --feats")
    return inputs, failures


def _inputs(model: "Model", inputs: list[str], options: argparse.Namespace) -> tuple[list["Source"], list[str]]:
    """What to decode, and the names in the order of printing."""
    from asr_kd.decode.sources import InputOptions, open_inputs

    chosen = _lines(options.utterances) if options.utterances else None
    if chosen == []:
        raise UserError(f"{options.utterances}: lists no utterances; expected one id per line")
    extra = InputOptions(options.feats, chosen, options.allow_pipes)
    groups = open_inputs(inputs, model.config.features, extra) if inputs or options.feats else []
    names = [name for group in groups for name in sorted(name for source in group for name in source.names)]
    if options.output:
        _check_ids(names, options.output)
    return [source for group in groups for source in group], names


def _check_ids(names: list[str], output: str) -> None:
    """``UserError`` if two utterances would get the same id in the text to write."""
    from asr_kd.decode.formats import utterance_id

    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(utterance_id(name), name)) != name:
            raise UserError(f"{other!r} and {name!r} would get the same id in {output}; rename one")
    if len(seen) < len(names):
        twice = next(name for name, count in collections.Counter(names).items() if count > 1)
        raise UserError(f"{twice!r} is given twice; {output} holds each utterance once")


def _lines(path: str) -> list[str]:
    """The lines of a file, or of standard input for ``-``; a line that is not UTF-8 keeps its bytes, as in ``argv``."""
    from asr_kd.files import lines_of, read_bytes

    content = sys.stdin.buffer.read() if path == "-" else read_bytes(path)
    text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return [line.strip() for line in lines_of(text, path) if line.strip()]


def _tune(model: "Model", paths: list[str], options: argparse.Namespace) -> None:
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.decode.tune import tune

    (dev,) = options.inputs
    sources, _ = _inputs(model, paths, options)
    count = sum(len(source.names) for source in sources)
    dev_set = f"{Path(dev).resolve().name} ({count} utterances)"  # a shipped model names no path of this machine
    tuning = tune(model, sources, read_data_dir(dev, options.allow_pipes).text, dev_set, options.jobs)
    for number, points in enumerate(tuning.rounds, 1):
        print(f"round {number}: dev WER around scale {points[0].acoustic_scale:g}, penalty {points[0].word_penalty:g}")
        for scale in sorted({point.acoustic_scale for point in points}):
            row = sorted((p.word_penalty, p.wer) for p in points if p.acoustic_scale == scale)
            print(f"  scale {scale:<8g}" + "  ".join(f"{penalty:+.2f}:{wer:6.2f}" for penalty, wer in row))
    print("beams: " + "  ".join(f"{point.beam:g}:{point.wer:6.2f}" for point in tuning.beams))
    best = tuning.best
    chosen = f"acoustic scale {best.acoustic_scale:g}, word penalty {best.word_penalty:g}, beam {best.beam:g}"
    print(f"{chosen}: dev WER {best.wer:.2f} %")
    if tuning.remark:
        print(f"warning: tuned{tuning.remark}; a better setting may exist")
