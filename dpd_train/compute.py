"""Device, seeds, memory and checkpoints of a training."""

import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from dpd_runtime.errors import InputError, ProviderError
from dpd_runtime.files import open_atomically
from dpd_runtime.text import counted
from dpd_runtime.versions import cpu_flags
from dpd_train.config import check_device

# -- Where a training runs and when it stops. Random numbers come from CPU generators on every device.


log = logging.getLogger(__name__)


def use_device(name: str) -> torch.device:
    """The device `cpu`, `cuda`, `cuda:N`, `mps` or `auto`, which takes CUDA where it works and logs its choice.

    MPS, of Apple's processors, goes the same way as CUDA. No training has run on it in this project.

    Raises:
        InputError: another name.
        ProviderError: `name` is a GPU, and PyTorch finds no such device.
    """
    check_device(name)
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ProviderError("device mps: PyTorch finds none; use cpu, or a Mac with an Apple processor")
        return torch.device("mps")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = "PyTorch finds no CUDA device" if built else "this PyTorch was built without CUDA"
        if name.startswith("cuda"):
            raise ProviderError(f"device {name}: {why}; use cpu, or install the driver and PyTorch's CUDA build")
        if name == "auto":
            log.info("device: cpu, as %s", why)
        return torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    place = torch.device("cuda")
    if "LOCAL_RANK" in os.environ:  # before anything is allocated on the first GPU, which belongs to another process
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        if name.startswith("cuda:"):
            raise InputError(f"--device {name}: the launcher gives each process a GPU of its own; give cuda")
    elif name.startswith("cuda:"):
        number, count = int(name.removeprefix("cuda:")), torch.cuda.device_count()
        if number >= count:
            raise ProviderError(f"device {name}: PyTorch finds {counted(count, 'GPU')}, counted from 0")
        torch.cuda.set_device(number)
        place = torch.device("cuda", number)
    log.info("device: cuda, %s", torch.cuda.get_device_name())
    torch.set_float32_matmul_precision("high")  # TF32
    torch.backends.cudnn.benchmark = True  # batches keep their shape
    return place


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16.

    Without them PyTorch converts back and forth: a student's training step took 10 times as long as in float32 on a CPU
    with AVX2 alone, and 3 times with AVX-512 but no avx512_bf16. GPUs before Ampere have none either.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False  # not measured
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_flags())


def autocast(
    device: torch.device | str, dtype: torch.dtype = torch.bfloat16, *, enabled: bool = True
) -> torch.autocast:
    """A context in which matrix products and convolutions are computed in `dtype`: in float32 where that is bfloat16
    and the device has none.
    """
    device = torch.device(device)
    wanted = enabled and (dtype != torch.bfloat16 or has_bfloat16(device))
    return torch.autocast(device.type, dtype, enabled=wanted)


def hardware(device: torch.device) -> str:
    """The hardware for a record: the GPU's name, or the CPU's with the number of threads. No host name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    without = "" if has_bfloat16(device) else ", float32 for bfloat16"
    if device.type == "mps":
        return f"MPS of {platform.processor() or platform.machine()}{without}"
    return f"{named or platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} cores{without}"


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on the device. A copy from the host does not wait for work on the GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the CPU, so that every machine can read the state file."""
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


@contextmanager
def placed(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Move `module` to the device for the block, and afterwards to the CPU, where other code expects it."""
    module.to(device)
    try:
        yield
    finally:
        module.to("cpu")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the body in one thread of torch, so that the number of workers or cores does not change a result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimiser: weights, which have two or more axes, decay; scales and biases do not."""
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]


def adamw(parameters: Any, device: torch.device, **options: Any) -> torch.optim.AdamW:
    """AdamW, fused on CUDA."""
    return torch.optim.AdamW(parameters, fused=True if device.type == "cuda" else None, **options)


class TimeUp(Exception):
    """The deadline passed at `step` of `steps`. The state is saved, and the same call continues from there."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"time is up at step {step} of {steps}")
        self.step, self.steps = step, steps


class Deadline:
    """Passes this many minutes after it was made; None never passes.

    A training does at least one step whatever the deadline, so that repeated short calls also finish.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    @property
    def ends(self) -> bool:
        """Whether it will ever pass."""
        return self._end is not None

    @property
    def passed(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end


NEVER = Deadline()


def _to_float32(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0].float(), *args[1:])


def norms_in_float32(model: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
    """Feed float32 to every GroupNorm: more exact under autocast, and faster on CPUs. The caller removes the hooks."""
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    return [norm.register_forward_pre_hook(_to_float32) for norm in norms]


# -- Resumable training: state as safetensors + JSON, without pickle, and random numbers that depend on the step alone.


def save_state(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write `tensors` and `meta` to one file, as `open_atomically` does: a kill leaves the previous file intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with open_atomically(path) as file:  # whose name is random; the bytes of a large state do not fit into memory twice
        save_file(content, file.name, {"meta": json.dumps(meta, allow_nan=False)})


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_state` wrote."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        meta: dict[str, Any] = json.loads(file.metadata()["meta"])
    return tensors, meta


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of the tensors whose names begin with `prefix`, under their names without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random generator of one training step: a resumed run gets the numbers of an uninterrupted one."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def draw_rows(count: int, batch: int, weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """Random rows of a batch, [batch] int64 in 0 … count − 1, with repetition, on the CPU.

    weights: [count], how often each row is taken, up to a common factor; None: all equally often.
    """
    if weights is None:
        return torch.randint(count, (batch,), generator=generator)
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} rows")
    return torch.multinomial(weights, batch, replacement=True, generator=generator)


def epoch_rows(count: int, batch: int, weights: torch.Tensor | None, seed: int, step: int) -> torch.Tensor:
    """The rows of batch number `step`, [batch] int64 in 0 … count − 1, where batches go through epochs one by one.

    An epoch is `count` rows in random order. Without weights every row is in it once, so that a row comes again only
    after all others. With weights a row that is to come w times on average is in it ⌊w⌋ or ⌈w⌉ times. A batch may end
    one epoch and begin the next.

    Args:
        weights: as in `draw_rows`. step: from 0. The rows depend on the arguments alone.
    """
    if weights is not None and len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} rows")
    first, last = step * batch, (step + 1) * batch
    epochs = range(first // count, -(-last // count))
    rows = torch.cat([_epoch(count, weights, step_generator(seed, -1 - epoch)) for epoch in epochs])
    return rows[first - epochs.start * count :][:batch]


def _epoch(count: int, weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """One epoch [count]. Weighted rows are a systematic sample: where a comb with one random shift meets the sums."""
    order = torch.randperm(count, generator=generator)
    if weights is None:
        return order
    ends = weights.double().cumsum(0)
    comb = (torch.arange(count) + torch.rand((), generator=generator, dtype=torch.float64)) / count
    return torch.searchsorted(ends / ends[-1], comb, right=True).clamp_max(count - 1)[order]
