"""What a table of systems holds: networks, what they learn from, how they are tested, which reports show them.

All paths are relative to the working folder. A system's name is its folder there: its networks are ``NAME/seedN``. A
key ``for`` copies an entry, and ``$name`` stands for a value (see ``template``).
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Hmm:
    """An HMM and what goes with it: its folder, the states of a set (``$set``), and its decoding graph."""

    states: str
    model: str = ""
    graph: str = ""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network for each of ``seeds``, trained on the set ``data`` with a configuration and overrides of it (``set``).

    It learns from labels; from stored ``targets``; or from a live ``teacher``. ``seeds``: a list, or N for 1 to N.
    ``priors``, ``utterances``, ``begin``: as of ``asr-kd train``. ``test_priors``: as ``--priors`` of model build.
    """

    data: str
    config: str
    seeds: Any = 1
    targets: str | None = None
    teacher: str | None = None
    priors: str | None = None
    utterances: str | None = None
    begin: str | None = None
    set: dict[str, Any] = dataclasses.field(default_factory=dict)
    test_priors: str | None = None
    hmm: str = "hmm"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The mean of the networks of another system."""

    mean_of: str
    hmm: str = "hmm"


@dataclasses.dataclass(frozen=True)
class Gmm:
    """A GMM-HMM, which exists already, and its graph."""

    gmm: str
    graph: str
    features: str


@dataclasses.dataclass(frozen=True)
class Specialists:
    """A generalist, a network, with specialists for the clusters of states that it confuses.

    ``specialists``: how many; ``states``: of each. ``whole``: without a dustbin (section 6.1 of the paper). The
    clusters are found on the set ``clusters_data``, and kept in the folder ``clusters``.
    """

    generalist: str
    specialists: int
    states: int
    data: str
    config: str
    whole: bool = False
    clusters: str = "clusters"
    clusters_data: str = "train"
    hmm: str = "hmm"


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """Networks of another system with other biases of ``classes``: from a ``teacher``, or the ``oracle``'s of a set."""

    calibrate: str
    classes: list[int]
    data: str
    teacher: str | None = None
    utterances: str | None = None


System = Network | Ensemble | Gmm | Specialists | Calibrated
KINDS: dict[str, type[System]] = {  # by the first of these keys that an entry has
    "mean_of": Ensemble, "gmm": Gmm, "generalist": Specialists, "calibrate": Calibrated, "config": Network
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Targets:
    """Stored soft targets of a ``teacher`` for the set ``data``; the other keys are options of ``targets write``."""

    teacher: str
    data: str
    form: Literal["topk", "dense", "sampled"] = "topk"
    k: int | None = None
    temperatures: list[float] = dataclasses.field(default_factory=list)
    utterances: str | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    hmm: str = "hmm"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The set, or some utterances of it, on which search options are tuned; ``max_active``: as of model build."""

    data: str = "dev"
    utterances: str | None = None
    max_active: int | None = None


@dataclasses.dataclass(frozen=True)
class Test:
    """A test of systems, by ``words`` (decoded and scored) or ``frames`` (errors of the most probable state)."""

    score: Literal["words", "frames"] = "words"
    data: str = "test"
    utterances: str | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """A system at the value ``at`` of a figure's variable."""

    at: float
    system: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture: ``curves`` of training, or test results ``against`` a variable.

    ``series``: a system for each label, or, against a variable, its points. ``levels``: a system for each label.
    """

    kind: Literal["curves", "against"]
    title: str
    series: dict[str, Any]
    levels: dict[str, Any] = dataclasses.field(default_factory=dict)
    x: str = "step"
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table: a system, and which of its tests are shown (none named: the first)."""

    system: str
    tests: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ResultTable:
    """A table of a report: a system for each label, and what follows it.

    ``recovery``: two labels; ``difference``: one. ``paper``: a file of rows, beside the table of systems.
    ``gains_of``: specialists whose gains are the table. ``pictures``: a caption for each figure.
    """

    title: str
    rows: dict[str, Any] = dataclasses.field(default_factory=dict)
    gains_of: str | None = None
    recovery: list[str] = dataclasses.field(default_factory=list)
    difference: str | None = None
    paper: str | None = None
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Report:
    """RESULTS.md and results.json in ``folder``, relative to that of the table of systems; ``pictures``: at the end."""

    title: str
    tables: list[ResultTable]
    folder: str = "."
    remarks: list[str] = dataclasses.field(default_factory=list)
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)
    figures: dict[str, Figure] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of systems, with ``for`` and ``$name`` resolved and ``configs`` complete.

    ``features``: the store of a set's features, ``$set``. ``dev``: the set that decides which epoch is kept.
    ``quick``: overrides of the configurations of all networks, in the small form.
    """

    path: Path
    features: str
    dev: str
    hmms: dict[str, Hmm]
    configs: dict[str, dict[str, Any]]
    targets: dict[str, Targets]
    systems: dict[str, System]
    tuning: Tuning
    tests: dict[str, Test]
    reports: dict[str, Report]
    quick: dict[str, Any]

    def is_store(self, path: str) -> bool:
        """Whether ``path`` is that of a frame store: features or states of a set, or soft targets."""
        gmms = (system.features for system in self.systems.values() if isinstance(system, Gmm))
        patterns = [self.features, *(hmm.states for hmm in self.hmms.values()), *gmms]
        found = (re.fullmatch(re.escape(pattern).replace(re.escape("$set"), "[^/]+"), path) for pattern in patterns)
        return path in self.targets or any(found)
