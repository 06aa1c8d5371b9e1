"""Which blocks each process computes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from dpd_runtime.errors import InputError

T = TypeVar("T")
MOST = 10_000


@dataclass(frozen=True)
class Shard:
    """Process `number` (from 0) of `count` that share the work. The resulting set does not depend on `count`."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Raises InputError for a shard that is out of range."""
        if not 1 <= self.count <= MOST:
            raise InputError(f"shard {self}: the number of shards must be 1 … {MOST}")
        if not 0 <= self.number < self.count:
            raise InputError(f"shard {self}: shards count from 0, so the last one is {self.count - 1}/{self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def file_part(self) -> str:
        """The part of file names for this shard."""
        return f"{self.number}-of-{self.count}"

    def of(self, blocks: Sequence[T]) -> list[T]:
        """This shard's blocks: every count-th one. Shards differ by one block at most."""
        return list(blocks[self.number :: self.count])


WHOLE = Shard()


def parse_shard(text: str) -> Shard:
    """Parse i/n, as in `--shard 0/4`.

    Raises:
        InputError: another form, or out of range.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if match is None:
        raise InputError(f"--shard {text}: write i/n, for example 0/4 for the first of four")
    return Shard(int(match[1]), int(match[2]))
