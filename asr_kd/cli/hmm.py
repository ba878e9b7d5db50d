"""``asr-kd hmm``: features and words -> a tied state for each frame."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.cli import add_action, add_device, add_jobs, torch_device
from asr_kd.errors import UserError, counted

if TYPE_CHECKING:
    from asr_kd.corpus.datadir import DataDir
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.alignment_store import AlignmentModel, AlignmentRun
    from asr_kd.hmm.lexicon import Lexicon
    from asr_kd.hmm.states import StateSpace
    from asr_kd.hmm.training_data import TranscribedUtterances

_TRAIN = """\
Train Gaussian mixture HMMs from a flat start: monophones, then triphones tied by a decision tree, then the same on
LDA + MLLT features. OUT_DIR/{mono,tri,lda} are models to align and decode with. After an interruption, the same
command resumes after the last complete stage."""
_ALIGN = """\
Find the tied state of each frame: the best path of each utterance through its words. The likelihoods are those of
the Gaussians in HMM_DIR, or of a trained network or ensemble (--network), which needs its own features as FEATS.
After an interruption, the same command resumes at the first missing shard."""
_PRONUNCIATIONS = """\
Estimate the probabilities of pronunciations and of silences between words from an alignment, as Kaldi's get_prons.sh
and dict_dir_add_pronprobs.sh do. Writes lexiconp.txt, lexiconp_silprob.txt and silprob.txt to OUT_DIR. The first two
are lexicons for asr-kd hmm train, hmm align and graph compile."""
_IMPORT = """\
Convert alignments from Kaldi (ali.*.gz, .ark or .scp): transition-ids if --model is given, else pdf-ids. The states are
Kaldi's pdfs, so decode with Kaldi's graph (asr-kd graph import)."""
_FORMATS = """\

A lexicon has lines of WORD PHONE PHONE ...; a # between spaces starts a comment. --lexicon-format names the numbers
between the word and its phones: plain (none), lexiconp (a pronunciation probability, as in Kaldi), silprob (four
numbers, as in Kaldi's lexiconp_silprob.txt, with silprob.txt in the same folder), mfa (none, one or four, as in the
Montreal Forced Aligner), or auto: one of the first three, detected from the content."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``train``, ``align``, ``pronunciations`` and ``import-alignment``."""
    parser.description = (
        "Train GMM-HMMs, align data directories, and exchange alignments and pronunciation probabilities with Kaldi."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd feats data/train exp/mfcc/train --set kind=mfcc\n"
        "  asr-kd hmm train data/train exp/mfcc/train data/lexicon.txt exp/hmm --jobs 2\n"
        "  asr-kd hmm align exp/hmm/lda data/train exp/mfcc/train exp/states/train --jobs 2"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_train(_action(actions, "train", "features and words -> models", _TRAIN + "\n" + _FORMATS))
    _configure_align(_action(actions, "align", "a model, features and words -> states of all frames", _ALIGN))
    _configure_pronunciations(
        _action(actions, "pronunciations", "an alignment -> a lexicon with probabilities", _PRONUNCIATIONS)
    )
    _configure_import(_action(actions, "import-alignment", "Kaldi's alignments -> states of all frames", _IMPORT))


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, purpose: str, text: str
) -> argparse.ArgumentParser:
    parser = add_action(actions, "hmm", name, purpose, "")
    parser.description = text
    return parser


def _configure_train(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  asr-kd hmm train data/train exp/mfcc/train data/lexicon.txt exp/hmm --jobs 2\n"
        "  asr-kd hmm train data/train exp/mfcc/train data/lexicon.txt exp/hmm --set lda_states=1500 "
        "--set lda_gaussians=12000\n"
        "all configuration keys, explained, with their defaults: asr-kd hmm train --print-config"
    )
    parser.usage = (
        "%(prog)s DATA FEATS LEXICON OUT_DIR [options]\n"
        "       %(prog)s --print-config [--config FILE] [--set KEY=VALUE]"
    )
    parser.add_argument("data", metavar="DATA", nargs="?", help="data directory with text")
    parser.add_argument(
        "feats",
        metavar="FEATS",
        nargs="?",
        help="store with the MFCCs of DATA (asr-kd feats --set kind=mfcc); it may hold more utterances",
    )
    parser.add_argument("lexicon", metavar="LEXICON", nargs="?", help="pronunciations, with or without probabilities")
    parser.add_argument("out", metavar="OUT_DIR", nargs="?", help="folder of the models")
    parser.add_argument(
        "--config", metavar="FILE", help="training configuration (YAML); missing keys have their defaults"
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override one key; repeatable")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    add_lexicon_format(parser)
    add_silence_probability(parser, "that of LEXICON")
    parser.add_argument(
        "--unknown", choices=["error", "spn"], default="error",
        help="treat a word outside the lexicon as an error, or as spoken noise (default: error)",
    )  # fmt: skip
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out, count and list utterances that cannot be aligned"
    )
    add_jobs(parser, unit="threads")
    parser.set_defaults(run=run_train, resumes=True)


def _configure_align(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  asr-kd hmm align exp/hmm/lda data/train exp/mfcc/train exp/states/train --jobs 2\n"
        "  asr-kd hmm align exp/hmm/lda data/train exp/fbank/train exp/states2/train --network exp/hard\n"
        "  asr-kd hmm align exp/hmm/lda data/dev exp/mfcc/dev exp/states/dev --ctm words.ctm --phone-ctm phones.ctm"
    )
    parser.add_argument("model", metavar="HMM_DIR", help="HMM folder from asr-kd hmm train, such as exp/hmm/lda")
    parser.add_argument("data", metavar="DATA", help="data directory with text")
    parser.add_argument(
        "feats",
        metavar="FEATS",
        help="store with the features of DATA, of the kind that HMM_DIR (or --network) was trained on",
    )
    parser.add_argument("store", metavar="STORE", help="store of states to write")
    parser.add_argument("--lexicon", metavar="FILE", help="lexicon (default: that of HMM_DIR)")
    add_lexicon_format(parser)
    add_silence_probability(parser, "that of --lexicon or HMM_DIR")
    parser.add_argument(
        "--network", metavar="NETWORK", help="align with the scaled likelihoods of this network or ensemble"
    )
    add_device(parser, "needs --network")
    beam = "drop tokens that cost this much more than the best, in nats (default: 200)"
    parser.add_argument("--beam", type=float, default=200.0, metavar="COST", help=beam)
    parser.add_argument(
        "--ctm",
        metavar="FILE",
        help="also write the times of words: lines of UTTERANCE 1 BEGIN DURATION WORD, in seconds",
    )
    parser.add_argument("--phone-ctm", metavar="FILE", help="also write the times of phones, including silences")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out, count and list utterances that cannot be aligned"
    )
    parser.add_argument("--force", action="store_true", help="replace another store at STORE")
    add_jobs(parser, unit="threads")
    parser.set_defaults(run=run_align, resumes=True)


def _configure_pronunciations(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n"
        "  asr-kd hmm pronunciations exp/hmm/lda data/train exp/states/train exp/dict\n"
        "  asr-kd hmm train data/train exp/mfcc/train exp/dict/lexiconp.txt exp/hmm2 --jobs 2\n"
        "  asr-kd graph compile exp/hmm/lda lm.arpa graph --lexicon exp/dict/lexiconp_silprob.txt"
    )
    parser.add_argument("model", metavar="HMM_DIR", help="HMM folder that made the alignment")
    parser.add_argument("data", metavar="DATA", help="data directory with text")
    parser.add_argument("states", metavar="STATES", help="store with the alignment of DATA, from asr-kd hmm align")
    parser.add_argument("out", metavar="OUT_DIR", help="folder to write")
    parser.set_defaults(run=run_pronunciations)


def _configure_import(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  asr-kd hmm import-alignment exp/states/train tri3b_ali/ali.*.gz --model tri3b_ali/final.mdl"
    )
    parser.add_argument("store", metavar="STORE", help="store of states to write")
    parser.add_argument("archives", metavar="ARCHIVE", nargs="+", help="Kaldi's alignments; give all parts")
    parser.add_argument("--model", metavar="FILE", help="final.mdl, or a text file with lines TRANSITION-ID PDF")
    parser.add_argument("--feats", metavar="STORE", help="check the frame counts against this store of features")
    parser.add_argument("--features", dest="feats", help=argparse.SUPPRESS)
    parser.add_argument("--num-states", type=int, metavar="N", help="number of pdfs (default: that of --model)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out, count and list utterances with bad frame counts or ids"
    )
    parser.add_argument("--force", action="store_true", help="replace another store at STORE")
    parser.set_defaults(run=run_import)


def add_lexicon_format(parser: argparse.ArgumentParser) -> None:
    """The option that says how a lexicon is written."""
    choices = ["auto", "plain", "lexiconp", "silprob", "mfa"]
    text = "what stands between a word and its phones (default: auto)"
    parser.add_argument("--lexicon-format", choices=choices, default="auto", help=text)


def add_silence_probability(parser: argparse.ArgumentParser, default: str) -> None:
    """The option for one probability of silence, whatever the words."""
    text = f"probability of a silence between two words (default: {default}, if it has one, else 0.5)"
    parser.add_argument("--silence-probability", type=float, metavar="P", help=text)


def run_train(options: argparse.Namespace) -> None:
    """Train, and say where the models are."""
    from asr_kd.config import explained, load_config
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.errors import UsageError
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.lexicon import with_unknown
    from asr_kd.hmm.lexicon_reader import read_lexicon
    from asr_kd.hmm.train import HmmConfig, train
    from asr_kd.hmm.training_data import load_utterances
    from asr_kd.progress import duration

    began = time.monotonic()
    config = load_config(HmmConfig, options.config, options.set)
    if options.print_config:
        print(explained(config), end="")
        return
    if options.out is None:
        raise UsageError("expected DATA FEATS LEXICON OUT_DIR (see asr-kd hmm train --help)")
    lexicon = _with_silence(read_lexicon(options.lexicon, options.lexicon_format), options.silence_probability)
    if options.unknown == "spn":
        lexicon = with_unknown(lexicon)
    datadir, store = read_data_dir(options.data, allow_pipes=True), FrameStore(options.feats)
    if "fbank" in store.tensors:
        print(
            f"warning: {options.feats}: holds fbank; GMMs are meant for cepstra (asr-kd feats --set kind=mfcc)",
            file=sys.stderr,
        )
    utterances = load_utterances(datadir, store, config.monophones(lexicon), lexicon, options.skip_bad)
    _report_unused(utterances, options)
    model = train(utterances, lexicon, options.out, config, options.jobs)
    print(f"{model}: trained on {counted(len(utterances.ids), 'utterance')} in {duration(time.monotonic() - began)}")


def run_align(options: argparse.Namespace) -> None:
    """Align, and print how many frames and how likely."""
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.alignment_store import write_alignments
    from asr_kd.hmm.lexicon_reader import load_lexicon, read_lexicon
    from asr_kd.hmm.states import StateSpace
    from asr_kd.hmm.training_data import load_utterances

    began = time.monotonic()
    if not options.beam > 0:
        raise UserError(f"--beam {options.beam:g}: expected more than 0")
    space = StateSpace.load(options.model)
    given = read_lexicon(options.lexicon, options.lexicon_format) if options.lexicon else load_lexicon(options.model)
    lexicon = _with_silence(given, options.silence_probability)
    datadir, store = read_data_dir(options.data, allow_pipes=True), FrameStore(options.feats)
    model = _network(options, space, store) if options.network else _gaussians(options, space, store)
    utterances = load_utterances(datadir, store, space, lexicon, options.skip_bad)
    _report_unused(utterances, options)
    done = write_alignments(
        options.store, utterances, model, options.beam, options.jobs, options.skip_bad, options.force
    )
    _list_skipped({utt: why for utt, why in done.store.skipped.items() if utt not in utterances.skipped})
    _report_alignment(options.store, done, space, time.monotonic() - began)
    if options.ctm or options.phone_ctm:
        _write_times(options, done, datadir, space, lexicon)


def _report_alignment(path: str, done: "AlignmentRun", space: "StateSpace", seconds: float) -> None:
    size = (
        f"{counted(len(done.store), 'utterance')}, {counted(done.store.total_frames, 'frame')},"
        f" {counted(space.num_states, 'state')}"
    )
    how = "unchanged"
    if done.frames:
        how = f"log-likelihood {done.log_likelihood:.3f} a frame; {done.frames / seconds:,.0f} frames/s"
        if done.frames < done.store.total_frames:
            how = f"{counted(done.frames, 'frame')} aligned now, the others before; {how}"
    print(f"{path}: {size}; {how}")


def _write_times(
    options: argparse.Namespace, done: "AlignmentRun", datadir: "DataDir", space: "StateSpace", lexicon: "Lexicon"
) -> None:
    from asr_kd.hmm.alignment_times import read_alignments, write_ctm

    alignments = read_alignments(done.store, datadir, space, lexicon)
    write_ctm(alignments, len(done.store), options.ctm, options.phone_ctm)


def _gaussians(options: argparse.Namespace, space: "StateSpace", features: "FrameStore") -> "AlignmentModel":
    from asr_kd.files import sha256
    from asr_kd.hmm.alignment_store import AlignmentModel
    from asr_kd.hmm.gmm import Gmm
    from asr_kd.storage import local

    folder = local(options.model)
    gmm = Gmm.load(folder)
    gmm.check_fits(space.num_states, folder)
    features.expect_width(gmm.transform.projection.shape[2], options.model)
    hashes = {name: sha256(folder / name) for name in ("gmm.safetensors", "states.safetensors", "states.yaml")}
    return AlignmentModel(space, gmm.log_likelihoods, hashes)


def _network(options: argparse.Namespace, space: "StateSpace", features: "FrameStore") -> "AlignmentModel":
    from asr_kd.decode.scorer import NetworkScores
    from asr_kd.files import sha256
    from asr_kd.hmm.alignment_store import AlignmentModel
    from asr_kd.nets import model_hash
    from asr_kd.storage import local

    scores = NetworkScores(options.network, str(torch_device(options.device)))
    scorer = scores.scorer
    if scorer.num_states != space.num_states:
        raise UserError(
            f"{options.network}: the network has {counted(scorer.num_states, 'state')}, but {options.model} has"
            f" {space.num_states}; give the HMM folder whose states it was trained on"
        )
    features.expect_width(scorer.dimension, options.network)
    hashes = {name: sha256(local(options.model) / name) for name in ("states.safetensors", "states.yaml")}
    return AlignmentModel(space, scores, {"network": model_hash(options.network), **hashes})


def run_pronunciations(options: argparse.Namespace) -> None:
    """Estimate, write Kaldi's files, and print what was found."""
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.alignment_times import read_alignments
    from asr_kd.hmm.lexicon import WITH_PROBABILITIES, save_lexicon, write_weighted_lexicon
    from asr_kd.hmm.lexicon_reader import load_lexicon
    from asr_kd.hmm.pronunciation_counts import estimate_probabilities
    from asr_kd.hmm.states import StateSpace
    from asr_kd.progress import progress

    space, lexicon = StateSpace.load(options.model), load_lexicon(options.model)
    datadir, store = read_data_dir(options.data, allow_pipes=True), FrameStore(options.states)
    alignments = (alignment for _, alignment in read_alignments(store, datadir, space, lexicon))
    found = estimate_probabilities(lexicon, progress(alignments, len(store), "counting pronunciations"))
    save_lexicon(found, options.out)
    write_weighted_lexicon(found, Path(options.out) / WITH_PROBABILITIES, with_silences=False)
    assert found.silences is not None, "estimate_probabilities sets them"
    several = sum(len(prons) > 1 for prons in found.entries.values())
    print(
        f"{options.out}: {counted(len(found.entries), 'word')}, {several:,} with several pronunciations; P(silence) is"
        f" {found.silences.overall:g} between two words and {found.silences.begin:g} before the first"
    )


def run_import(options: argparse.Namespace) -> None:
    """Import, and print how much."""
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.kaldi_alignments import KaldiAlignments, import_alignment
    from asr_kd.hmm.kaldi_transitions import read_transitions

    transitions = read_transitions(options.model) if options.model else None
    features = FrameStore(options.feats) if options.feats else None
    source = KaldiAlignments(options.archives, transitions, options.num_states)
    states = import_alignment(source, options.store, features, options.skip_bad, options.force)
    _list_skipped(states.skipped)
    print(
        f"{options.store}: {counted(len(states), 'utterance')}, {counted(states.total_frames, 'frame')},"
        f" {counted(states.config['num_states'], 'state')}"
    )


def _with_silence(lexicon: "Lexicon", probability: float | None) -> "Lexicon":
    from asr_kd.hmm.lexicon import with_silence_probability

    if probability is None:
        return lexicon
    if not 0 < probability < 1:
        raise UserError(f"--silence-probability {probability}: expected a number between 0 and 1")
    return with_silence_probability(lexicon, probability)


def _report_unused(utterances: "TranscribedUtterances", options: argparse.Namespace) -> None:
    _list_skipped(utterances.skipped)
    if utterances.unused:
        print(f"{options.feats}: {utterances.unused:,} of its utterances are not in {options.data} and are not used")


def _list_skipped(skipped: dict[str, str]) -> None:
    for utterance, reason in sorted(skipped.items()):
        print(f"skipped {utterance}: {reason}")
    if skipped:
        print(f"skipped {counted(len(skipped), 'utterance')}")
