"""Clusters of states that a generalist predicts together, one for each specialist (Hinton et al. 2015, section 5.3).

No labels are needed: the generalist confuses states that are probable in the same frames. The paper runs k-means over
the columns of the covariance matrix of the predictions.
"""

import dataclasses
import warnings
from typing import Literal

import numpy as np

from asr_kd.errors import UserError

Scale = Literal["none", "correlation", "spectral"]
ROWS = 512  # frames of one matrix product
FAINT = 1e-4  # weight of the edge between two states that are never confused
RESTARTS = 10  # runs of k-means; the best one is kept


@dataclasses.dataclass(frozen=True)
class Clusters:
    """``clusters.yaml``: the states of each cluster, and how they were found (``cluster_states``).

    ``network`` is the ``model_hash`` of the generalist, and ``frames`` the number of its predictions.
    """

    network: str
    frames: int
    seed: int
    scale: Scale
    size: int | None
    clusters: tuple[tuple[int, ...], ...]


class Confusion:
    """The covariance of a generalist's predictions, added a few frames at a time; ``frames`` is their number so far.

    It is computed in float64, with errors of 1e-14 of two states' standard deviations; float32 takes half the time but
    errs by up to 5e-7 (measured, 500 states). How the frames are divided among calls of ``add`` changes no bit. Memory:
    two arrays of ``[states, states]``, and ``ROWS`` frames.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._waiting = np.empty((0, 0))
        self._held = 0  # rows of it that are not in the products yet
        self._sum, self._products = np.empty(0), np.empty((0, 0))

    def add(self, prob: np.ndarray) -> None:
        """Add predictions ``prob`` ``[frames, states]``: probabilities, not their logs.

        Raises ``UserError`` for another number of states than before, and for a value that is not finite, naming its
        frame; nothing of ``prob`` is added then.
        """
        states = len(self._sum) if self.frames else "states"
        if prob.ndim != 2 or (self.frames and prob.shape[1] != states):
            raise UserError(f"predictions of shape {list(prob.shape)}; expected [frames, {states}]")
        if not np.isfinite(prob.sum(0, dtype=np.float64)).all():
            frame = int(np.argmin(np.isfinite(prob).all(1)))
            raise UserError(f"the predictions of frame {frame} are not finite; expected probabilities")
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
            raise UserError(f"predictions of {self.frames} frames were added; a covariance needs at least 2")
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

    ``scale``:

    - ``none`` is the paper's choice, and right if classes are about equally frequent. The length of a row grows with
      the state's variance. A few frequent states, such as those of silence, lie far from all others, and each becomes
      a cluster of its own; the many rare ones share a cluster near 0.
    - ``correlation`` divides by both states' standard deviations, so that a row says with which states a state is
      confused, not how often. A state with the same prediction in all frames has no correlations: its row is 0. With
      many states most rows are about as far from each other as from 0, and k-means puts them into one cluster.
    - ``spectral`` cuts the graph whose edges are the positive correlations (normalised cut; k-means in the space of the
      Laplacian's first eigenvectors). Its clusters are of more even sizes.

    ``size``: each cluster is replaced by the ``size`` states that are, on average, most correlated with it. They
    overlap, as the paper's do: a state that is confused with many others has several specialists, another perhaps none.

    Returns ``k`` sorted arrays of states, int64, ordered by their first state. They depend on ``seed``, not on the
    number of threads. Raises ``UserError`` for a matrix that is no covariance, as ``check_sizes`` does, and if a
    cluster is empty or, without ``size``, has a single state, since a specialist must distinguish states.
    """
    from sklearn.cluster import KMeans, SpectralClustering
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if not 0 <= seed < 1 << 32:
        raise UserError(f"seed {seed}: expected 0 to {(1 << 32) - 1}")
    rows = _rows(covariance, scale)
    check_sizes(len(rows), k, size)
    with threadpool_limits(1), warnings.catch_warnings():  # with more threads the order of sums varies
        warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer clusters, which is an error below
        options = {"n_clusters": k, "n_init": RESTARTS, "random_state": seed}
        if scale == "spectral":
            labels = SpectralClustering(affinity="precomputed", **options).fit_predict(_edges(rows))
        else:
            labels = KMeans(**options).fit_predict(rows)
    found = np.unique(labels)
    if len(found) < k:
        raise UserError(
            f"{k} clusters were requested, but only {len(found)} were found, since rows of the covariance are equal;"
            " request fewer clusters, or predict more frames"
        )
    clusters = sorted((np.flatnonzero(labels == label) for label in found), key=lambda own: own[0])
    if size is not None:
        return _nearest(_rows(covariance, "correlation"), clusters, size)
    for number, own in enumerate(clusters):
        if len(own) < 2:
            raise UserError(
                f"cluster {number} of {k} is state {own[0]} alone; expected at least 2 states to distinguish: request"
                " fewer clusters, another seed or another scale, or give --size"
            )
    return clusters


def check_sizes(states: int, k: int, size: int | None = None) -> None:
    """Raise ``UserError`` unless ``states`` can be divided into ``k`` clusters, of ``size`` states if given."""
    if not 2 <= k <= states:
        raise UserError(f"--k {k}: expected 2 to {states}, the number of states")
    if size is not None and not 2 <= size < states:
        raise UserError(f"--size {size}: expected 2 to {states - 1}, fewer than all states")


def _nearest(correlation: np.ndarray, clusters: list[np.ndarray], size: int) -> list[np.ndarray]:
    """For each cluster, the ``size`` states with the highest mean correlation with its states."""
    means = [correlation[own].mean(0) for own in clusters]
    return [np.sort(np.argsort(-mean, kind="stable")[:size]) for mean in means]


def _rows(covariance: np.ndarray, scale: str) -> np.ndarray:
    """The rows that k-means divides, float64 ``[states, states]``."""
    if covariance.ndim != 2 or len(covariance) != covariance.shape[1]:
        raise UserError(f"a covariance of shape {list(covariance.shape)}; expected [states, states]")
    if not np.isfinite(covariance).all():
        state = int(np.argmin(np.isfinite(covariance).all(1)))
        raise UserError(f"the covariance of state {state} is not finite; check the features and the network for NaN")
    if scale == "none":
        return covariance.astype(np.float64)
    deviation = np.sqrt(covariance.diagonal().clip(min=0))
    inverse = np.divide(1, deviation, out=np.zeros(len(deviation)), where=deviation > 0)
    return covariance * inverse * inverse[:, None]


def _edges(correlation: np.ndarray) -> np.ndarray:
    """The edges of the graph to cut: above 0, so that every state is connected."""
    edges = correlation.clip(min=0) + FAINT
    np.fill_diagonal(edges, 0)
    return edges
