import hashlib
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpd_runtime.sampling import NoiseStream, image_element, noise_key, widen_mean

VECTORS = {
    (0, "Forest", 0, 0): (-1.92227820, -1.75911472, 0.28805984, -1.71760947),
    (2**64 - 1, "Überschwemmung", 4711, 2): (1.01170103, -0.81865041, 1.14652019, 0.38059930),
}
MASK = 2**64 - 1


def philox(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011) in plain Python; numpy starts at counter 1."""
    numbers: list[int] = []
    counter = 1
    while len(numbers) < count:
        x, (k0, k1) = [counter, 0, 0, 0], key
        for _ in range(10):
            left, right = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(right >> 64) ^ x[1] ^ k0, right & MASK, (left >> 64) ^ x[3] ^ k1, left & MASK]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        numbers += x
        counter += 1
    return numbers[:count]


def reference(seed: int, name: str, index: int, candidate: int, count: int) -> list[float]:
    """The noise of docs/reference/bundle-format.md, without numpy."""
    raw = name.encode("utf-8")
    message = b"dpd1" + struct.pack("<Q", seed) + struct.pack("<I", len(raw)) + raw
    message += struct.pack("<I", index) + struct.pack("<I", candidate)
    key = struct.unpack("<QQ", hashlib.sha256(message).digest()[:16])
    uniforms = [((x >> 11) + 0.5) * 2.0**-53 for x in philox(key, count)]
    values = []
    for u0, u1 in zip(uniforms[::2], uniforms[1::2], strict=True):
        radius = math.sqrt(-2 * math.log(u0))
        values += [radius * math.cos(2 * math.pi * u1), radius * math.sin(2 * math.pi * u1)]
    return values


@pytest.mark.parametrize("key", VECTORS, ids=lambda key: key[1])
def test_vectors(key: tuple[int, str, int, int]) -> None:
    found = NoiseStream(*key).normal((4,))
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(reference(*key, 4), rel=1e-6)  # one float32 rounding
    assert found.tolist() == pytest.approx(VECTORS[key], rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    index=st.integers(0, 2**32 - 1),
    candidate=st.integers(0, 2**32 - 1),
)
def test_equals_the_plain_reference(seed: int, name: str, index: int, candidate: int) -> None:
    found = NoiseStream(seed, name, index, candidate).normal((2, 3))
    assert found.reshape(-1).tolist() == pytest.approx(reference(seed, name, index, candidate, 6), rel=1e-6, abs=1e-7)


@given(
    first=st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", "a\0", "aa"]), st.integers(0, 9), st.integers(0, 9)),
    second=st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", "a\0", "aa"]), st.integers(0, 9), st.integers(0, 9)),
)
def test_keys_are_equal_only_for_equal_parts(
    first: tuple[int, str, int, int], second: tuple[int, str, int, int]
) -> None:
    assert (noise_key(*first) == noise_key(*second)) == (first == second)


def test_the_element_is_the_sixteenth_byte_of_the_hash() -> None:
    message = b"dpd1" + struct.pack("<QI", 7, 6) + b"Forest" + struct.pack("<II", 12, 0)
    assert image_element(7, "Forest", 12) == hashlib.sha256(message).digest()[15] % 8


def test_each_element_comes_up_and_hangs_on_seed_class_and_index() -> None:
    seen = [image_element(seed, "Forest", 0) for seed in range(400)]
    assert all(30 <= seen.count(element) <= 75 for element in range(8))  # 50, ± 3.5 standard deviations
    of_classes = [image_element(0, f"class {i}", 0) for i in range(400)]
    of_indices = [image_element(0, "Forest", index) for index in range(400)]
    assert seen != of_classes != of_indices != seen


def test_each_part_of_the_key_changes_the_noise() -> None:
    base = (1, "Forest", 2, 3)
    others = [(2, "Forest", 2, 3), (1, "River", 2, 3), (1, "Forest", 3, 3), (1, "Forest", 2, 2)]
    start = NoiseStream(*base).normal((1000,))
    assert np.array_equal(start, NoiseStream(*base).normal((1000,)))
    for other in others:
        assert abs(float(np.corrcoef(start, NoiseStream(*other).normal((1000,)))[0, 1])) < 0.15  # 4.7 standard errors


def test_moments() -> None:
    """Each bound is about five standard errors of 200 000 draws."""
    draws = NoiseStream(7, "Forest", 0, 0).normal((200_000,)).astype(np.float64)
    assert abs(draws.mean()) < 0.012
    assert abs(draws.var() - 1) < 0.016
    assert abs((draws**3).mean()) < 0.045
    assert abs((draws**4).mean() - 3) < 0.11
    assert abs(np.corrcoef(draws[::2], draws[1::2])[0, 1]) < 0.016
    assert abs((np.abs(draws) < 1).mean() - math.erf(1 / math.sqrt(2))) < 0.0053


@pytest.mark.parametrize("parts", [(2, 2), (4,), (6, 8, 10)])
def test_stream_goes_on_where_it_ended(parts: tuple[int, ...]) -> None:
    stream = NoiseStream(5, "River", 1, 0)
    pieces = np.concatenate([stream.normal((n,)) for n in parts])
    assert np.array_equal(pieces, NoiseStream(5, "River", 1, 0).normal((sum(parts),)))


def test_shape_only_folds_the_row_of_numbers() -> None:
    flat = NoiseStream(5, "River", 1, 0).normal((24,))
    assert np.array_equal(NoiseStream(5, "River", 1, 0).normal((2, 3, 4)), flat.reshape(2, 3, 4))
    assert np.array_equal(NoiseStream(5, "River", 1, 0).normal((5, 1)).reshape(-1), flat[:5])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_outside_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=str(seed)):
        NoiseStream(seed, "Forest", 0, 0)


@given(seed=st.integers(0, 2**32), gain=st.floats(0, 10, width=32))
def test_widening_changes_the_means_alone(seed: int, gain: float) -> None:
    noise = NoiseStream(seed, "River", 0, 0).normal((4, 8, 8))
    wide = widen_mean(noise, gain)
    assert wide.dtype == np.float32
    np.testing.assert_allclose(wide.mean((1, 2)), gain * noise.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(np.diff(wide, axis=2), np.diff(noise, axis=2), atol=1e-5)
    np.testing.assert_allclose(np.diff(wide, axis=1), np.diff(noise, axis=1), atol=1e-5)


def test_a_gain_of_one_changes_no_bit() -> None:
    noise = NoiseStream(3, "River", 0, 0).normal((4, 8, 8))
    assert widen_mean(noise, 1.0).tobytes() == noise.tobytes()
