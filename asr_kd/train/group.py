"""The processes that train one network together: those that torchrun started, or this one alone.

Each has its share of every batch, and the whole pool of frames in memory. Loss, gradient, batch statistics and metrics
are those of one process up to the order of sums; only what dropout and augmentation draw differs, since each process
draws for its own share, from (seed, step, rank). Process 0 writes the folder.
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
PATIENCE = datetime.timedelta(days=1)  # that the others have while the first evaluates or writes; the dead are noticed


@dataclasses.dataclass(frozen=True)
class Group:
    """Process ``rank`` of ``world``. All must call the same methods in the same order; a single one waits for none."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Group":
        """That of this process: ``ALONE`` unless it is inside ``joined``."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return ALONE

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, number: int) -> slice:
        """Which of ``number`` things are this process's; shares differ in size by at most one, and may be empty."""
        return slice(number * self.rank // self.world, number * (self.rank + 1) // self.world)

    def sum(self, *numbers: float) -> list[float]:
        """The sums of all processes' ``numbers``, in double precision."""
        if self.world == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(values)
        return values.tolist()

    def any(self, condition: bool) -> bool:
        """Whether ``condition`` holds in some process."""
        return self.sum(condition)[0] > 0

    def wait(self) -> None:
        """Until all processes are here."""
        self.sum(0)

    def of_first(self, value: Value) -> Value:
        """The ``value`` that process 0 has, once it is there."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def parallel(self, model: AcousticModel) -> AcousticModel:
        """``model`` for training steps: going backward leaves the mean of all processes' gradients, in each."""
        return model if self.world == 1 else cast(AcousticModel, _Parallel(model))

    def device(self, asked: torch.device) -> torch.device:
        """``asked``; where several processes are to use GPUs, the one that is this process's own.

        Raises ``UserError`` where a certain GPU is asked for, and where there are fewer than processes.
        """
        if self.world == 1 or asked.type != "cuda":
            return asked
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if asked.index:
            raise UserError(
                f"--device {asked}: each of {self.world} processes takes a GPU of its own; say --device cuda"
            )
        if local >= gpus:
            raise UserError(f"there is no GPU for process {local + 1} of this machine, which has {gpus}; start {gpus}")
        torch.cuda.set_device(local)
        return torch.device("cuda", local)


ALONE = Group()


class _Parallel(DistributedDataParallel):
    """Has the attributes of the network that it wraps."""

    def __init__(self, model: AcousticModel) -> None:
        super().__init__(model)
        self.broadcast_buffers = False  # they are the same already: FrameBatchNorm sees to it

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)


@contextlib.contextmanager
def joined() -> Iterator[Group]:
    """The group of the processes that torchrun started with this one, for the time of the block; else ``ALONE``.

    Inside, only process 0 writes to standard output and error. What ends one process ends all: the first to fail
    raises its error, and the others leave with ``SystemExit``; where a process was killed, the first to miss it raises
    a ``UserError``. So there is one message, whatever the number of processes.
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
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it to those that are left: one has yet to speak
        raise _last_word(error, store) from error
    distributed.destroy_process_group()


def _meet() -> distributed.Store:
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if name not in os.environ]:
        raise UserError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {missing[0]} is not set; start with torchrun")
    store, rank, world = next(distributed.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(
        backend, store=distributed.PrefixStore("training", store), rank=rank, world_size=world, timeout=PATIENCE
    )
    return distributed.PrefixStore("ending", store)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _last_word(error: BaseException, store: distributed.Store) -> BaseException:
    """What to raise for ``error`` in this process."""
    try:
        first = store.add("failed", 1) == 1
    except RuntimeError:  # the store has gone with torchrun
        first = True
    if not first:
        return SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1)
    if isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return UserError(
            "one of the processes that train together has gone without a word (killed, or out of memory?); run the same"
            " command again to go on from the last checkpoint"
        )
    return error
