"""Trained specialists, corrected for how they were trained and joined with their generalist."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import read_mapping, shown
from asr_kd.errors import UserError
from asr_kd.files import check_folder
from asr_kd.frames import FrameStore
from asr_kd.nets import AcousticModel, Ensemble, EnsembleConfig, load_model, model_hash, save_ensemble, save_model
from asr_kd.nets.folder import ENSEMBLE, check_no_network
from asr_kd.specialists.labels import KEPT, KNOWN, correct_dustbin, correct_own, load_generalist, own_share


def join_specialists(out: str | Path, network: str, folders: Sequence[str], active: int = 1) -> Ensemble:
    """Make ``out`` an ensemble of the generalist in the folder ``network`` and of specialists, which are copied there.

    ``folders``: one for each specialist, with its labels (``states``) and the network trained on them (``net``).
    ``active``: see ``EnsembleConfig``. All are checked before anything is written or an ensemble at ``out`` replaced.
    Raises ``UserError`` for a folder that is given twice, that holds no specialist of this generalist or one of another
    kind than the others, or that was trained on other frames than its labels, or in a way that cannot be corrected.
    """
    generalist = load_generalist(network)
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError(f"{' '.join(folders)}: a folder is given twice; give each specialist once")
    for folder in folders:
        check_folder(folder, "states", "a specialist's folder", "give folders of asr-kd specialists prepare")
    stores = [_labels(Path(folder) / "states", network) for folder in folders]
    if len(kinds := {labels.config["whole"] for labels in stores}) > 1:
        raise UserError(f"{' '.join(folders)}: some were prepared with --whole and some without; join only one kind")
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
        raise UserError(f"{path}: not the labels of a specialist, from asr-kd specialists prepare")
    if labels.inputs.get("generalist") != model_hash(network):
        raise UserError(
            f"{path}: this specialist was prepared from a generalist other than {network}; give the one it was"
            " prepared from"
        )
    own, whole, kept, known = (labels.config[key] for key in ("own", "whole", KEPT, KNOWN))
    if not isinstance(own, list) or not own or not all(type(state) is int for state in own):
        raise UserError(f"{path}: own is {shown(own)}; expected the numbers of states: prepare the specialist again")
    if not isinstance(whole, bool):
        raise UserError(f"{path}: whole is {shown(whole)}; expected true or false: prepare the specialist again")
    for key, value in ((KNOWN, known), *(() if whole else ((KEPT, kept),))):
        if not _is_number(value) or not 0 < value <= 1:
            raise UserError(
                f"{path}: {key} is {shown(value)}; expected a fraction above 0: prepare the specialist again, from"
                " labels of both its own and other states"
            )
    return labels


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _corrected(net: Path, labels: FrameStore) -> AcousticModel:
    """The specialist in the folder ``net``, with its output corrected for the choice of its frames."""
    network, record = load_model(net), net / "train.yaml"
    training = read_mapping(record)
    data = training.get("train")
    if not isinstance(data, dict):
        raise UserError(f"{record}: train is {shown(data)}; expected the record of a training run")
    if (data.get("states"), data.get("frames")) != (labels.content_hash, labels.total_frames):
        raise UserError(
            f"{record}: not trained on the frames and labels of {labels.path}, whose state counts are needed; train it"
            " on all of these, or prepare labels for the frames that were used"
        )
    if not labels.config["whole"]:
        correct_dustbin(network, labels.config[KEPT])
        return network
    share = own_share(labels)
    if not share:
        raise UserError(f"{labels.path}: no frames of its own states; prepare the specialist from other labels")
    correct_own(network, np.array(labels.config["own"]), *_weights(record, training), share)
    return network


def _weights(record: Path, training: dict[str, Any]) -> tuple[float, float]:
    """Weights of labels and of soft targets in a training run; ``UserError`` if ``correct_own`` cannot correct it."""
    temperature, match = training.get("temperature"), training.get("match", "distribution")
    hard, soft = training.get("hard_weight", ""), training.get("soft_weight", "")
    if "teacher" not in training or not _is_number(hard) or not _is_number(soft) or not soft:
        raise UserError(f"{record}: not trained on soft targets; train a --whole specialist with --teacher NETWORK")
    if temperature != 1 or match != "distribution":
        raise UserError(
            f"{record}: trained with temperature={shown(temperature)} and match={shown(match)}; the effect of labels"
            " beside soft targets can be corrected for temperature=1 and match=distribution only; train it with these"
        )
    return hard, soft
