"""Compute blocks as tasks of a Ray cluster; this process writes the images.

Ray repeats a task if its worker dies. A task gets the bundle's path and hash. Each worker process opens and verifies
the bundle once.
"""

import logging
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from dpd_runtime.bundle import load_bundle
from dpd_runtime.errors import BundleError, DpdError, InputError, MissingExtraError, ProviderError
from dpd_runtime.generation import Generation
from dpd_runtime.machine import usable_cores
from dpd_runtime.networks import Block, Image
from dpd_runtime.sampler import Sampler
from dpd_runtime.trust import Signature
from dpd_runtime.versions import cpu_flags, versions

RETRIES = 10
CORES = 1  # of a task. The number of threads does not change results, and many small tasks use the cores better
LOCAL = "local"
Job = tuple[str, str, Signature, int, int, Sampler, str, str, int, str]
"""Path, hash and signature of the bundle, images per class, seed, sampler, provider, precision, threads, machine: equal
for all blocks of a run.
"""


class RayGeneration(Generation):
    """A generation whose blocks are computed by a Ray cluster. Call `connect` first."""

    def connect(self, address: str) -> None:
        """Args:
            address: of a running cluster, or "local", which starts Ray on this machine.

        Raises:
            MissingExtraError: Ray is not installed.
            ProviderError: no cluster at this address.
            InputError: an encrypted bundle.
        """
        if self.bundle.key is not None:
            raise InputError(
                f"--ray: {self.bundle.path} is encrypted, and its key is not sent to other machines; use --shard, "
                "or decrypt the bundle with dpd decrypt where the workers can read it"
            )
        ray = _ray()
        if not _answers(address):
            raise ProviderError(
                f"--ray {address}: there is no answer from this address; give host:port of the head node, or local"
            )
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            options |= {"num_cpus": usable_cores(), "include_dashboard": False}
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ProviderError(f"--ray {address}: {' '.join(str(error).split())[:200]}") from error

    def stream(self, blocks: Iterable[Block]) -> Iterator[list[Image]]:
        """Raises:
        DpdError: an error of a worker, or a worker with another type of machine.
        """
        ray = _ray()
        gpus = 0 if self.provider.on_cpu else 1
        task = ray.remote(max_retries=RETRIES, num_cpus=CORES, num_gpus=gpus)(_compute)
        places = max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
        job: Job = (
            str(self.bundle.path.resolve()),
            self.bundle.hash,
            self.bundle.signature,
            self.ipc,
            self.seed,
            self.sampler,
            self.provider.name,
            self.provider.precision,
            CORES,
            _machine(),
        )
        waiting: deque[Any] = deque()
        try:
            for block in blocks:
                waiting.append(task.remote(job, block.scene_class.name, block.number))
                if len(waiting) > 2 * places:
                    yield self._wanted(_images(waiting.popleft()))
            while waiting:
                yield self._wanted(_images(waiting.popleft()))
        finally:
            for asked in waiting:
                ray.cancel(asked, force=True)


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error


def _answers(address: str) -> bool:
    """Whether a process listens at host:port. Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return True  # "auto", or a name that Ray knows
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError):
        return False
    return True


def _machine() -> str:
    """The versions and CPU features on which the last bits of a result depend."""
    return f"{versions()} {cpu_flags()}"


def _images(asked: Any) -> list[Image]:
    ray = _ray()
    try:
        answer = ray.get(asked)
    except ray.exceptions.WorkerCrashedError as error:
        raise ProviderError(
            f"a Ray worker died {RETRIES + 1} times while computing one block; check its machine"
        ) from error
    except ray.exceptions.RayTaskError as error:
        raise ProviderError(f"a Ray worker: {' '.join(str(error.cause).split())[:300]}") from error
    if isinstance(answer, str):
        raise InputError(answer)
    return list(answer)


def _compute(job: Job, name: str, number: int) -> list[Image] | str:
    """Run in a worker. Returns the block's images, or an error message."""
    try:
        generation = _opened(job)
        (scene,) = generation.bundle.select_classes((name,))
        return generation.load().compute(Block(scene, number))
    except DpdError as error:
        return str(error)


@lru_cache(maxsize=1)
def _opened(job: Job) -> Generation:
    path, digest, signature, ipc, seed, sampler, provider, precision, threads, machine = job
    if _machine() != machine:
        raise InputError(
            "a Ray worker has another type of machine or other versions, so the last bits of its results may differ"
        )
    bundle = load_bundle(Path(path), trusted=(), allow_older=True)
    if bundle.hash != digest:
        raise BundleError(f"{path}: a Ray worker found another bundle at this path")
    bundle = replace(bundle, signature=signature)  # age and signature were checked where the command was run
    return Generation(
        bundle, ipc=ipc, seed=seed, sampler=sampler, provider=provider, precision=precision, threads=threads
    )
