"""``asr-kd decode``: audio, data directories or stored features -> words."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.errors import UserError

if TYPE_CHECKING:
    from asr_kd.decode.model_folder import Model
    from asr_kd.decode.recognise import Bad, Hypothesis
    from asr_kd.decode.sources import Source


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``decode``."""
    parser.description = (
        "Recognise audio files (any format and sample rate), data directories or stored features with a model folder,\n"
        "one line for each on standard output; or tune the model's acoustic scale and word penalty on a data directory."
    )
    parser.epilog = (
        "examples:\n  asr-kd decode exp/model speech.flac more.wav\n"
        "  find . -name '*.opus' | asr-kd decode exp/model --list - --format ctm --jobs 8 --skip-bad > words.ctm\n"
        "  asr-kd decode exp/model data/test --output exp/model/decode_test\n"
        "  asr-kd decode exp/model data/dev --tune"
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="a folder of `asr-kd model build`")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="audio files and data directories")
    parser.add_argument("--list", metavar="FILE", help="more inputs, one path on a line; - is standard input")
    parser.add_argument(
        "--feats", metavar="STORE", help="stored features instead of audio; alone, or of a data directory"
    )
    parser.add_argument("--utterances", metavar="FILE", help="decode only the utterances listed here, one on a line")
    parser.add_argument("--format", default="text", choices=("text", "json", "ctm", "trn"), help="of each line")
    parser.add_argument("--nbest", type=int, default=0, metavar="N", help="N distinct word sequences (text or json)")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes")
    parser.add_argument("--output", metavar="DIR", help="also write text, ctm, decode.json here")
    parser.add_argument("--no-times", action="store_true", help="with --output: no ctm, whose confidences take time")
    parser.add_argument("--states", metavar="STORE", help="states of the utterances, for frame accuracy: frames.json")
    parser.add_argument("--skip-bad", action="store_true", help="go on after an input that cannot be decoded; list it")
    parser.add_argument("--allow-pipes", action="store_true", help="run the shell commands of a wav.scp")
    search = parser.add_argument_group("search", "the model's own values unless given here")
    search.add_argument("--acoustic-scale", type=float, help="multiplies the log-likelihoods")
    search.add_argument("--word-penalty", type=float, help="cost added for each word")
    search.add_argument("--beam", type=float, help="tokens costlier than the best by more are dropped")
    search.add_argument("--max-active", type=int, help="about how many tokens stay in each frame")
    tune = "choose acoustic scale, word penalty and beam by WER on INPUT, a data directory with text, and store them"
    search.add_argument("--tune", action="store_true", help=tune)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Decode or tune, as the options say."""
    from asr_kd.decode.model_folder import load_model_folder

    if options.nbest < 0:
        raise UserError(f"--nbest {options.nbest}: expected 0 or more")
    if options.no_times and options.format in ("json", "ctm"):
        raise UserError(f"--no-times and --format {options.format}, which has times; leave one out")
    if options.nbest and options.format not in ("text", "json"):
        raise UserError(f"--nbest {options.nbest} needs --format text or json, not {options.format}")
    if options.tune and not (len(options.inputs) == 1 and Path(options.inputs[0]).is_dir()):
        raise UserError("--tune needs one data directory with text: asr-kd decode MODEL_DIR DATADIR --tune")
    model = load_model_folder(options.model)
    if options.tune:
        _tune(model, options)
    else:
        _decode(model, options)


def _decode(model: "Model", options: argparse.Namespace) -> None:
    import dataclasses

    from asr_kd.cli.model import search_options
    from asr_kd.decode.formats import FORMATS, summarise, write_decode_dir
    from asr_kd.decode.recognise import Bad, Hypothesis, Wanted, in_order, recognise_all
    from asr_kd.frames import FrameStore

    search = dataclasses.replace(model.config.search, **search_options(options))  # type: ignore[arg-type]
    timed = options.format in ("json", "ctm") or (options.output is not None and not options.no_times)
    wanted = Wanted(timed, options.nbest, FrameStore(options.states) if options.states else None)
    sources, names = _sources(model, options)
    good: list[Hypothesis] = []
    bad: list[Bad] = []
    for result in in_order(recognise_all(model, sources, search, wanted, options.jobs), names):
        if isinstance(result, Bad):
            _report(result, options.skip_bad)
            bad.append(result)
            continue
        if not result.complete:
            print(f"asr-kd decode: warning: {result.name}: the audio ends within a word or phrase", file=sys.stderr)
        if line := FORMATS[options.format](result):
            print(line, flush=True)
        good.append(result)
    summary = summarise(model, search, good, bad, "features" if options.feats else "audio")
    if options.output:
        write_decode_dir(options.output, good, summary, timed)
        _write_frames(options, good)
    print(
        f"{len(good)} utterances, {summary['seconds']:,} s of audio, {summary['cpu_seconds']:,} s of computing: "
        f"real-time factor {summary['real_time_factor']}; {len(bad)} skipped",
        file=sys.stderr,
    )


def _write_frames(options: argparse.Namespace, good: "list[Hypothesis]") -> None:
    """The frame errors of each utterance whose states are known, beside its words."""
    from asr_kd.score.frames import score_counts
    from asr_kd.score.score_files import FILES, read_speakers, save_score

    judged = {
        item.name: (item.frames, item.frames - item.right_frames) for item in good if item.right_frames is not None
    }
    if not judged:
        return
    tables = [Path(path) / "utt2spk" for path in options.inputs if Path(path).is_dir()]
    speakers = {utterance: speaker for table in tables for utterance, speaker in read_speakers(table).items()}
    save_score(score_counts(judged, speakers or None), Path(options.output) / FILES["frames"])


def _report(fault: "Bad", skip: bool) -> None:
    if not skip:
        raise UserError(f"{fault.reason} (--skip-bad goes on without it)")
    print(f"asr-kd decode: skipped: {fault.reason}", file=sys.stderr)


def _sources(model: "Model", options: argparse.Namespace) -> tuple[list["Source"], list[str]]:
    """What to decode, and the names in the order in which to print them."""
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.decode.sources import AudioFile, datadir_sources, store_sources
    from asr_kd.frames import FrameStore

    features = model.config.features
    chosen = _lines(options.utterances) if options.utterances else None
    if chosen == []:
        raise UserError(f"{options.utterances}: lists no utterance")
    inputs = [*options.inputs, *(_lines(options.list) if options.list else ())]
    if not inputs and not options.feats:
        raise UserError("nothing to decode: give audio files, data directories, --list or --feats")
    if not inputs:
        stored = store_sources(FrameStore(options.feats), features, chosen)
        return stored, _names(stored)
    sources: list[Source] = []
    names: list[str] = []
    for path in inputs:
        group: list[Source] = [AudioFile(path)]
        if Path(path).is_dir():
            datadir = read_data_dir(path, options.allow_pipes)
            group = datadir_sources(datadir, features, chosen)
            if options.feats:
                group = store_sources(FrameStore(options.feats), features, sorted(_names(group)))
        elif options.feats:
            raise UserError(f"{path}: not a data directory, whose features --feats could hold")
        names += sorted(_names(group))
        sources += group
    return sources, names


def _names(sources: Iterable["Source"]) -> list[str]:
    return [name for source in sources for name in source.names]


def _lines(path: str) -> list[str]:
    from asr_kd.files import read_lines

    lines = read_lines("/dev/stdin" if path == "-" else path)
    return [line.strip() for line in lines if line.strip()]


def _tune(model: "Model", options: argparse.Namespace) -> None:
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.decode.tune import tune

    (dev,) = options.inputs
    sources, _ = _sources(model, options)
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
        print(f"tuned{tuning.remark}: a better setting may lie outside")
