"""The state space: which tied HMM state each phone in context passes through, and how long it stays there."""

import dataclasses
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from asr_kd.config import load_config, save_config
from asr_kd.errors import UserError
from asr_kd.files import write_bytes


@dataclasses.dataclass(frozen=True)
class _Names:
    phones: tuple[str, ...]
    silence: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class StateSpace:
    """Phones as left-to-right chains of tied HMM states, each state with a self-loop and one way on.

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
            raise UserError(f"phone {phone!r} is not one of this model's {len(self.phones)} phones: {known}") from None

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
        path = Path(folder) / "states.safetensors"
        names = load_config(_Names, Path(folder) / "states.yaml")
        if not path.is_file():
            raise UserError(f"{path}: no such file; {folder} should hold a state space (states.yaml and .safetensors)")
        try:
            tensors = load_file(path)
            space = cls(names.phones, names.silence, tensors["lengths"], tensors["table"], tensors["log_loop"])
        except Exception as error:
            raise UserError(f"{path}: not a state space: {error}") from None
        count = len(space.phones)
        if space.table.shape[:3] != (count, count, count) or space.table.max() >= space.num_states:
            raise UserError(f"{path}: its table {space.table.shape} does not fit the {count} phones of states.yaml")
        return space
