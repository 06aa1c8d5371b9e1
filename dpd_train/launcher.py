"""What a launcher (accelerate launch, torchrun, MPI) says about this process, read without PyTorch."""

import os
from collections.abc import Sequence

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def started_as() -> int:
    """The number that the launcher gave this process; 0 without a launcher."""
    return _from_environment(RANKS, 0)


def started_processes() -> int:
    """The number of processes that the launcher started; 1 without a launcher."""
    return _from_environment(SIZES, 1)


def _from_environment(names: Sequence[str], default: int) -> int:
    """The first of the launcher's variables that is set, in the order in which accelerate looks for them."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), default)
