"""Several processes of one training, as `accelerate launch` or torchrun start them. The first one leads."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from enum import IntEnum
from typing import Any

import torch

from dpd_runtime.errors import DpdError, InputError, MissingExtraError
from dpd_train.compute.device import Deadline, TimeUp

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PATIENCE = timedelta(days=7)  # the others wait while the leader trains its judges; the launcher sees who has died
BUCKET = 2**25  # elements that are added up at once


class Word(IntEnum):
    """What the leader tells those who wait."""

    OVER = 0  # leave
    LOAD = 1  # the input is fine: open the base
    TRAIN = 2  # the data lie ready: take your share


class PeerError(DpdError, RuntimeError):
    """Another process of the training has gone."""

    exit_code = 5


class Team:
    """The processes that train together, of which this is number `rank`. One of `size` 1 is a process of its own.

    Number 0 leads: it alone reads the input, writes files, shows progress and decides. Decisions travel as one number
    on the CPU, so that nobody waits for a GPU.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._awaited = False  # whether the others are in `hear`

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> range:
        """The rows of a global batch that are this process's."""
        return range(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Each tensor becomes its sum over all processes; every process brings the same ones in the same order."""
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
        """Those of all processes, in the order of their numbers; all of one shape."""
        if self.size == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with _peers():
            torch.distributed.all_gather(found, tensor)
        return found

    def agree(self, mine: bool) -> bool:
        """The leader's `mine`."""
        return bool(self._broadcast(int(mine)))

    def shared(self, deadline: Deadline) -> Deadline:
        """One that passes at the same step in all processes, by the leader's clock."""
        return deadline if self.size == 1 or not deadline.ends else _SharedDeadline(deadline, self)

    def tell(self, word: Word) -> None:
        """What the others `hear`."""
        self._broadcast(word)

    def hear(self) -> Word:
        """Wait for the leader's word."""
        return Word(self._broadcast(0))

    @contextmanager
    def leading(self) -> Iterator[None]:
        """However the block ends, those who wait are sent away."""
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
        """The others take their share in the block. Where it fails they wait inside it, and the launcher ends them."""
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
    """In order, at most `BUCKET` elements together unless one alone has more."""
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
            "another process of this training has gone, its message says why; --resume goes on from the last checkpoint"
        ) from error


def _from_environment(names: Sequence[str], default: int) -> int:
    """As accelerate looks for them: of the launcher's variables the first that is set."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)


def started_as() -> int:
    """The number which the launcher gave this process; 0 without one."""
    return _from_environment(RANKS, 0)


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """The processes that the launcher started with this one, each on a GPU of its own where `device` is CUDA.

    Raises:
        MissingExtraError: accelerate is not installed.
        InputError: a launcher whose processes do not find each other.
    """
    started = _from_environment(SIZES, 1)
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
            f"{started} processes which do not find each other: start them with accelerate launch or torchrun"
        )
    yield Team(state.process_index, state.num_processes)
    state.destroy_process_group()  # when all went well: otherwise the others might never come here
