"""The card's sections on data and training, from run.json, without folders of the training machine."""

from collections.abc import Sequence

from dpd_export.card.content import CardContent, Record, facts, line, percent, table
from dpd_runtime.command_line import option_words, shown
from dpd_train.config import recorded_split, repeating_options
from dpd_train.run.finished import told_of_size

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
    return f"{line(watcher['name'])}, weights {watcher['weights_sha256'][:12]}…"


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
    commands.append(_command("train DATA --out RUN", repeating_options(config)))
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
The denoiser was fine-tuned together with other sites in {federated["rounds"]} rounds (`dpd train --federated`). The \
server set steps, batch and learning rate. Images of other sites took part, which the fingerprint does not cover."""


def _pretrain_command(base: Record) -> str:
    config, sources = base["config"], [source["name"] for source in base["data"].get("sources", ())]
    places = [name if name.startswith("drawn:") else "DATA" for name in sources] or ["DATA"]
    names = ("start", "resolution", "val_per_class", "split", "shares", "latent_channels", "attention_levels")
    options = recorded_split(config) | {name: config[name] for name in names if name in config}
    options |= {"crops": bool(config.get("crops")), "seed": config.get("seed")}
    options |= {"bands": ",".join(base["bands"])} if "bands" in base else {}
    for stage in STAGES:
        options |= {f"{stage}_{end}": config.get(stage, {}).get(key) for end, key in STAGE_OPTIONS.items()}
    return _command(f"pretrain {' '.join(places)} --out BASE", options)


def _command(verb: str, options: Record) -> str:
    """`dpd VERB` with every option that has a value; BASE stands for a folder of the training machine."""
    places = {name: "BASE" for name in ("base", "start") if options.get(name) not in (None, "nano")}
    words = option_words({**options, **places})
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
