"""Clusters of states that a generalist predicts together, one for each specialist (Hinton et al. 2015, section 5.3).

They need no labels: states that are probable in the same frames are those that the generalist confuses. The paper runs
k-means over the columns of the covariance matrix of the predictions.
"""

import dataclasses
import warnings
from typing import Literal

import numpy as np

from asr_kd.errors import UserError

Scale = Literal["none", "correlation", "spectral"]
ROWS = 512  # frames of one matrix product
FAINT = 1e-4  # between states that are never confused
RESTARTS = 10  # starts of k-means, of which the best result counts


@dataclasses.dataclass(frozen=True)
class Clusters:
    """``clusters.yaml``: the states of each cluster, of what the network of this ``model_hash`` predicts of so many
    frames, and how they were found; see ``cluster_states``."""

    network: str
    frames: int
    seed: int
    scale: Scale
    size: int | None
    clusters: tuple[tuple[int, ...], ...]


class Confusion:
    """The covariance of a generalist's predictions, which are added a few frames at a time; ``frames`` so far.

    All in float64: right to 1e-14 of two states' standard deviations, where products in float32, in half the time, err
    by up to 5e-7 (measured, 500 states). How the frames are divided among calls of ``add`` changes no bit. Memory: two
    arrays of ``[states, states]``, and ``ROWS`` frames.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._waiting = np.empty((0, 0))
        self._held = 0  # rows of it that are in no product yet
        self._sum, self._products = np.empty(0), np.empty((0, 0))

    def add(self, prob: np.ndarray) -> None:
        """Count predictions ``prob`` ``[frames, states]``: probabilities, not their logs.

        Raises ``UserError`` for another number of states than before, and naming the frame where a value is not
        finite; nothing of ``prob`` is counted then.
        """
        states = len(self._sum) if self.frames else "states"
        if prob.ndim != 2 or (self.frames and prob.shape[1] != states):
            raise UserError(f"predictions of shape {list(prob.shape)}; expected [frames, {states}]")
        if not np.isfinite(prob.sum(0, dtype=np.float64)).all():
            frame = int(np.argmin(np.isfinite(prob).all(1)))
            raise UserError(f"the predictions of frame {frame} are not finite; probabilities were expected")
        if not self.frames:
            width = prob.shape[1]
            self._waiting, self._sum, self._products = (
                np.empty((ROWS, width)),
                np.zeros(width),
                np.zeros((width, width)),
            )
        self.frames += len(prob)
        while len(prob):
            taken = prob[: ROWS - self._held]
            self._waiting[self._held : self._held + len(taken)] = taken
            self._held += len(taken)
            prob = prob[len(taken) :]
            if self._held == ROWS:
                self._sum += self._waiting.sum(0)
                self._products += self._waiting.T @ self._waiting
                self._held = 0

    @property
    def mean(self) -> np.ndarray:
        """The mean prediction of the frames so far, float64 ``[states]``."""
        return self._total() / self.frames

    def covariance(self) -> np.ndarray:
        """The sample covariance (its divisor is frames - 1) of the frames so far, float64 ``[states, states]``.

        Raises ``UserError`` for fewer than two frames.
        """
        if self.frames < 2:
            raise UserError(f"predictions of {self.frames} frames were added; a covariance is of at least 2")
        rows, total = self._waiting[: self._held], self._total()
        products = rows.T @ rows
        products += self._products
        products -= np.outer(total, total) / self.frames
        products /= self.frames - 1
        return products

    def _total(self) -> np.ndarray:
        total: np.ndarray = self._sum + self._waiting[: self._held].sum(0)
        return total


def cluster_states(
    covariance: np.ndarray,
    k: int,
    seed: int,
    scale: Scale = "none",
    size: int | None = None,
) -> list[np.ndarray]:
    """Divide all states into ``k`` clusters of confusable ones, by k-means over the rows of ``covariance``.

    ``scale``: ``none`` is the paper's choice, and right where classes are about equally frequent. A row is about as
    long as the state's variance, so that a few frequent states, such as those of silence, lie far from all others, each
    a cluster of its own, and the many rare ones in one cluster near 0. ``correlation`` divides by both states' standard
    deviations: a row tells with whom a state is confused, and not how often. A state that is predicted alike in all
    frames has no correlations: its row is 0. Most rows of many states are then about as far from each other as from 0,
    and k-means puts them into one cluster. ``spectral`` divides the graph whose edges are the positive correlations
    (normalised cut; k-means in the space of the Laplacian's first eigenvectors), whose parts are of more even sizes.

    ``size``: each cluster gives way to the so many states that are, on average, most correlated with it. They overlap,
    as the paper's do: a state that many others are confused with has several specialists, and another perhaps none.

    Returns ``k`` sorted arrays of states, int64, ordered by their first state. They depend on ``seed``, and not on the
    number of threads. Raises ``UserError`` for a matrix that is no covariance, as ``check_sizes`` does, and where a
    cluster comes out empty, or, without ``size``, with a single state: a specialist tells states apart.
    """
    from sklearn.cluster import KMeans, SpectralClustering
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    rows = _rows(covariance, scale)
    check_sizes(len(rows), k, size)
    with threadpool_limits(1), warnings.catch_warnings():  # more threads add up in an order that varies
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer clusters, which is an error below
        options = {"n_clusters": k, "n_init": RESTARTS, "random_state": seed}
        if scale == "spectral":
            labels = SpectralClustering(affinity="precomputed", **options).fit_predict(_edges(rows))
        else:
            labels = KMeans(**options).fit_predict(rows)
    found = np.unique(labels)
    if len(found) < k:
        raise UserError(
            f"{k} clusters were asked for and only {len(found)} came out: the other states' rows of the covariance are"
            " equal to theirs; ask for fewer clusters, or count more frames"
        )
    clusters = sorted((np.flatnonzero(labels == label) for label in found), key=lambda own: own[0])
    if size is not None:
        return _nearest(_rows(covariance, "correlation"), clusters, size)
    for number, own in enumerate(clusters):
        if len(own) < 2:
            raise UserError(
                f"cluster {number} of {k} is state {own[0]} alone; expected at least 2 states, to be told apart: ask"
                " for fewer clusters, another seed or another scale, or give their size"
            )
    return clusters


def check_sizes(states: int, k: int, size: int | None = None) -> None:
    """Raise ``UserError`` unless ``states`` can be divided into ``k`` clusters, of ``size`` states if that is given."""
    if not 2 <= k <= states:
        raise UserError(f"{k} clusters of {states} states; expected 2 to {states}")
    if size is not None and not 2 <= size < states:
        raise UserError(f"clusters of {size} of {states} states; expected 2 to {states - 1}")


def _nearest(correlation: np.ndarray, clusters: list[np.ndarray], size: int) -> list[np.ndarray]:
    """For each cluster the ``size`` states of the greatest mean correlation with its states."""
    means = [correlation[own].mean(0) for own in clusters]
    return [np.sort(np.argsort(-mean, kind="stable")[:size]) for mean in means]


def _rows(covariance: np.ndarray, scale: str) -> np.ndarray:
    """What k-means divides, float64 ``[states, states]``."""
    if covariance.ndim != 2 or len(covariance) != covariance.shape[1]:
        raise UserError(f"a covariance of shape {list(covariance.shape)}; expected [states, states]")
    if not np.isfinite(covariance).all():
        state = int(np.argmin(np.isfinite(covariance).all(1)))
        raise UserError(f"the covariance of state {state} is not finite; give that of finite predictions")
    if scale == "none":
        return covariance.astype(np.float64)
    deviation = np.sqrt(covariance.diagonal().clip(min=0))
    inverse = np.divide(1, deviation, out=np.zeros(len(deviation)), where=deviation > 0)
    return covariance * inverse * inverse[:, None]


def _edges(correlation: np.ndarray) -> np.ndarray:
    """What a normalised cut divides: positive, so that every state is connected."""
    edges = correlation.clip(min=0) + FAINT
    np.fill_diagonal(edges, 0)
    return edges
