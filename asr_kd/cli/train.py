"""``asr-kd train``: features and states -> acoustic network."""

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from asr_kd.cli import add_device, add_engine, torch_device

if TYPE_CHECKING:
    from asr_kd.train import TrainConfig

DESCRIPTION = (
    "Train an acoustic network to predict the tied HMM state of each frame: from labels (--states), or as a\n"
    "student of a network or ensemble, from its stored soft targets (--targets) or from soft targets computed for\n"
    "every batch (--teacher). A student may also use labels, with the weight hard_weight (0.5).\n"
    "\n"
    "A student needs no labels. Without them hard_weight is 0, and the priors that decoding divides by are those\n"
    "of the teacher: its mean posterior over the stored targets, or the priors of the live teacher. They are\n"
    "stored with the network.\n"
    "\n"
    "The same command resumes after a kill or an interruption; once training is done, it prints the result again.\n"
    "The folder --out holds the network and its training curves (metrics.jsonl). The log has a line for each\n"
    "evaluation, with a star if its weights are kept. With --members N the folder is an ensemble of N networks,\n"
    "trained side by side from different seeds; if one fails, the others checkpoint and stop. Under\n"
    "torchrun, N processes train one network, data-parallel; the result is that of a single process. Each takes\n"
    "its own GPU if there are any.\n"
    "With --evaluate NETWORK, measure trained networks or ensembles instead."
)
EXAMPLES = (
    "example:\n"
    "  asr-kd train --feats exp/train/fbank --states exp/train/states \\\n"
    "    --dev-feats exp/dev/fbank --dev-states exp/dev/states --out exp/dnn \\\n"
    "    --set net.layers=4 --set net.width=512 --set epochs=15 --seed 1\n"
    "  asr-kd train --feats exp/train/fbank --states exp/train/states --targets exp/train/top20 \\\n"
    "    --dev-feats exp/dev/fbank --dev-states exp/dev/states --out exp/student --set temperature=2\n"
    "  asr-kd train --feats exp/train/fbank --states exp/train/states \\\n"
    "    --dev-feats exp/dev/fbank --dev-states exp/dev/states --out exp/ensemble --members 10 \\\n"
    "    --config conf/dnn.yaml --config conf/tdnn.yaml --threads 10\n"
    "  torchrun --nproc-per-node 2 -m asr_kd train --feats exp/train/fbank --states exp/train/states \\\n"
    "    --dev-feats exp/dev/fbank --dev-states exp/dev/states --out exp/dnn\n"
    "  asr-kd train --evaluate exp/dnn --feats exp/test/fbank --states exp/test/states --json\n"
    "  asr-kd train --evaluate exp/dnn --feats exp/test/fbank --states exp/test/states \\\n"
    "    --utt2spk data/test/utt2spk --out frames_test\n"
    "all configuration keys, explained, with their defaults: asr-kd train --print-config"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``asr-kd train``."""
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.usage = (
        "%(prog)s --feats STORE [--states STORE] [--targets STORE | --teacher NETWORK]\n"
        "                    --dev-feats STORE --dev-states STORE --out DIR [options]\n"
        "       %(prog)s --evaluate NETWORK ... --feats STORE --states STORE [--out NAME] [options]\n"
        "       %(prog)s --print-config [--config FILE] [--set KEY=VALUE]"
    )
    _configure_data(parser)
    priors = (
        "take the states' priors from this store of states or soft targets, or from this network (default: the"
        " frequencies of the labels; without labels, the teacher's)"
    )
    parser.add_argument("--priors", metavar="STORE|NETWORK", help=priors)
    begin = "start from the weights of this network of the same shape (default: random weights)"
    parser.add_argument("--begin", metavar="NETWORK", help=begin)
    parser.add_argument("--utterances", metavar="LIST", help="use only the ids in this file or data directory")
    config = (
        "configuration (YAML); missing keys have their defaults; repeatable with --members, which use the files in turn"
    )
    parser.add_argument("--config", metavar="FILE", action="append", default=[], help=config)
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override one key; repeatable")
    parser.add_argument("--seed", type=int, metavar="N", help="the same as --set seed=N")
    _configure_members(parser)
    _configure_evaluate(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--print-config", action="store_true", help="print the configuration and stop")
    parser.set_defaults(run=run, resumes=True)


def _configure_data(parser: argparse.ArgumentParser) -> None:
    required = parser.add_argument_group("required")
    required.add_argument("--feats", metavar="STORE", help="features to train on (or to evaluate on)")
    dev = "features of the dev set, which decides which epoch is kept (not with --evaluate)"
    required.add_argument("--dev-feats", metavar="STORE", help=dev)
    required.add_argument("--dev-states", metavar="STORE", help="states of the dev set (not with --evaluate)")
    out = (
        "experiment folder, such as exp/dnn; with --evaluate, name of the folder to write frames.json to, inside each"
        " NETWORK"
    )
    required.add_argument("--out", metavar="DIR", help=out)
    source = parser.add_argument_group("what to learn", "--states, --targets or --teacher; or --states with either")
    source.add_argument("--states", metavar="STORE", help="states of the frames of --feats, from `asr-kd hmm align`")
    source.add_argument("--targets", metavar="STORE", help="soft targets, from `asr-kd targets write`")
    teacher = "network or ensemble that computes soft targets for each batch"
    source.add_argument("--teacher", metavar="NETWORK", help=teacher)


def _configure_members(parser: argparse.ArgumentParser) -> None:
    members = (
        "train N networks with consecutive seeds, starting at --seed (default: the configuration's, or 1), in"
        " DIR/seed1, DIR/seed2, ..., and average them"
    )
    parser.add_argument("--members", type=int, metavar="N", help=members)
    mean = "how the ensemble averages its members' distributions (default: arithmetic)"
    parser.add_argument("--mean", choices=("arithmetic", "geometric"), help=mean)
    add_device(parser, "with cuda, members train in parallel, one per GPU")
    threads = (
        "number of CPU threads (default: OMP_NUM_THREADS, else all cores); T threads train up to T members at"
        " once, each of which needs the memory of a whole training run"
    )
    parser.add_argument("--threads", type=int, metavar="T", help=threads)
    add_engine(parser)


def _configure_evaluate(parser: argparse.ArgumentParser) -> None:
    evaluated = "print frame accuracy and cross-entropy of these networks or ensembles"
    parser.add_argument("--evaluate", metavar="NETWORK", nargs="+", help=evaluated)
    speakers = "with --evaluate: speakers, the unit of intervals and tests (default: utterances)"
    parser.add_argument("--utt2spk", metavar="FILE", help=speakers)


def run(options: argparse.Namespace) -> None:
    """Train or evaluate, as the options say, as one rank of several under torchrun."""
    from asr_kd.errors import UserError
    from asr_kd.train.group import joined

    options.resumes = not options.evaluate
    with joined() as group:
        if options.members is not None and group.world > 1:
            raise UserError("--members starts its own process for each network; run it without torchrun")
        if group.leads or not options.evaluate:
            _run(options)


def _run(options: argparse.Namespace) -> None:
    import torch

    from asr_kd.config import explained

    configs = _configs(options)
    if options.print_config:
        different = configs[: max(1, len(options.config))]
        print("---\n".join(map(explained, different)), end="")
        return
    if options.threads is not None:
        _check_threads(options.threads)
        torch.set_num_threads(options.threads)
    if options.evaluate:
        _check_inside(options.out)
        for model in options.evaluate:
            result, text = _evaluate(model, options)
            print(json.dumps(result) if options.json else text)
        return
    if options.members is not None:
        result, text = _train_members(options, configs)
    else:
        result, text = _train(options, configs[0])
    print(json.dumps(result) if options.json else text)


def _configs(options: argparse.Namespace) -> "list[TrainConfig]":
    """The configuration of each network to train."""
    from asr_kd.config import load_config
    from asr_kd.errors import UserError
    from asr_kd.train import TrainConfig
    from asr_kd.train.members import member_configs

    overrides = [*options.set, *([] if options.seed is None else [f"seed={options.seed}"])]
    if options.members is not None and options.begin:
        raise UserError("--members start from different random weights; --begin is for a single network")
    if options.members is not None:
        return member_configs(options.members, options.config, overrides)
    if len(options.config) > 1 or options.mean:
        raise UserError("several --config, and --mean, are for ensembles; give --members N too")
    return [load_config(TrainConfig, options.config[0] if options.config else None, overrides)]


def _evaluate(folder: str, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from pathlib import Path

    from asr_kd.nets import open_model
    from asr_kd.score.frames import score_frames
    from asr_kd.score.score_files import FILES, read_speakers, save_score
    from asr_kd.train import evaluate, predict
    from asr_kd.train.evaluate import check_fits

    _require(options, "feats", "states")
    device = torch_device(options.device)
    data = _training_data(options)
    model = open_model(folder).to(device)
    check_fits(data, model.bins, model.num_states, folder)
    result = dataclasses.asdict(evaluate(model, data))
    if options.out:
        speakers = read_speakers(options.utt2spk) if options.utt2spk else None
        save_score(score_frames(predict(model, data), speakers), Path(folder) / options.out / FILES["frames"])
    text = f"frame accuracy {result['frame_accuracy']:.2%}, cross-entropy {result['cross_entropy']:.4f} nats"
    named = f"{folder}: " if len(options.evaluate) > 1 else ""
    return result, f"{named}{text}, {result['frames']:,} frames"


def _check_inside(out: str | None) -> None:
    """Raise ``UserError`` if the networks of --evaluate would write their results to the same place."""
    from pathlib import Path

    from asr_kd.errors import UserError

    if out is not None and (Path(out).is_absolute() or ".." in Path(out).parts):
        raise UserError(f"--out {out}: with --evaluate, give a folder inside that of each NETWORK, such as frames_test")


def _train(options: argparse.Namespace, config: "TrainConfig") -> tuple[dict[str, Any], str]:
    from asr_kd.train import Sources, train
    from asr_kd.train.group import Group

    device = Group.current().device(torch_device(options.device))
    _require(options, "feats", "dev_feats", "dev_states", "out")
    data = _training_data(options)
    sources = Sources(options.teacher, options.priors, options.begin)
    result = train(config, data, _dev_data(options), options.out, device, sources)
    text = f"{options.out}: dev frame accuracy {result['dev_accuracy']:.2%} in epoch {result['epoch']}"
    return result, f"{text}, {result['parameters']:,} parameters"


def _train_members(options: argparse.Namespace, configs: "list[TrainConfig]") -> tuple[dict[str, Any], str]:
    import torch

    from asr_kd.score.table import Column, percent, plain, render
    from asr_kd.train import Sources
    from asr_kd.train.members import Machine, train_members

    devices = _devices(options.device)
    _require(options, "feats", "dev_feats", "dev_states", "out")
    data = _training_data(options)
    sources, machine = Sources(options.teacher, options.priors), Machine(tuple(devices), torch.get_num_threads())
    mean = options.mean or "arithmetic"
    trained = train_members(configs, data, _dev_data(options), options.out, sources, mean, machine)
    found = {"folder": options.out, "mean": trained.mean, **dataclasses.asdict(trained.evaluation)}
    columns = (
        Column("network", plain("folder"), left=True),
        Column("dev frame acc. %", percent("dev_accuracy")),
        Column("epoch", plain("epoch")),
        Column("parameters", plain("parameters")),
    )
    rows = [
        *trained.members,
        {"folder": f"{options.out} ({trained.mean} mean)", "dev_accuracy": found["frame_accuracy"]},
    ]
    return {"members": trained.members, "ensemble": found}, render(rows, columns).rstrip("\n")


def _training_data(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from asr_kd.frames import FrameStore
    from asr_kd.frames.utterance_list import read_utterance_list
    from asr_kd.targets import TargetStore
    from asr_kd.train import TrainingData

    chosen = read_utterance_list(options.utterances) if options.utterances else None
    states = FrameStore(options.states) if options.states else None
    targets = TargetStore(options.targets) if options.targets else None
    return TrainingData(FrameStore(options.feats), states, chosen, targets)


def _dev_data(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from asr_kd.frames import FrameStore
    from asr_kd.train import TrainingData

    return TrainingData(FrameStore(options.dev_feats), FrameStore(options.dev_states))


def _require(options: argparse.Namespace, *names: str) -> None:
    from asr_kd.errors import UserError

    missing = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is None]
    if "states" not in names and not (options.states or options.targets or options.teacher):
        missing.append("one of --states (labels), --targets (soft targets) or --teacher")
    if missing:
        raise UserError(f"missing: {', '.join(missing)}; asr-kd train --help shows an example")


def _check_threads(threads: int) -> None:
    from asr_kd.errors import UserError
    from asr_kd.limits import THREADS

    if not 1 <= threads <= THREADS:
        raise UserError(f"--threads {threads}: expected 1 to {THREADS:,}")


def _devices(name: str):  # type: ignore[no-untyped-def]
    """The devices that members are trained on: every GPU, unless ``name`` is the CPU or one GPU."""
    import torch

    if name in ("auto", "cuda") and torch.cuda.is_available():
        return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return [torch_device(name)]
