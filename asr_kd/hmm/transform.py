"""From stored cepstra to the frames that the Gaussians model: a linear map of a window of frames."""

import dataclasses

import numpy as np
from scipy.linalg import eigh

from asr_kd.errors import UserError


@dataclasses.dataclass(frozen=True)
class WindowTransform:
    """``projection`` ``[dim, window, cepstra]`` float32, applied to the window of frames around each frame.

    Deltas, LDA and MLLT are such maps. Beyond the ends of an utterance the first or last frame repeats.
    """

    projection: np.ndarray

    @property
    def dim(self) -> int:
        """Dimension of the transformed frames."""
        return self.projection.shape[0]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """``[frames, cepstra]`` -> ``[frames, dim]`` float32."""
        dim, window, cepstra = self.projection.shape
        if features.ndim != 2 or features.shape[1] != cepstra:
            shape = " x ".join(map(str, features.shape))
            raise UserError(f"features are {shape}; this model expects frames x {cepstra}")
        return splice(features, window) @ self.projection.reshape(dim, -1).T

    def then(self, matrix: np.ndarray) -> "WindowTransform":
        """This transform followed by ``matrix`` ``[new dim, dim]``."""
        return WindowTransform(np.einsum("ij,jwc->iwc", matrix, self.projection).astype(np.float32))


def splice(features: np.ndarray, window: int) -> np.ndarray:
    """The ``window`` frames around each frame side by side: ``[frames, window * cepstra]``."""
    side = window // 2
    padded = np.pad(np.asarray(features, np.float32), ((side, side), (0, 0)), mode="edge")
    return (
        np.lib.stride_tricks.sliding_window_view(padded, window, axis=0).transpose(0, 2, 1).reshape(len(features), -1)
    )


def delta_transform(cepstra: int) -> WindowTransform:
    """Cepstra with first and second differences: regression over two frames on each side, applied twice."""
    first = np.array([-2.0, -1, 0, 1, 2]) / 10
    orders = [np.pad(kernel, 4 - len(kernel) // 2) for kernel in (np.ones(1), first, np.convolve(first, first))]
    projection = np.einsum("ow,cd->ocwd", orders, np.eye(cepstra)).reshape(3 * cepstra, 9, cepstra)
    return WindowTransform(projection.astype(np.float32))


def lda_transform(count: np.ndarray, first: np.ndarray, scatter: np.ndarray, window: int, dim: int) -> WindowTransform:
    """Linear discriminant analysis of windows: the ``dim`` directions that separate the classes best.

    ``count`` ``[classes]`` and ``first`` ``[classes, window * cepstra]`` are the classes' sums, ``scatter`` the sum of
    the windows' outer products. Within-class covariance becomes the identity.
    """
    total = count.sum()
    mean = first.sum(0) / total
    seen = count > 0
    means = first[seen] / count[seen, None] - mean
    between = (means * count[seen, None]).T @ means / total
    within = scatter / total - np.outer(mean, mean) - between
    values, vectors = eigh(between, within)
    projection = vectors[:, np.argsort(-values)[:dim]].T
    projection *= np.sign(projection[np.arange(len(projection)), np.abs(projection).argmax(1)])[:, None]
    return WindowTransform(projection.reshape(dim, window, -1).astype(np.float32))


def mllt(statistics: np.ndarray, count: float, iterations: int = 50) -> tuple[np.ndarray, float]:
    """The semi-tied transform (Gales 1999, section 3.1) and the gain in log-likelihood for each frame.

    ``statistics`` ``[dim, dim, dim]``: for each row i of the transform, the sum over frames and Gaussians of
    posterior / variance i times the outer product of frame minus mean. ``count`` is the sum of the posteriors.
    """
    dim = len(statistics)
    inverses = np.linalg.inv(statistics)
    matrix = np.eye(dim)
    before = _mllt_objective(matrix, statistics, count)
    for _ in range(iterations):
        for row in range(dim):
            cofactor = np.linalg.inv(matrix)[:, row]  # up to the determinant, which the formula cancels
            direction = inverses[row] @ cofactor
            matrix[row] = direction * np.sqrt(count / (cofactor @ direction))
    return matrix, (_mllt_objective(matrix, statistics, count) - before) / count


def _mllt_objective(matrix: np.ndarray, statistics: np.ndarray, count: float) -> float:
    quadratic = np.einsum("id,idk,ik->", matrix, statistics, matrix)
    return float(count * np.linalg.slogdet(matrix)[1] - 0.5 * quadratic)
