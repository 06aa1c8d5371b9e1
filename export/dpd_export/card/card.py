"""MODEL_CARD.md: what a bundle holds, what it was made of, how good it is; from the run, the manifest and nothing else.

The same run gives the same bytes: no clock is read. Folders of the training machine appear as DATA, RUN and BASE.
"""

import json
from collections.abc import Mapping, Sequence

from dpd_export.card.content import CardContent
from dpd_export.card.markdown import line, table
from dpd_export.card.training import base_section, commands_section, data_section, figures_section, training_section
from dpd_export.graphs.parts import Graph
from dpd_runtime.bundle.manifest import Manifest
from dpd_runtime.sampling.sampler import BLOCK

CARD_NAME = "MODEL_CARD.md"
GENERATED, HALF = "#generated", "#half"
"""Endings of a graph's path in the manifest's parity: on inputs from generating; of PyTorch in half precision."""
ENCODER = "vae_encoder/model.onnx"
PRECISION_WORDS = {
    "fp32": "Weights and arithmetic are float32",
    "fp16": "Graphs are in half precision with islands of float32 (norms, softmax), inputs and outputs float32",
    "fp16-weights": "Weights are float16, arithmetic float32",
    "int8": "The UNet's convolutions and feed-forward layers are in 8 bits; other weights float16, arithmetic float32",
}
TAGS = ("dataset-distillation", "remote-sensing", "synthetic-data", "diffusion", "onnx")
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "openrail", "openrail++")


def parameter_counts(graphs: Sequence[Graph]) -> dict[str, int]:
    """Parameters that ship with each graph, counted in PyTorch."""
    return {graph.path: graph.weights for graph in graphs}


def model_card(content: CardContent) -> bytes:
    """The card in Hugging Face's form: YAML front matter, then Markdown."""
    sections = (
        _what,
        _parts,
        _classes,
        _use,
        data_section,
        training_section,
        base_section,
        figures_section,
        _sampler,
        _parity,
        _audit,
        _commands,
        commands_section,
    )
    blocks = [_front_matter(content.manifest), *(section(content) for section in sections)]
    return ("\n\n".join(block for block in blocks if block) + "\n").encode()


def _front_matter(manifest: Manifest) -> str:
    licence = manifest.licences.get("base", "unstated")
    known = licence.lower() in HUB_LICENCES
    entries = [f"license: {licence.lower() if known else 'other'}"]
    entries += [] if known else [f"license_name: {json.dumps(line(licence))}"]  # a JSON string is a YAML string
    entries += ["library_name: dpd-distill", "tags:", *(f"- {tag}" for tag in TAGS)]
    return "\n".join(("---", *entries, "---"))


def _what(content: CardContent) -> str:
    manifest = content.manifest
    height, width, _ = manifest.image_shape
    return f"""# {line(manifest.name)}

A bundle of dpd-distill: a small text-conditional latent diffusion model with prototypes and prompts, compiled to ONNX.
`dpd generate` makes from it a labelled training set of {len(content.classes["classes"])} classes, {height} x {width} \
pixels RGB, any number of
images a class, the same pixels for the same seed on the same type of machine. It needs neither PyTorch nor the data."""


def _parts(content: CardContent) -> str:
    manifest = content.manifest
    rows = [
        (path, f"{count:,}", f"{manifest.files[path].bytes:,}") for path, count in sorted(content.parameters.items())
    ]
    total = ("all of them", f"{sum(content.parameters.values()):,}", "")
    size = sum(entry.bytes for entry in manifest.files.values())
    encoder = "The VAE's encoder is not in the bundle." if ENCODER not in manifest.files else ""
    latents = " x ".join(map(str, manifest.latent_shape))
    return f"""## Parts

{table(("graph", "parameters", "bytes"), [*rows, total])}

{PRECISION_WORDS.get(manifest.precision, manifest.precision)}, opset {manifest.opset}; latents {latents}, \
{manifest.prediction_type}. `step/model.onnx` holds no weights. With tokenizer, prompts, prototypes and golden images
the files have {size:,} bytes, this card and the manifest not counted. {encoder}{_pruned(content)}"""


def _pruned(content: CardContent) -> str:
    found = content.manifest.training.get("pruned")
    if not found:
        return ""
    return f"""

The UNet was pruned ({found["method"]}, ratio {found["ratio"]:g}): {found["filters_kept"]:,} of {found["filters"]:,} \
filters of its residual blocks and
{found["parameters_kept"]:,} of {found["parameters"]:,} parameters are left, tuned on latents that the whole one \
generated. Of {100 * found["teacher_agreement"]:.1f} % of the images
from the same noise the teacher says the same."""


def _classes(content: CardContent) -> str:
    images, rows = content.run["data"]["classes"], []
    smallest: list[int] = []
    for label, entry in enumerate(content.classes["classes"]):
        members = entry.get("prototype_counts", [])
        smallest += members
        rows.append((label, entry["name"], images.get(entry["name"], "unknown"), len(members)))
    shown = table(("label", "class", "training images", "prototypes"), rows)
    if not smallest:
        return f"## Classes\n\n{shown}\n\nThere are no prototypes: only prompts and noise steer the images."
    kind = content.classes.get("prototype_kind", "unknown")
    return f"""## Classes

{shown}

Prototypes are of kind `{line(kind)}`. {_origin(kind, min(smallest))}{_care(content)}"""


def _origin(kind: str, fewest: int) -> str:
    if kind != "matched":
        return f"Each stands for at least {fewest} different training images."
    return f"""They began as generated images and were moved until networks saw in them what they see in all training
images of a class ({fewest} and more), of which only statistics over whole classes were used."""


def _care(content: CardContent) -> str:
    """What was done so that prototypes tell less of single images; empty where the run does not say."""
    dropped, noise = content.run.get("prototypes_too_near"), content.run.get("prototype_privacy")
    told = "" if dropped is None else f" {dropped} that decoded too near to a training image were dropped."
    if dropped and content.classes.get("prototype_kind") == "matched":
        told += " The generated images that they began as stand in their place."
    if noise:
        clip, deviation = f"{noise['norm_limit']:.4g}", f"{noise['noise']:g}"
        guarantee = f"({noise['epsilon']:.4g}, {noise['delta']:g})"
        told += f"""

Members' latents were clipped to an L2 norm of {clip}, and Gaussian noise of standard deviation {deviation} was put on
each value of their mean. For one image replaced that is {guarantee}-differential privacy, **given which images stand
behind which prototype**. Clustering, counts, prompts and networks have no such guarantee."""
    return told


def _use(content: CardContent) -> str:
    height, width, _ = content.manifest.image_shape
    return f"""## Intended use and limits

For training classifiers of these classes where the real images may not go, and for comparing such training sets.

- It knows these classes, {height} x {width} pixels, and the sensor, region, season and colours of its training data.
- The images are drawn by a network. They show no real place, and are no evidence about any.
- A set from it may be worth less than as many real images. `dpd evaluate` measures it beside real subsets.
- How near its images come to training images is the question of an audit: see below whether there was one."""


def _sampler(content: CardContent) -> str:
    sampler = content.manifest.sampler
    rows = [
        (
            f"from {g.from_block * BLOCK} on",
            g.guidance_scale,
            _share(g.guidance_from, g.guidance_until),
            g.prototype_scale,
            _share(0.0, g.prototype_until),
            sampler.evaluations_per_latent(g.from_block) * sampler.candidates,
        )
        for g in sampler.guidance
    ]
    head = ("images of a class", "guidance scale", "acts in", "prototype pull", "acts in", "UNet evaluations an image")
    return f"""## Sampler

Defaults: {sampler.solver}, {sampler.steps} steps, {sampler.candidates} candidates for each kept image, \
{sampler.compute_batch} latents in one call, timestep power {sampler.timestep_power:g}, \
gain {sampler.mean_noise_gain:g} on the means of the start noise.

{table(head, rows)}"""


def _share(start: float, end: float) -> str:
    return f"{100 * start:.0f} to {100 * end:.0f} % of the steps"


def _parity(content: CardContent) -> str:
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
    told = f"Images, end to end: {parity['end_to_end_psnr_db']:.2f} dB PSNR between the bundle's and PyTorch's"
    if "teacher_agreement" not in parity:
        return told + "."
    count, worst = int(parity["end_to_end_images"]), parity["end_to_end_worst_psnr_db"]
    pytorch, bundle = (100 * parity[f"teacher_oa_{whose}"] for whose in ("pytorch", "bundle"))
    return f"""{told}, {worst:.2f} dB for
the worst of {count}. The teacher puts {pytorch:.1f} % of PyTorch's and {bundle:.1f} % of the bundle's images into their
class, and says the same of {100 * parity["teacher_agreement"]:.1f} % of them."""


def _audit(content: CardContent) -> str:
    state = content.manifest.audit
    said = "not audited" if state == "unaudited" else line(state)
    return f"""## Audit

When this card was written: **{said}**. The manifest's `audit`, which `dpd info` prints, tells the present state."""


def _commands(content: CardContent) -> str:
    return """## How to use it

    dpd info BUNDLE
    dpd generate BUNDLE --ipc 50 --seed 0 --out distilled
    dpd evaluate distilled --train DATA --test val

The first checks every file's hash and describes the bundle, the second makes 50 images a class, and the third, where
real images are, trains classifiers on them and on real subsets of the same size. `pip install "dpd-distill[cpu]"` is
enough for the first two."""
