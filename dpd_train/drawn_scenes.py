"""Procedurally drawn scenes that look like satellite tiles: free data for demos and tests.

Everything is drawn at four times the side and reduced, so that edges are as soft as a sensor's. Lengths are fractions
of the tile's side, so that a road has the same relative width at any resolution.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dpd_runtime.annotations import Pixels
from dpd_runtime.errors import InputError

SUPERSAMPLING = 4
SENSOR_NOISE = 2.5  # standard deviation in grey levels of 255

Plane = npt.NDArray[np.float64]  # [S, S]
Picture = npt.NDArray[np.float64]  # [S, S, 3], grey levels 0…255
Colour = tuple[float, float, float]

CROPS: tuple[Colour, ...] = (
    (92, 124, 62),
    (64, 104, 52),
    (128, 142, 76),
    (170, 158, 104),
    (190, 172, 122),
    (142, 112, 78),
    (112, 88, 66),
    (150, 138, 92),
    (84, 116, 78),
)
MEADOWS: tuple[Colour, ...] = ((96, 118, 66), (116, 128, 76), (128, 122, 82), (82, 104, 60))
ROOFS: tuple[Colour, ...] = (
    (172, 92, 72),
    (150, 78, 62),
    (186, 120, 92),
    (148, 142, 138),
    (204, 198, 188),
    (120, 106, 100),
)


def draw_scene(name: str, rng: np.random.Generator, resolution: int = 64) -> Pixels:
    """Draw one tile of class `name`, uint8 [resolution, resolution, 3], with random numbers only from `rng`.

    Raises:
        InputError: a name that is not in CLASSES, or a resolution below 8.
    """
    if name not in _DRAW:
        raise InputError(f"no scene is called {name!r}; there are {', '.join(CLASSES)}")
    if resolution < 8:
        raise InputError(f"a scene of {resolution} pixels is too small; give at least 8")
    large = _DRAW[name](rng, resolution * SUPERSAMPLING)
    # Haze and exposure differ between acquisitions; without them each class would have one brightness.
    large = (large - 110) * rng.uniform(0.9, 1.08) + 110 + rng.normal(0, 5) + rng.normal(0, 2, 3)
    size = (resolution, SUPERSAMPLING, resolution, SUPERSAMPLING, 3)
    reduced = large.reshape(size).mean(axis=(1, 3))
    noisy = reduced + rng.normal(0, SENSOR_NOISE, reduced.shape)
    tile: Pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return tile


def numbered_scene(label: int, index: int, seed: int, resolution: int) -> Pixels:
    """Draw tile `index` of class `label`. It depends only on (seed, label, index)."""
    return draw_scene(CLASSES[label], np.random.default_rng([seed, label, index]), resolution)


def write_scenes(root: Path, *, per_class: int, seed: int, resolution: int = 64) -> None:
    """Write root/<Class>/<Class>_0000.png … with `per_class` tiles for each class: those of `numbered_scene`.

    Raises:
        InputError: `per_class` is below 1.
    """
    if per_class < 1:
        raise InputError(f"{per_class} scenes per class: give at least 1")
    for label, name in enumerate(CLASSES):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            Image.fromarray(numbered_scene(label, index, seed, resolution)).save(folder / f"{name}_{index:04d}.png")


def _fields(rng: np.random.Generator, side: int) -> Picture:
    u, v = _rotated(rng, side)
    picture = np.zeros((side, side, 3))
    _split_parcels(rng, picture, u, v, np.ones((side, side), bool), depth=0)
    return picture * (1 + 0.06 * _clouds(rng, side, 0.3))[..., None]


def _split_parcels(
    rng: np.random.Generator, picture: Picture, u: Plane, v: Plane, inside: npt.NDArray[np.bool_], depth: int
) -> None:
    """Halve the region across its longer extent until the pieces are parcels; each gets a crop and furrows."""
    if not inside.any():
        return
    extents = [float(np.ptp(axis[inside])) for axis in (u, v)]
    longer, across = (u, v) if extents[0] >= extents[1] else (v, u)
    if depth < 2 or (max(extents) > 0.45 and rng.random() < 0.75):
        low, high = float(longer[inside].min()), float(longer[inside].max())
        cut = low + (high - low) * rng.uniform(0.35, 0.65)
        _split_parcels(rng, picture, u, v, inside & (longer < cut), depth + 1)
        _split_parcels(rng, picture, u, v, inside & (longer >= cut), depth + 1)
        track = inside & (np.abs(longer - cut) < rng.uniform(0.004, 0.01))
        picture[track] = np.array([168, 156, 122]) if rng.random() < 0.5 else np.array([70, 92, 52])
        return
    crop = np.array(CROPS[rng.integers(len(CROPS))]) + rng.normal(0, 6, 3)
    ploughed = longer if rng.random() < 0.25 else across
    furrows = np.sin(2 * np.pi * ploughed / rng.uniform(0.035, 0.075) + rng.uniform(0, 6))
    shade = 1 + rng.choice([0.02, 0.07, 0.13]) * furrows + 0.05 * _clouds(rng, inside.shape[0], 0.12)
    picture[inside] = (shade[..., None] * crop)[inside]


def _river(rng: np.random.Generator, side: int) -> Picture:
    picture = _fields(rng, side) if rng.random() < 0.6 else _vegetation(rng, side)
    distance = _meander(rng, side, bends=rng.uniform(0.06, 0.15))
    width = rng.uniform(0.045, 0.1) * (1 + 0.2 * _clouds(rng, side, 0.4))
    trees = width + 0.05 + 0.04 * _clouds(rng, side, 0.1)
    picture = _blend(picture, _canopy(rng, side), _edge(trees - distance, 0.01))
    sand = np.full((side, side, 3), (178, 166, 132)) * (1 + 0.05 * _clouds(rng, side, 0.05))[..., None]
    picture = _blend(picture, sand, _edge(width + 0.012 - distance, 0.006) * (_clouds(rng, side, 0.25) > 0.4))
    water = np.array([(44, 74, 92), (52, 84, 86), (72, 92, 88), (34, 60, 84)][rng.integers(4)])
    surface = water * (1 + 0.04 * _clouds(rng, side, 0.3))[..., None]
    return _blend(picture, surface, _edge(width - distance, 0.006))


def _road(rng: np.random.Generator, side: int) -> Picture:
    picture = _vegetation(rng, side)
    bushes = _edge(_clouds(rng, side, 0.16) - rng.uniform(0.5, 1.1), 0.1)
    picture = _blend(picture, _canopy(rng, side), bushes)
    distance, along = _arc(rng, side)
    half = rng.uniform(0.035, 0.055)
    verge = np.array([152, 144, 108]) * (1 + 0.06 * _clouds(rng, side, 0.04))[..., None]
    picture = _blend(picture, verge, _edge(half * 1.5 - np.abs(distance), 0.006))
    asphalt = rng.uniform(118, 150) * (1 + 0.03 * _clouds(rng, side, 0.1))[..., None] * np.array([1.0, 0.99, 0.98])
    picture = _blend(picture, asphalt, _edge(half - np.abs(distance), 0.004))
    lanes = _edge(0.006 - np.abs(np.abs(distance) - 0.88 * half), 0.003) + _edge(0.006 - np.abs(distance), 0.003)
    picture = _blend(picture, np.full((side, side, 3), 226.0), 0.8 * np.clip(lanes, 0, 1))
    for _ in range(rng.integers(1, 7)):
        place, lane = rng.uniform(-0.6, 0.6), rng.choice([-0.45, 0.45]) * half
        car = (np.abs(along - place) < 0.022) & (np.abs(distance - lane) < 0.011)
        picture[car] = np.array([(236, 236, 234), (60, 62, 70), (176, 60, 52), (210, 212, 216)][rng.integers(4)])
    return picture


def _houses(rng: np.random.Generator, side: int) -> Picture:
    u, v = _rotated(rng, side)
    picture = _vegetation(rng, side) * 0.95
    trees = _edge(_clouds(rng, side, 0.06) - 0.75, 0.1)
    picture = _blend(picture, _canopy(rng, side), trees)
    block_u, block_v = rng.uniform(0.36, 0.5), rng.uniform(0.27, 0.36)
    phase_u, phase_v = rng.uniform(0, 1, 2)
    street = 0.03
    on_u, on_v = np.abs(_wrap(u + phase_u, block_u)), np.abs(_wrap(v + phase_v, block_v))
    grey = rng.uniform(140, 165) * (1 + 0.03 * _clouds(rng, side, 0.05))[..., None] * np.ones(3)
    picture = _blend(picture, grey, _edge(street - np.minimum(on_u, on_v), 0.004))
    plot = rng.uniform(0.105, 0.125)
    palette = rng.permutation(len(ROOFS))[: rng.integers(2, 5)]
    houses = []
    for start_u in np.arange(-1.5, 1.5, block_u) - phase_u % block_u:
        for start_v in np.arange(-1.5, 1.5, block_v) - phase_v % block_v:
            # Two rows of houses back to back, each facing its street.
            for row in (start_v + street + 0.055, start_v + block_v - street - 0.055):
                for place in np.arange(start_u + street + plot / 2, start_u + block_u - street - plot / 3, plot):
                    if rng.random() < 0.92 and max(abs(place), abs(row)) < 0.85:
                        half = (rng.uniform(0.03, 0.043), rng.uniform(0.026, 0.036))
                        houses.append((place + rng.normal(0, 0.006), row + rng.normal(0, 0.006), half))
    for place, row, half in houses:  # all shadows fall in one direction
        at = _window(u, v, place, row)
        picture[at][(np.abs(u[at] - place - 0.016) < half[0]) & (np.abs(v[at] - row - 0.018) < half[1])] *= 0.42
    for place, row, half in houses:
        at = _window(u, v, place, row)
        roof = np.array(ROOFS[palette[rng.integers(len(palette))]]) + rng.normal(0, 8, 3)
        du, dv = u[at] - place, v[at] - row
        inside = (np.abs(du) < half[0]) & (np.abs(dv) < half[1])
        picture[at][inside] = np.where((dv < 0)[..., None], roof * 1.12, roof * 0.82)[inside]  # a ridge: lit and shaded
    return picture


def _forest(rng: np.random.Generator, side: int) -> Picture:
    picture = _canopy(rng, side)
    if rng.random() < 0.35:  # a clearing
        clearing = _edge(_clouds(rng, side, 0.35) - rng.uniform(1.1, 1.5), 0.08)
        picture = _blend(picture, _vegetation(rng, side), clearing)
    return picture


def _water(rng: np.random.Generator, side: int) -> Picture:
    u, v = _rotated(rng, side)
    deep = np.array([(22, 50, 84), (28, 62, 88), (30, 70, 78), (18, 40, 70), (40, 78, 84)][rng.integers(5)])
    light = 1 + 0.18 * u * rng.uniform(0, 1) + 0.03 * _clouds(rng, side, 0.5)
    swell = 0.015 * np.sin(2 * np.pi * (v + 0.02 * _clouds(rng, side, 0.2)) / rng.uniform(0.05, 0.09))
    picture = deep * (light + swell)[..., None]
    if rng.random() < 0.4:
        land = v - rng.uniform(0.22, 0.42) + 0.06 * _clouds(rng, side, 0.3)
        shallow = np.array([74, 122, 122])
        picture = _blend(picture, np.ones((side, side, 1)) * shallow, 0.7 * _edge(land + 0.06, 0.05))
        sand = np.array([198, 186, 150]) * (1 + 0.04 * _clouds(rng, side, 0.05))[..., None]
        picture = _blend(picture, sand, _edge(land, 0.006))
        picture = _blend(picture, _vegetation(rng, side), _edge(land - 0.05 - 0.02 * _clouds(rng, side, 0.1), 0.01))
    return picture


_DRAW: dict[str, Callable[[np.random.Generator, int], Picture]] = {
    "Fields": _fields,
    "Forest": _forest,
    "Houses": _houses,
    "River": _river,
    "Road": _road,
    "Water": _water,
}
CLASSES = tuple(_DRAW)


def _vegetation(rng: np.random.Generator, side: int) -> Picture:
    """Grass and scrub."""
    one, other = rng.permutation(len(MEADOWS))[:2]
    mixed = _edge(_clouds(rng, side, 0.3), 0.6)
    ground = _blend(np.ones((side, side, 3)) * MEADOWS[one], np.ones((side, side, 3)) * MEADOWS[other], mixed)
    return ground * (1 + 0.07 * _clouds(rng, side, 0.05) + 0.05 * _clouds(rng, side, 0.02))[..., None]


def _canopy(rng: np.random.Generator, side: int) -> Picture:
    """Tree crowns from above, lit from one side."""
    height = np.zeros((side, side))
    radius = rng.uniform(0.022, 0.034)
    reach = int(np.ceil(radius * 1.3 * side))
    offsets = np.arange(-reach, reach + 1) / side
    square = offsets[:, None] ** 2 + offsets[None, :] ** 2
    for row, column in rng.integers(0, side, (int(0.9 / radius**2), 2)):
        grown = radius * rng.uniform(0.6, 1.3)
        dome = np.sqrt(np.clip(grown**2 - square, 0, None)) + 0.25 * grown * (square < grown**2) * rng.random()
        top, left = max(row - reach, 0), max(column - reach, 0)
        patch = height[top : row + reach + 1, left : column + reach + 1]
        part = dome[top - row + reach :, left - column + reach :][: patch.shape[0], : patch.shape[1]]
        np.maximum(patch, part, out=patch)
    slope = (np.gradient(height, axis=0) + np.gradient(height, axis=1)) * side
    light = 0.62 + 0.45 * height / radius - 0.16 * np.clip(slope, -1.5, 1.5) + 0.12 * _clouds(rng, side, 0.25)
    green = np.array([(38, 66, 36), (44, 74, 40), (34, 60, 42), (52, 78, 40)][rng.integers(4)])
    return green * np.clip(light, 0.3, 1.6)[..., None]


def _meander(rng: np.random.Generator, side: int, bends: float) -> Plane:
    """Distance of each pixel from a winding line across the tile."""
    u, v = _rotated(rng, side)
    first, second = 2 * np.pi * rng.uniform(0.8, 1.4), 2 * np.pi * rng.uniform(1.8, 2.6)
    a, b = rng.uniform(0, 2 * np.pi, 2)
    line = rng.normal(0, 0.06) + bends * np.sin(first * u + a) + 0.3 * bends * np.sin(second * u + b)
    slope = bends * first * np.cos(first * u + a) + 0.3 * bends * second * np.cos(second * u + b)
    distance: Plane = np.abs(v - line) / np.sqrt(1 + slope**2)
    return distance


def _arc(rng: np.random.Generator, side: int) -> tuple[Plane, Plane]:
    """Signed distance from, and length along, a line across the tile that is straight or gently curved."""
    u, v = _rotated(rng, side)
    curve = 0.0 if rng.random() < 0.5 else rng.uniform(-0.5, 0.5)
    distance = (v - rng.normal(0, 0.1) - curve * u**2) / np.sqrt(1 + (2 * curve * u) ** 2)
    return distance, u


def _rotated(rng: np.random.Generator, side: int) -> tuple[Plane, Plane]:
    """Coordinates of the pixels in a frame turned by a random angle; the tile spans [-0.5, 0.5] before the turn."""
    steps = (np.arange(side) + 0.5) / side - 0.5
    y, x = np.meshgrid(steps, steps, indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _window(u: Plane, v: Plane, place: float, row: float) -> tuple[slice, slice]:
    """The pixels around (u, v) = (place, row), as a house covers only a hundredth of the tile."""
    side = len(u)
    cos, sin = (u[0, 1] - u[0, 0]) * side, (u[1, 0] - u[0, 0]) * side
    y, x = ((place * sin + row * cos + 0.5) * side, (place * cos - row * sin + 0.5) * side)
    reach = 0.09 * side
    return slice(max(int(y - reach), 0), max(int(y + reach) + 1, 0)), slice(
        max(int(x - reach), 0), max(int(x + reach) + 1, 0)
    )


def _clouds(rng: np.random.Generator, side: int, scale: float) -> Plane:
    """Smooth noise [side, side] with about zero mean and unit deviation; `scale` is the size of its lumps."""
    cells = int(np.ceil(1 / scale)) + 3
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    fine = coarse.resize((side, side), Image.Resampling.BICUBIC, box=(1, 1, 1 + 1 / scale, 1 + 1 / scale))
    return np.asarray(fine, np.float64) * 1.3


def _blend(below: Picture, above: Picture, share: Plane) -> Picture:
    return below + (above - below) * share[..., None]


def _edge(inside: Plane, softness: float) -> Plane:
    """A soft mask: 1 where `inside` is positive, 0 elsewhere, with a transition of width `softness`."""
    return np.clip(inside / softness + 0.5, 0, 1)


def _wrap(values: Plane, period: float) -> Plane:
    """Signed distance from the nearest multiple of `period`."""
    distance: Plane = (values + period / 2) % period - period / 2
    return distance
