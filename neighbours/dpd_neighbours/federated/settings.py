"""Who takes part in a federated tuning, and what the server decides. Imports no PyTorch, for the command line."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dpd_runtime.errors import BundleError, DpdError, InputError
from dpd_runtime.files import parse_json
from dpd_train.config import TrainConfig

SHARED = ("steps", "batch", "peak_rate", "warmup", "schedule", "tune", "lora_rank", "grad_compression", "seed")
"""Options of the tuning itself, decided by the server. A site's own seed is for its classifiers and prototypes."""
DECIDED = tuple(name for name in SHARED if name != "seed")


TITLE = "federated tuning"  # of its stage in a run
MOST = {"rounds": 10_000, "clients": 1_000}
MOST_SHARED = {"steps": 10_000_000, "batch": 100_000, "warmup": 10_000_000, "lora_rank": 1_024, "seed": 2**32 - 1}
MOST_CLASSES, MOST_SIDE, MOST_BYTES = 10_000, 8_192, 2**20
MOST_IMAGES = 10_000_000  # of one site


class UpdateError(DpdError, ValueError):
    """Another participant of a federated tuning sent something that cannot be used."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Site:
    """A site's part in a federated tuning.

    Args:
        address: HOST:PORT, where the server listens.
        tls_root: certificate of the authority that signed the server's; None: no encryption.
    """

    address: str
    tls_root: Path | None = None

    def __post_init__(self) -> None:
        """Raises:
        InputError: an address of another form, or no such file.
        """
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"the server's address is {self.address!r}: give HOST:PORT, such as 10.0.0.1:8080")
        _check_file(self.tls_root)


@dataclass(frozen=True, kw_only=True)
class Server(Site):
    """The server's part.

    Args:
        rounds: how often updates are averaged. clients: how many sites take part in every round.
        classes: the allowed class names.
        tls_certificate, tls_key: the server's own.
    """

    classes: tuple[str, ...]
    rounds: int = 10
    clients: int = 2
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value out of range, by the name of its option.
        """
        super().__post_init__()
        for name, most in MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"--{name} is {getattr(self, name)}: it must be 1 to {most}")
        files = (self.tls_root, self.tls_certificate, self.tls_key)
        for file in files:
            _check_file(file)
        if len({file is None for file in files}) > 1:
            raise InputError("TLS needs all of --tls-root, --tls-certificate and --tls-key on the server")
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise InputError("--classes needs at least two different names, such as Forest,River")
        from dpd_runtime.classes import check_class_name  # imports numpy, which the command's help does not need

        for name in self.classes:
            try:
                check_class_name(name)
            except BundleError as error:
                raise InputError(f"--classes: {name!r} cannot be a class of a bundle; rename it") from error


def _check_file(file: Path | None) -> None:
    if file is not None and not file.is_file():
        raise InputError(f"{file}: no such file; give a PEM file")


def ratio_in(config: TrainConfig) -> float | None:
    """How many times fewer bytes of updates are sent, from --grad-compression; None: all.

    Raises:
        InputError: another compression than RS-DGC's, or a ratio out of range.
    """
    from dpd_neighbours.gradients import RS_DGC, ratio_of  # here, as the command's help imports this module

    if config.grad_compression is None:
        return None
    name, _, ratio = config.grad_compression.partition(":")
    if name != RS_DGC:
        raise InputError(f"--grad-compression {name}: updates are compressed by {RS_DGC} alone, as in {RS_DGC}:50")
    return ratio_of(ratio)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server tells each site.

    Args:
        base: hash of the base's weights, which are not sent. side: of the images in pixels.
        config: fields of TrainConfig named in SHARED.
    """

    rounds: int
    classes: tuple[str, ...]
    base: str
    side: int
    config: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    def applied(self, config: TrainConfig) -> TrainConfig:
        """A site's config with the values that the server decided."""
        return replace(config, **self.config)

    def end_of(self, number: int) -> int:
        """Number of steps done after round `number`, counted from 1."""
        return number * int(self.config["steps"]) // self.rounds


def settings_of(part: Server, config: TrainConfig, base: str, side: int) -> Settings:
    """The settings that the server sends."""
    shared = {name: getattr(config, name) for name in SHARED}
    return Settings(rounds=part.rounds, classes=part.classes, base=base, side=side, config=shared)


def read_settings(text: str) -> Settings:
    """Read settings that a server sent.

    Raises:
        UpdateError: they are damaged, or from another version.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"{len(text)} characters")
        content = parse_json(text.encode(), "the settings")
        if set(content) != {field.name for field in fields(Settings)} or set(content["config"]) != set(SHARED):
            raise ValueError("other fields than this version's")
        settings = Settings(**(content | {"classes": tuple(map(str, content["classes"]))}))
        _check_bounds(settings)
    except (BundleError, ValueError, TypeError, KeyError) as error:
        raise UpdateError(
            f"the server's settings cannot be used ({error}); use the same version of dpd on all"
        ) from error
    return settings


def _check_bounds(settings: Settings) -> None:
    """Check sizes that decide memory and time, as a server could be anybody's.

    Raises:
        BundleError, InputError, ValueError, TypeError: a value of another type, or out of range.
    """
    for name, most in MOST_SHARED.items():
        value = settings.config[name]
        if not (value is None and name == "warmup") and (type(value) is not int or value > most):
            raise ValueError(f"{name} is {value!r:.40}")
    if not isinstance(settings.config["grad_compression"], str | None):
        raise TypeError("a compression of another type")
    ratio_in(settings.applied(TrainConfig()))
    if type(settings.rounds) is not int or type(settings.side) is not int or not isinstance(settings.base, str):
        raise TypeError("a value of another type")
    if not 1 <= settings.rounds <= min(settings.applied(TrainConfig()).steps, MOST["rounds"]):
        raise ValueError(f"{settings.rounds} rounds")
    if not 1 <= settings.side <= MOST_SIDE or not 2 <= len(settings.classes) <= MOST_CLASSES:
        raise ValueError(f"{settings.side} px and {len(settings.classes)} classes")
    from dpd_runtime.classes import check_class_name

    for name in settings.classes:
        check_class_name(name)
