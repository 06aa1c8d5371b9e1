"""Write MODEL_CARD.md from the run and the manifest: what a bundle holds, what it was made from, how good it is.

The same run gives the same bytes: the card does not say when it was written. Folders of the training machine appear as
DATA, RUN and BASE.
"""

import json
from collections.abc import Mapping

from dpd_export.card.content import CardContent, line, table
from dpd_export.card.history import base_section, commands_section, data_section, figures_section, training_section
from dpd_export.graphs.parity import GENERATED, HALF
from dpd_export.options import PRECISIONS
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.dataset.card import channels_of
from dpd_runtime.sampling.sampler import BLOCK, largest_ipc

CARD_NAME = "MODEL_CARD.md"
ENCODER = "vae_encoder/model.onnx"
TAGS = ("dataset-distillation", "remote-sensing", "synthetic-data", "diffusion", "onnx")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "openrail", "openrail++")


def model_card(content: CardContent) -> bytes:
    """The card in Hugging Face's format: YAML front matter, then Markdown."""
    sections = (
        what_section,
        parts_section,
        _classes,
        _use,
        data_section,
        training_section,
        base_section,
        figures_section,
        _sampler,
        parity_section,
        _audit,
        _commands,
        commands_section,
    )
    blocks = [front_matter(content.manifest), *(section(content) for section in sections)]
    return ("\n\n".join(block for block in blocks if block) + "\n").encode()


def front_matter(manifest: Manifest) -> str:
    licence = manifest.licences.get("base", "unstated")
    known = licence.lower() in HUB_LICENCES
    entries = [f"license: {licence.lower() if known else 'other'}"]
    entries += (
        [] if known else [f"license_name: {json.dumps(line(licence), allow_nan=False)}"]
    )  # a JSON string is a YAML string
    entries += ["library_name: dpd-distill", "tags:", *(f"- {tag}" for tag in TAGS)]
    return "\n".join(("---", *entries, "---"))


def what_section(content: CardContent) -> str:
    manifest = content.manifest
    height, width, _ = manifest.image_shape
    if manifest.codes_only:
        codes = "codes of public images" if manifest.privacy else "matched codes"
        return f"""# {line(manifest.name)}

A codes-only bundle of dpd-distill: {codes}, and the decoder that makes one image from each. It holds no network
that samples, reads text or judges. From it, `dpd generate` makes a labelled training set of \
{len(content.classes["classes"])} classes with up to {most_images(content)} images of each, {height} x {width} pixels \
{f"in {channels_of(manifest)}" if manifest.bands else "RGB"}. The same seed gives
the same pixels on the same type of machine. It needs neither PyTorch nor the data."""
    return f"""# {line(manifest.name)}

A bundle of dpd-distill: a small text-conditional latent diffusion model with prototypes and prompts, compiled to ONNX.
From it, `dpd generate` makes a labelled training set of {len(content.classes["classes"])} classes with any number of \
images per class, {height} x {width}
pixels RGB. The same seed gives the same pixels on the same type of machine. It needs neither PyTorch nor the data."""


def parts_section(content: CardContent) -> str:
    manifest = content.manifest
    rows = [
        (path, f"{count:,}", f"{manifest.files[path].bytes:,}") for path, count in sorted(content.parameters.items())
    ]
    total = ("all of them", f"{sum(content.parameters.values()):,}", "")
    size = sum(entry.bytes for entry in manifest.files.values())
    encoder = "The VAE's encoder is not in the bundle." if ENCODER not in manifest.files else ""
    latents = " x ".join(map(str, manifest.latent_shape))
    if manifest.codes_only:
        return f"""## Parts

{table(("graph", "parameters", "bytes"), rows)}

{PRECISIONS.get(manifest.precision, manifest.precision)}, opset {manifest.opset}; codes {latents}. With class table, \
codes and golden images the files have
{size:,} bytes, without this card and the manifest."""
    return f"""## Parts

{table(("graph", "parameters", "bytes"), [*rows, total])}

{PRECISIONS.get(manifest.precision, manifest.precision)}, opset {manifest.opset}; latents {latents}, \
{manifest.prediction_type}. With tokenizer, prompts, prototypes and golden images the files have {size:,} bytes,
without this card and the manifest. {encoder}{_pruned(content)}"""


def most_images(content: CardContent) -> int:
    """The largest IPC of a codes-only bundle."""
    return largest_ipc([len(entry["prototype_counts"]) for entry in content.classes["classes"]])


def _pruned(content: CardContent) -> str:
    pruning = content.manifest.training.get("pruned")
    if not pruning:
        return ""
    return f"""

The UNet was pruned ({pruning["method"]}, ratio {pruning["ratio"]:g}): {pruning["filters_kept"]:,} of \
{pruning["filters"]:,} filters of its residual blocks and
{pruning["parameters_kept"]:,} of {pruning["parameters"]:,} parameters are left, fine-tuned on latents that the whole \
UNet generated. The teacher gives
{100 * pruning["teacher_agreement"]:.1f} % of the images from the same noise the same label as before pruning."""


def _classes(content: CardContent) -> str:
    images, rows = content.run["data"]["classes"], []
    smallest: list[int] = []
    for label, entry in enumerate(content.classes["classes"]):
        members = entry.get("prototype_counts", [])
        smallest += members
        rows.append((label, entry["name"], images.get(entry["name"], "unknown"), len(members)))
    shown = table(("label", "class", "training images", "prototypes"), rows)
    if not smallest:
        return f"## Classes\n\n{shown}\n\nThere are no prototypes: the images depend on prompts and noise only."
    kind = content.classes.get("prototype_kind", "unknown")
    return f"""## Classes

{shown}

Prototypes are of kind `{line(kind)}`. {_origin(kind, min(smallest))}{_care(content)}"""


def _origin(kind: str, fewest: int) -> str:
    if kind != "matched":
        return f"Each represents at least {fewest} different training images."
    return f"""They are matched codes: they began as generated images, optimised so that networks measure in them
what they measure in all training images of a class ({fewest} or more). Only statistics of whole classes were used."""


def _care(content: CardContent) -> str:
    """How prototypes were kept from revealing single images; empty if the run does not say."""
    dropped, noise = content.run.get("prototypes_too_near"), content.run.get("prototype_privacy")
    text = "" if dropped is None else f" {dropped} were dropped because they decoded too near to a training image."
    if dropped and content.classes.get("prototype_kind") == "matched":
        text += " The generated images that they began as replace them."
    if noise:
        clip, deviation = f"{noise['norm_limit']:.4g}", f"{noise['noise']:g}"
        guarantee = f"({noise['epsilon']:.4g}, {noise['delta']:g})"
        text += f"""

Members' latents were clipped to an L2 norm of {clip}, and Gaussian noise of standard deviation {deviation} was added
to each value of their mean. For the replacement of one image this is {guarantee}-differential privacy, **given which
images belong to which prototype**, and which prototypes were dropped as too near to an image. Clustering, counts,
prompts and networks have no such guarantee."""
    return text


def _use(content: CardContent) -> str:
    height, width, _ = content.manifest.image_shape
    return f"""## Intended use and limits

For training classifiers of these classes where the real images must not go, and for comparing such training sets.

- It knows these classes, {height} x {width} pixels, and the sensor, region, season and colours of its training data.
- The images are generated by networks. They show no real place and are no evidence about any.
- A set from it may be worth less than the same number of real images. `dpd evaluate` compares it with real subsets.
- An audit measures how near its images come to training images: see below whether there was one."""


def _sampler(content: CardContent) -> str:
    if content.manifest.codes_only:
        return ""
    sampler = content.manifest.sampler
    rows = [
        (
            f"from {g.from_block * BLOCK} on",
            g.guidance_scale,
            _share(g.guidance_from, g.guidance_until),
            g.pull,
            _share(0.0, g.prototype_until),
            sampler.evaluations_per_latent(g.from_block) * sampler.candidates,
        )
        for g in sampler.guidance
    ]
    head = ("images of a class", "guidance scale", "used in", "prototype pull", "used in", "UNet evaluations per image")
    return f"""## Sampler

Defaults: {sampler.solver}, {sampler.steps} steps, {sampler.candidates} candidates per kept image, \
{sampler.compute_batch} latents per call, timestep power {sampler.timestep_power:g}, \
gain {sampler.mean_noise_gain:g} on the means of the start noise.

{table(head, rows)}"""


def _share(start: float, end: float) -> str:
    return f"{100 * start:.0f} to {100 * end:.0f} % of the steps"


def parity_section(content: CardContent) -> str:
    parity = content.manifest.parity
    columns = {"random batches": "", "generated latents": GENERATED, "PyTorch in half precision": HALF}
    shown = {title: end for title, end in columns.items() if any(name.endswith(".onnx" + end) for name in parity)}
    paths = [name for name in sorted(parity) if name.endswith(".onnx")]
    rows = [(path, *(_difference(parity.get(path + end)) for end in shown.values())) for path in paths]
    relative = "absolute" if content.manifest.precision == "fp32" else "relative to the largest output"
    return f"""## Parity with PyTorch

Largest difference from PyTorch in float32, {relative}.

{table(("graph", *shown), rows)}

{_images(parity)}"""


def _difference(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"


def _images(parity: Mapping[str, float]) -> str:
    text = f"Images end to end: {parity['end_to_end_psnr_db']:.2f} dB PSNR between the bundle's and PyTorch's"
    if "teacher_agreement" not in parity:
        return text + "."
    count, worst = int(parity["end_to_end_images"]), parity["end_to_end_worst_psnr_db"]
    pytorch, bundle = (100 * parity[f"teacher_oa_{whose}"] for whose in ("pytorch", "bundle"))
    return f"""{text}, {worst:.2f} dB for
the worst of {count}. The teacher puts {pytorch:.1f} % of PyTorch's and {bundle:.1f} % of the bundle's images into their
class, and gives {100 * parity["teacher_agreement"]:.1f} % of them the same label."""


def _audit(content: CardContent) -> str:
    state = content.manifest.audit
    verdict = "not audited" if state == "unaudited" else line(state)
    return f"""## Audit

When this card was written: **{verdict}**. `dpd info` prints the present state from the manifest's `audit`."""


def _commands(content: CardContent) -> str:
    ipc = most_images(content) if content.manifest.codes_only else 50
    return f"""## How to use it

    dpd info BUNDLE
    dpd generate BUNDLE --ipc {ipc} --seed 0 --out distilled
    dpd evaluate distilled --train DATA --test val

The first command checks every file's hash and describes the bundle. The second makes {ipc} images per class. The third
needs the real images: it trains classifiers on the set and on real subsets of the same size.
The package `dpd-distill` with its extra `cpu`, from the maker's wheelhouse or clone, is enough for the first two."""
