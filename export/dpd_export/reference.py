"""Images that PyTorch samples from a run: the bundle is measured against them."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from dpd_export.graphs import Calibration, Tensors
from dpd_runtime.annotations import Float32, Images, Int64
from dpd_runtime.bundle import Bundle
from dpd_runtime.engines import Provider
from dpd_runtime.errors import ParityError
from dpd_runtime.golden import (
    Case,
    Golden,
    GoldenCodes,
    bundle_decoder,
    bundle_networks,
    middle,
    psnr,
    psnr_limit,
    sample_case,
)
from dpd_runtime.sampler import BLOCK, Sampler, sampler_schedule
from dpd_runtime.sampling import Denoise, image_noise, noise_draws
from dpd_runtime.solvers import SOLVERS, Schedule
from dpd_train.base_files import TOKENIZER_FILES
from dpd_train.bases import Base, decode_images, torch_denoise
from dpd_train.captions import tokenize
from dpd_train.context import LoadedRun

# -- Sampling cases from a run's classes, with prompts and prototypes as the bundle will hold them.


Row = tuple[int, int]
"""(label, index) of an image."""


@dataclass(frozen=True)
class RunCases:
    """Everything except the networks that determines a run's images.

    Args:
        table: the content of classes.json.
        prompts: [P + 1, L, D] as the text encoder gives them, the empty prompt last.
        prototypes: for each class [K, C, h, w], rounded to float16 as in the bundle; K may be 0.
        latent_shape: (C, h, w).
        schedule: with the sampler's spacing of timesteps.
    """

    table: dict[str, Any]
    prompts: Float32
    prototypes: tuple[Float32, ...]
    latent_shape: tuple[int, int, int]
    schedule: Schedule
    sampler: Sampler

    @property
    def names(self) -> list[str]:
        """Names of the classes, by label."""
        return [str(entry["name"]) for entry in self.table["classes"]]

    def case(self, rows: list[Row], steps: int, batch: int, seed: int, *, half: bool = False) -> Case:
        """Candidate 0 of these images, made as the sampler makes sampled images.

        Args:
            half: round the noise to float16, as golden images store it.
        """
        make_steps, advance = SOLVERS[self.sampler.solver]
        made = tuple(make_steps(self.schedule, steps))
        noise = self._noise(rows, seed, noise_draws(made))
        texts = [self.table["classes"][label]["prompt_rows"] for label, _ in rows]
        steered = all(len(self.prototypes[label]) for label, _ in rows)
        kept = [self.prototypes[label] for label, _ in rows]
        return Case(
            noise=noise.astype(np.float16).astype(np.float32) if half else noise,
            prompts=self.prompts[[text[index % len(text)] for text, (_, index) in zip(texts, rows, strict=True)]],
            empty=self.prompts[-1],
            prototypes=np.stack([p[i % len(p)] for p, (_, i) in zip(kept, rows, strict=True)]) if steered else None,
            steps=made,
            advance=advance,
            prediction_type=self.schedule.prediction_type,
            guidance=self.sampler.first_sampled(),
            batch=batch,
        )

    def _noise(self, rows: list[Row], seed: int, draws: int) -> Float32:
        """[1 + draws, n, C, h, w]."""
        shape, gain = self.latent_shape, self.sampler.mean_noise_gain
        noises = [image_noise(seed, self.names[label], index, 0, shape, draws, gain) for label, index in rows]
        return np.stack(noises, axis=1)


def cases_of(opened: LoadedRun, sampler: Sampler) -> RunCases:
    """The cases of an opened run, sampled by `sampler`."""
    return RunCases(
        table=opened.run.table,
        prompts=opened.prompts,
        prototypes=tuple(p.astype(np.float16).astype(np.float32) for p in opened.prototypes),
        latent_shape=opened.latent_shape,
        schedule=sampler_schedule(opened.base.schedule, sampler),
        sampler=sampler,
    )


def spread(count: int, among: list[int]) -> list[int]:
    """`count` evenly spaced labels of `among`."""
    return [among[i * len(among) // count] for i in range(count)]


# -- Images that PyTorch samples from a run: the bundle is measured against them.


SEED = 0
MOST_BLOCKS = 10
LARGE = 1e11  # parameters of the UNet times positions of a latent; above it a step takes seconds
LARGE_STEPS = 4


@dataclass(frozen=True)
class Extent:
    """How much is compared end to end.

    Args:
        blocks: number of classes of which BLOCK images are compared; 0 for a large base.
        golden: number of golden images.
        steps: sampling steps of each image.
    """

    blocks: int
    golden: int
    steps: int

    @property
    def large(self) -> bool:
        """Whether a step takes so long that only the golden images are compared."""
        return not self.blocks


def extent_of(base: Base, classes: int, sampler: Sampler) -> Extent:
    """A block of each class, up to MOST_BLOCKS; for a large base one image in a few steps."""
    positions = base.unet.config.sample_size**2
    if sum(p.numel() for p in base.unet.parameters()) * positions > LARGE:
        return Extent(0, 1, min(LARGE_STEPS, sampler.steps))
    return Extent(min(classes, MOST_BLOCKS), min(classes, 4), sampler.steps)


@dataclass(frozen=True)
class Reference:
    """PyTorch's images, and how they were sampled.

    Args:
        cases: one for each class; for a large base one case of the golden images.
        rows: labels and indices of all images.
        images: uint8 [n, H, W, 3] of all rows.
        generated: inputs of each part recorded during generation, by its folder.
    """

    cases: tuple[Case, ...]
    rows: tuple[Row, ...]
    images: Images
    golden: Golden
    generated: dict[str, list[Tensors]]


class Recorder:
    """A denoiser that keeps the inputs of the calls numbered `wanted`: all rows, or only the first and the last."""

    def __init__(self, denoise: Denoise, wanted: Collection[int], *, ends_only: bool = True) -> None:
        self._denoise, self._wanted, self._ends_only, self._seen = denoise, wanted, ends_only, 0
        self.calls: list[Tensors] = []

    def __call__(self, latents: Float32, timestep: int, prompts: Float32) -> Float32:
        if self._seen in self._wanted:
            rows = sorted({0, len(latents) - 1}) if self._ends_only else list(range(len(latents)))
            kept = (latents[rows].copy(), np.array(timestep, np.int64), prompts[rows].copy())
            self.calls.append(tuple(torch.from_numpy(x) for x in kept))
        self._seen += 1
        return self._denoise(latents, timestep, prompts)


def make_reference(
    base: Base, cases: RunCases, extent: Extent, progress: Callable[[], None] = lambda: None
) -> Reference:
    """Sample with PyTorch in float32, with the sampling code of the site."""
    labels = list(range(len(cases.names)))
    steered = [label for label in labels if len(cases.prototypes[label])] or labels
    golden_rows = [(label, 0) for label in spread(min(extent.golden, len(steered)), steered)]
    chosen = (extent.steps, cases.sampler.compute_batch, SEED)
    golden_case = cases.case(golden_rows, *chosen, half=True)
    recorder = Recorder(torch_denoise(base), {0, extent.steps // 2, extent.steps - 1})
    halfway, latents = sample_case(recorder, golden_case)
    images = decode_images(base, latents)
    progress()
    golden = Golden(
        labels=tuple(label for label, _ in golden_rows),
        noise=golden_case.noise,
        halfway=halfway,
        latents=latents,
        images=middle(images),
        seed=SEED,
        solver=cases.sampler.solver,
        steps=extent.steps,
    )
    generated = _generated(base, cases, recorder.calls, latents, images)
    if extent.large:
        return Reference((golden_case,), tuple(golden_rows), images, golden, generated)
    sampled, rows, sets = [], [], []
    for label in spread(extent.blocks, labels):
        block = [(label, index) for index in range(BLOCK)]
        sampled.append(cases.case(block, *chosen))
        sets.append(decode_images(base, sample_case(torch_denoise(base), sampled[-1])[1]))
        rows += block
        progress()
    return Reference(tuple(sampled), tuple(rows), np.concatenate(sets), golden, generated)


def _generated(
    base: Base, cases: RunCases, calls: list[Tensors], latents: Float32, images: Images
) -> dict[str, list[Tensors]]:
    """Inputs of each part from generated images; no real image is used."""
    clean = torch.from_numpy(latents)
    pixels = as_inputs(images)
    texts = [*cases.table["prompts"][:3], ""]
    return {
        "unet": calls,
        "vae_decoder": [(clean / base.vae.config.scaling_factor,)],
        "text_encoder": [(tokenize(base.tokenizer, texts),)],
        "classifier": [(pixels,)],
        "latent_classifier": [(clean,)],
        "vae_encoder": [(pixels,)],
    }


def as_inputs(images: Images) -> torch.Tensor:
    """uint8 [n, H, W, 3] → float32 [n, 3, H, W] in [−1, 1]."""
    return torch.from_numpy(images.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1.0).contiguous()


# -- Record inputs of the UNet while PyTorch generates; no real image is used.


SEED_OF_RANGES = 1
"""Not the reference's seed: the images that judge int8 must not be those that set its ranges."""
CLASSES, IMAGES, MOMENTS = 10, 4, 5


def calibrate(base: Base, cases: RunCases) -> Calibration:
    """MOMENTS calls of IMAGES latents (twice as many rows with guidance) for each of up to CLASSES classes."""
    sampler = cases.sampler
    labels = spread(min(CLASSES, len(cases.names)), list(range(len(cases.names))))
    wanted = {moment * (sampler.steps - 1) // (MOMENTS - 1) for moment in range(MOMENTS)}
    calls: list[Tensors] = []
    for label in labels:
        recorder = Recorder(torch_denoise(base), wanted, ends_only=False)
        rows = [(label, index) for index in range(IMAGES)]
        sample_case(recorder, cases.case(rows, sampler.steps, IMAGES, SEED_OF_RANGES))
        calls += recorder.calls
    return Calibration(calls, sampler.compute_batch * (2 if guided(sampler) else 1))


def guided(sampler: Sampler) -> bool:
    """Whether sampled images take an unconditional pass in any step."""
    return any(sampler.first_sampled().guides(step, sampler.steps) for step in range(sampler.steps))


# -- The files of a bundle besides its graphs, in the layout that optimum's ORTStableDiffusionPipeline opens.


CONFIGS = {
    "unet/config.json": "unet/config.json",
    "vae_decoder/config.json": "vae/config.json",
    "text_encoder/config.json": "text_encoder/config.json",
    "scheduler/scheduler_config.json": "scheduler/scheduler_config.json",
    "model_index.json": "model_index.json",
}
"""Path in the bundle: path in the run's pipeline."""
CODES_ONLY_CONFIGS = ("vae_decoder/config.json", "scheduler/scheduler_config.json")


def layout_files(opened: LoadedRun, *, vae_encoder: bool) -> dict[str, bytes]:
    """Configs, tokenizer, scheduler, class table, prompts and prototypes, by their path."""
    pipeline = opened.run.path / "pipeline"
    files = {target: (pipeline / source).read_bytes() for target, source in CONFIGS.items()}
    if vae_encoder:
        files["vae_encoder/config.json"] = files["vae_decoder/config.json"]
    files["classes.json"] = (opened.run.path / "classes.json").read_bytes()
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "tokenizer.json"):
        path = pipeline / "tokenizer" / name
        if path.exists():  # transformers before 5 writes no tokenizer.json
            files[f"tokenizer/{name}"] = path.read_bytes()
    tokenizer = opened.base.tokenizer
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    special |= {"pad_token": tokenizer.pad_token, "unk_token": tokenizer.unk_token}
    files["tokenizer/special_tokens_map.json"] = (
        json.dumps(special, indent=1, sort_keys=True, allow_nan=False) + "\n"
    ).encode()
    prompts = opened.prompts.astype(np.float16)
    files["prompts.safetensors"] = save({"embeddings": prompts[:-1], "empty": prompts[-1]})
    return files | {"prototypes.safetensors": _prototypes(opened.stored_prototypes)}


def codes_only_files(pipeline: Path, table: dict[str, Any], codes: Mapping[str, Float32]) -> dict[str, bytes]:
    """Configs, class table without prompts, and codes, by their path.

    Args:
        pipeline: folder in diffusers' layout. table: the content of classes.json. codes: by their name in the bundle.
    """
    classes = [entry | {"prompt_rows": []} for entry in table["classes"]]
    files = {target: (pipeline / CONFIGS[target]).read_bytes() for target in CODES_ONLY_CONFIGS}
    files["classes.json"] = (
        json.dumps(table | {"prompts": [], "classes": classes}, indent=1, allow_nan=False) + "\n"
    ).encode()
    return files | {"prototypes.safetensors": _prototypes(codes)}


def _prototypes(stored: Mapping[str, Float32]) -> bytes:
    return save({name: latents.astype(np.float16) for name, latents in stored.items()})


# -- Compare the bundle's images with PyTorch's: PSNR, and how often the teacher gives both the same label.


CPU = Provider("cpu", "parity")
LARGEST_LOSS = 0.01
"""Largest share of int8 images that the teacher may label differently from PyTorch's."""


@dataclass(frozen=True)
class ImageParity:
    """The bundle's images beside PyTorch's.

    Args:
        images: number of images compared.
        psnr_db, worst_psnr_db: of the whole set, and of the worst image.
    """

    images: int
    psnr_db: float
    worst_psnr_db: float

    def entries(self) -> dict[str, float]:
        """The manifest's figures."""
        return {
            "end_to_end_images": self.images,
            "end_to_end_psnr_db": round(self.psnr_db, 2),
            "end_to_end_worst_psnr_db": round(self.worst_psnr_db, 2),
        }


@dataclass(frozen=True)
class EndToEnd(ImageParity):
    """The same with what the teacher says of both.

    Args:
        teacher_pytorch: share of PyTorch's images that PyTorch's teacher puts into their class.
        teacher_bundle: share of the bundle's images that the bundle's teacher puts into their class.
        teacher_agreement: share of images that get the same label from both.
    """

    teacher_pytorch: float
    teacher_bundle: float
    teacher_agreement: float

    def entries(self) -> dict[str, float]:
        """The manifest's figures."""
        return super().entries() | {
            "teacher_oa_pytorch": self.teacher_pytorch,
            "teacher_oa_bundle": self.teacher_bundle,
            "teacher_agreement": self.teacher_agreement,
        }


@torch.no_grad()
def teacher_labels(teacher: torch.nn.Module, reference: Reference) -> Int64:
    """The labels [n] that PyTorch's teacher gives PyTorch's images. Call it before the teacher is exported."""
    labels: Int64 = teacher(as_inputs(reference.images)).argmax(1).numpy()
    return labels


def end_to_end(
    bundle: Bundle, reference: Reference, expected: Int64, progress: Callable[[], None] = lambda: None
) -> EndToEnd:
    """Sample the reference's cases from the bundle and compare the images.

    Args:
        expected: what `teacher_labels` gave for the reference.

    Raises:
        ParityError: images are further from PyTorch's than docs/reference/graphs.md allows.
    """
    denoise, decode = bundle_networks(bundle, CPU)
    sets = []
    for case in reference.cases:
        sets.append(decode(sample_case(denoise, case)[1]))
        progress()
    images = np.concatenate(sets)
    del denoise, decode
    parity = image_parity(images, reference.images, bundle.manifest.precision)
    teacher = bundle.engine("classifier/model.onnx", CPU)
    predictions = teacher.run(images=as_inputs(images).numpy()).argmax(1)
    labels = np.array([label for label, _ in reference.rows])
    return EndToEnd(
        **asdict(parity),
        teacher_pytorch=float((expected == labels).mean()),
        teacher_bundle=float((predictions == labels).mean()),
        teacher_agreement=float((predictions == expected).mean()),
    )


def image_parity(images: Images, expected: Images, precision: str) -> ImageParity:
    """Compare the bundle's images [n, H, W, 3] with PyTorch's.

    Raises:
        ParityError: they are further from PyTorch's than docs/reference/graphs.md allows.
    """
    worst = min(psnr(a, b) for a, b in zip(images, expected, strict=True))
    parity = ImageParity(len(images), psnr(images, expected), worst)
    limit = psnr_limit(precision)
    if not parity.psnr_db >= limit:
        raise ParityError(f"images differ from PyTorch's: {parity.psnr_db:.1f} dB, {precision} needs {limit:.0f} dB")
    return parity


def check_agreement(measured: EndToEnd) -> None:
    """Compare the teacher's agreement with LARGEST_LOSS.

    Raises:
        ParityError: int8 changed the teacher's label of more images.
    """
    changed = round((1 - measured.teacher_agreement) * measured.images)
    if changed > LARGEST_LOSS * measured.images:
        raise ParityError(
            f"int8 images: the teacher labels {changed} of {measured.images} differently from PyTorch's images, "
            f"{LARGEST_LOSS:.0%} is allowed; nothing was written: use --precision fp16, or --allow-worse"
        )


# -- What PyTorch makes of matched codes: decoded images, without noise and UNet, to compare a codes-only bundle with.


@dataclass(frozen=True)
class DecodedCodes:
    """PyTorch's images of codes.

    Args:
        codes: [n, C, h, w], up to BLOCK of each class that is compared; for a large base the golden ones alone.
        images: uint8 [n, H, W, 3] of them.
        golden_codes: [m, C, h, w], the codes of the golden images.
    """

    codes: Float32
    images: Images
    golden: GoldenCodes
    golden_codes: Float32


def decode_codes(
    base: Base, codes: tuple[Float32, ...], extent: Extent, progress: Callable[[], None] = lambda: None
) -> DecodedCodes:
    """Decode with PyTorch in float32.

    Args:
        codes: of each class [K, C, h, w], K ≥ 1, rounded to float16 as in the bundle.
    """
    labels = list(range(len(codes)))
    chosen = spread(min(extent.golden, len(labels)), labels)
    first = np.stack([codes[label][0] for label in chosen])
    images = decode_images(base, first)
    golden = GoldenCodes(tuple(chosen), middle(images))
    progress()
    if extent.large:
        return DecodedCodes(first, images, golden, first)
    blocks = [codes[label][:BLOCK] for label in spread(extent.blocks, labels)]
    sets = []
    for block in blocks:
        sets.append(decode_images(base, block))
        progress()
    return DecodedCodes(np.concatenate(blocks), np.concatenate(sets), golden, first)


def compare_codes(bundle: Bundle, decoded: DecodedCodes, progress: Callable[[], None] = lambda: None) -> ImageParity:
    """Decode the same codes with the bundle and compare the images.

    Raises:
        ParityError: images are further from PyTorch's than docs/reference/graphs.md allows.
    """
    images = bundle_decoder(bundle, CPU)(decoded.codes)
    progress()
    return image_parity(images, decoded.images, bundle.manifest.precision)
