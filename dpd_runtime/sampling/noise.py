"""The noise of each image. It does not depend on batch, order, machine or worker (docs/reference/bundle-format.md)."""

import hashlib
import struct
from collections.abc import Iterator

import numpy as np

from dpd_runtime.annotations import Float32


def noise_key(seed: int, class_name: str, index: int, candidate: int) -> bytes:
    """sha256(b"dpd1" ‖ seed u64le ‖ len(class) u32le ‖ class utf-8 ‖ index u32le ‖ candidate u32le), first 16 bytes."""
    name = class_name.encode()
    head = b"dpd1" + struct.pack("<QI", seed, len(name))
    return hashlib.sha256(head + name + struct.pack("<II", index, candidate)).digest()[:16]


def image_element(seed: int, class_name: str, index: int) -> int:
    """The symmetry of the square, 0 … 7, by which the seed turns and mirrors a decoded image (see `turned`).

    It is the last byte of `noise_key` for candidate 0, modulo 8.
    """
    return noise_key(seed, class_name, index, 0)[-1] % 8


def widen_mean(noise: Float32, gain: float) -> Float32:
    """Multiply the mean of each channel of start noise [C, h, w] by `gain`. 1 changes nothing.

    The mean of the noise becomes the mean colour and brightness of the image. Small models vary those too little
    (Lin et al. 2023 give the cause); a larger gain increases their spread.
    """
    if gain == 1:
        return noise
    mean = noise.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    wide: Float32 = (noise + (gain - 1) * mean).astype(np.float32)
    return wide


class NoiseStream:
    """Standard normal numbers of one image and candidate: first the start noise, then that of stochastic solvers."""

    def __init__(self, seed: int, class_name: str, index: int, candidate: int) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed {seed} is outside 0 … 2**64 - 1")
        key = np.frombuffer(noise_key(seed, class_name, index, candidate), dtype="<u8").astype(np.uint64)
        self._generator = np.random.Philox(key=key)

    def normal(self, shape: tuple[int, ...]) -> Float32:
        """Box–Muller on pairs of uniforms u = ((x >> 11) + 0.5) · 2⁻⁵³; float64 → float32, C order."""
        count = int(np.prod(shape))
        raw = np.asarray(self._generator.random_raw(count + count % 2), dtype=np.uint64)
        uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log(uniform[0::2]))
        angle = 2.0 * np.pi * uniform[1::2]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.reshape(-1)[:count].astype(np.float32).reshape(shape)


def image_noise(
    seed: int, class_name: str, index: int, candidate: int, shape: tuple[int, int, int], draws: int, mean_gain: float
) -> Float32:
    """[1 + draws, C, h, w]: start noise after `widen_mean`, then the noise that a stochastic solver adds."""
    noise = np.empty((1 + draws, *shape), np.float32)
    for row, part in zip(noise, noise_parts(seed, class_name, index, candidate, shape, draws, mean_gain), strict=True):
        row[:] = part
    return noise


def noise_parts(
    seed: int, class_name: str, index: int, candidate: int, shape: tuple[int, int, int], draws: int, mean_gain: float
) -> Iterator[Float32]:
    """The rows of `image_noise`, one after the other."""
    stream = NoiseStream(seed, class_name, index, candidate)
    yield widen_mean(stream.normal(shape), mean_gain)
    for _ in range(draws):
        yield stream.normal(shape)
