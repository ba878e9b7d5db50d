"""Trained specialists, put right and joined with their generalist."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asr_kd.config import read_mapping
from asr_kd.errors import UserError
from asr_kd.frames import FrameStore
from asr_kd.nets import AcousticModel, Ensemble, EnsembleConfig, load_model, model_hash, save_ensemble, save_model
from asr_kd.nets.folder import ENSEMBLE, check_no_network
from asr_kd.specialists.labels import KEPT, KNOWN, correct_dustbin, correct_own, load_generalist, own_share


def join_specialists(out: str | Path, network: str, folders: Sequence[str], active: int = 1) -> Ensemble:
    """Make ``out`` an ensemble of the generalist in the folder ``network`` and of specialists, which are copied there.

    ``folders``: one for each specialist, with its labels (``states``) and what was trained on them (``net``);
    ``active`` is of ``EnsembleConfig``. Nothing is written, and no ensemble at ``out`` replaced, before all have been
    checked. Raises ``UserError`` for a folder that is given twice, holds no specialist of this generalist or one of
    another kind than the others, or was trained on other frames than its labels are of, or in a way that cannot be put
    right.
    """
    generalist = load_generalist(network)
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError(f"{' '.join(folders)}: one of them is there twice; name each specialist once")
    stores = [_labels(Path(folder) / "states", network) for folder in folders]
    if len(kinds := {labels.config["whole"] for labels in stores}) > 1:
        raise UserError(f"{' '.join(folders)}: some were prepared with --whole and some without; join either")
    specialists = [_corrected(Path(folder) / "net", labels) for folder, labels in zip(folders, stores, strict=True)]
    own, whole = [tuple(labels.config["own"]) for labels in stores], kinds.pop()
    config = EnsembleConfig((network, *folders), "joint", own=tuple(own), active=active, whole=whole)
    Ensemble(config, [generalist, *specialists])  # refuses what does not fit together
    check_no_network(out)
    (Path(out) / ENSEMBLE).unlink(missing_ok=True)
    members = [str(Path(out) / f"specialist{number}") for number in range(1, len(folders) + 1)]
    for specialist, member in zip(specialists, members, strict=True):
        save_model(specialist, member)
    return save_ensemble(out, [network, *members], "joint", own=own, active=active, whole=whole)


def _labels(path: Path, network: str) -> FrameStore:
    """The labels of a specialist of the generalist in the folder ``network``."""
    labels = FrameStore(path)
    if not {"own", "whole", KEPT, KNOWN} <= labels.config.keys():
        raise UserError(f"{path}: not the labels of a specialist, which asr-kd specialists prepare writes")
    if labels.inputs.get("generalist") != model_hash(network):
        raise UserError(f"{path}: labels of a specialist of another generalist than {network}; give that one")
    return labels


def _corrected(net: Path, labels: FrameStore) -> AcousticModel:
    """The specialist in the folder ``net``, without what the choice of its frames did to its outputs."""
    network, trained = load_model(net), net / "train.yaml"
    told = read_mapping(trained)
    data = told.get("train") or {}
    if (data.get("states"), data.get("frames")) != (labels.content_hash, labels.total_frames):
        raise UserError(
            f"{trained}: trained on other frames or labels than {labels.path} has, in which its states are counted;"
            " train it on all of these, or prepare labels of those frames alone"
        )
    if labels.config["whole"]:
        correct_own(network, np.array(labels.config["own"]), *_weights(trained, told), own_share(labels))
    else:
        correct_dustbin(network, labels.config[KEPT])
    return network


def _weights(trained: Path, told: dict[str, float]) -> tuple[float, float]:
    """Weights of labels and soft targets in a training; ``UserError`` where ``correct_own`` could not put it right."""
    if "teacher" not in told or not told.get("soft_weight"):
        raise UserError(f"{trained}: not trained on soft targets; train a --whole specialist with --teacher NETWORK")
    temperature, match = told["temperature"], told.get("match", "distribution")
    if temperature != 1 or match != "distribution":
        raise UserError(
            f"{trained}: trained with temperature: {temperature:g} and match: {match}; what labels add to soft targets"
            " can be put right after temperature: 1 and match: distribution only; train it with these"
        )
    return told["hard_weight"], told["soft_weight"]
