"""Write MODEL_CARD.md from the run and the manifest: what a bundle holds, what it was made from, how good it is.

The same run gives the same bytes: the card does not say when it was written. Folders of the training machine appear as
DATA, RUN and BASE.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpd_export.compile import GENERATED, HALF
from dpd_export.options import PRECISIONS
from dpd_runtime.manifest import Manifest
from dpd_runtime.sampler import BLOCK, largest_ipc
from dpd_runtime.set_card import OTHER, TAGS, channels_of, hub_licence
from dpd_runtime.settings import WITHHELD, studied
from dpd_runtime.text import option_words, shown
from dpd_train.config import TrainConfig, recorded_split, repeating_options
from dpd_train.networks_here import forbids_derivatives
from dpd_train.records import kept
from dpd_train.run import told_of_size

# -- What a model card is written from, and the Markdown that it needs.


Record = Mapping[str, Any]


@dataclass(frozen=True)
class CardContent:
    """What a model card is written from.

    Args:
        run: the content of run.json, with "base_pretraining" (the base's pretrain.json) and "hardware" if it has them.
        manifest: with the final parity, and all files except the card.
        classes: the content of classes.json.
        parameters: number of parameters of each graph, by its path.
        base_model: the Hub's id of the base; None for one that the Hub does not have.
        options: options of `dpd export` that the manifest does not hold, by name.
    """

    run: Record
    manifest: Manifest
    classes: Record
    parameters: Mapping[str, int]
    base_model: str | None = None
    options: Record = field(default_factory=dict)


def line(text: object) -> str:
    """The text on one line, without characters that would end a table cell or begin code."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(line, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def facts(*rows: tuple[str, object]) -> str:
    """A table of names and values, without rows whose value is None."""
    return table(("what", "value"), [row for row in rows if row[1] is not None])


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


# -- Write MODEL_CARD.md from the run and the manifest: what a bundle holds, what it was made from, how good it is.


CARD_NAME = "MODEL_CARD.md"
ENCODER = "vae_encoder/model.onnx"


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
    blocks = [front_matter(content), *(section(content) for section in sections)]
    return ("\n\n".join(block for block in blocks if block) + "\n").encode()


def front_matter(content: CardContent) -> str:
    licence = hub_licence(content.manifest)
    entries = [f"license: {licence}"]
    if licence == OTHER:
        said = "; ".join(f"{part}: {line(text)}" for part, text in content.manifest.licences.items())
        entries.append(f"license_name: {json.dumps(said, allow_nan=False)}")  # a JSON string is a YAML string
    entries += [] if content.base_model is None else [f"base_model: {content.base_model}"]
    entries += ["library_name: dpd-distill", "tags:", *(f"- {tag}" for tag in (*TAGS, "diffusion", "onnx"))]
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
        text += " Each was replaced by the generated image that it began as, where that is not too near as well."
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


# -- The card's sections on data and training, from run.json, without folders of the training machine.


STAGES = ("perceptual", "autoencoder", "decoder", "denoiser")  # of `dpd pretrain`, in order
STAGE_OPTIONS = {"steps": "steps", "batch": "batch", "rate": "peak_rate"}  # ending of the option: key in the config


def data_section(content: CardContent) -> str:
    data, manifest = content.run["data"], content.manifest
    held = data.get("val_per_class")
    known = facts(
        ("training images", f"{manifest.data['images']:,}"),
        ("fingerprint", manifest.data["fingerprint"]),
        ("held out for validation", "max(1, n // 10) of each class" if held is None else f"{held} of each class"),
        ("files left out as unusable", content.run.get("rejected")),
        ("near duplicates left out of training", content.run.get("near_duplicates")),
        ("distinct scenes", sum(content.run["scenes"].values()) if "scenes" in content.run else None),
        *((f"licence of the {part}", licence) for part, licence in sorted(manifest.licences.items())),
    )
    said = [f"{line[0].upper()}{line[1:]}.\n" for line in told_of_size(content.run)]
    fate = "".join([*said, "\n"] if said else [])
    return f"""## Data

{known}

{fate}The fingerprint is the sha256 over the sorted sha256 of the training files. The bundle contains no file names."""


def training_section(content: CardContent) -> str:
    run, config = content.run, content.run["config"]
    steps = config["steps"]
    known = facts(
        ("base", "nano" if config["base"] == "nano" else "BASE"),
        ("fine-tuning steps of UNet and text encoder", steps or "0: those of the base"),
        ("batch", config["batch"] if steps else None),
        ("peak learning rate", config.get("peak_rate") if steps else None),
        *_losses(run["metrics"].get("denoiser")),
        ("teacher", f"at most {config['teacher_steps']} steps"),
        ("latent classifier", f"at most {config['latent_classifier_steps']} steps"),
        *(("network that watched", _watcher(watcher)) for watcher in run.get("watchers", ())),
        ("wall time", _seconds(run)),
        ("hardware", run.get("hardware")),
        ("versions", _versions(run)),
        ("exported with", _versions({"versions": content.manifest.tools})),
    )
    return f"## Training\n\n{known}"


def _watcher(watcher: Record) -> str:
    licence = f", licence {line(watcher['licence'])}" if "licence" in watcher else ""
    licence += ", which forbids derivatives" if forbids_derivatives(watcher.get("licence", "")) else ""
    return f"{line(watcher['name'])}, weights {watcher['weights_sha256'][:12]}…{licence}"


def base_section(content: CardContent) -> str:
    """How the base was made, if the run knows."""
    base = content.run.get("base_pretraining")
    if not base:
        return ""
    stages = [
        (stage, *(base["config"][stage].get(key, "") for key in STAGE_OPTIONS.values()))
        for stage in STAGES
        if stage in base["config"]
    ]
    known = facts(
        ("training images", f"{base['data']['images']:,}"),
        ("fingerprint", base["data"]["sha256"]),
        *_losses(base.get("denoiser")),
        ("VAE on validation images", _vae(base.get("autoencoder"))),
        ("wall time", _seconds(base)),
        ("device", base.get("device")),
        ("hardware", base.get("hardware")),
        ("versions", _versions(base)),
    )
    pieces = [f"- {line(piece)}" for piece in base.get("pieces", ())]
    history = "\n\nHistory of the training:\n\n" + "\n".join(pieces) if pieces else ""
    return f"## Training of the base\n\n{table(('stage', *STAGE_OPTIONS), stages)}\n\n{known}{history}"


def figures_section(content: CardContent) -> str:
    metrics = content.run["metrics"]
    known = facts(
        ("teacher, overall accuracy", percent(metrics.get("teacher_oa"))),
        ("teacher on a sample of them", percent(metrics.get("teacher_oa_on_the_same_images"))),
        ("teacher on the VAE's reconstructions of the sample", percent(metrics.get("teacher_oa_on_reconstructions"))),
        ("latent classifier, overall accuracy", percent(metrics.get("latent_classifier_oa"))),
        ("VAE, reconstruction of the sample", _vae(metrics.get("vae"))),
    )
    return f"""## Figures

Measured on the validation images. No network of this run was trained on them; they decided when training stopped.

{known}

They do not say how useful a set is for training a classifier. `dpd evaluate` measures that for each set."""


def commands_section(content: CardContent) -> str:
    """The commands that repeat the run, written from its config, because what was typed may contain folder names."""
    manifest, config, base = content.manifest, content.run["config"], content.run.get("base_pretraining")
    commands = [_pretrain_command(base)] if base else []
    options = repeating_options(config)
    if options.get("groups"):
        options["groups"] = WITHHELD  # a pattern of private file names
    if options.get("captioner"):
        options["captioner"] = kept(options["captioner"])
    commands.append(_command("train DATA --out RUN", options, studied(TrainConfig)))
    exported = {"name": manifest.name, "precision": manifest.precision, "data_licence": manifest.licences.get("data")}
    commands.append(_command("export RUN --out BUNDLE", exported | dict(content.options)))
    listed = "\n".join(f"    {command}" for command in commands)
    return f"""## How it was made

{listed}

DATA, RUN and BASE stand for folders. Everything else has the default of the dpd-distill version named under Training.\
{_together(content.run)}"""


def _together(run: Record) -> str:
    """A note for federated fine-tuning, which the commands alone do not repeat."""
    federated = run.get("federated")
    if not federated:
        return ""
    return f"""
The denoiser was fine-tuned together with other sites in {federated["rounds"]} rounds (`dpd train --tuning \
federated`). The server set steps, batch and learning rate. Images of other sites took part, which the fingerprint \
does not cover."""


OF_BASE = (
    *("start", "resolution", "val_per_class", "split", "shares"),
    *("latent_channels", "attention_levels", "perceptual_network", "stage"),
)
"""Options of `dpd pretrain` that a base's record has under their own names."""


def _pretrain_command(base: Record) -> str:
    config, sources = base["config"], [source["name"] for source in base["data"].get("sources", ())]
    places = [name if name.startswith("drawn:") else "DATA" for name in sources] or ["DATA"]
    options = recorded_split(config) | {name: config[name] for name in OF_BASE if name in config}
    options |= {"crops": bool(config.get("crops")), "seed": config.get("seed")}
    options |= {"bands": ",".join(base["bands"])} if "bands" in base else {}
    trainings = {
        f"{stage}_{end}": config.get(stage, {}).get(key) for stage in STAGES for end, key in STAGE_OPTIONS.items()
    }
    return _command(f"pretrain {' '.join(places)} --out BASE", options | trainings, tuple(trainings))


def _command(verb: str, options: Record, by_set: Sequence[str] = ()) -> str:
    """`dpd VERB` with every option that has a value; BASE stands for a folder of the training machine."""
    places = {name: "BASE" for name in ("base", "start") if options.get(name) not in (None, "nano")}
    places |= {name: "VALUE" for name, value in options.items() if value == WITHHELD}
    words = option_words({**options, **places}, by_set)
    return shown(["dpd", *verb.split()], [tuple(" ".join(word.split()) for word in option) for option in words])


def _losses(history: Sequence[Record] | None) -> list[tuple[str, object]]:
    if not history:
        return []
    last = history[-1]
    names = {"loss": "loss", "validation_loss": "validation loss"}
    return [(f"{name} at step {last['step']:,}", f"{last[key]:.4f}") for key, name in names.items() if key in last]


def _seconds(record: Record) -> str | None:
    return f"{record['seconds']:,} s" if "seconds" in record else None


def _versions(record: Record) -> str | None:
    return ", ".join(f"{name} {version}" for name, version in sorted(record.get("versions", {}).items())) or None


def _vae(metrics: Record | None) -> str | None:
    if not metrics:
        return None
    return f"{metrics['psnr']:.1f} dB PSNR, {metrics['high_frequency_ratio']:.2f} of the high-frequency energy"


# -- The model card of codes with differential privacy: what is guaranteed, and no figure of private images.


def private_card(content: CardContent) -> bytes:
    """The card in Hugging Face's format: YAML front matter, then Markdown."""
    sections = (
        what_section,
        parts_section,
        _classes_of_codes,
        _privacy,
        _use_of_codes,
        parity_section,
        _commands_of_codes,
    )
    blocks = [front_matter(content), *(section(content) for section in sections)]
    return ("\n\n".join(block for block in blocks if block) + "\n").encode()


def _classes_of_codes(content: CardContent) -> str:
    images = content.run["data"]["classes"]
    rows = [
        (label, entry["name"], images[entry["name"]], len(entry["prototype_counts"]))
        for label, entry in enumerate(content.classes["classes"])
    ]
    return f"""## Classes

{table(("label", "class", "private images", "codes"), rows)}

These names and numbers, and the size of the images, count as public."""


def _privacy(content: CardContent) -> str:
    claim = content.manifest.privacy
    assert claim is not None
    multipliers = table(
        ("released", "noise multiplier"), [(name, f"{value:.6g}") for name, value in claim.noise_multipliers.items()]
    )
    return f"""## Privacy

**({claim.epsilon:.6g}, {claim.delta:g})-differential privacy. Unit: {line(claim.unit)}.** Such an exchange changes \
the probability
of any property of this bundle by at most the factor e^{claim.epsilon:.6g}, and by {claim.delta:g} more.

Mechanism: {line(claim.mechanism)}. A noise multiplier is the standard deviation of the noise divided by what one image
can change.

{multipliers}

The private images entered through these statistics and nothing else. The noise came from the operating system. The
codes are public images in the released colours of a class, chosen by the statistics. Networks, scales and limits were
made from public images. `dpd` chose nothing of this bundle by private ones.

- It holds if the base and the public images were never made from the private images.
- Several images of one place are not one image: k of them have the guarantee of k times the change.
- Each further bundle from the same images tells more. Guarantees add up.
- That this bundle exists tells that every private file could be read, that no public image was found to be nearly a
  private one, and that the maker's limit allowed another release. The guarantee does not cover this.
- There is no audit here, no fingerprint and no accuracy: such figures come from the private images."""


def _use_of_codes(content: CardContent) -> str:
    height, width, _ = content.manifest.image_shape
    return f"""## Intended use and limits

For training classifiers of these classes where the real images must not go.

- It knows these classes and {height} x {width} pixels. Noise hides what is rare in a class.
- The images are public ones in other colours, as a network gives them back: a car park may stand for a town. They show
  none of the private places, and what may be done with the public images limits what may be done with these."""


def _commands_of_codes(content: CardContent) -> str:
    most = most_images(content)
    return f"""## How to use it

    dpd info BUNDLE
    dpd generate BUNDLE --ipc {most} --seed 0 --out distilled

The first command checks every file's hash and describes the bundle. The second makes {most} images per class. With
`--require signature,dp:EPSILON:DELTA` it refuses a maker who is not trusted and a weaker claim than these.
The package `dpd-distill` with its extra `cpu`, from the maker's wheelhouse or clone, is enough for both."""
