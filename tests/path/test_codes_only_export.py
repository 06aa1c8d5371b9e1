"""`dpd export --codes-only`: a run with matched codes → codes, their decoder, class table and golden images."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
from dpd_eval.verdict import Audit, write_record
from dpd_export import ExportOptions, export_run
from dpd_export.builder import check_parts
from dpd_export.options import check_export
from dpd_export.reference import Extent, compare_codes, decode_codes
from dpd_runtime import generate, load_bundle, write_set
from dpd_runtime.engines import Provider
from dpd_runtime.errors import InputError, ParityError
from dpd_runtime.golden import replay
from dpd_train.bases import decode_images, load_base
from dpd_train.reading import HeldOut
from dpd_train.run import open_run
from tests.audits import audit
from tests.tiny import CODES

HELD = {"held_out": HeldOut(val_per_class=2), "images": 20}


def test_it_holds_what_decoding_needs_and_no_more(matched: Path) -> None:
    codes, whole = load_bundle(matched / "codes.dpd"), load_bundle(matched / "whole.dpd")
    wanted = ["MODEL_CARD.md", "classes.json", "golden.safetensors", "prototypes.safetensors"]
    wanted += ["scheduler/scheduler_config.json", "vae_decoder/config.json", "vae_decoder/model.onnx"]
    assert sorted(codes.files) == wanted
    assert codes.manifest.codes_only
    assert codes.manifest.format_version == 2
    assert codes.largest_ipc == CODES
    for name in ("vae_decoder/model.onnx", "prototypes.safetensors"):
        assert codes.files[name] == whole.files[name], name
    assert not any("satellite" in text for text in (codes.files["classes.json"].decode(), str(codes.prompts)))
    parity = {"end_to_end_images", "end_to_end_psnr_db", "end_to_end_worst_psnr_db"}
    assert set(codes.manifest.parity) - parity == {"vae_decoder/model.onnx", "vae_decoder/model.onnx#generated"}
    assert codes.manifest.parity["end_to_end_psnr_db"] >= 40


def test_its_set_is_that_of_the_whole_bundle(matched: Path, tmp_path: Path) -> None:
    hashes = {
        name: write_set(
            generate(load_bundle(matched / f"{name}.dpd"), ipc=CODES, seed=2, provider="cpu"), tmp_path / name
        )
        for name in ("codes", "whole")
    }
    assert hashes["codes"].images == CODES * len(load_bundle(matched / "codes.dpd").classes)
    assert [i.prototype for i in generate(load_bundle(matched / "codes.dpd"), ipc=CODES)][:CODES] == [*range(CODES)]
    assert hashes["codes"].set_hash == hashes["whole"].set_hash


def test_the_golden_images_are_pytorchs(matched: Path) -> None:
    bundle = load_bundle(matched / "codes.dpd")
    done = replay(bundle, Provider("cpu", ""))
    assert done is not None
    assert done.images == 4
    assert done.psnr_db >= 40
    (image,) = generate(bundle, ipc=1, classes=(bundle.classes[0].name,))
    expected = decode_images(load_base(str(matched / "run" / "pipeline")), bundle.classes[0].prototypes[:1])[0]
    views = [np.rot90(v, k) for v in (expected, expected[:, ::-1]) for k in range(4)]
    assert min(np.abs(view.astype(int) - image.pixels).max() for view in views) <= 1


@pytest.mark.full
def test_the_export_repeats_itself_byte_for_byte(matched: Path, tmp_path: Path) -> None:
    again = export_run(
        matched / "run", tmp_path / "again", ExportOptions(name="codes", precision="fp32", codes_only=True)
    )
    assert again["bundle_hash"] == load_bundle(matched / "codes.dpd").hash
    assert again["largest_ipc"] == CODES
    assert load_bundle(tmp_path / "again").manifest.codes_only


@pytest.mark.parametrize("precision", ["fp16", "fp16-weights"])
@pytest.mark.full
def test_other_precisions(precision: str, matched: Path, tmp_path: Path) -> None:
    export_run(matched / "run", tmp_path / "site.dpd", ExportOptions(precision=precision, codes_only=True))
    bundle = load_bundle(tmp_path / "site.dpd")
    assert len(bundle.files["vae_decoder/model.onnx"]) < len(
        load_bundle(matched / "codes.dpd").files["vae_decoder/model.onnx"]
    )
    assert bundle.manifest.parity["end_to_end_psnr_db"] >= 30


def test_a_decoder_that_gives_other_images_is_not_written(matched: Path) -> None:
    bundle, base = load_bundle(matched / "codes.dpd"), load_base(str(matched / "run" / "pipeline"))
    codes = tuple(scene.prototypes for scene in bundle.classes)
    decoded = decode_codes(base, codes, Extent(2, 4, 1))
    assert compare_codes(bundle, decoded).images == 20
    assert compare_codes(bundle, decode_codes(base, codes, Extent(0, 1, 1))).images == 1  # of a large base
    with pytest.raises(ParityError, match=r"images differ from PyTorch's: .* fp32 needs 40 dB"):
        compare_codes(bundle, replace(decoded, images=255 - decoded.images))


def test_the_card_promises_what_it_can_do(matched: Path) -> None:
    card = load_bundle(matched / "codes.dpd").files["MODEL_CARD.md"].decode()
    assert "A codes-only bundle of dpd-distill" in card
    assert f"with up to {CODES} images of each" in card
    assert f"dpd generate BUNDLE --ipc {CODES} " in card
    assert "--codes-only" in card
    for word in ("text-conditional", "UNet evaluations", "step/model.onnx", "any number of", "tokenizer"):
        assert word not in card
    assert "--codes-only" not in load_bundle(matched / "whole.dpd").files["MODEL_CARD.md"].decode()


@pytest.fixture(scope="module")
def audited(matched: Path) -> Audit:
    return audit(
        matched / "codes.dpd",
        train=matched / "scenes",
        run=matched / "run",
        cache=matched / "audit",
        **HELD,
    )


@pytest.mark.full
def test_the_audit_tests_what_leaves_the_site(audited: Audit, matched: Path) -> None:
    names = [test.name for test in audited.tests]
    for wanted in (
        "replication, generated images, structure",
        "replication, decoded prototypes, teacher features through the VAE",
        "artefact scan",
        "membership of the VAE decoder, reconstruction: AUC",
        "membership of the prototypes, correlation: AUC",
    ):
        assert wanted in names
    for part in ("denoiser", "teacher, ", "latent classifier"):
        assert not [name for name in names if name.startswith(f"membership of the {part}")]
    scan = next(test for test in audited.tests if test.name == "artefact scan")
    assert scan.verdict == "PASS", scan.note
    assert any("no denoiser, teacher or latent classifier" in note for note in audited.to_dict()["notes"])
    found = write_record(audited, load_bundle(matched / "codes.dpd"), matched / "audited.dpd")
    again = load_bundle(matched / "audited.dpd")
    assert (again.hash, again.manifest.audit, again.manifest.codes_only) == (
        found["bundle_hash"],
        audited.verdict,
        True,
    )
    assert json.loads(again.files["audit.json"])["verdict"] == audited.verdict


@pytest.mark.full
def test_averaged_codes_are_its_control_of_membership(audited: Audit) -> None:
    names = [c.name for c in audited.controls if c.name.startswith("membership")]
    assert names[0] == "membership of the students of T replayed"
    assert not [name for name in names if "over-fitted" in name], "there is no denoiser"
    (control,) = [c for c in audited.controls if c.name.startswith("membership of the codes that are means")]
    assert (control.expected, control.verdict) == ("FAIL", "FAIL")


@pytest.mark.full
def test_without_an_encoder_the_verdict_is_a_warning_at_best(matched: Path) -> None:
    """The tiny VAE is not the shipped base's."""
    found = audit(matched / "codes.dpd", train=matched / "scenes", cache=matched / "audit", **HELD)
    missing = {t.name for t in found.tests if t.verdict == "NOT RUN" and t.name.startswith("membership")}
    few = "membership of the students of the generated images"  # the hold-out is too small for them
    assert missing == {few, "membership of the VAE decoder", "membership of the prototypes"}
    controls = [c for c in found.controls if c.name.startswith("membership")]
    assert [(control.name, control.verdict) for control in controls] == [
        ("membership of the students of T replayed", "NOT RUN"),
        ("membership of the students of H1 alone", "NOT RUN"),
        ("membership of codes that are means of ten images", "NOT RUN"),
    ]
    assert found.verdict != "PASS"


def test_engines_are_built_of_the_decoder_alone(matched: Path) -> None:
    files = load_bundle(matched / "codes.dpd").files
    assert check_parts(None, files) == ("vae_decoder",)
    assert check_parts(None, load_bundle(matched / "whole.dpd").files) == ("unet", "vae_decoder", "latent_classifier")
    with pytest.raises(InputError, match=r"part 'unet' cannot become an engine; .* that can: vae_decoder$"):
        check_parts(("unet",), files)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"precision": "int8"}, "--precision int8"),
        ({"prune": "pic-pq:0.3"}, "--prune"),
        ({"sampler_changes": "steps=9"}, "--sampler"),
        ({"vae_encoder": True}, "--vae-encoder"),
        ({"dynamic_size": True}, "--dynamic-size"),
    ],
)
def test_options_for_what_is_left_out_are_refused(options: dict[str, object], option: str) -> None:
    with pytest.raises(InputError, match=f"^{option} cannot be used with --codes-only"):
        ExportOptions(codes_only=True, **options)


def table(kind: str, *counts: int) -> dict[str, object]:
    classes = [{"name": f"c{n}", "prompt_rows": [0], "prototype_counts": [9] * k} for n, k in enumerate(counts)]
    return {"prototype_kind": kind, "prompts": ["c"], "classes": classes}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (table("centroid", 2, 2), "of kind centroid, and only matched codes are images by themselves"),
        (table("pooled", 2, 2), "of kind pooled, and only"),
        (table("medoid", 2, 2), "of kind medoid, and only"),
        (table("none", 0, 0), "of kind none, and only"),
        (table("matched", 2, 0), "class c1 of .* has no codes"),
    ],
)
def test_runs_without_matched_codes_are_refused_at_once(content: dict[str, object], said: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "classes.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"^--codes-only: .*{said}"):
        check_export(open_run(tmp_path / "run"), tmp_path / "site.dpd", ExportOptions(codes_only=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
