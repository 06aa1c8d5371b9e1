"""What a newcomer sees at a Python prompt: the embedded bundle without its path, and objects that say what they are."""

import pytest

from dpd_runtime import embedded_bundle, generate, load_bundle
from tests.drawn import draw


def test_without_a_path_the_embedded_bundle_is_opened() -> None:
    bundle = load_bundle()
    assert bundle.path == embedded_bundle()
    assert bundle.hash == load_bundle(embedded_bundle()).hash


def test_objects_say_what_they_are_in_one_line() -> None:
    pytest.importorskip("onnxruntime")
    bundle = load_bundle()
    generation = generate(bundle, ipc=50, seed=3, classes=("River", "Forest"), provider="cpu")
    image = draw(generation.blocks()[1])[2]
    assert repr(bundle) == (
        f"Bundle('eurosat64', 10 classes, 64 × 64 pixels, unsigned, audit {bundle.manifest.audit}, "
        f"hash {bundle.hash[:12]}…)"
    )
    assert repr(generation) == "Generation('eurosat64', 100 images: 50 of each of 2 classes, seed 3, on cpu)"
    assert repr(image) == "Image('Forest', index 12, label 1, 64 × 64 pixels, prototype 0, prompt 'Forest, 12')"
    assert repr(bundle.manifest.sampler) == (
        "Sampler(unipc, 15 steps, 3 candidates; images decoded from block 0 on, re-noised from block 5 on, "
        "sampled from block 50 on)"
    )
