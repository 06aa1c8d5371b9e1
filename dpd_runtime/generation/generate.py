"""Generate images from a bundle, block by block.

Blocks do not depend on each other, so that shards, interruptions and other IPC values give the same pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from dpd_runtime.bundle.bundle import Bundle
from dpd_runtime.engines.engine import BF16, FP32, Provider
from dpd_runtime.errors import InputError
from dpd_runtime.generation.block import Block, Image
from dpd_runtime.generation.compute import BlockComputer
from dpd_runtime.generation.decode import is_decoded
from dpd_runtime.generation.gate import pass_gate
from dpd_runtime.generation.networks import DECODER, GRAPHS, Networks, load_networks
from dpd_runtime.generation.overlap import ahead
from dpd_runtime.generation.providers import choose_provider
from dpd_runtime.machine.cores import usable_cores
from dpd_runtime.sampling.sampler import BLOCK, Sampler
from dpd_runtime.sampling.solvers import SOLVERS
from dpd_runtime.text import counted

MAX_IPC = 1_000_000


def resolve_sampler(
    sampler: Sampler,
    *,
    steps: int | None = None,
    solver: str | None = None,
    candidates: int | None = None,
    guidance_scale: float | None = None,
) -> Sampler:
    """Replace settings of the bundle's sampler. If any is given, all images are sampled: none affects decoded images.

    Raises:
        InputError: a value is out of range.
    """
    if solver is not None and solver not in SOLVERS:
        raise InputError(f"solver {solver!r} is unknown: use one of {', '.join(SOLVERS)}")
    if steps is not None and not 1 <= steps <= 1000:
        raise InputError(f"steps is {steps}: it must be 1 … 1000")
    if candidates is not None and not 1 <= candidates <= 64:
        raise InputError(f"candidates is {candidates}: it must be 1 … 64")
    if guidance_scale is not None and not 1 <= guidance_scale <= 50:
        raise InputError(f"guidance-scale is {guidance_scale}: it must be 1 … 50, where 1 means no guidance")
    if (steps, solver, candidates, guidance_scale) != (None, None, None, None):
        sampler = sampler.sampled()
    guidance = sampler.guidance
    if guidance_scale is not None:
        guidance = tuple(replace(g, guidance_scale=guidance_scale) for g in guidance)
    return replace(
        sampler,
        steps=steps or sampler.steps,
        solver=solver or sampler.solver,
        candidates=candidates or sampler.candidates,
        guidance=guidance,
    )


def sampler_settings(usual: Sampler, used: Sampler) -> dict[str, Any]:
    """The fewest settings with which `resolve_sampler` turns one sampler into another.

    Returns:
        steps, solver, candidates, guidance_scale; none if they are equal, or if no such settings lead there.
    """
    asked: dict[str, Any] = {name: getattr(used, name) for name in ("steps", "solver", "candidates")}
    asked["guidance_scale"] = used.guidance[0].guidance_scale
    if used == usual or not _leads_to(used, usual, asked):
        return {}
    for name in [*asked]:
        fewer = {key: value for key, value in asked.items() if key != name}
        if fewer and _leads_to(used, usual, fewer):
            asked = fewer
    return asked


def _leads_to(used: Sampler, usual: Sampler, asked: dict[str, Any]) -> bool:
    try:
        return resolve_sampler(usual, **asked) == used
    except InputError:
        return False


def check_request(ipc: int, seed: int) -> None:
    """Check the images per class and the seed.

    Raises:
        InputError: one is out of range.
    """
    if ipc < 1:
        raise InputError(f"ipc is {ipc}: ask for at least 1 image per class")
    if ipc > MAX_IPC:
        raise InputError(f"ipc is {ipc}: it must be at most {MAX_IPC}; another --seed gives more images")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}: it must be 0 … 2**64 - 1")


def check_codes(bundle: Bundle, ipc: int, sampler: Sampler) -> None:
    """Check that a codes-only bundle has enough codes; other bundles make any number of images.

    Raises:
        InputError: too many images, or a sampler that does more than decode.
    """
    most = bundle.largest_ipc
    if most is None:
        return
    way_out = "use a bundle exported without --codes-only"
    if not all(guidance.decodes for guidance in sampler.guidance):
        raise InputError(
            "--steps, --solver, --candidates and --guidance-scale are for sampled images, and this codes-only bundle "
            f"holds no UNet; leave them out, or {way_out}"
        )
    if ipc > most:
        scene = min(bundle.classes, key=lambda scene: len(scene.prototypes))
        raise InputError(
            f"ipc is {ipc}: this codes-only bundle makes images from its codes alone, and class {scene.name} has "
            f"{len(scene.prototypes)}, enough for {counted(most, 'image')}; ask for at most {most}, or {way_out}"
        )


class Generation:
    """A sized iterable of `ipc` images of each class. Nothing is written. Graphs are loaded with the first image."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        ipc: int,
        seed: int = 0,
        classes: Sequence[str] | None = None,
        sampler: Sampler | None = None,
        provider: str = "auto",
        device: int | None = None,
        precision: str = FP32,
        threads: int | None = None,
    ) -> None:
        """Args:
            ipc: images per class, ≥ 1. They are computed in blocks of ten: two cost as much as ten.
            classes: names; None for all.
            sampler: None for the bundle's.
            provider: one of `dpd_runtime.generation.providers.PROVIDERS`.
            device: number of the GPU; None for the first, for openvino for the CPU.
            precision: "fp32", or "bf16" with openvino.
            threads: of each call of a network; None for all usable cores.

        Raises:
            InputError: ipc or seed is out of range, a class is unknown, the provider lacks the device or precision, or
                a codes-only bundle has fewer codes.
            ProviderError: the requested provider does not work here.
            CheckError: its images are not those of PyTorch.
        """
        check_request(ipc, seed)
        self.bundle, self.ipc, self.seed = bundle, ipc, seed
        self.classes = bundle.select_classes(classes)
        self.sampler = sampler or bundle.manifest.sampler
        check_codes(bundle, ipc, self.sampler)
        self.threads = threads or usable_cores()
        self.provider = choose_provider(provider, self._try, device, precision, listed=bundle.host.available_providers)
        self._computer: BlockComputer | None = None
        self._host = bundle.host

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.bundle.manifest.name!r}, {counted(len(self), 'image')}: {self.ipc} of "
            f"each of {counted(len(self.classes), 'class')}, seed {self.seed}, on {self.provider.name})"
        )

    def __len__(self) -> int:
        return len(self.classes) * self.ipc

    def __iter__(self) -> Iterator[Image]:
        for images in self.stream(self.blocks()):
            yield from images

    @property
    def network_calls(self) -> float:
        """UNet evaluations of one candidate, guided steps counting as two: the mean over the images of a class."""
        return sum(self.sampler.evaluations_per_latent(index // BLOCK) for index in range(self.ipc)) / self.ipc

    def blocks(self) -> list[Block]:
        """All blocks, class by class."""
        count = -(-self.ipc // BLOCK)
        return [Block(c, number) for c in self.classes for number in range(count)]

    def stream(self, blocks: Iterable[Block]) -> Iterator[list[Image]]:
        """The images of each block, in order. Blocks may share calls; the next noise is made at the same time."""
        computer = self.load()
        for group, noises in ahead(computer.together(blocks), lambda group: [*map(computer.noise, group)]):
            yield from map(self._wanted, computer.images(group, noises))

    def compute(self, block: Block) -> list[Image]:
        """The block's images whose index is below ipc. The whole block is computed in any case.

        Raises:
            DegenerateImageError: NaN or constant pixels.
        """
        return self._wanted(self.load().compute(block))

    def _wanted(self, images: list[Image]) -> list[Image]:
        return [image for image in images if image.index < self.ipc]

    @property
    def graphs(self) -> tuple[str, ...]:
        """The graphs that these images need: decoded images need the decoder alone."""
        begins = [guidance.from_block for guidance in self.sampler.guidance if guidance.from_block * BLOCK < self.ipc]
        blocks = [Block(scene, number) for scene in self.classes for number in begins]
        shape = self.bundle.manifest.latent_shape
        return (DECODER,) if all(is_decoded(block, self.sampler, shape) for block in blocks) else GRAPHS

    def _try(self, provider: Provider) -> None:
        """Open the smallest graph on a GPU, which costs little, and then ask whether the images are PyTorch's."""
        if provider.name != "cpu":
            smallest = min(self.graphs, key=lambda graph: len(self.bundle.files[graph]))
            self.bundle.engine(smallest, provider, self.threads)
        pass_gate(self.bundle, provider, self.graphs, self.threads)

    def load(self) -> BlockComputer:
        """Load the graphs that these images need, if this was not done yet or the process that has them was stopped.

        Raises:
            InputError: the schedule does not allow this number of steps.
        """
        if self._computer is None or self._host.ended:
            self._host = self.bundle.host
            networks = load_networks(self.bundle, self.provider, self.threads, self.graphs)
            self._computer = BlockComputer(self.bundle, self.sampler, networks, self.seed, self._in_float32())
        return self._computer

    @property
    def call_rows(self) -> dict[str, int]:
        """The rows of a call of each graph whose calls had to be split for want of memory; empty if none had to.

        On a CPU this changes no bit. A GPU chooses its kernels by the size of a call.
        """
        return {} if self._computer is None else self._computer.networks.call_rows()

    def _in_float32(self) -> Callable[[], Networks] | None:
        """A function that loads networks which compute in float32; None if those in use do so already.

        ONNX Runtime computes half-precision graphs in float32 on a CPU, and OpenVINO does so everywhere.
        """
        half = self.bundle.manifest.precision == "fp16" and self.provider.name not in ("cpu", "openvino")
        if not half and self.provider.precision != BF16:
            return None
        return partial(load_networks, self.bundle, Provider("cpu", "float32"), self.threads, now=())


def generate(
    bundle: Bundle,
    *,
    ipc: int,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    sampler: Sampler | None = None,
    provider: str = "auto",
    device: int | None = None,
    precision: str = FP32,
    threads: int | None = None,
) -> Generation:
    """Generate images: `for image in generate(load_bundle("site.dpd"), ipc=50): …` (see `Generation`)."""
    return Generation(
        bundle,
        ipc=ipc,
        seed=seed,
        classes=classes,
        sampler=sampler,
        provider=provider,
        device=device,
        precision=precision,
        threads=threads,
    )
