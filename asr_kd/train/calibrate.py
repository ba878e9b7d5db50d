"""Correct the biases of states that a student saw too rarely, or not at all, in training.

From soft targets a student learns what a class looks like even if its transfer set lacks the class. But it also learns
that the class never occurs: its bias is too low (Hinton, Vinyals and Dean 2015, section 3).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from asr_kd.errors import UserError, counted
from asr_kd.nets import AcousticModel, Ensemble
from asr_kd.train.evaluate import outputs
from asr_kd.train.frame_data import TrainingData

LEAST_FRAMES = 0.5  # the least sum of a teacher's probabilities of a class; less than this rounds to no frame
CLOSE = 0.01  # the relative difference that may remain between student and teacher; 1e-6 is usual


def teacher_shift(
    student: AcousticModel, teacher: AcousticModel | Ensemble, data: TrainingData, classes: Sequence[int]
) -> np.ndarray:
    """What to add to the logits of ``classes`` so that KL(teacher, student) at T = 1 becomes least, ``[classes]``.

    The divergence is the mean over the frames of ``data``, and no label is used. It depends only on the mass of each
    class, and on that of all others together. It is convex in the shift, and least if student and teacher give each
    class the same mean probability. Raises ``UserError`` for unknown classes, for a teacher of other states or one that
    expects less than half a frame of a class, and if no such shift is found.
    """
    from scipy.optimize import minimize

    check_classes(classes, student.num_states)
    if teacher.num_states != student.num_states:
        raise UserError(
            f"the teacher has {counted(teacher.num_states, 'state')}, but the student has {student.num_states}; give a"
            " teacher with the same states"
        )
    wanted = np.exp(np.concatenate([_few(log_prob, classes) for log_prob in _log_probs(teacher, data)]))
    given = np.concatenate([_few(log_prob, classes) for log_prob in _log_probs(student, data)])
    mean = wanted.mean(0)[:-1]
    _check_belief(mean, data, classes)

    def divergence(shift: np.ndarray) -> tuple[float, np.ndarray]:
        shifted = given + np.append(shift, 0)
        total = np.logaddexp.reduce(shifted, axis=1)
        return float(total.mean() - shift @ mean), np.exp(shifted - total[:, None]).mean(0)[:-1] - mean

    found: np.ndarray = minimize(divergence, np.zeros(len(classes)), jac=True, method="L-BFGS-B", tol=1e-12).x
    _check_found(mean + divergence(found)[1], mean, data, classes)
    return found


@torch.inference_mode()
def oracle_shift(student: AcousticModel, data: TrainingData, classes: Sequence[int]) -> float:
    """The one number that, added to the logits of all ``classes``, gives the fewest errors on the labels of ``data``.

    This is the paper's correction, which it chose on the test set: an oracle. Raises ``UserError`` for unknown classes,
    if there are no labels, and for a class without any.
    """
    check_classes(classes, student.num_states)
    _check_examples(data, classes, student.num_states)
    inside = np.isin(np.arange(student.num_states), classes)
    margins, gains = [], []  # a frame changes from the best of the others to the best of the classes at its margin
    for _, logits, labels in outputs(student, data):
        assert labels is not None
        scores, truth = logits.flatten(0, 1).double().cpu().numpy(), labels.flatten().cpu().numpy()
        own, rest = np.where(inside, scores, -np.inf), np.where(inside, -np.inf, scores)
        margins.append(rest.max(1) - own.max(1))
        gains.append((own.argmax(1) == truth).astype(int) - (rest.argmax(1) == truth))
    margin, gain = np.concatenate(margins), np.concatenate(gains)
    order = np.argsort(margin, kind="stable")
    edges = np.concatenate([margin[order][:1] - 1, margin[order], margin[order][-1:] + 1])
    right = np.append(0, np.cumsum(gain[order]))  # more right ones than below all margins; [k] from edge k to k + 1
    right[np.diff(edges) <= 0] = right.min()  # between equal margins is no room
    best = np.flatnonzero(right == right.max())
    middles = (edges[best] + edges[best + 1]) / 2
    return float(middles[np.abs(middles).argmin()])


@torch.no_grad()
def shift_bias(model: AcousticModel, classes: Sequence[int], shift: np.ndarray | float) -> None:
    """Add ``shift``, one number or ``[classes]``, to the output biases of ``classes``."""
    bias = model.network.output.bias
    bias[list(classes)] += torch.as_tensor(shift, dtype=bias.dtype)


def check_classes(classes: Sequence[int], num_states: int) -> None:
    """Raise ``UserError`` unless ``classes`` are distinct states: at least one, and not all."""
    if not classes or len(set(classes)) != len(classes) or not all(0 <= index < num_states for index in classes):
        raise UserError(f"--classes {','.join(map(str, classes))}: expected distinct states from 0 to {num_states - 1}")
    if len(classes) == num_states:
        raise UserError(
            f"--classes {','.join(map(str, classes))}: these are all states, and shifting every logit changes nothing;"
            " leave some out"
        )


def _check_belief(mean: np.ndarray, data: TrainingData, classes: Sequence[int]) -> None:
    """Raise ``UserError`` if a teacher with mean probabilities ``mean [classes]`` expects too few frames of one.

    It has not learnt that class, and the shift would only hide the class from its student.
    """
    least = int(mean.argmin())
    if mean[least] * data.total_frames < LEAST_FRAMES:
        raise UserError(
            f"{data.features.path}: the teacher's mean probability of class {classes[least]} is {mean[least]:.2g}, or"
            f" {mean[least] * data.total_frames:.2g} of {counted(data.total_frames, 'frame')}; expected at least"
            f" {LEAST_FRAMES}: it has not learnt this class, or no frame belongs to it; give another teacher or other"
            " features, or leave the class out"
        )


def _check_found(student: np.ndarray, teacher: np.ndarray, data: TrainingData, classes: Sequence[int]) -> None:
    """Raise ``UserError`` unless the mean probabilities ``[classes]`` of a shifted student are its teacher's.

    scipy reports success wherever the slope is small.
    """
    missed = np.abs(student - teacher) / teacher
    if not (missed < CLOSE).all():  # so, NaN is found too
        worst = int(missed.argmax())
        raise UserError(
            f"{data.features.path}: no shift of class {classes[worst]} found: the teacher's mean probability of it is"
            f" {teacher[worst]:.4g}, and the best shift leaves the student's at {student[worst]:.4g}; train the student"
            " again, or leave the class out"
        )


def _check_examples(data: TrainingData, classes: Sequence[int], num_states: int) -> None:
    """Raise ``UserError`` if ``data`` has no labels, or none of a class."""
    if data.states is None:
        raise UserError(f"{data.features.path}: no labels to count errors with; give --states")
    counts = data.state_counts(num_states)
    missing = [index for index in classes if not counts[index]]
    if missing:
        raise UserError(
            f"{data.states.path}: no frame of {len(data.utterances):,} utterances has class"
            f" {', '.join(map(str, missing))}; expected at least one of each class, to count errors with: give other"
            " states or utterances, or leave the class out"
        )


@torch.inference_mode()
def _log_probs(model: AcousticModel | Ensemble, data: TrainingData) -> Iterator[torch.Tensor]:
    for _, logits, _ in outputs(model, data):
        yield logits.flatten(0, 1).double().log_softmax(-1)


def _few(log_prob: torch.Tensor, classes: Sequence[int]) -> np.ndarray:
    """Log-probabilities of ``classes``, and of all others as one: ``[frames, classes + 1]``."""
    others = torch.ones(log_prob.shape[1], dtype=torch.bool)
    others[list(classes)] = False
    few = [log_prob[:, list(classes)], log_prob[:, others].logsumexp(-1, keepdim=True)]
    return torch.cat(few, dim=-1).cpu().numpy()
