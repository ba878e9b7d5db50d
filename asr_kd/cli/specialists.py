"""``asr-kd specialists``: networks for confusable states, joined with a generalist."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asr_kd.cli import add_action, add_device, torch_device
from asr_kd.errors import counted

if TYPE_CHECKING:
    import numpy as np

    from asr_kd.hmm.states import StateSpace
    from asr_kd.specialists import Clusters

CLUSTERS = "clusters.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add ``cluster``, ``prepare``, ``join`` and ``compare``."""
    parser.description = (
        "Specialists (section 5 of the paper). cluster: find the states that a network, the generalist, confuses.\n"
        "prepare: write the labels of one cluster's specialist, and the network that its training starts from.\n"
        "join: after asr-kd train, make an ensemble of the generalist and its specialists. It can be evaluated, used\n"
        "for decoding, or used as a teacher, like any ensemble. compare: measure what the specialists add."
    )
    parser.epilog = (
        "example:\n"
        "  asr-kd specialists cluster exp/clusters --network exp/dnn --feats feats/train --k 10 --states-dir gmm/lda\n"
        "  asr-kd specialists prepare exp/special/3 --clusters exp/clusters --number 3 --network exp/dnn \\\n"
        "    --states states/train --dev-states states/dev\n"
        "  asr-kd train --begin exp/special/3/begin --feats feats/train --states exp/special/3/states \\\n"
        "    --dev-feats feats/dev --dev-states exp/special/3/dev --out exp/special/3/net\n"
        "  asr-kd specialists join exp/joint exp/special/* --network exp/dnn\n"
        "  asr-kd specialists compare exp/joint --feats feats/test --states states/test --utt2spk data/test/utt2spk"
    )
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    cluster = add_action(
        verbs,
        "specialists",
        "cluster",
        "find clusters of states that a generalist confuses, from its predictions",
        "exp/clusters --network exp/dnn --feats feats/train --k 10 --states-dir gmm/lda",
    )
    cluster.add_argument("out", metavar="OUT", help="folder to write; clusters in it are replaced")
    cluster.add_argument("--network", metavar="NETWORK", required=True, help="the generalist, a network")
    cluster.add_argument("--feats", metavar="STORE", required=True, help="features to predict on; no labels are needed")
    cluster.add_argument(
        "--frames",
        type=int,
        default=500_000,
        metavar="N",
        help="number of frames, from utterances drawn at random (default: 500,000)",
    )
    cluster.add_argument(
        "--k", type=int, required=True, metavar="K", help="number of clusters, one for each specialist"
    )
    size = "states of each specialist: the N most correlated with its cluster; specialists may then share states"
    cluster.add_argument("--size", type=int, metavar="N", help=f"{size} (default: the clusters themselves)")
    cluster.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of k-means and of the choice of utterances (default: 0)"
    )
    scale = (
        "none: k-means on the covariance, as in the paper; correlation: k-means on correlations, so that frequent"
        " states have no more weight than others; spectral: spectral clustering of correlations (default)"
    )
    cluster.add_argument("--scale", choices=("none", "correlation", "spectral"), default="spectral", help=scale)
    cluster.add_argument(
        "--states-dir", metavar="HMM_DIR", help="HMM folder of the states, for the names of phones and contexts"
    )
    add_device(cluster)
    cluster.set_defaults(run=_cluster)
    _configure_prepare(verbs)
    _configure_join(verbs)
    _configure_compare(verbs)


def _configure_prepare(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    prepare = add_action(
        verbs,
        "specialists",
        "prepare",
        "write the labels and the initial network of one cluster's specialist",
        "exp/special/3 --clusters exp/clusters --number 3 --network exp/dnn --states states/train "
        "--dev-states states/dev",
    )
    prepare.add_argument("out", metavar="OUT", help="folder to write: begin, states, dev")
    prepare.add_argument(
        "--clusters", metavar="DIR", required=True, help="folder written by asr-kd specialists cluster"
    )
    prepare.add_argument("--number", type=int, required=True, metavar="N", help="number of the cluster, from 0")
    prepare.add_argument("--network", metavar="NETWORK", required=True, help="the generalist, a network")
    prepare.add_argument("--states", metavar="STORE", required=True, help="states of the training speech")
    dev = "states of the dev set; not with --whole, whose training uses the dev states unchanged"
    prepare.add_argument("--dev-states", metavar="STORE", help=dev)
    whole = (
        "no dustbin, but soft targets for all other states (section 6.1): write labels of the cluster's states only;"
        " train with --begin NETWORK --teacher NETWORK --set temperature=1"
    )
    prepare.add_argument("--whole", action="store_true", help=whole)
    prepare.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the choice of frames of other states (default: 0)"
    )
    prepare.add_argument("--force", action="store_true", help="replace other stores of labels in OUT")
    prepare.set_defaults(run=_prepare)


def _configure_join(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    join = add_action(
        verbs,
        "specialists",
        "join",
        "make an ensemble of a generalist and trained specialists",
        "exp/joint exp/special/0 exp/special/1 --network exp/dnn",
    )
    join.add_argument("out", metavar="OUT", help="folder to write; an ensemble in it is replaced")
    join.add_argument(
        "specialists",
        metavar="SPECIALIST",
        nargs="+",
        help="folders written by asr-kd specialists prepare, each with its trained network in net",
    )
    join.add_argument("--network", metavar="NETWORK", required=True, help="the generalist, a network")
    active = "use the specialists that cover any of the generalist's N most probable states in a frame (default: 1)"
    join.add_argument("--active", type=int, default=1, metavar="N", help=active)
    join.set_defaults(run=_join)


def _configure_compare(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    compare = add_action(
        verbs,
        "specialists",
        "compare",
        "measure what the specialists add, and for which states (tables 3 and 4 of the paper)",
        "exp/joint --feats feats/test --states states/test --utt2spk data/test/utt2spk",
    )
    compare.add_argument("joint", metavar="JOINT", help="ensemble written by asr-kd specialists join")
    compare.add_argument("--feats", metavar="STORE", required=True, help="features to evaluate on")
    compare.add_argument("--states", metavar="STORE", required=True, help="states of these frames")
    unit = "speakers, the unit of intervals and tests (default: utterances)"
    compare.add_argument("--utt2spk", metavar="FILE", help=unit)
    compare.add_argument("--rows", metavar="FILE", help="also write the table for asr-kd report --rows")
    compare.add_argument(
        "--picture",
        metavar="FILE",
        help="also draw the gain against the number of specialists that cover a state (PNG)",
    )
    compare.add_argument(
        "--title",
        default="What specialists add",
        metavar="TEXT",
        help="title of the table and the picture (default: What specialists add)",
    )
    add_device(compare)
    compare.set_defaults(run=_compare)


def _cluster(options: argparse.Namespace) -> None:
    from asr_kd.config import save_config
    from asr_kd.errors import UserError
    from asr_kd.files import write_text
    from asr_kd.frames import FrameStore
    from asr_kd.hmm.states import StateSpace
    from asr_kd.nets import model_hash
    from asr_kd.specialists import Clusters, Confusion, check_sizes, cluster_states, load_generalist, state_names
    from asr_kd.train import TrainingData, probabilities

    model = load_generalist(options.network).to(torch_device(options.device))
    check_sizes(model.num_states, options.k, options.size)
    if options.frames < 2:
        raise UserError(f"--frames {options.frames}: expected at least 2 frames to predict")
    if not 0 <= options.seed < 1 << 32:
        raise UserError(f"--seed {options.seed}: expected 0 to {(1 << 32) - 1}")
    space = StateSpace.load(options.states_dir) if options.states_dir else None
    if space and space.num_states != model.num_states:
        raise UserError(
            f"{options.states_dir}: {counted(space.num_states, 'state')}, but {options.network} predicts"
            f" {model.num_states}; give the folder of the states that it was trained on"
        )
    confusion = Confusion()
    features = FrameStore(options.feats)
    features.expect_width(model.bins, options.network)
    for prob in probabilities(model, TrainingData(features).sample(options.frames, options.seed)):
        confusion.add(prob)
    clusters = cluster_states(confusion.covariance(), options.k, options.seed, options.scale, size=options.size)
    names = state_names(space) if space else [str(state) for state in range(model.num_states)]
    lines = [f"{number}\t{state}\t{names[state]}" for number, own in enumerate(clusters) for state in own]
    table = _table_of(clusters, confusion.mean, space)
    content = Clusters(
        model_hash(options.network), confusion.frames, options.seed, options.scale, options.size,
        tuple(tuple(own.tolist()) for own in clusters),
    )  # fmt: skip
    write_text(Path(options.out) / "states.tsv", "\n".join(["cluster\tstate\tname", *lines]) + "\n")
    write_text(Path(options.out) / "table.txt", table)
    save_config(content, Path(options.out) / CLUSTERS)
    print(table, end="")


def _table_of(clusters: "list[np.ndarray]", mean: "np.ndarray", space: "StateSpace | None") -> str:
    """The clusters for people to read, with the part of the ``mean`` prediction that each has."""
    from asr_kd.score.table import Column, percent, plain, render
    from asr_kd.specialists import summaries

    texts = summaries(space, clusters) if space else [" ".join(map(str, own)) for own in clusters]
    rows = [
        {"cluster": number, "states": len(own), "share": float(mean[own].sum()), "text": text}
        for number, (own, text) in enumerate(zip(clusters, texts, strict=True))
    ]
    columns = (
        Column("cluster", plain("cluster")), Column("states", plain("states")),
        Column("mass %", percent("share", 1)),
        Column("phones (states)" if space else "which", plain("text"), left=True),
    )  # fmt: skip
    return render(rows, columns)


def _prepare(options: argparse.Namespace) -> None:
    import numpy as np

    from asr_kd.errors import UserError
    from asr_kd.frames import FrameStore
    from asr_kd.nets import model_hash, save_model
    from asr_kd.specialists import KEPT, Specialist, begin_specialist, count_labels, load_generalist, write_labels

    if options.whole == (options.dev_states is not None):
        raise UserError(
            "give either --dev-states, for a specialist with a dustbin, or --whole, for one that is evaluated on the"
            " dev states as they are"
        )
    clusters = _read_clusters(options.clusters, options.network).clusters
    if not 0 <= options.number < len(clusters):
        raise UserError(f"--number {options.number}: {options.clusters} has clusters 0 to {len(clusters) - 1}")
    generalist, out = load_generalist(options.network), Path(options.out)
    asked, known = np.array(clusters[options.number]), generalist.num_states
    dev = FrameStore(options.dev_states) if options.dev_states else None
    if dev:
        count_labels(dev, known)  # an error comes before anything is written
    specialist = Specialist(asked, known, model_hash(options.network), options.seed, options.whole)
    states = write_labels(FrameStore(options.states), specialist, out / "states", force=options.force)
    own = np.array(states.config["own"])
    if unseen := np.setdiff1d(asked, own).tolist():
        names = ", ".join(map(str, unseen))
        print(
            f"{out}: the training set has no frames of states {names}; the specialist gets the other {len(own)}",
            file=sys.stderr,
        )
    if dev is None:
        print(f"{out}: labels of {counted(len(own), 'state')}")
        return
    trained = dataclasses.replace(specialist, own=own)
    write_labels(dev, trained, out / "dev", balanced=False, force=options.force)
    save_model(begin_specialist(generalist, own), out / "begin")
    print(
        f"{out}: {counted(len(own), 'state')} and a dustbin, with {states.config[KEPT]:.1%} of the frames of other"
        " states"
    )


def _join(options: argparse.Namespace) -> None:
    from asr_kd.nets import num_parameters
    from asr_kd.specialists import join_specialists

    ensemble = join_specialists(options.out, options.network, options.specialists, options.active)
    count = len(options.specialists)
    print(
        f"{options.out}: a generalist and {counted(count, 'specialist')},"
        f" {counted(num_parameters(ensemble), 'parameter')}"
    )


def _compare(options: argparse.Namespace) -> None:
    import json

    from asr_kd.errors import UserError
    from asr_kd.files import write_text
    from asr_kd.frames import FrameStore
    from asr_kd.nets import Ensemble, open_model
    from asr_kd.score.cover import count_by_cover, cover_records, cover_row
    from asr_kd.score.figures import plot_gains
    from asr_kd.score.score_files import read_speakers
    from asr_kd.score.table import Column, p_value, percent, percent_range, plain, render
    from asr_kd.train import TrainingData

    data = TrainingData(FrameStore(options.feats), FrameStore(options.states))
    model = open_model(options.joint).to(torch_device(options.device))
    if not isinstance(model, Ensemble):
        raise UserError(f"{options.joint}: a single network; expected an ensemble from asr-kd specialists join")
    speakers = read_speakers(options.utt2spk) if options.utt2spk else None
    records = cover_records(count_by_cover(model, data, options.joint), speakers)
    columns = (
        Column("frames", plain("system"), left=True), Column("number", plain("frames")),
        Column("generalist %", percent("generalist")), Column("with specialists %", percent("joint")),
        Column("gain", percent("gain")), Column("95 % CI", percent_range("gain_low", "gain_high", 2)),
        Column("relative %", percent("relative")), Column("p", p_value),
    )  # fmt: skip
    print(render(records, columns), end="")
    if options.rows:
        rows = (cover_row(record, options.title, Path(options.feats).name) for record in records)
        write_text(options.rows, "".join(f"{json.dumps(row)}\n" for row in rows))
    if options.picture:
        plot_gains(records, options.title, options.picture)


def _read_clusters(folder: str, network: str) -> "Clusters":
    """The clusters in a folder; ``UserError`` if they are those of another network."""
    from asr_kd.config import load_config
    from asr_kd.errors import UserError
    from asr_kd.files import check_folder
    from asr_kd.nets import model_hash
    from asr_kd.specialists import Clusters

    check_folder(folder, CLUSTERS, "a folder of clusters", "write it with asr-kd specialists cluster")
    path = Path(folder) / CLUSTERS
    found = load_config(Clusters, path)
    if found.network != model_hash(network):
        raise UserError(
            f"{path}: these are not clusters of {network}; give the network that was clustered, or cluster again"
        )
    return found
