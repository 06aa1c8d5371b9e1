"""What is said of scenes wherever they or what was made of them is shown: the size they get, and that they are few."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_runtime.bundle import Bundle


COSTLY = 2
"""How many times larger than the images of a set scenes must be for COST to be said: less was not measured."""
COST = (
    "on UC Merced (256 px) a classifier on a published network lost 0 to 2 points by 64 px and 0 to 1 by 128 px, but 8 "
    "to 13 if it then classified images of 256 px: reduce those too"
)
"""Of probes on two networks, trained on ten real images a class (docs/results.md)."""
MOST_SIDE = 10**6
SMALL = 60
"""Below so many training images a class, a class's own images show in whatever is trained on them."""
GIVEN_AWAY = "networks trained on so few give them away"


@dataclass(frozen=True)
class SceneSides:
    """The shorter sides of scenes in pixels. cut: whether some are no squares, of which the middle is used."""

    least: int
    median: int
    most: int
    cut: bool = False

    def __str__(self) -> str:
        return (
            f"{self.most} px" if self.least == self.most else f"{self.least} to {self.most} px, median {self.median},"
        )

    def record(self) -> dict[str, Any]:
        """The content for run.json and for a manifest."""
        return asdict(self)


def sides_of(sizes: Mapping[tuple[int, int], int]) -> SceneSides:
    """The sides of scenes.

    Args:
        sizes: number of scenes of each (width, height) in pixels, at least one.
    """
    sides: Counter[int] = Counter()
    for size, count in sizes.items():
        sides[min(size)] += count
    ordered = sorted(sides.elements())
    return SceneSides(ordered[0], ordered[len(ordered) // 2], ordered[-1], any(w != h for w, h in sizes))


def recorded_sides(record: object) -> SceneSides | None:
    """The sides that a run or a bundle tells of; None if it tells of none, as older ones, or of what cannot be."""
    if not isinstance(record, dict) or set(record) != {field.name for field in fields(SceneSides)}:
        return None
    numbers = [record[name] for name in ("least", "median", "most")]
    if type(record["cut"]) is not bool or not all(type(n) is int and 0 < n <= MOST_SIDE for n in numbers):
        return None
    return SceneSides(**record) if numbers == sorted(numbers) else None


def size_remarks(sides: SceneSides, side: int, why: str = "") -> list[str]:
    """What becomes of scenes in images of `side` px, and what it costs, one line each; none if they stay as they are.

    Args:
        why: where that side comes from.
    """
    resized = not sides.least == sides.most == side
    if not resized and not sides.cut:
        return []
    verb = "reduced" if sides.least >= side else "enlarged" if sides.most <= side else "resized"
    steps = ["cut to their middle square"] * sides.cut + [f"{verb} to {side} x {side} px{why}"] * resized
    effect = ": the set shows nothing finer" if sides.median > side else ""
    if sides.most < side:
        effect = ": that adds no detail"
    return [f"scenes of {sides} are {' and '.join(steps)}{effect}", *([COST] if sides.median >= COSTLY * side else [])]


def other_side(sides: SceneSides, side: int, multiple: int) -> list[str]:
    """A line about the --resolution that suits scenes better than `side`; none if there is none.

    Args:
        multiple: of the sides that the base takes.
    """
    wider, own = min(2 * side, sides.median) // multiple * multiple, sides.most
    if wider > side:
        factor = (wider / side) ** 2
        return [
            f"--resolution {wider} keeps more: a step takes about {factor:.2g} times as long, with more memory, and "
            "images that a base samples at another size than its own may be worse"
        ]
    if own < side and own % multiple == 0:
        factor = (side / own) ** 2
        return [f"--resolution {own} keeps what they show, and a step takes about 1/{factor:.2g} of the time"]
    return []


def few_images(counts: Mapping[str, int]) -> str:
    """That a class has so few training images that they show in what is trained on them; empty if none has.

    Args:
        counts: class → different training images, of at least one class.
    """
    least = min(counts, key=counts.__getitem__)
    if counts[least] >= SMALL:
        return ""
    return f"class {least!r} has {counted(counts[least], 'training image')}, fewer than {SMALL}"


def network_remarks(counts: Mapping[str, int], *, matched: bool) -> list[str]:
    """A line about a bundle that holds networks, where they are trained on few images; none where they are not.

    Args:
        counts: as of `few_images`. matched: whether there are matched codes, which can leave without the networks.
    """
    few = few_images(counts)
    way_out = "dpd export --codes-only leaves them out" if matched else "add images"
    return [f"{few}: {GIVEN_AWAY}; {way_out}"] if few else []


def bundle_remarks(bundle: "Bundle") -> list[str]:
    """The line of `network_remarks` about a bundle, as far as it tells how many images stand behind its codes."""
    known = {scene.name: scene.training_images for scene in bundle.classes if scene.training_images is not None}
    return network_remarks(known, matched=True) if known and not bundle.manifest.codes_only else []
