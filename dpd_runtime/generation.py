"""Generate images of a bundle."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby, islice, product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dpd_runtime.annotations import Float32, Images
from dpd_runtime.budget import check_budget
from dpd_runtime.bundle import Bundle, load_bundle
from dpd_runtime.engines import BF16, FP32, Provider
from dpd_runtime.errors import DegenerateImageError, InputError
from dpd_runtime.golden import pass_gate
from dpd_runtime.machine import usable_cores
from dpd_runtime.manifest import check_noise
from dpd_runtime.networks import (
    DECODER,
    GRAPHS,
    LATENT_CLASSIFIER,
    UNET,
    Block,
    Image,
    Networks,
    Row,
    check_finite,
    choose_provider,
    decode_latents,
    decode_prototypes,
    denoise,
    groups,
    is_decoded,
    latent_logits,
    load_networks,
    prototypes_of,
)
from dpd_runtime.sampler import BLOCK, BlockGuidance, Sampler, sampler_schedule
from dpd_runtime.sampling import image_noise, margins, noise_draws, sample
from dpd_runtime.solvers import SOLVERS, Step
from dpd_runtime.text import counted

# -- Compute blocks. Their images do not depend on files, on other blocks or on how many images are requested.


_log = logging.getLogger(__name__)


class BlockComputer:
    """Computes blocks, with calls of a fixed batch."""

    def __init__(
        self,
        bundle: Bundle,
        sampler: Sampler,
        networks: Networks,
        seed: int,
        in_float32: Callable[[], Networks] | None = None,
    ) -> None:
        """Args:
            in_float32: loads networks that compute in float32, for blocks that `networks` break in half precision;
                None if `networks` compute in float32 themselves.

        Raises:
            InputError: the schedule does not allow this number of steps.
            BundleError: the images would take too much memory.
        """
        make_steps, self._advance = SOLVERS[sampler.solver]
        try:
            self._steps: Sequence[Step] = make_steps(sampler_schedule(bundle.schedule, sampler), sampler.steps)
            check_noise(bundle.manifest.latent_shape, sampler.candidates, noise_draws(self._steps))
        except ValueError as error:
            raise InputError(f"--steps {sampler.steps} with {sampler.solver}: {error}") from error
        check_budget(bundle, sampler)
        self._bundle, self._sampler, self.networks, self._seed = bundle, sampler, networks, seed
        self._in_float32 = in_float32
        self._again: BlockComputer | None = None

    def noise(self, block: Block) -> Float32 | None:
        """[1 + draws, candidates · 10, C, h, w], candidate-major: the start noise, then what a stochastic solver adds.
        None for a decoded block.

        The noise that is added continues the stream of the image's start noise (docs/reference/bundle-format.md).
        """
        shape, gain = self._bundle.manifest.latent_shape, self._sampler.mean_noise_gain
        if is_decoded(block, self._sampler, shape):
            return None
        draws, name = noise_draws(self._steps), block.scene_class.name
        noise = np.empty((1 + draws, self._sampler.candidates * BLOCK, *shape), np.float32)
        for row, (candidate, index) in enumerate(product(range(self._sampler.candidates), block.indices)):
            noise[:, row] = image_noise(self._seed, name, index, candidate, shape, draws, gain)
        return noise

    def together(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        """Consecutive blocks that share calls: as many as fill one call, with the same guidance."""
        for (decoded, *_), alike in groupby(blocks, self._way):
            rows = BLOCK * (1 if decoded else self._sampler.candidates)
            while group := list(islice(alike, max(1, self._sampler.compute_batch // rows))):
                yield group

    def _way(self, block: Block) -> tuple[bool, bool, BlockGuidance]:
        """Whether a block is decoded, whether its class has prototypes, and its guidance."""
        decoded = is_decoded(block, self._sampler, self._bundle.manifest.latent_shape)
        return decoded, len(block.scene_class.prototypes) > 0, self._sampler.guidance_for(block.number)

    def compute(self, block: Block) -> list[Image]:
        """The ten images of one block, as `images` gives them."""
        return next(self.images([block], [self.noise(block)]))

    def images(self, blocks: Sequence[Block], noises: Sequence[Float32 | None]) -> Iterator[list[Image]]:
        """The ten images of each block: decoded prototypes, or for each index the candidate with the best margin.

        Args:
            blocks: some that `together` puts together. noises: what `noise` returns for each of them.

        Raises:
            DegenerateImageError: NaN, infinite or constant numbers, in float32 too.
        """
        try:
            found = self._images(blocks, noises)
        except DegenerateImageError as error:
            if len(blocks) > 1:  # alone, the good ones keep their bits, as all calls have one size
                for block, noise in zip(blocks, noises, strict=True):
                    yield from self.images([block], [noise])
                return
            if self._in_float32 is None:
                raise
            _log.warning("%s; the block is computed again in float32", error)
            if self._again is None:
                self._again = BlockComputer(self._bundle, self._sampler, self._in_float32(), self._seed)
            found = list(self._again.images(blocks, noises))
        yield from found

    def _images(self, blocks: Sequence[Block], noises: Sequence[Float32 | None]) -> list[list[Image]]:
        decoder, batch = self.networks.decoder, self._sampler.compute_batch
        if noises[0] is None:
            pixels = decode_prototypes(blocks, self._bundle, decoder, batch, self._seed)
            return self._finished(blocks, pixels, [(0, None)] * len(pixels))
        latents, scores = self._candidates(blocks, np.concatenate([n for n in noises if n is not None], axis=1))
        table = scores.reshape(len(blocks), self._sampler.candidates, BLOCK)
        chosen = table.argmax(axis=1)
        columns, of = np.arange(BLOCK), np.arange(len(blocks))[:, None]
        kept = latents.reshape(*table.shape, *latents.shape[1:])[of, chosen, columns]
        rows = [row for block in blocks for row in block.rows()]
        pixels = decode_latents(np.concatenate(kept), rows, self._bundle, decoder, batch, self._seed)
        best = zip(chosen.ravel().tolist(), table[of, chosen, columns].ravel().tolist(), strict=True)
        return self._finished(blocks, pixels, list(best))

    def _finished(
        self, blocks: Sequence[Block], pixels: Images, chosen: Sequence[tuple[int, float | None]]
    ) -> list[list[Image]]:
        """The images of each block, unless one is constant. chosen: candidate and margin of each."""
        images, rows = [], iter(zip(pixels, chosen, strict=True))
        for block in blocks:
            scene, of_block = block.scene_class, []
            for index, (view, (candidate, margin)) in zip(block.indices, rows, strict=False):
                if view.min() == view.max():
                    raise block.degenerate(self._seed, index, "the image is constant")
                prototype = index % len(scene.prototypes) if len(scene.prototypes) else -1
                prompt = self._bundle.prompt(scene, index)
                of_block.append(Image(view, scene.name, scene.label, index, prototype, prompt, candidate, margin))
            images.append(of_block)
        return images

    def _candidates(self, blocks: Sequence[Block], noise: Float32) -> tuple[Float32, Float32]:
        """Latents [blocks · candidates · 10, C, h, w] and their margins."""
        bundle, guidance = self._bundle, self._sampler.guidance_for(blocks[0].number)
        rows = [row for block in blocks for row in block.rows(self._sampler.candidates)]
        scenes = [(block.scene_class, index) for block, index in rows]
        prompts = np.array([scene.prompt_rows[index % len(scene.prompt_rows)] for scene, index in scenes])
        prototypes = prototypes_of(rows) if len(blocks[0].scene_class.prototypes) else None
        latents, scores = np.empty(noise.shape[1:], np.float32), np.empty(len(rows), np.float32)
        for call, _ in groups(len(rows), self._sampler.compute_batch):
            owners = [rows[place] for place in call]

            def checked(noisy: Float32, timestep: int, context: Float32, owners: list[Row] = owners) -> Float32:
                return check_finite(denoise(self.networks.unet, noisy, timestep, context), self._seed, owners, UNET)

            out = sample(
                checked,
                noise[0, call],
                bundle.prompt_embeddings[prompts[call]],
                bundle.empty_embedding,
                None if prototypes is None else prototypes[call],
                self._steps,
                self._advance,
                bundle.schedule.prediction_type,
                guidance,
                noise[1:, call],
            )
            latents[call] = out
            logits = latent_logits(self.networks.latent_classifier, out, len(bundle.classes))
            check_finite(logits, self._seed, owners, LATENT_CLASSIFIER)
            scores[call] = margins(logits, [block.scene_class.label for block, _ in owners])
        return latents, scores


# -- Generate images from a bundle, block by block.
#
# Blocks do not depend on each other, so that shards, interruptions and other IPC values give the same pixels.


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
            provider: one of `dpd_runtime.networks.PROVIDERS`.
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
    bundle: Bundle | Path | str | None = None,
    *,
    ipc: int,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    sampler: Sampler | None = None,
    steps: int | None = None,
    solver: str | None = None,
    candidates: int | None = None,
    guidance_scale: float | None = None,
    provider: str = "auto",
    device: int | None = None,
    precision: str = FP32,
    threads: int | None = None,
) -> Generation:
    """Generate images: `for image in generate("site.dpd", ipc=50): …`. Needs no PyTorch.

    Args:
        bundle: opened, or its place; None for the embedded one. `load_bundle` opens encrypted ones.
        steps, solver, candidates, guidance_scale: in place of the sampler's, as `resolve_sampler` sets them; all images
            are sampled then.
        ipc, seed, classes, sampler, provider, device, precision, threads: as for `Generation`.

    Raises:
        InputError, ProviderError, CheckError: as `Generation` and `resolve_sampler`.
        BundleError, OldBundleError, MemoryShortError: as `load_bundle`.
    """
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    settings = resolve_sampler(
        sampler or opened.manifest.sampler,
        steps=steps,
        solver=solver,
        candidates=candidates,
        guidance_scale=guidance_scale,
    )
    return Generation(
        opened,
        ipc=ipc,
        seed=seed,
        classes=classes,
        sampler=settings,
        provider=provider,
        device=device,
        precision=precision,
        threads=threads,
    )


# -- Work in a second thread while networks are called, with a bounded queue.
#
# ONNX Runtime, zlib and fsync release Python's lock. Order and results are the same as in one thread.


T = TypeVar("T")
U = TypeVar("U")
WAITING = 2  # items in the queue, so that memory stays constant


def ahead(items: Iterable[T], make: Callable[[T], U]) -> Iterator[tuple[T, U]]:
    """Yield (item, make(item)) in order. A second thread makes the next one in advance."""
    with ThreadPoolExecutor(1, "dpd-ahead") as thread:
        waiting: deque[tuple[T, Future[U]]] = deque()
        for item in items:
            waiting.append((item, thread.submit(make, item)))
            if len(waiting) > 1:
                item, made = waiting.popleft()
                yield item, made.result()
        for item, made in waiting:
            yield item, made.result()


@contextmanager
def writing_behind(write: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """Yield a function that passes items to a second thread, which calls `write` in order.

    The function waits while WAITING items are unwritten. It raises what `write` raised; nothing is written after that.
    At the end of the block, also after an interrupt, all items that were passed are written first.
    """
    with ThreadPoolExecutor(1, "dpd-write") as thread:
        waiting: deque[Future[None]] = deque()
        broken = False

        def once(item: T) -> None:
            nonlocal broken
            if broken:
                return
            try:
                write(item)
            except BaseException:
                broken = True
                raise

        def put(item: T) -> None:
            while waiting and (len(waiting) >= WAITING or waiting[0].done()):
                waiting.popleft().result()
            waiting.append(thread.submit(once, item))

        yield put
        for written in waiting:
            written.result()
