"""Server and sites over the network, with Flower's gRPC. Arrays are sent as .npy, which Flower reads without pickle.

Flower deprecates `start_server` and `start_client` in favour of an app behind a SuperLink and SuperNodes: three more
programs, and a package of code that is sent. Here both sides have the code, and one command on each side is enough.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flwr.client
import flwr.common
import flwr.server
import grpc
from flwr.common import Code, EvaluateIns, FitIns, Parameters

from dpd_neighbours.federated.coordinator import Coordinator, Sent
from dpd_neighbours.federated.packet import from_npy
from dpd_neighbours.federated.settings import MOST, Server, Site, UpdateError, read_settings
from dpd_neighbours.federated.site import SiteInputs, TrainingSite
from dpd_runtime.annotations import Progress
from dpd_runtime.errors import DpdError, InputError
from dpd_runtime.text import counted
from dpd_train.distributed import PeerError

log = logging.getLogger(__name__)
PATIENCE = 3600.0  # seconds for which a site waits for the server to start
NOTHING = Parameters(tensors=[], tensor_type="numpy.ndarray")
OPEN = (
    "no TLS: others on the network can read and change the updates; give --tls-root, --tls-certificate and --tls-key "
    "on the server, and federated:HOST:PORT,ROOT.pem at each site"
)


class _Rounds(flwr.server.strategy.Strategy):  # type: ignore[misc]
    """All sites take part in every round. `fit` is sent with the round's number, `evaluate` with the mean update.

    A failure is stored as `error` and ends the tuning; Flower itself would continue without the site.
    """

    def __init__(self, coordinator: Coordinator, clients: int, progress: Progress) -> None:
        self.coordinator, self.clients, self.progress = coordinator, clients, progress
        self.numbers: dict[str, int] = {}
        self.error: DpdError | None = None

    def initialize_parameters(self, client_manager: Any) -> Parameters:
        return NOTHING  # all have the base

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> list[tuple[Any, FitIns]]:
        if self.error:
            return []
        if not self.numbers:
            log.info("waiting for %d sites", self.clients)
            client_manager.wait_for(self.clients)
            self.numbers = {name: number for number, name in enumerate(list(client_manager.all())[: self.clients])}
        said = {"round": server_round, "settings": self.coordinator.settings.to_json()}
        return [
            (proxy, FitIns(NOTHING, said | {"number": self.numbers[name]}))
            for name, proxy in client_manager.all().items()
            if name in self.numbers
        ]

    def aggregate_fit(
        self, server_round: int, results: list[Any], failures: list[Any]
    ) -> tuple[Parameters | None, dict[str, Any]]:
        if self._all_there(results, server_round):
            with self._told(server_round):
                sent = [
                    Sent(from_npy(res.parameters.tensors, f"site {number}"), int(res.num_examples), float(loss))
                    for number, res in enumerate(self._by_number(results))
                    for loss in (res.metrics["loss"],)
                ]
                back = self.coordinator.average(sent)
                return flwr.common.ndarrays_to_parameters(back), {}
        return None, {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: Any
    ) -> list[tuple[Any, EvaluateIns]]:
        if self.error:
            return []
        everyone = client_manager.all().items()
        return [(proxy, EvaluateIns(parameters, {})) for name, proxy in everyone if name in self.numbers]

    def aggregate_evaluate(
        self, server_round: int, results: list[Any], failures: list[Any]
    ) -> tuple[float | None, dict[str, Any]]:
        if self._all_there(results, server_round):
            with self._told(server_round):
                self.coordinator.hear([(res.loss, res.num_examples) for res in self._by_number(results)])
                self.progress(server_round, self.coordinator.settings.rounds)
        return None, {}

    def evaluate(self, server_round: int, parameters: Parameters) -> None:
        return None

    def _by_number(self, results: list[Any]) -> list[Any]:
        return [answer for _, answer in sorted(results, key=lambda pair: self.numbers[pair[0].cid])]

    @contextmanager
    def _told(self, server_round: int) -> Iterator[None]:
        """Store any failure: an exception would end only this thread, and all sites would wait for it."""
        try:
            yield
        except DpdError as error:
            self.error = error
        except Exception as error:
            self.error = PeerError(f"a site's answer in round {server_round} cannot be used: {error!r}")

    def _all_there(self, results: list[Any], server_round: int) -> bool:
        good = sum(res.status.code == Code.OK for _, res in results)
        if not self.error and good < self.clients:
            gone = self.clients - good
            self.error = PeerError(
                f"{gone} of {counted(self.clients, 'site')} went away in round {server_round}, their messages say why; "
                "start all again"
            )
        return self.error is None


def serve(coordinator: Coordinator, part: Server, progress: Progress) -> None:
    """Serve until all rounds are done.

    Raises:
        PeerError: a site has gone.
        UpdateError: a site sent something that cannot be used.
        InputError: the address is not of this machine, or its port is taken.
    """
    _quiet()
    _check_port(part.address)
    rounds = _Rounds(coordinator, part.clients, progress)
    files = (part.tls_root, part.tls_certificate, part.tls_key)
    given = [Path(file).read_bytes() for file in files if file]
    if not given:
        log.warning(OPEN)
    flwr.server.start_server(
        server_address=part.address,
        config=flwr.server.ServerConfig(num_rounds=coordinator.settings.rounds),
        strategy=rounds,
        certificates=(given[0], given[1], given[2]) if given else None,
    )
    if rounds.error:
        raise rounds.error
    if coordinator.shared.rounds < coordinator.settings.rounds:  # no site was left
        raise PeerError(f"all sites went away after round {coordinator.shared.rounds}, start all again")


class _Answers(flwr.client.NumPyClient):  # type: ignore[misc]
    def __init__(self, inputs: SiteInputs) -> None:
        self.inputs = inputs
        self.site: TrainingSite | None = None

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        if self.site is None:
            number = int(config["number"])
            if not 0 <= number < MOST["clients"]:
                raise UpdateError(f"the server calls this site number {number}; start all again")
            self.site = TrainingSite(self.inputs, read_settings(str(config["settings"])), number)
        arrays, loss = self.site.fit(int(config["round"]))
        return arrays, self.site.images, {"loss": loss}

    def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
        if self.site is None:
            raise PeerError("the server is in the middle of a tuning; start all again")
        loss, images = self.site.take(parameters)
        return loss, images, {}


def take_part(inputs: SiteInputs, part: Site) -> TrainingSite:
    """Take part until the server has done all rounds.

    Raises:
        PeerError: there is no server, or it ended early.
        InputError: classes, base or image size are not the server's.
        UpdateError: the server sent something that cannot be used.
    """
    _quiet()
    _await_server(part.address)
    if not part.tls_root:
        log.warning(OPEN)
    answers = _Answers(inputs)
    try:
        flwr.client.start_client(
            server_address=part.address,
            client=answers.to_client(),
            root_certificates=part.tls_root.read_bytes() if part.tls_root else None,
            insecure=part.tls_root is None,
        )
    except (grpc.RpcError, StopIteration) as error:
        raise PeerError(f"the server at {part.address} has gone, or speaks with another certificate") from error
    site = answers.site
    if site is None or site.shared.rounds < site.settings.rounds:
        done = (
            f"after {site.shared.rounds} of {counted(site.settings.rounds, 'round')}"
            if site
            else "before this site took part"
        )
        raise PeerError(f"the server at {part.address} ended {done}, its message says why; start all again")
    return site


def _quiet() -> None:
    """Silence Flower, which logs each message and shows a trace where we print one line."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # of a database that is not used


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _check_port(address: str) -> None:
    host, port = _split(address)
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise InputError(f"dpd federate {address}: {error.strerror or error}; take another address or port") from error


def _await_server(address: str) -> None:
    until, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            socket.create_connection(_split(address), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise PeerError(f"no server at {address}: {error.strerror or error}; start it first") from error
        if not told:
            log.info("waiting for the server at %s", address)
            told = True
        time.sleep(1)
