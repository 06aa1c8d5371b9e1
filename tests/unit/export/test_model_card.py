"""The model card: numbers from manifest and run, commands that exist, and nothing of the training machine."""

import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from huggingface_hub import ModelCard

from dpd_cli.main import app
from dpd_export.card import CARD_NAME, CardContent, commands_section, model_card
from dpd_export.compile import GENERATED
from dpd_runtime import load_bundle
from dpd_runtime.manifest import FileEntry, Manifest
from dpd_runtime.sampler import BlockGuidance, Sampler
from dpd_train.base_files import hub_id, nano_folder
from dpd_train.bases import load_base

ABSOLUTE = re.compile(r"(?<![\w.])/\w|[A-Za-z]:\\|~/")  # /home, C:\, ~/


def rows(card: str) -> dict[str, list[str]]:
    """Every row of every table, by its first cell."""
    lines = [line for line in card.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in cells}


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def commands(card: str) -> list[list[str]]:
    return [shlex.split(line) for line in card.splitlines() if line.startswith("    dpd ")]


@pytest.fixture(scope="module")
def card(bundle: Path) -> str:
    return bytes(load_bundle(bundle).files[CARD_NAME]).decode()


def test_every_number_is_the_manifests(bundle: Path, card: str) -> None:
    manifest = load_bundle(bundle).manifest
    parts, parity = rows(section(card, "Parts")), rows(section(card, "Parity with PyTorch"))
    graphs = [path for path in manifest.files if path.endswith(".onnx")]
    for path in graphs:
        assert number(parts[path][1]) == manifest.files[path].bytes
        found = [float(cell) for cell in parity[path]]
        assert found == pytest.approx([manifest.parity[path + end] for end in ("", GENERATED)], rel=0.01)
    assert set(parts) == {"graph", "all of them", *graphs}
    others = sum(entry.bytes for path, entry in manifest.files.items() if path != CARD_NAME)
    assert f"have {others:,} bytes" in card
    assert f"{manifest.parity['end_to_end_psnr_db']:.2f} dB" in section(card, "Parity with PyTorch")
    data = rows(section(card, "Data"))
    assert number(data["training images"][0]) == manifest.data["images"]
    assert data["fingerprint"] == [manifest.data["fingerprint"]]
    assert data["licence of the data"] == ["drawn \\| by us"]
    sampler = manifest.sampler
    assert f"{sampler.solver}, {sampler.steps} steps, {sampler.candidates} candidates" in card
    assert rows(section(card, "Sampler"))["from 0 on"][-1] == str(
        sampler.evaluations_per_latent(0) * sampler.candidates
    )


def test_classes_and_figures_are_the_runs(run: Path, bundle: Path, card: str) -> None:
    record, opened = json.loads((run / "run.json").read_text()), load_bundle(bundle)
    classes = rows(section(card, "Classes"))
    for scene in opened.classes:
        expected = [scene.name, str(record["data"]["classes"][scene.name]), str(len(scene.prototypes))]
        assert classes[str(scene.label)] == expected
    counts = [min(c["prototype_counts"]) for c in json.loads((run / "classes.json").read_text())["classes"]]
    assert f"at least {min(counts)} different training images" in card
    figures, training = rows(section(card, "Figures")), rows(section(card, "Training"))
    assert figures["teacher, overall accuracy"] == [f"{100 * record['metrics']['teacher_oa']:.1f} %"]
    assert f"{record['metrics']['vae']['psnr']:.1f} dB" in figures["VAE, reconstruction of the sample"][0]
    last = record["metrics"]["denoiser"][-1]
    assert training[f"loss at step {last['step']}"] == [f"{last['loss']:.4f}"]
    assert training["fine-tuning steps of UNet and text encoder"] == [str(record["config"]["steps"])]


def test_parameters_are_those_that_ship(run: Path, bundle: Path, card: str) -> None:
    """Counted in PyTorch without the VAE's encoder, and in the UNet's graph."""
    parts, base = rows(section(card, "Parts")), load_base(str(run / "pipeline"))
    expected = sum(p.numel() for m in (base.vae.decoder, base.vae.post_quant_conv) for p in m.parameters())
    assert number(parts["vae_decoder/model.onnx"][0]) == expected
    graph = onnx.load_from_string(bytes(load_bundle(bundle).files["unet/model.onnx"])).graph
    stored = sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    assert stored == pytest.approx(number(parts["unet/model.onnx"][0]), rel=0.02)
    assert number(parts["all of them"][0]) == sum(number(parts[path][0]) for path in parts if path.endswith(".onnx"))


def test_nothing_local_is_in_it(run: Path, card: str) -> None:
    assert json.loads((run / "run.json").read_text())["config"]["base"].startswith("/")  # there is something to hide
    assert ABSOLUTE.findall(card) == []
    assert str(run.parent.name) not in card
    assert not re.search(r"\.(jpe?g|png|tiff?)\b", card)
    assert [len(ABSOLUTE.findall(text)) for text in ("see /home/someone", "C:\\data", "a/b")] == [1, 1, 0]


def test_patterns_of_file_names_and_places_stay_here(run: Path, bundle: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["config"] |= {"groups": "^(kabul_[0-9]+)_", "captioner": "clip:/home/alice/private/clip"}
    content = CardContent(record, load_bundle(bundle).manifest, {}, {})
    said = commands_section(content)
    assert "--groups VALUE" in said
    assert "--captioner VALUE" in said
    assert "kabul" not in said
    assert "alice" not in said


def test_hugging_face_reads_the_front_matter(card: str) -> None:
    read = ModelCard(card)
    assert (read.data.license, read.data.library_name) == ("other", "dpd-distill")
    assert read.data.license_name == "base: Apache-2.0; data: drawn \\| by us"
    assert "dataset-distillation" in read.data.tags
    assert read.text.lstrip().startswith("# tiny\n")


def test_every_command_and_option_exists(card: str) -> None:
    known = typer.main.get_group(app).commands
    found = commands(card)
    assert [words[1] for words in found] == ["info", "generate", "evaluate", "train", "export"]
    for words in found:
        options = {name for parameter in known[words[1]].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options
    trained, exported = found[-2:]
    assert trained[trained.index("--peak-rate") + 1] == "0.0001", "without it the command repeats another run"
    assert exported[exported.index("--data-licence") + 1] == "drawn | by us"


def hand_made(**changes: object) -> CardContent:
    """A run and a manifest written by hand, without training."""
    run = {
        "config": {
            "base": "nano",
            "steps": 0,
            "batch": 32,
            "teacher_steps": 5,
            "latent_classifier_steps": 5,
            "seed": 0,
        },
        "data": {"images": 5, "classes": {"a": 3, "b": 2}, "sha256": "ab" * 32, "val_per_class": None},
        "metrics": {"denoiser": []},
        "versions": {"torch": "2"},
        "seconds": 3.5,
    }
    manifest = Manifest(
        name="by hand",
        image_shape=(64, 64, 3),
        latent_shape=(4, 16, 16),
        scaling_factor=1.0,
        prediction_type="v_prediction",
        sampler=Sampler(guidance=(BlockGuidance(0, 2.0, guidance_from=0.25), BlockGuidance(2))),
        precision="fp16",
        opset=18,
        files={"unet/model.onnx": FileEntry("0" * 64, 1234)},
        licences={"base": "Apache-2.0", "data": "unstated"},
        data={"images": 5, "fingerprint": "ab" * 32},
        parity={"unet/model.onnx": 1e-4, "end_to_end_psnr_db": 41.5},
    )
    classes = {"classes": [{"name": "a", "prompt_rows": [0]}, {"name": "b", "prompt_rows": [0]}]}
    return replace(CardContent(run, manifest, classes, {"unet/model.onnx": 99}), **changes)  # type: ignore[arg-type]


def test_the_same_content_gives_the_same_bytes_and_unknown_facts_no_rows() -> None:
    card = model_card(hand_made())
    assert card == model_card(hand_made())
    text = card.decode()
    assert "None" not in text
    assert "hardware" not in text
    assert "Training of the base" not in text
    assert "There are no prototypes" in text
    assert "**not audited**" in text
    sampler = rows(section(text, "Sampler"))
    assert sampler["from 0 on"] == ["2.0", "25 to 100 % of the steps", "0.0", "0 to 50 % of the steps", "105"]
    assert sampler["from 20 on"][-1] == "60"  # 20 steps × 3 candidates, no guidance; 15 guided ones more above


def test_what_was_done_for_privacy_is_told_with_what_it_does_not_cover() -> None:
    content = hand_made()
    noise = {"epsilon": 7.619, "delta": 1e-5, "noise": 1.0, "norm_limit": 8.0, "members": 10}
    classes = {"prototype_kind": "pooled", "classes": [{"name": "a", "prototype_counts": [10, 12]}]}
    done = {"near_duplicates": 4, "prototypes_too_near": 3, "prototype_privacy": noise}
    card = model_card(replace(content, run=content.run | done, classes=classes)).decode()
    assert rows(section(card, "Data"))["near duplicates left out of training"] == ["4"]
    told = " ".join(section(card, "Classes").split())
    assert "3 were dropped because they decoded too near to a training image" in told
    assert "an L2 norm of 8, and Gaussian noise of standard deviation 1 " in told
    assert "(7.619, 1e-05)-differential privacy, **given which images belong to which prototype**" in told
    assert "no such guarantee" in told
    plain = model_card(replace(content, classes=classes)).decode()
    assert "near duplicates" not in plain
    assert "dropped" not in plain
    assert "privacy" not in plain


@pytest.mark.parametrize("whole", [True, False])
def test_the_bases_own_record_is_told_where_the_run_has_it(whole: bool) -> None:
    """The shipped pretrain.json, of its decoder or of all parts, with a start folder of the training machine."""
    record = json.loads((nano_folder() / "pretrain.json").read_text())
    record = record["base_pretraining"] if whole else record
    record["config"]["start"] = "/secret/base"
    content = hand_made()
    card = model_card(replace(content, run=content.run | {"base_pretraining": record, "hardware": "2 cores"})).decode()
    base = section(card, "Training of the base")
    stages, config = rows(base), record["config"]
    for stage in ("autoencoder", "decoder", "denoiser") if whole else ("decoder",):
        assert stages[stage] == [str(config[stage][key]) for key in ("steps", "batch", "peak_rate")]
    assert stages["fingerprint"] == [record["data"]["sha256"]]
    last = record["denoiser"][-1]
    assert stages[f"validation loss at step {last['step']:,}"] == [f"{last['validation_loss']:.4f}"]
    assert rows(section(card, "Training"))["hardware"] == ["2 cores"]
    assert ABSOLUTE.findall(card) == []
    pretrain = next(words for words in commands(card) if words[1] == "pretrain")
    options = {name for p in typer.main.get_group(app).commands["pretrain"].params for name in p.opts}
    assert {word for word in pretrain if word.startswith("--")} <= options
    assert pretrain[2:5] == ["DATA", "DATA", "drawn:110"]
    assert pretrain[pretrain.index("--start") + 1] == "BASE"
    assert pretrain[pretrain.index("--val-per-class") + 1] == "100,10,10"
    assert pretrain[pretrain.index("--shares") + 1] == "6.0,3.5,0.5"
    assert "--crops" in pretrain
    assert ("--stage" in pretrain) is not whole


def test_a_base_of_one_folder_is_told_without_shares_or_crops() -> None:
    record = json.loads((nano_folder() / "pretrain.json").read_text())
    record["config"] |= {"val_per_class": [100], "shares": None, "crops": None}
    del record["data"]["sources"]
    content = hand_made()
    card = model_card(replace(content, run=content.run | {"base_pretraining": record})).decode()
    pretrain = next(words for words in commands(card) if words[1] == "pretrain")
    assert pretrain[2:4] == ["DATA", "--out"]
    assert pretrain[pretrain.index("--val-per-class") + 1] == "100"
    assert not {"--shares", "--crops"} & set(pretrain)


def test_the_hub_links_a_base_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may have a name like an id, and what it is called is nobody's business."""
    cache = tmp_path / "cache"
    snapshot = cache / "models--org--base" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "models--org--base" / "refs").mkdir()
    (cache / "models--org--base" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    (tmp_path / "customer" / "secret").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = {
        name: hub_id(name) for name in ("org/base", "customer/secret", "gone/base", "nano", str(tmp_path), "no id")
    }
    assert found == {**dict.fromkeys(found), "org/base": "org/base"}
    content = hand_made(base_model="org/base")
    assert ModelCard(model_card(content).decode()).data.base_model == "org/base"
    assert ModelCard(model_card(replace(content, base_model=None)).decode()).data.base_model is None


@pytest.mark.parametrize("licence", ['Ours: "only"\nhere', "a | b", "# no"])
def test_a_licence_of_ones_own_stays_one_line_of_yaml(licence: str) -> None:
    content = hand_made()
    manifest = replace(content.manifest, licences={"base": licence, "data": licence})
    read = ModelCard(model_card(replace(content, manifest=manifest)).decode())
    assert read.data.license == "other"
    said = " ".join(licence.split()).replace("|", "\\|")
    assert read.data.license_name == f"base: {said}; data: {said}"
    assert asdict(manifest)["licences"]["data"] == licence


def test_the_hub_names_one_licence_where_base_and_data_have_one() -> None:
    content = hand_made()
    for data, named in (("MIT", "mit"), ("CC-BY-NC-4.0", "other")):
        manifest = replace(content.manifest, licences={"base": "MIT", "data": data})
        assert ModelCard(model_card(replace(content, manifest=manifest)).decode()).data.license == named
