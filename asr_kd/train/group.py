"""Data-parallel training: the ranks that torchrun started, or this process alone.

Each rank has its part of every batch, and the whole pool of frames in memory. Loss, gradient, batch statistics and
metrics are those of a single process up to the order of sums. Only dropout and augmentation differ, since each rank
draws random numbers for its own part, from (seed, step, rank). Rank 0 writes the folder.
"""

import contextlib
import dataclasses
import datetime
import os
import signal
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from asr_kd.errors import UserError
from asr_kd.nets import AcousticModel

Value = TypeVar("Value")
TIMEOUT = datetime.timedelta(days=1)  # of waiting while rank 0 evaluates or writes; a rank that died is noticed at once


@dataclasses.dataclass(frozen=True)
class Group:
    """Rank ``rank`` of ``world``. All ranks must call the same methods in the same order; a single one never waits."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Group":
        """The group of this process: ``ALONE`` unless it is inside ``joined``."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return ALONE

    @property
    def leads(self) -> bool:
        """Whether this rank writes files and prints."""
        return self.rank == 0

    def slice_of(self, number: int) -> slice:
        """Which of ``number`` items belong to this rank; slices differ in size by at most one, and may be empty."""
        return slice(number * self.rank // self.world, number * (self.rank + 1) // self.world)

    def sum(self, *numbers: float) -> list[float]:
        """The sums of ``numbers`` over all ranks, in double precision."""
        if self.world == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(values)
        return values.tolist()

    def any(self, condition: bool) -> bool:
        """Whether ``condition`` holds in some rank."""
        return self.sum(condition)[0] > 0

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.sum(0)

    def of_first(self, value: Value) -> Value:
        """The ``value`` of rank 0, in every rank."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def parallel(self, model: AcousticModel) -> AcousticModel:
        """``model`` for training steps: its backward pass gives every rank the mean of all ranks' gradients."""
        return model if self.world == 1 else cast(AcousticModel, _Parallel(model))

    def device(self, asked: torch.device) -> torch.device:
        """``asked``; if several ranks are to use GPUs, the GPU of this rank.

        Raises ``UserError`` if a certain GPU is asked for, and if there are fewer GPUs than ranks.
        """
        if self.world == 1 or asked.type != "cuda":
            return asked
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if asked.index:
            raise UserError(f"--device {asked}: each of {self.world} ranks takes its own GPU; give --device cuda")
        if local >= gpus:
            raise UserError(f"no GPU for local rank {local}; this machine has {gpus}: start {gpus} processes")
        torch.cuda.set_device(local)
        return torch.device("cuda", local)


ALONE = Group()


class _Parallel(DistributedDataParallel):
    """Torch's wrapper, with the attributes of the network inside."""

    def __init__(self, model: AcousticModel) -> None:
        super().__init__(model)
        self.broadcast_buffers = False  # FrameBatchNorm keeps them equal

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """Within the block: the group of the ranks that torchrun started; without torchrun, ``ALONE``.

    Only rank 0 writes to standard output and error. If one rank fails, all end with a single message: the first to fail
    raises its error, and the others leave with ``SystemExit``. If a rank was killed, the first to miss it raises a
    ``UserError``.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ALONE
        return
    store = _meet()
    group = Group.current()
    try:
        with _silence() if not group.leads else contextlib.nullcontext():
            yield group
    except BaseException as error:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # torchrun sends it to the ranks that are left, one of which still has to print
        raise _final_error(error, store) from error
    distributed.destroy_process_group()


def _meet() -> distributed.Store:
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if name not in os.environ]:
        raise UserError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {missing[0]} is not set; start with torchrun")
    store, rank, world = next(distributed.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend, store=distributed.PrefixStore("training", store), rank=rank, world_size=world, timeout=TIMEOUT
    )
    return distributed.PrefixStore("ending", store)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _final_error(error: BaseException, store: distributed.Store) -> BaseException:
    """The exception with which this rank ends after ``error``."""
    try:
        first = store.add("failed", 1) == 1
    except RuntimeError:  # the store has gone with torchrun
        first = True
    if not first:
        return SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1)
    if isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return UserError(
            "one of the ranks died without an error message (killed, or out of memory?); run the"
            " same command again to resume from the last checkpoint"
        )
    return error
