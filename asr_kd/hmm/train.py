"""GMM-HMM training: flat start -> monophone -> tied triphones on deltas -> LDA + MLLT, each stage a model folder."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asr_kd.config import to_dict
from asr_kd.errors import UserError
from asr_kd.files import read_json, write_text
from asr_kd.hmm.em import single_gaussians
from asr_kd.hmm.gmm import Gmm
from asr_kd.hmm.graphs import build_graphs
from asr_kd.hmm.lexicon import Lexicon, save_lexicon
from asr_kd.hmm.stage import Estimation, Iteration, StageConfig, run_stage, space_states
from asr_kd.hmm.states import StateSpace
from asr_kd.hmm.topology import monophone_space
from asr_kd.hmm.training_data import TranscribedUtterances
from asr_kd.hmm.training_frames import TrainingFrames
from asr_kd.hmm.transform import WindowTransform, delta_transform, lda_transform
from asr_kd.hmm.tree import build_tree, context_statistics


@dataclasses.dataclass(frozen=True)
class HmmConfig:
    """How ``asr-kd hmm train`` trains; the schedules are those of Kaldi's train_mono, train_deltas, train_lda_mllt.

    - ``mono_gaussians``: Gaussians of the monophone stage.
    - ``tri_states``, ``tri_gaussians``: tied states and Gaussians of the triphones on deltas.
    - ``lda_states``, ``lda_gaussians``: tied states and Gaussians of the final model, whose states are the labels of
      networks.
    - ``mono_frames``: the monophone stage is trained on the shortest utterances, up to this many frames in total
      (360,000: 1 h).
    - ``phone_positions``, ``silence_positions``: HMM states of a phone, and of a silence phone.
    - ``min_leaf_frames``: the decision tree makes no tied state of fewer frames.
    - ``power``: a state's share of the Gaussians grows with this power of its frames.
    - ``variance_floor``: lowest variance of a Gaussian, as a fraction of the variance of all frames.
    - ``lda_window``: number of neighbouring frames that LDA splices.
    - ``lda_dim``: dimension after LDA.
    - ``beam``: pruning beam of the alignments, in nats.
    - ``seed``: seed of the random numbers.
    """

    mono_gaussians: int = 1000
    tri_states: int = 500
    tri_gaussians: int = 3000
    lda_states: int = 500
    lda_gaussians: int = 3000
    mono_frames: int = 360_000
    phone_positions: int = 3
    silence_positions: int = 5
    min_leaf_frames: float = 100
    power: float = 0.25
    variance_floor: float = 0.01
    lda_window: int = 7
    lda_dim: int = 40
    beam: float = 200.0
    seed: int = 0

    def monophones(self, lexicon: Lexicon) -> StateSpace:
        """The state space that training starts from."""
        return monophone_space(lexicon, self.phone_positions, self.silence_positions)

    @property
    def estimation(self) -> Estimation:
        """What the stages share."""
        return Estimation(self.power, self.variance_floor, self.beam, self.seed)

    @property
    def mono(self) -> StageConfig:
        """The monophone stage."""
        realign = (*range(1, 11), 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38)
        return StageConfig(self.mono_gaussians, 40, realign, grow_until=30)

    @property
    def tri(self) -> StageConfig:
        """Triphones on deltas."""
        return StageConfig(self.tri_gaussians, 35, (10, 20, 30), grow_until=25)

    @property
    def lda(self) -> StageConfig:
        """Triphones on LDA + MLLT."""
        return StageConfig(self.lda_gaussians, 35, (10, 20, 30), grow_until=25, mllt=(2, 4, 6, 12))


_Trained = tuple[StateSpace, Gmm, list[Iteration]]


def train(
    utterances: TranscribedUtterances, lexicon: Lexicon, folder: str | Path, config: HmmConfig, jobs: int = 1
) -> Path:
    """Train all stages into ``folder/{mono,tri,lda}``; the folder of the last one.

    A stage that is complete for the same data, lexicon and configuration is not repeated.
    """
    folder = Path(folder)
    space = config.monophones(lexicon)

    def stage(name: str, work: Callable[[], _Trained]) -> tuple[StateSpace, Gmm]:
        key = {"config": to_dict(config), "data": utterances.fingerprint}
        return _stage(folder / name, key, lexicon, work)

    model = stage("mono", lambda: train_monophones(utterances, lexicon, space, config, jobs))
    training = TrainingFrames(utterances.features, utterances.graphs, jobs)
    model = stage("tri", lambda: _tri(training, *model, config))
    stage("lda", lambda: _lda(training, *model, config))
    return folder / "lda"


def _stage(folder: Path, key: dict[str, Any], lexicon: Lexicon, work: Callable[[], _Trained]) -> tuple[StateSpace, Gmm]:
    """The model that an earlier run with the same ``key`` left in ``folder``, or the result of ``work``, saved.

    ``training.json`` is written last: without it a stage is not complete.
    """
    report = folder / "training.json"
    if report.is_file() and _key_of(report) == json.loads(json.dumps(key)):
        space, gmm = StateSpace.load(folder), Gmm.load(folder)
        gmm.check_fits(space.num_states, folder)
        return space, gmm
    space, gmm, history = work()
    report.unlink(missing_ok=True)
    space.save(folder)
    gmm.save(folder)
    save_lexicon(lexicon, folder)
    record = {"key": key, "iterations": [dataclasses.asdict(iteration) for iteration in history]}
    write_text(report, json.dumps(record, indent=1) + "\n")
    return space, gmm


def _key_of(report: Path) -> Any:
    try:
        return read_json(report)["key"]
    except (UserError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{report}: damaged ({error}); delete it to train this stage again") from None


def train_monophones(
    utterances: TranscribedUtterances, lexicon: Lexicon, space: StateSpace, config: HmmConfig, jobs: int = 1
) -> _Trained:
    """The first stage, from a flat start: the space with its self-loops, the model, what each iteration did."""
    lengths = utterances.features.frame_counts
    order = sorted(range(len(lengths)), key=lambda utterance: (lengths[utterance], utterance))
    total = np.cumsum([lengths[utterance] for utterance in order])
    chosen = sorted(order[: max(1, int(np.searchsorted(total, config.mono_frames, side="right")))])
    graphs = build_graphs(space, lexicon, [utterances.words[utterance] for utterance in chosen])
    training = TrainingFrames(utterances.features.only(chosen), graphs, jobs)
    transform = delta_transform(utterances.features[0].shape[1])
    training.transform(transform)
    path = training.equal_path(space)
    return run_stage(
        "mono", training, *_start(training, space, transform, path, config), path, config.mono, config.estimation
    )


def _tri(training: TrainingFrames, space: StateSpace, gmm: Gmm, config: HmmConfig) -> _Trained:
    """Triphones on the monophones' deltas, tied by a tree."""
    training.transform(gmm.transform)
    path = training.best_path(space, gmm, config.beam)
    space = _tie(training, space, path, config.tri_states, config)
    return run_stage(
        "tri", training, *_start(training, space, gmm.transform, path, config), path, config.tri, config.estimation
    )


def _lda(training: TrainingFrames, space: StateSpace, gmm: Gmm, config: HmmConfig) -> _Trained:
    """Triphones, tied again, on LDA of a window of cepstra, with MLLT during training."""
    training.transform(gmm.transform)
    path = training.best_path(space, gmm, config.beam)
    silence = [space.index(phone) for phone in space.silence]
    speech = ~np.isin(training.graphs.phone[path], silence)
    labels = space_states(space, training, path)
    sums = training.window_sums(labels, space.num_states, config.lda_window, speech)
    transform = lda_transform(*sums, config.lda_window, config.lda_dim)
    training.transform(transform)
    space = _tie(training, space, path, config.lda_states, config)
    return run_stage(
        "lda", training, *_start(training, space, transform, path, config), path, config.lda, config.estimation
    )


def _tie(training: TrainingFrames, space: StateSpace, path: np.ndarray, leaves: int, config: HmmConfig) -> StateSpace:
    floor = config.variance_floor * training.variance
    statistics = context_statistics(training.frames, training.keys(path))
    return build_tree(space, statistics, leaves, config.min_leaf_frames, floor)


def _start(
    training: TrainingFrames, space: StateSpace, transform: WindowTransform, path: np.ndarray, config: HmmConfig
) -> tuple[StateSpace, Gmm]:
    """One Gaussian for each state, and self-loops, from an alignment."""
    states = space_states(space, training, path)
    floor = config.variance_floor * training.variance
    space = dataclasses.replace(space, log_loop=training.log_loops(path, states, space.num_states))
    return space, single_gaussians(training.frames, states, space.num_states, transform, floor)
