"""``asr-kd model``: deployable model folders."""

import argparse
import math

from asr_kd.cli import add_action
from asr_kd.errors import UserError, counted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``ensemble``, ``calibrate``, ``build`` and ``info``."""
    parser.description = (
        "Combine networks into an ensemble, correct a network's biases, build a folder with everything that decoding\n"
        "needs, or inspect such a folder."
    )
    parser.epilog = (
        "example:\n  asr-kd model ensemble exp/ensemble exp/dnn/seed1 exp/dnn/seed2 exp/tdnn/seed1\n"
        "  asr-kd model build --network exp/dnn --graph exp/graph --states-dir exp/gmm/lda "
        "--features exp/feats/train exp/model\n  asr-kd model info exp/model"
    )
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    ensemble = add_action(
        verbs,
        "model",
        "ensemble",
        "average networks: write a folder that can be used like a single network",
        "exp/ensemble exp/dnn/seed1 exp/dnn/seed2 exp/tdnn/seed1 --mean geometric --weights 1,1,2",
    )
    ensemble.add_argument(
        "ensemble", metavar="OUT", help="folder to write, replacing an ensemble in it; the members stay where they are"
    )
    ensemble.add_argument(
        "members", metavar="NETWORK", nargs="+", help="folders of trained networks with the same states"
    )
    mean = "how to average the members' distributions (default: arithmetic)"
    ensemble.add_argument("--mean", default="arithmetic", choices=("arithmetic", "geometric"), help=mean)
    ensemble.add_argument(
        "--weights", default="", metavar="W,W,...", help="one weight for each member (default: equal)"
    )
    ensemble.set_defaults(run=_ensemble)
    _configure_calibrate(verbs)
    _configure_build(verbs)
    info = add_action(
        verbs, "model", "info", "check every file of a model folder and print its properties", "exp/model"
    )
    info.add_argument("model", metavar="MODEL_DIR", help="model folder, from `asr-kd model build`")
    info.set_defaults(run=_info)


def _configure_calibrate(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    calibrate = add_action(
        verbs,
        "model",
        "calibrate",
        "set the biases of classes that a student never saw, from its teacher's posteriors on unlabelled frames",
        "exp/without3 exp/without3_calibrated --classes 3 --teacher exp/teacher --feats feats/train",
    )
    calibrate.add_argument("network", metavar="NETWORK", help="folder of the student")
    calibrate.add_argument(
        "out", metavar="OUT", help="folder to write: the same network with other biases; a network in it is replaced"
    )
    classes = "states (classes) whose biases are changed"
    calibrate.add_argument("--classes", metavar="N,N,...", required=True, help=classes)
    calibrate.add_argument("--feats", metavar="STORE", required=True, help="features of unlabelled frames")
    calibrate.add_argument("--utterances", metavar="LIST", help="use only the ids in this file or data directory")
    source = calibrate.add_mutually_exclusive_group(required=True)
    teacher = "match the mean posterior that this network or ensemble gives to each class"
    source.add_argument("--teacher", metavar="NETWORK", help=teacher)
    oracle = (
        "oracle: shift all these biases alike, by what gives the fewest errors on these labels (as the paper does, on"
        " test data)"
    )
    source.add_argument("--states", metavar="STORE", help=oracle)
    calibrate.set_defaults(run=_calibrate)


def _configure_build(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    build = add_action(
        verbs,
        "model",
        "build",
        "write a model folder from a network or GMM, its states and a graph",
        "--network exp/dnn --graph exp/graph --states-dir exp/gmm/lda --features exp/feats/train exp/model",
    )
    source = build.add_mutually_exclusive_group(required=True)
    source.add_argument("--network", metavar="NETWORK", help="folder of a trained network or ensemble")
    source.add_argument("--gmm", metavar="HMM_DIR", help="HMM folder from asr-kd hmm train, such as exp/hmm/lda")
    build.add_argument("--graph", metavar="GRAPH_DIR", required=True, help="folder with HCLG.fst and words.txt")
    states = (
        "HMM folder with the states and lexicon (default: that of --gmm); without it, as for an imported graph, word"
        " times are only approximate"
    )
    build.add_argument("--states-dir", metavar="HMM_DIR", help=states)
    build.add_argument("--states", dest="states_dir", help=argparse.SUPPRESS)
    build.add_argument(
        "--features",
        metavar="FILE|STORE",
        required=True,
        help="feature configuration (YAML), or a store of such features",
    )
    like = "copy the tuned scale, penalty and beam of this model, such as another seed of the same system"
    priors = (
        "take the states' priors from this store of states or soft targets, or from this network (default: those of"
        " --network)"
    )
    build.add_argument("--priors", metavar="STORE|NETWORK", help=priors)
    build.add_argument("--search-like", metavar="MODEL_DIR", help=like)
    build.add_argument(
        "--acoustic-scale",
        type=float,
        metavar="SCALE",
        help="factor of the log-likelihoods (default: 0.1); `asr-kd decode --tune` replaces it",
    )
    penalty = "added cost of each word, in nats (default: 0); `asr-kd decode --tune` replaces it"
    build.add_argument("--word-penalty", type=float, metavar="COST", help=penalty)
    beam = "drop tokens that cost this much more than the best (default: 13); `asr-kd decode --tune` replaces it"
    build.add_argument("--beam", type=float, metavar="COST", help=beam)
    active = "approximate limit on the tokens in each frame (default: 7000)"
    build.add_argument("--max-active", type=int, metavar="N", help=active)
    build.add_argument("model", metavar="OUT", help="model folder to write; a model in it is replaced")
    build.set_defaults(run=_build)


def search_options(options: argparse.Namespace) -> dict[str, float]:
    """The search options that were given on the command line."""
    names = ("acoustic_scale", "word_penalty", "beam", "max_active")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if not (math.isfinite(value) if name == "word_penalty" else value > 0):
            expected = "a finite number" if name == "word_penalty" else "more than 0"
            raise UserError(f"--{name.replace('_', '-')} {value:g}: expected {expected}")
    return given


def _ensemble(options: argparse.Namespace) -> None:
    from asr_kd.cli import numbers
    from asr_kd.nets import num_parameters, save_ensemble

    weights = numbers("--weights", options.weights)
    if len(weights) not in (0, len(options.members)):
        given = f"{counted(len(weights), 'weight')} for {counted(len(options.members), 'network')}"
        raise UserError(f"--weights {options.weights}: {given}; give one for each")
    ensemble = save_ensemble(options.ensemble, options.members, options.mean, weights)
    print(
        f"{options.ensemble}: {options.mean} mean of {counted(len(options.members), 'network')},"
        f" {counted(num_parameters(ensemble), 'parameter')}, {counted(ensemble.num_states, 'state')}"
    )


def _calibrate(options: argparse.Namespace) -> None:
    from pathlib import Path

    import numpy as np

    from asr_kd.cli import whole_numbers
    from asr_kd.frames import FrameStore
    from asr_kd.frames.utterance_list import read_utterance_list
    from asr_kd.nets import load_model, open_model, save_model
    from asr_kd.nets.folder import check_no_ensemble
    from asr_kd.train import TrainingData
    from asr_kd.train.calibrate import oracle_shift, shift_bias, teacher_shift

    classes = whole_numbers("--classes", options.classes)
    if Path(options.out).resolve() == Path(options.network).resolve():
        raise UserError(f"{options.out}: this is NETWORK itself; choose another folder to write")
    check_no_ensemble(options.out)
    student = load_model(options.network)
    chosen = read_utterance_list(options.utterances) if options.utterances else None
    states = FrameStore(options.states) if options.states else None
    data = TrainingData(FrameStore(options.feats), states, chosen)
    if options.teacher:
        shift = teacher_shift(student, open_model(options.teacher), data, classes)
    else:
        shift = np.full(len(classes), oracle_shift(student, data, classes))
    shift_bias(student, classes, shift)
    save_model(student, options.out)
    text = ", ".join(f"{index} by {number:+.3f}" for index, number in zip(classes, shift, strict=True))
    print(f"{options.out}: biases of classes {text}" + (" (oracle)" if options.states else ""))


def _build(options: argparse.Namespace) -> None:
    import dataclasses

    from asr_kd.decode.model_folder import ModelParts, build_model, describe, read_feature_config, read_model_config
    from asr_kd.decode.search import SearchOptions

    other = read_model_config(options.search_like) if options.search_like else None
    search = dataclasses.replace(other.search if other else SearchOptions(), **search_options(options))  # type: ignore[arg-type]
    features = read_feature_config(options.features)
    tuned_on = other.tuned_on if other else None
    log_prior = None
    if options.priors:
        from asr_kd.nets import is_ensemble, load_model
        from asr_kd.train.transfer_set import read_priors

        if not options.network or is_ensemble(options.network):
            raise UserError(
                f"--priors {options.priors}: only a single network (--network) takes priors, not a GMM or an ensemble;"
                " leave --priors out"
            )
        log_prior, _ = read_priors(options.priors, load_model(options.network).num_states)
    states = options.states_dir or options.gmm
    parts = ModelParts(options.graph, features, options.network, options.gmm, states, log_prior)
    _show(describe(build_model(options.model, parts, search, tuned_on)))


def _info(options: argparse.Namespace) -> None:
    from asr_kd.decode.model_folder import describe, load_model_folder

    _show(describe(load_model_folder(options.model)))


def _show(content: dict[str, object]) -> None:
    width = max(map(len, content))
    for name, value in content.items():
        print(f"{name:{width}}  {value:,}" if isinstance(value, int) else f"{name:{width}}  {value}")
