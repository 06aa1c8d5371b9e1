"""The card's sections on data and training: what run.json knows, folders of the training machine left out."""

import shlex
from collections.abc import Sequence

from dpd_export.card_content import CardContent, Record
from dpd_export.card_markdown import facts, line, percent, table

STAGES = ("perceptual", "autoencoder", "decoder", "denoiser")  # of `dpd pretrain`, in its order
STAGE_OPTIONS = {"steps": "steps", "batch": "batch", "rate": "peak_rate"}  # end of the option: key of the config
NOT_OPTIONS = ("peak_rate",)  # of TrainConfig: `dpd train` has no option for them


def data_section(content: CardContent) -> str:
    data, manifest = content.run["data"], content.manifest
    held = data.get("val_per_class")
    known = facts(
        ("training images", f"{manifest.data['images']:,}"),
        ("fingerprint", manifest.data["fingerprint"]),
        ("held out for validation", "max(1, n // 10) of each class" if held is None else f"{held} of each class"),
        ("files left out as unusable", content.run.get("rejected")),
        ("near duplicates left out of training", content.run.get("near_duplicates")),
        *((f"licence of the {part}", licence) for part, licence in sorted(manifest.licences.items())),
    )
    return f"""## Data

{known}

The fingerprint is the sha256 over the sorted sha256 of the training files. The bundle names no file of them."""


def training_section(content: CardContent) -> str:
    run, config = content.run, content.run["config"]
    steps = config["steps"]
    known = facts(
        ("base", _public("base", config["base"])),
        ("fine-tuning steps of UNet and text encoder", steps or "0: they are the base's"),
        ("batch", config["batch"] if steps else None),
        ("peak learning rate", config.get("peak_rate") if steps else None),
        *_losses(run["metrics"].get("denoiser")),
        ("teacher", f"at most {config['teacher_steps']} steps"),
        ("latent classifier", f"at most {config['latent_classifier_steps']} steps"),
        ("wall time of the call that finished it", _seconds(run)),
        ("hardware", run.get("hardware")),
        ("versions", _versions(run)),
        ("exported with", _versions({"versions": content.manifest.tools})),
    )
    return f"## Training\n\n{known}"


def base_section(content: CardContent) -> str:
    """How the base was made, where the run knows it."""
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
    told = "\n\nAs it went:\n\n" + "\n".join(pieces) if pieces else ""
    return f"## Training of the base\n\n{table(('stage', *STAGE_OPTIONS), stages)}\n\n{known}{told}"


def figures_section(content: CardContent) -> str:
    metrics = content.run["metrics"]
    known = facts(
        ("teacher, overall accuracy", percent(metrics.get("teacher_oa"))),
        ("teacher on some of them, as they are", percent(metrics.get("teacher_oa_on_the_same_images"))),
        ("teacher on the VAE's reconstructions of those", percent(metrics.get("teacher_oa_on_reconstructions"))),
        ("latent classifier, overall accuracy", percent(metrics.get("latent_classifier_oa"))),
        ("VAE, reconstruction of those", _vae(metrics.get("vae"))),
    )
    return f"""## Figures

On the validation images. No network of this run was trained on them; when training stops was chosen on them.

{known}

What a set is worth to a classifier is not among them: that depends on the set, and `dpd evaluate` measures it."""


def commands_section(content: CardContent) -> str:
    """The commands which repeat the run, from its config: what was typed may hold folder names."""
    manifest, config, base = content.manifest, content.run["config"], content.run.get("base_pretraining")
    commands = [_pretrain_command(base)] if base else []
    options = {name: value for name, value in config.items() if name not in NOT_OPTIONS}
    commands.append(_command("train DATA --out RUN", options))
    exported = {"name": manifest.name, "precision": manifest.precision, "data_licence": manifest.licences.get("data")}
    commands.append(_command("export RUN --out BUNDLE", exported | dict(content.options)))
    listed = "\n".join(f"    {command}" for command in commands)
    return f"""## How it was made

{listed}

DATA, RUN and BASE stand for folders. What is not an option is the default of the dpd-distill named under Training.\
{_together(content.run)}"""


def _together(run: Record) -> str:
    """The commands alone do not repeat a federated tuning."""
    found = run.get("federated")
    if not found:
        return ""
    return f"""
The denoiser was tuned together with other sites, in {found["rounds"]} rounds (`dpd train --federated`): steps, batch \
and rate are what the server said, and images of other sites took part, which the fingerprint does not cover."""


def _pretrain_command(base: Record) -> str:
    config, sources = base["config"], [source["name"] for source in base["data"].get("sources", ())]
    places = [name if name.startswith("drawn:") else "DATA" for name in sources] or ["DATA"]
    options = {name: config.get(name) for name in ("start", "resolution", "val_per_class", "shares", "latent_channels")}
    options |= {"crops": bool(config.get("crops")), "seed": config.get("seed")}
    for stage in STAGES:
        options |= {f"{stage}_{end}": config.get(stage, {}).get(key) for end, key in STAGE_OPTIONS.items()}
    return _command(f"pretrain {' '.join(places)} --out BASE", options)


def _command(verb: str, options: Record) -> str:
    """`dpd VERB` with every option that has a value, defaults too: they may be others in the next version."""
    words = ["dpd", verb]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            words += [flag, shlex.quote(" ".join(_public(name, value).split()))]
    return " ".join(words)


def _public(option: str, value: object) -> str:
    """The value, or BASE for a base of the user's own: that is a folder of the training machine."""
    if isinstance(value, list):  # one number for each of DATA
        return ",".join(map(str, value))
    return "BASE" if option in ("base", "start") and value != "nano" else str(value)


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
