"""Training in several processes, started by `accelerate launch` or torchrun. The first process is the leader."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from typing import Any, Protocol

import torch

from dpd_runtime.errors import DpdError, InputError, MissingExtraError
from dpd_train.compute import Deadline, TimeUp
from dpd_train.launcher import started_processes

PATIENCE = timedelta(days=7)  # the others wait while the leader trains its classifiers; the launcher sees dead ones
BUCKET = 2**25  # elements in one all-reduce


class Word(IntEnum):
    """What the leader tells the waiting processes."""

    OVER = 0  # return
    LOAD = 1  # the input is valid: open the base
    TRAIN = 2  # the data are ready: train on your share


Gather = Callable[[torch.Tensor], list[torch.Tensor]]
"""This process's tensor → the tensors of all processes, of the same shape, in the same order everywhere."""


class GradientExchange(Protocol):
    """How the gradients of one training travel between its processes, where they do not travel whole."""

    def exchange(self, gradients: Sequence[torch.Tensor], keys: Sequence[int], gather: Gather) -> None:
        """Replace each gradient by the sum that all processes take for it.

        Args:
            keys: one for each gradient, the same in every step.
        """

    def figures(self) -> dict[str, float]:
        """Figures for a log, such as megabytes sent."""


class PeerError(DpdError, RuntimeError):
    """Another process of the training has ended."""

    exit_code = 5


class Team:
    """The `size` processes that train together; this one is number `rank`. A team of size 1 is a single process.

    Number 0 is the leader: only it reads the input, writes files, shows progress and decides. Its decisions are sent as
    one number on the CPU, so that no process waits for a GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._awaited = False  # whether the others are waiting in `hear`

    @property
    def leads(self) -> bool:
        """Whether this process is the leader."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """This process's rows of a batch that all processes share."""
        return range(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over all processes, which pass the same tensors in the same order."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _peers():
                torch.distributed.all_reduce(flat)
            sizes = [tensor.numel() for tensor in bucket]
            for tensor, total in zip(bucket, torch.split(flat, sizes), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all processes in the order of their numbers; all have one shape."""
        if self.size == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with _peers():
            torch.distributed.all_gather(tensors, tensor)
        return tensors

    def agree(self, mine: bool) -> bool:
        """The leader's value of `mine`, in all processes."""
        return bool(self._broadcast(int(mine)))

    def shared(self, deadline: Deadline) -> Deadline:
        """A deadline that passes at the same step in all processes, by the leader's clock."""
        return deadline if self.size == 1 or not deadline.ends else _SharedDeadline(deadline, self)

    def tell(self, word: Word) -> None:
        """Send a word to the processes that wait in `hear`."""
        self._broadcast(word)

    def hear(self) -> Word:
        """Wait for the leader's word."""
        return Word(self._broadcast(0))

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Release the waiting processes however the block ends."""
        self._awaited = True
        try:
            yield
        except BaseException:
            if self._awaited:
                with suppress(PeerError):
                    self.tell(Word.OVER)
            raise
        self.tell(Word.OVER)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Train in all processes in the block. If it fails, the launcher ends those that wait inside it."""
        self.tell(Word.TRAIN)
        self._awaited = False
        try:
            yield
        except BaseException as error:
            self._awaited = isinstance(error, TimeUp)
            raise
        self._awaited = True

    def _broadcast(self, number: int) -> int:
        if self.size == 1:
            return number
        told = torch.tensor([number])
        with _peers():
            torch.distributed.broadcast(told, 0)
        return int(told)


ALONE = Team()


class _SharedDeadline(Deadline):
    def __init__(self, own: Deadline, team: Team) -> None:
        self._own, self._team = own, team

    @property
    def ends(self) -> bool:
        return True

    @property
    def passed(self) -> bool:
        return self._team.agree(self._own.passed)


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors in order, in lists of at most `BUCKET` elements unless one tensor has more."""
    bucket: list[torch.Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and filled + tensor.numel() > BUCKET:
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.numel()
    if bucket:
        yield bucket


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerError(
            "another process of this training has ended, its message says why; --resume continues from a checkpoint"
        ) from error


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The team of processes that the launcher started; with CUDA each one uses its own GPU.

    Raises:
        MissingExtraError: accelerate is not installed.
        InputError: the processes do not find each other.
    """
    started = started_processes()
    if started == 1:
        yield Team()
        return
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
    on_cpu = device.type == "cpu"
    options: dict[str, Any] = {} if on_cpu else {"backend": "cuda:nccl,cpu:gloo"}
    state = PartialState(cpu=on_cpu, timeout=PATIENCE, **options)
    if state.num_processes != started:
        raise InputError(
            f"{started} processes that do not find each other: start them with accelerate launch or torchrun"
        )
    yield Team(state.process_index, state.num_processes)
    state.destroy_process_group()  # only on success: after a failure the others might never get here
