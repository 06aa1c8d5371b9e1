"""`clip:` and `vlm:` on tiny random models, against scoring and greedy decoding written out here."""

import json
import shutil
import socket
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel, LlavaForConditionalGeneration, SiglipModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from dpd_runtime.errors import InputError
from dpd_train.attributes import GROUPS, INSTRUCTION, Group, parse
from dpd_train.captioners import check_captioner, describe_scenes
from dpd_train.captioning_models import NEW_TOKENS, choose
from tests.unit.train.captioner_models import PATCH, SIDE, TEMPLATE, drawn, tiny_clip, tiny_siglip, tiny_vlm


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    tiny_clip(root / "clip")
    tiny_siglip(root / "siglip")
    tiny_vlm(root / "vlm")
    return root


def pixel_values(images: np.ndarray, mean: list[float], std: list[float]) -> torch.Tensor:
    """What the processor makes of images that have the model's size already."""
    values = (images / 255 - np.array(mean)) / np.array(std)
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2)


# clip:


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_phrases_are_those_of_the_models_own_logits(kind: str, models: Path, tmp_path: Path) -> None:
    scenes = drawn(40)  # more than one batch
    found = describe_scenes(f"clip:{models / kind}", scenes, cache=tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(models / kind)
    model = (CLIPModel if kind == "clip" else SiglipModel).from_pretrained(models / kind).eval()
    norm = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD) if kind == "clip" else ([0.5] * 3, [0.5] * 3)
    pixels = pixel_values(scenes.images, *norm)
    expected: list[list[str]] = [[] for _ in found]
    for group in GROUPS:
        sentences = [group.template.format(phrase) for phrase in group.phrases]
        tokens = tokenizer(sentences, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**tokens, pixel_values=pixels).logits_per_image.double().softmax(1).numpy()
        for image, row in enumerate(probabilities):
            taken = sorted(
                ((p, w) for p, w in zip(row, group.phrases, strict=True) if p >= 4 * (1 - p) / (len(row) - 1)),
                reverse=True,
            )
            expected[image] += [word for _, word in taken[: group.most]]
    assert [list(phrases) for phrases in found] == expected
    counts = [len(phrases) for phrases in found]
    assert len(set(found)) > 5, "control: images get different words"
    assert 0 < np.mean(counts) < sum(group.most for group in GROUPS), "control: some are taken, some are not"


def test_only_what_stands_clearly_above_its_group_is_chosen() -> None:
    group = Group("{}", ("a", "b", "c", "d", "e"), 2)
    rows = np.log([[0.5, 0.125, 0.125, 0.125, 0.125], [0.49, 0.13, 0.13, 0.13, 0.12], [0.44, 0.02, 0.02, 0.47, 0.05]])
    assert choose(rows, [group]) == [("a",), (), ()]
    wide = Group("{}", tuple("abcdefghij"), 2)
    one = np.log([[0.32, 0.02, 0.31, 0.02, 0.3, 0.01, 0.005, 0.005, 0.005, 0.005]])
    assert choose(one, [wide]) == [("a", "c")]  # three are clear, two are room for
    assert choose(np.hstack([one + 50, rows[:1] - 900]), [wide, group]) == [("a", "c", "a")]
    assert choose(np.array([[2000.0, 0, 0, 0, 0]]), [group]) == [("a",)]
    assert choose(np.zeros((2, 5)), [group]) == [(), ()]


def test_the_vocabulary_has_no_phrase_twice_and_no_comma() -> None:
    phrases = [phrase for group in GROUPS for phrase in group.phrases]
    assert len(set(phrases)) == len(phrases)
    assert not [phrase for phrase in phrases if "," in phrase or phrase != phrase.lower().strip()]
    assert all("{}" in group.template and group.most < len(group.phrases) for group in GROUPS)


# vlm:


def greedy(folder: Path, images: np.ndarray) -> list[str]:
    """The answers by plain forward passes over the whole sequence: no generate, no cache, no processor."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    places = "<image>" * (SIDE // PATCH) ** 2
    prompt = f"<s> USER : {places} {INSTRUCTION} ASSISTANT : "
    ids = tokenizer([prompt] * len(images), add_special_tokens=False, return_tensors="pt")["input_ids"]
    pixels = pixel_values(images, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    written: list[list[int]] = [[] for _ in images]
    ended = [False] * len(images)
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            best = model(input_ids=ids, pixel_values=pixels).logits[:, -1].argmax(1)
        ids = torch.cat([ids, best[:, None]], dim=1)
        for image, token in enumerate(best.tolist()):
            ended[image] = ended[image] or token == tokenizer.eos_token_id
            if not ended[image]:
                written[image].append(token)
        if all(ended):
            break
    return tokenizer.batch_decode(written, skip_special_tokens=True)


def test_answers_are_those_of_greedy_decoding(models: Path, tmp_path: Path) -> None:
    scenes = drawn(10)  # more than one batch
    found = describe_scenes(f"vlm:{models / 'vlm'}", scenes, cache=tmp_path)
    answers = greedy(models / "vlm", scenes.images)
    assert found == [parse(answer) for answer in answers]
    assert len(set(found)) > 2, "control: the answers depend on the image"
    assert any(found)


def test_one_start_token_whoever_writes_it(models: Path, tmp_path: Path) -> None:
    """The tokenizer writes <s> where the template does not; where both did, other words would come out."""
    bare, twice = (shutil.copytree(models / "vlm", tmp_path / name) for name in ("bare", "twice"))
    (bare / "chat_template.jinja").write_text(TEMPLATE.replace("<s> ", ""))
    (twice / "chat_template.jinja").write_text(TEMPLATE.replace("<s> ", "<s> <s> "))
    first, second, control = (
        describe_scenes(f"vlm:{folder}", drawn(8), cache=tmp_path) for folder in (models / "vlm", bare, twice)
    )
    assert first == second
    assert first != control


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        ("Green fields, a river, Dense Houses.", ("green fields", "river", "dense houses")),
        ("1. Farmland\n2. Two roads\n- **bare soil**\n* pond", ("farmland", "two roads", "bare soil", "pond")),
        ("This is a satellite image of a harbor with boats, aerial view", ("harbor with boats",)),
        ("The image shows dense forest; bird's-eye view of a lake", ("dense forest", "lake")),
        ("Land cover: forest, Land use: logging", ("forest", "logging")),
        ("no buildings, not visible, without roads, water", ("water",)),
        ("river in the top left, a road to the north, river-left bank, meadow", ("meadow",)),
        ("12 houses, 46.5°N, lake at 300 m, trees", ("trees",)),
        ("a very long phrase which describes nothing, sand", ("sand",)),
        ("<think>maybe water, sand</think> rocks, rocks, the rocks", ("rocks",)),
        ("a, b, c, d, e, f, g, h, i, j, k", ("b", "c", "d", "e", "f", "g", "h", "i")),
        ("草地, roofs", ("roofs",)),
        ("ﬁelds (green/brown), tree’s shadow", ("fields", "green", "brown", "tree's shadow")),
        ("", ()),
        ("I cannot see the image.", ()),
    ],
)
def test_answers_become_phrases(answer: str, phrases: tuple[str, ...]) -> None:
    assert parse(answer) == phrases


PIECES = ["a", "b", " ", " ", "no ", "the ", "left", "satellite image", "-", "'", ".", ", ", ":", "\n", "1", "é", "*"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_phrases_are_clean_whatever_is_written(answer: str) -> None:
    found = parse(answer)
    assert len(found) <= 8
    assert len(set(found)) == len(found)
    for phrase in found:
        assert phrase.isascii()
        assert phrase == " ".join(phrase.lower().split())
        assert set(phrase) <= set("abcdefghijklmnopqrstuvwxyz '-")
        assert 1 <= len(phrase.split()) <= 4
        assert not {"no", "not", "left"} & set(phrase.split())
    assert parse(", ".join(found)) == found


# models that are not there, or not what is needed


def as_repository(folder: Path, hub: Path, name: str) -> None:
    repository = hub / f"models--tiny--{name}"
    shutil.copytree(folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)


def test_models_of_the_hub_come_from_its_cache_alone(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though not told to be offline."""
    as_repository(models / "clip", tmp_path / "hub", "clip")
    as_repository(models / "vlm", tmp_path / "hub", "vlm")
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for kind in ("clip", "vlm"):
        found = describe_scenes(f"{kind}:tiny/{kind}", drawn(3), cache=tmp_path / "first")
        assert found == describe_scenes(f"{kind}:{models / kind}", drawn(3), cache=tmp_path / "second")
        with pytest.raises(InputError, match=f"fetch it once: hf download tiny/other-{kind}$"):
            check_captioner(f"{kind}:tiny/other-{kind}")
    assert asked == []


def test_a_missing_model_gives_a_command_that_works_offline_too() -> None:
    """The tests themselves run with HF_HUB_OFFLINE=1, which would stop the download."""
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(InputError, match=r"fetch it once: HF_HUB_OFFLINE=0 hf download openai/clip-none$"):
        check_captioner("clip:openai/clip-none")


def broken(models: Path, folder: Path, how: str) -> str:
    """The name of a captioner that cannot work."""
    source = shutil.copytree(models / ("clip" if how not in ("no template", "shard") else "vlm"), folder / "m")
    weights = source / "model.safetensors"
    if how == "pickle":
        torch.save(load_file(weights), source / "pytorch_model.bin")
        weights.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "no config":
        (source / "config.json").unlink()
    elif how == "adapter":
        (source / "adapter_config.json").write_text("{}")
    elif how == "shard":
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
        weights.rename(source / "model-00001-of-00002.safetensors")
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
        return f"vlm:{source}"
    elif how == "no template":
        (source / "chat_template.jinja").unlink()
        return f"vlm:{source}"
    elif how == "no tokenizer":
        for path in [*source.glob("*token*"), *source.glob("vocab.*")]:
            path.unlink()
    elif how == "other kind":
        return f"vlm:{source}"
    elif how == "code":
        config = json.loads((source / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoModel": "model.Own", "AutoConfig": "model.Config"}}
        (source / "config.json").write_text(json.dumps(config))
        (source / "model.py").write_text("raise SystemExit('foreign code has run')")
    return f"clip:{source}"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickle", "weights are a pickle; only safetensors are opened"),
        ("no weights", r"model\.safetensors is missing; complete the folder"),
        ("no config", r"config\.json is missing or names no model_type"),
        ("adapter", "is an adapter for another model"),
        ("shard", r"model-00002-of-00002\.safetensors is missing"),
        ("no template", "has no chat template; take an instruction-tuned model"),
        ("no tokenizer", r"has no tokenizer \(tokenizer\.json, "),
        ("other kind", "is a 'clip' model; an image-text-to-text model is needed"),
        ("code", "is a 'own' model; one of type clip or siglip is needed"),
    ],
)
def test_models_that_cannot_be_used(models: Path, tmp_path: Path, how: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_captioner(broken(models, tmp_path, how))
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor(models: Path, tmp_path: Path) -> None:
    for kind, part in (("clip", "visual_projection"), ("vlm", "layers.1.mlp.up_proj")):
        folder = shutil.copytree(models / kind, tmp_path / kind)
        weights = load_file(folder / "model.safetensors")
        del weights[next(name for name in weights if part in name)]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(InputError, match=f"weights lack 1 tensors, first .*{part}"):
            describe_scenes(f"{kind}:{folder}", drawn(2), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("source", "words"),
    [("/nowhere/clip", "no such folder"), ("nowhere/x y", "no such folder"), (__file__, "is a file")],
)
def test_paths_that_are_no_folder(source: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_captioner(f"clip:{source}")
    assert "hf download" not in str(caught.value)
