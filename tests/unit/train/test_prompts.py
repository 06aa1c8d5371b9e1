"""Aggregated prompts: only what enough images share, whole phrases, no longer than the tokenizer reads."""

import logging
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from dpd_train.attributes import GROUPS, VOCABULARY
from dpd_train.bases import build_tokenizer
from dpd_train.captions import CLASS_SHARE, PromptTable, aggregate_prompts, caption_table, fit_phrases, turn_phrases
from dpd_train.prototypes import ClassPrototypes

WORDS = [f"word{letter}" for letter in "abcdefgh"]  # none is part of another
IMAGES = st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(tuple), min_size=1, max_size=24)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return build_tokenizer(VOCABULARY, tmp_path_factory.mktemp("words"))


def prototypes(members: Sequence[int]) -> ClassPrototypes:
    array = np.array(members, np.int64)
    counts = tuple(np.bincount(array).tolist())
    return ClassPrototypes(np.zeros((len(counts), 4, 2, 2), np.float32), counts, array)


def phrases_of(prompt: str) -> list[str]:
    return prompt.split(", ")[1:]


def clustered(data: st.DataObject, images: list[tuple[str, ...]]) -> ClassPrototypes:
    """Any assignment to at most four prototypes, each with a member where there are enough images."""
    clusters = data.draw(st.integers(1, min(4, len(images))))
    rest = data.draw(st.lists(st.integers(0, clusters - 1), min_size=len(images), max_size=len(images)))
    return prototypes([*range(clusters), *rest][: len(images)])


@settings(max_examples=100, deadline=None)
@given(st.data(), IMAGES, st.integers(2, 6), st.floats(0, 1), st.booleans())
def test_no_prompt_holds_what_fewer_than_k_images_have(
    tokenizer: CLIPTokenizer, data: st.DataObject, images: list[tuple[str, ...]], k_min: int, share: float, read: bool
) -> None:
    found = clustered(data, images)
    table = aggregate_prompts(
        ["Lake"], [images], [found], k_min, tokenizer=tokenizer if read else None, min_share=share
    )
    for cluster, row in enumerate(table.rows[0]):
        members = [set(images[i]) for i in range(len(images)) if found.members[i] == cluster]
        for word in WORDS:
            holders = sum(word in words for words in members)
            if holders < k_min:
                assert word not in table.texts[row]  # nor as a part
            elif not read:  # control: and what enough of them have is there
                assert (word in phrases_of(table.texts[row])) == (holders >= share * len(members) - 1e-9)
    rare = [word for word in WORDS if sum(word in words for words in images) < k_min]
    assert not [word for word in rare for text in table.texts if word in text]
    assert not [word for word in rare if word in table.dropped[0]]


@settings(max_examples=40, deadline=None)
@given(st.data(), IMAGES)
def test_a_class_without_prototypes_is_held_to_the_same(data: st.DataObject, images: list[tuple[str, ...]]) -> None:
    k_min = data.draw(st.integers(2, 6))
    (text,) = aggregate_prompts(["Lake"], [images], [None], k_min).texts
    counts = {word: sum(word in words for words in images) for word in WORDS}
    least = max(k_min, CLASS_SHARE * len(images) - 1e-9)
    assert set(phrases_of(text)) == {word for word, count in counts.items() if count >= least}


@settings(max_examples=40, deadline=None)
@given(st.data(), IMAGES, st.randoms(use_true_random=False))
def test_the_order_of_images_and_of_their_phrases_does_not_matter(
    data: st.DataObject, images: list[tuple[str, ...]], random: Random
) -> None:
    found = clustered(data, images)
    order = list(range(len(images)))
    random.shuffle(order)
    shuffled = [tuple(reversed(images[i])) for i in order]
    turned = ClassPrototypes(found.latents, found.counts, found.members[order])
    first = aggregate_prompts(["Lake"], [images], [found], 2)
    assert aggregate_prompts(["Lake"], [shuffled], [turned], 2) == first


def test_one_image_is_never_enough() -> None:
    with pytest.raises(ValueError, match="k_min is 1"):
        aggregate_prompts(["Lake"], [[("water",)]], [None], 1)
    images = [("water", "secret"), ("water",), ("water",)]
    assert aggregate_prompts(["Lake"], [images], [prototypes([0, 0, 0])], 2).texts == (
        "a satellite image of lake, water",
    )


def test_the_class_itself_is_not_said_twice() -> None:
    images = [("parking lot", "cars")] * 3
    table = aggregate_prompts(["ParkingLot"], [images], [prototypes([0, 0, 0])], 2)
    assert table.texts == ("a satellite image of parking lot, cars",)


def test_equal_prompts_have_one_row() -> None:
    images = [("water",)] * 4
    table = aggregate_prompts(["A", "B"], [images, images], [prototypes([0, 0, 1, 1]), None], 2)
    assert table == PromptTable(
        ("a satellite image of a, water", "a satellite image of b, water"), ((0, 0), (1,)), ((), ())
    )


def shared_by(counts: dict[str, int]) -> list[tuple[str, ...]]:
    """Twenty images, so many of which have each phrase."""
    return [tuple(phrase for phrase, count in counts.items() if image < count) for image in range(20)]


def test_the_rarest_phrases_give_way_whole(tokenizer: CLIPTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ranked = ["dense trees", "zyxwv qqjk", "brown", "kwyjibo", "pale line", "vvxxzz", "green", "smooth", "dark blue"]
    counts = {phrase: 20 - rank for rank, phrase in enumerate(ranked)}
    table = aggregate_prompts(["River"], [shared_by(counts)], [prototypes([0] * 20)], 10, tokenizer=tokenizer)
    (text,) = table.texts
    kept = phrases_of(text)
    assert 0 < len(kept) < len(ranked)
    assert kept == ranked[: len(kept)]
    assert table.dropped == (tuple(ranked[len(kept) :]),)
    limit = tokenizer.model_max_length
    assert len(tokenizer(text)["input_ids"]) <= limit == 32
    assert len(tokenizer(f"{text}, {ranked[len(kept)]}")["input_ids"]) > limit  # control: there was no room
    assert f"River: no room in 32 tokens for: {', '.join(table.dropped[0])}" in caplog.text
    whole = aggregate_prompts(["River"], [shared_by(counts)], [prototypes([0] * 20)], 10)
    assert phrases_of(whole.texts[0]) == ranked
    assert whole.dropped == ((),)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.sampled_from("abcxyzqéß "), min_size=1, max_size=30), max_size=8), st.sampled_from("Aq"))
def test_what_fits_is_a_prefix_and_as_long_as_can_be(tokenizer: CLIPTokenizer, phrases: list[str], name: str) -> None:
    (kept,) = fit_phrases(tokenizer, [name], [phrases])
    assert list(kept) == phrases[: len(kept)]

    def tokens(words: Sequence[str]) -> int:
        text = ", ".join((f"a satellite image of {name.lower()}", *words))
        return len(tokenizer(text, truncation=False)["input_ids"])

    assert tokens(kept) <= 32
    if len(kept) < len(phrases):
        assert tokens(phrases[: len(kept) + 1]) > 32


def test_a_class_name_that_is_too_long_is_said(tokenizer: CLIPTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    name = "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch"
    table = aggregate_prompts([name, "Lake"], [[("water",)] * 3] * 2, [None, None], 2, tokenizer=tokenizer)
    assert phrases_of(table.texts[0]) == []
    assert table.dropped == (("water",), ())
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert f"class name {name!r} has" in record.getMessage()


def test_every_phrase_of_the_vocabularies_fits_beside_a_class(tokenizer: CLIPTokenizer) -> None:
    most = [
        max(group.phrases, key=lambda p: len(tokenizer(p)["input_ids"])) for group in GROUPS for _ in range(group.most)
    ]
    (kept,) = fit_phrases(tokenizer, ["SeaLake"], [most])
    assert len(kept) >= 4, f"only {kept} of {most}"


def test_training_captions_hold_whole_phrases(tokenizer: CLIPTokenizer) -> None:
    long = ("green", "qqzzxxjj", "smooth", "vvwwkkyy", "dark blue", "uniform", "high contrast", "xxkkqq")
    short = ("dark green", "horizontal lines")
    table = caption_table(tokenizer, ["River", "SeaLake"], [0, 1], [long, short])
    assert table.described.shape == (2, 2, 32)
    text = tokenizer.decode(table.described[0, 0], skip_special_tokens=True)
    read = [part.strip() for part in text.split(",")]
    assert read[0] == "a satellite image of river"
    assert 1 < len(read) < 1 + len(long)
    assert tuple(read[1:]) == long[: len(read) - 1]
    turned = tokenizer.decode(table.described[1, 1], skip_special_tokens=True)
    assert [part.strip() for part in turned.split(",")] == [
        "a satellite image of sea lake",
        "dark green",
        "vertical lines",
    ]


def test_directions_turn_with_the_image() -> None:
    words = ("horizontal lines", "rows of vertical trees", "green", "horizontally")
    assert turn_phrases(words) == ("vertical lines", "rows of horizontal trees", "green", "horizontally")
    assert turn_phrases(turn_phrases(words)) == words
