"""Who takes part in a federated tuning, and what the server decides. Imports no PyTorch, for the command line."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from dpd_runtime.classes import check_class_name
from dpd_runtime.errors import BundleError, DpdError, InputError
from dpd_runtime.files import parse_json
from dpd_runtime.text import listed_names, option
from dpd_train.config import TrainConfig

Role = Literal["server", "client"]
SHARED = ("steps", "batch", "peak_rate", "warmup", "schedule", "tune", "lora_rank", "grad_compression", "seed")
"""Options of the tuning itself, decided by the server. A site's own seed is for its classifiers and prototypes."""
SERVERS = (*SHARED, "base", "resolution")  # options that a server without images can use


MOST = {"rounds": 10_000, "clients": 1_000}
MOST_SHARED = {"steps": 10_000_000, "batch": 100_000, "warmup": 10_000_000, "lora_rank": 1_024, "seed": 2**32 - 1}
MOST_CLASSES, MOST_SIDE, MOST_BYTES = 10_000, 8_192, 2**20
MOST_IMAGES = 10_000_000  # of one site


class UpdateError(DpdError, ValueError):
    """Another participant of a federated tuning sent something that cannot be used."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Federated:
    """This process's part in a federated tuning.

    Args:
        address: HOST:PORT, where the server listens.
        rounds, clients, classes: for the server: how often updates are averaged, how many sites take part in every
            round, and the allowed class names.
        tls_root: certificate of the authority that signed the server's; None: no encryption.
        tls_certificate, tls_key: the server's own.
    """

    role: Role
    address: str
    rounds: int = 10
    clients: int = 2
    classes: tuple[str, ...] = ()
    tls_root: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        """Raises:
        InputError: a value out of range, by the name of its option.
        """
        for name, most in MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"--{name} is {getattr(self, name)}: it must be 1 to {most}")
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(f"--federated {self.role} {self.address}: give HOST:PORT, such as 10.0.0.1:8080")
        for file in (self.tls_root, self.tls_certificate, self.tls_key):
            if file is not None and not file.is_file():
                raise InputError(f"{file}: no such file; give a PEM file")
        if self.role == "server":
            self._check_server()

    def _check_server(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise InputError(
                "--federated server needs --classes with at least two different names, such as Forest,River"
            )
        for name in self.classes:
            try:
                check_class_name(name)
            except BundleError as error:
                raise InputError(f"--classes: {name!r} cannot be a class of a bundle; rename it") from error
        if len({file is None for file in (self.tls_root, self.tls_certificate, self.tls_key)}) > 1:
            raise InputError("TLS needs all of --tls-root, --tls-certificate and --tls-key on the server")


def federated_part(given: dict[str, Any]) -> Federated | None:
    """This process's part, from the options by name; None for an option that was not given.

    Raises:
        InputError: a value out of range, or an option without effect.
    """
    options = {name: value for name, value in given.items() if value is not None}
    named = options.pop("federated", None)
    if named is None:
        if options:
            raise InputError(f"{option(next(iter(options)))} has no effect without --federated")
        return None
    role, address = named
    if role not in get_args(Role):
        raise InputError(f"--federated {role!r} is unknown: give server or client and an address such as 10.0.0.1:8080")
    needless = [name for name in options if role == "client" and name != "tls_root"]
    if needless:
        raise InputError(f"{option(needless[0])} has no effect on a client: the server decides it")
    if "classes" in options:
        options["classes"] = listed_names(options["classes"])
    return Federated(role=cast(Role, role), address=address, **options)


def check_options(part: Federated, given: Collection[str], config: TrainConfig, data: bool) -> None:
    """Check what can be known before anything is read. Options that would be ignored are errors.

    Args:
        given: fields of TrainConfig that were given on the command line. data: whether there are images.

    Raises:
        InputError: an option without effect, missing images, or fewer steps than rounds.
    """
    if part.role == "client":
        if not data:
            raise InputError("--federated client needs DATA: the images of this site")
        if taken := [name for name in given if name in SHARED and name != "seed"]:
            raise InputError(f"{option(taken[0])} has no effect on a client: the server decides it")
        return
    if config.steps < part.rounds:
        raise InputError(f"--steps {config.steps} for {part.rounds} rounds: give each round at least one step")
    if not data and (useless := [name for name in given if name not in SERVERS]):
        raise InputError(f"{option(useless[0])} has no effect on a server without DATA")


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


def settings_of(part: Federated, config: TrainConfig, base: str, side: int) -> Settings:
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
    if type(settings.rounds) is not int or type(settings.side) is not int or not isinstance(settings.base, str):
        raise TypeError("a value of another type")
    if not 1 <= settings.rounds <= min(settings.applied(TrainConfig()).steps, MOST["rounds"]):
        raise ValueError(f"{settings.rounds} rounds")
    if not 1 <= settings.side <= MOST_SIDE or not 2 <= len(settings.classes) <= MOST_CLASSES:
        raise ValueError(f"{settings.side} px and {len(settings.classes)} classes")
    for name in settings.classes:
        check_class_name(name)
