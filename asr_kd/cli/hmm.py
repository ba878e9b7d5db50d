"""``asr-kd hmm``: features and words -> a tied state for each frame."""

import argparse
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from asr_kd.hmm.alignment_store import Score
    from asr_kd.hmm.states import StateSpace

_TRAIN = """\
Train Gaussian mixture HMMs from a flat start: monophones, then triphones tied by a decision tree, then the same on
LDA + MLLT features. OUT_DIR/{mono,tri,lda} are models to align and decode with. Run again after an interruption, it
goes on after the last complete stage."""
_ALIGN = """\
Find the tied state of each frame: the best path of each utterance through its words. The likelihoods are those of
MODEL's Gaussians, or of a trained network (--network), whose own features FEATS must then be."""

_IMPORT = """\
Take alignments from Kaldi (ali.*.gz, .ark or .scp): transition-ids of --model, or pdf-ids. The states are Kaldi's pdfs:
decode with its graph (asr-kd graph import)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``train``, ``align`` and ``import-alignment``."""
    parser.description = "GMM-HMM training, alignment of data directories."
    parser.epilog = (
        "example:\n"
        "  asr-kd feats data/train exp/mfcc/train --set kind=mfcc\n"
        "  asr-kd hmm train data/train exp/mfcc/train data/lexicon.txt exp/hmm --jobs 2\n"
        "  asr-kd hmm align exp/hmm/lda data/train exp/mfcc/train exp/states/train --jobs 2"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _configure_train(_action(actions, "train", "features and words -> models", _TRAIN))
    _configure_align(_action(actions, "align", "a model, features and words -> states of all frames", _ALIGN))
    _configure_import(_action(actions, "import-alignment", "Kaldi's alignments -> states of all frames", _IMPORT))


def _action(actions: argparse._SubParsersAction, name: str, purpose: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=purpose, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser


def _configure_train(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  asr-kd hmm train data/train exp/mfcc/train data/lexicon.txt exp/hmm --jobs 2\n"
        "  asr-kd hmm train data/train exp/mfcc/train data/lexicon.txt exp/hmm --set lda_states=1500 "
        "--set lda_gaussians=12000"
    )
    parser.add_argument("data", metavar="DATA", help="data directory with text")
    parser.add_argument("feats", metavar="FEATS", help="its cepstra (asr-kd feats --set kind=mfcc)")
    parser.add_argument("lexicon", metavar="LEXICON", help="lines of WORD PHONE PHONE ...")
    parser.add_argument("out", metavar="OUT_DIR", help="folder of the models")
    parser.add_argument("--config", help="YAML file of a training configuration (default: the values of HmmConfig)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change one value")
    parser.add_argument("--unknown", choices=["error", "spn"], default="error",
                        help="words outside the lexicon: an error (default), or spoken noise")  # fmt: skip
    parser.add_argument("--skip-bad", action="store_true", help="leave out, count and list what cannot be aligned")
    parser.add_argument("--jobs", type=int, default=1, help="threads (default: 1)")
    parser.set_defaults(run=run_train, resumes=True)


def _configure_align(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  asr-kd hmm align exp/hmm/lda data/train exp/mfcc/train exp/states/train --jobs 2\n"
        "  asr-kd hmm align exp/hmm/lda data/train exp/fbank/train exp/states2/train --network exp/hard"
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder with states and lexicon.txt: a stage of asr-kd hmm train"
    )
    parser.add_argument("data", metavar="DATA", help="data directory with text")
    parser.add_argument("feats", metavar="FEATS", help="its features, as the model was trained on")
    parser.add_argument("store", metavar="STORE", help="store of states to write")
    parser.add_argument("--lexicon", help="pronunciations (default: MODEL/lexicon.txt)")
    parser.add_argument("--network", metavar="FOLDER", help="realign with this network's likelihoods")
    parser.add_argument("--beam", type=float, default=200.0, help="pruning, in nats (default: 200)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out, count and list what cannot be aligned")
    parser.add_argument("--force", action="store_true", help="replace a store of other alignments")
    parser.add_argument("--jobs", type=int, default=1, help="threads (default: 1)")
    parser.set_defaults(run=run_align, resumes=True)


def _configure_import(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  asr-kd hmm import-alignment exp/states/train tri3b_ali/ali.*.gz --model tri3b_ali/final.mdl"
    )
    parser.add_argument("store", metavar="STORE", help="store of states to write")
    parser.add_argument("archives", metavar="ARCHIVE", nargs="+", help="Kaldi's alignments, all parts")
    parser.add_argument("--model", metavar="FILE", help="final.mdl, or lines of TRANSITION-ID PDF (default: pdf-ids)")
    parser.add_argument("--features", metavar="FEATS", help="check frame counts against this store")
    parser.add_argument("--num-states", type=int, metavar="N", help="number of pdfs (default: of the model)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out, count and list what does not fit FEATS")
    parser.add_argument("--force", action="store_true", help="replace a store of other alignments")
    parser.set_defaults(run=run_import)


def run_train(options: argparse.Namespace) -> None:
    """Train, and say where the models are."""
    from asr_kd.config import load_config
    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.lexicon import with_unknown
    from asr_kd.hmm.lexicon_reader import read_lexicon
    from asr_kd.hmm.train import HmmConfig, train
    from asr_kd.hmm.training_data import load_utterances
    from asr_kd.progress import duration

    began = time.monotonic()
    config = load_config(HmmConfig, options.config, options.set)
    lexicon = read_lexicon(options.lexicon)
    if options.unknown == "spn":
        lexicon = with_unknown(lexicon)
    datadir, store = read_data_dir(options.data, allow_pipes=True), FrameStore(options.feats)
    utterances = load_utterances(datadir, store, config.monophones(lexicon), lexicon, options.skip_bad)
    _list_skipped(utterances.skipped)
    model = train(utterances, lexicon, options.out, config, options.jobs)
    print(f"{model}: trained on {len(utterances.ids):,} utterances in {duration(time.monotonic() - began)}")


def run_align(options: argparse.Namespace) -> None:
    """Align, and print how many frames and how likely."""
    from pathlib import Path

    from asr_kd.corpus.datadir import read_data_dir
    from asr_kd.files import sha256
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.alignment_store import write_alignments
    from asr_kd.hmm.lexicon_reader import read_lexicon
    from asr_kd.hmm.states import StateSpace
    from asr_kd.hmm.training_data import load_utterances

    began = time.monotonic()
    space = StateSpace.load(options.model)
    lexicon = read_lexicon(options.lexicon or Path(options.model) / "lexicon.txt")
    datadir, store = read_data_dir(options.data, allow_pipes=True), FrameStore(options.feats)
    utterances = load_utterances(datadir, store, space, lexicon, options.skip_bad)
    _list_skipped(utterances.skipped)
    score, source = _network_score(options.network, space) if options.network else _gmm_score(options.model, space)
    inputs = {path.name: sha256(path) for path in (source, Path(options.model) / "states.safetensors")}
    states, per_frame = write_alignments(
        options.store, utterances, space, score, inputs, options.beam, options.jobs, options.force
    )
    done = "as before"
    if per_frame is not None:
        rate = states.total_frames / (time.monotonic() - began)
        done = f"log-likelihood {per_frame:.3f} a frame; {rate:,.0f} frames/s"
    size = f"{len(states):,} utterances, {states.total_frames:,} frames of {space.num_states} states"
    print(f"{options.store}: {size}, {done}")


def _gmm_score(folder: str, space: "StateSpace") -> "tuple[Score, Path]":
    from pathlib import Path

    from asr_kd.hmm.gmm import Gmm

    gmm = Gmm.load(folder)
    gmm.check_fits(space.num_states, folder)
    return gmm.log_likelihoods, Path(folder) / "gmm.safetensors"


def _network_score(folder: str, space: "StateSpace") -> "tuple[Score, Path]":
    from pathlib import Path

    import numpy as np

    from asr_kd.decode.scorer import NetworkScorer
    from asr_kd.errors import UserError

    scorer = NetworkScorer(folder)
    if scorer.num_states != space.num_states:
        raise UserError(f"{folder}: a network of {scorer.num_states} states; MODEL has {space.num_states}")

    def score(features: np.ndarray, states: np.ndarray) -> np.ndarray:
        return np.concatenate([block[:, states] for block in scorer.blocks(features)])

    return score, Path(folder) / "model.safetensors"


def run_import(options: argparse.Namespace) -> None:
    """Import, and print how much."""
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.kaldi_alignments import import_alignment, read_transitions

    states = import_alignment(
        options.archives,
        options.store,
        "transition" if options.model else "pdf",
        read_transitions(options.model) if options.model else None,
        FrameStore(options.features) if options.features else None,
        options.num_states,
        options.skip_bad,
        options.force,
    )
    _list_skipped(states.skipped)
    print(
        f"{options.store}: {len(states):,} utterances, {states.total_frames:,} frames of "
        f"{states.config['num_states']} states"
    )


def _list_skipped(skipped: dict[str, str]) -> None:
    for utterance, reason in sorted(skipped.items()):
        print(f"skipped {utterance}: {reason}")
    if skipped:
        print(f"skipped {len(skipped):,} utterances")
