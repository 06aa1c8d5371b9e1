"""The tuning `federated:HOST:PORT[,ROOT.pem]`, for the door `dpd.tuning`. Loads no PyTorch."""

from pathlib import Path
from typing import Any

from dpd_neighbours.federated.settings import DECIDED, TITLE, Site
from dpd_runtime.errors import InputError
from dpd_runtime.extras import require_extras
from dpd_train.doors import OtherTuning


def federated(argument: str) -> OtherTuning:
    """A tuning together with other sites, by the server that listens at HOST:PORT.

    Args:
        argument: its address; behind a comma the PEM certificate of the authority that signed the server's.

    Raises:
        InputError: an address of another form, or no such file.
        MissingExtraError: Flower is not installed.
    """
    address, _, root = argument.partition(",")
    try:
        site = Site(address=address, tls_root=Path(root) if root else None)
    except InputError as error:
        raise InputError(f"--tuning federated:{argument}: {error}") from error
    require_extras("fed")

    def tune(*given: Any) -> Any:
        from dpd_neighbours.federated.stage import tuned_together

        return tuned_together(site, *given)

    return OtherTuning(
        stage=TITLE, meaning="teaches the denoiser together with other sites", decides=DECIDED, tune=tune
    )
