"""The state space: which tied HMM state each phone in context passes through, and how long it stays there."""

import dataclasses
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from asr_kd.config import load_config, save_config
from asr_kd.errors import UserError, counted
from asr_kd.files import check_folder, write_bytes
from asr_kd.limits import PHONES
from asr_kd.storage import local


@dataclasses.dataclass(frozen=True)
class _Names:
    phones: tuple[str, ...]
    silence: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StateSpace:
    """Phones as left-to-right chains of tied HMM states, each with a self-loop and a transition to the next one.

    - ``phones``: the phone inventory; a phone's index here is its number everywhere in the project.
    - ``silence``: the phones of ``phones`` that are silence; the first is the optional silence between words and the
      context beyond the ends of an utterance.
    - ``lengths`` ``[phones]``: how many HMM positions each phone's chain has.
    - ``table`` ``[phones, phones, phones, positions]`` int32: the tied state of (left, phone, right, position); -1 at
      positions beyond the phone's length. A monophone system repeats its states over left and right.
    - ``log_loop`` ``[states]`` float32: natural log of each state's self-loop probability; ``log_next`` follows.
    """

    phones: tuple[str, ...]
    silence: tuple[str, ...]
    lengths: np.ndarray
    table: np.ndarray
    log_loop: np.ndarray

    @property
    def num_states(self) -> int:
        """Number of tied states (Kaldi's pdfs)."""
        return len(self.log_loop)

    @property
    def log_next(self) -> np.ndarray:
        """Natural log of the probability of leaving each state, ``[states]`` float32."""
        return np.log1p(-np.exp(self.log_loop.astype(np.float64))).astype(np.float32)

    @property
    def is_context_dependent(self) -> bool:
        """Whether any state depends on a neighbouring phone."""
        return bool((self.table != self.table[:1, :, :1]).any())

    def index(self, phone: str) -> int:
        """The number of ``phone``; ``UserError`` if the inventory lacks it."""
        try:
            return self.phones.index(phone)
        except ValueError:
            known = " ".join(self.phones)
            raise UserError(
                f"phone {phone!r} is not one of this model's {counted(len(self.phones), 'phone')}: {known}"
            ) from None

    def chain(self, phone: str, left: str | None = None, right: str | None = None) -> list[int]:
        """The tied states of ``phone`` in context; ``None`` is the end of the utterance."""
        edge = self.silence[0]
        centre = self.index(phone)
        row = self.table[self.index(left or edge), centre, self.index(right or edge)]
        return [int(state) for state in row[: self.lengths[centre]]]

    def save(self, folder: str | Path) -> None:
        """Write ``states.safetensors`` and, last, ``states.yaml`` into ``folder``."""
        tensors = {"lengths": self.lengths, "table": self.table, "log_loop": self.log_loop}
        write_bytes(Path(folder) / "states.safetensors", save({k: np.ascontiguousarray(v) for k, v in tensors.items()}))
        save_config(_Names(self.phones, self.silence), Path(folder) / "states.yaml")

    @classmethod
    def load(cls, folder: str | Path) -> "StateSpace":
        """Read what ``save`` wrote; ``UserError`` if a file is missing or does not fit the other."""
        folder = local(folder)
        path = folder / "states.safetensors"
        check_folder(folder, "states.yaml", "an HMM folder", "give one from asr-kd hmm train, such as exp/hmm/lda")
        names = load_config(_Names, folder / "states.yaml")
        if not path.is_file():
            raise UserError(f"{path}: no such file; {folder} should hold a state space (states.yaml and .safetensors)")
        try:
            tensors = load_file(path)
            space = cls(names.phones, names.silence, tensors["lengths"], tensors["table"], tensors["log_loop"])
        except Exception as error:
            raise UserError(f"{path}: not a state space: {error}") from None
        if problem := _problem(space):
            raise UserError(f"{path}: does not fit the {counted(len(space.phones), 'phone')} of states.yaml: {problem}")
        return space


def check_phones(count: int, where: str) -> None:
    """``UserError``, opened by ``where``, for more phones than a state space can have."""
    if count > PHONES:
        raise UserError(
            f"{where}: {counted(count, 'phone')}; at most {PHONES} are supported (the table of states grows with their"
            " cube). Leave out marks of the position in a word, or merge phones that sound alike"
        )


def _problem(space: StateSpace) -> str:
    """What is wrong with the numbers of a space that was read; empty where nothing is."""
    count, lengths, table = len(space.phones), space.lengths, space.table
    check_phones(count, "states.yaml")
    if not space.silence or not set(space.silence) <= set(space.phones) or len(set(space.phones)) < count:
        return "a phone is listed twice, or a silence phone is not among them"
    if any(array.dtype.kind != kind for array, kind in ((lengths, "i"), (table, "i"), (space.log_loop, "f"))):
        return f"its numbers are {lengths.dtype}, {table.dtype} and {space.log_loop.dtype}"
    if lengths.shape != (count,) or table.shape[:-1] != (count,) * 3 or space.log_loop.ndim != 1:
        return f"lengths {list(lengths.shape)}, table {list(table.shape)}, loops {list(space.log_loop.shape)}"
    positions = table.shape[-1]
    if lengths.min() < 1 or lengths.max() > positions:
        return f"a phone has {lengths.min()} to {lengths.max()} states; the table has {positions}"
    inside = np.broadcast_to((np.arange(positions) < lengths[:, None])[:, None, :], (count, count, positions))
    for left in range(count):  # one left phone after the other: the table of many phones is large
        states = table[left][inside]
        if states.min() < 0 or states.max() >= space.num_states:
            return f"states from {states.min()} to {states.max()}; there are {space.num_states}"
    if not np.isfinite(space.log_loop).all() or (space.log_loop >= 0).any():
        return "a self-loop has no probability between 0 and 1"
    return ""
