"""What an interval repeats: pairs of students or, where sets come from several trainings, the bundles."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpd_eval.comparison.arm_names import SET_ARM
from dpd_eval.comparison.results import ArmResult
from dpd_eval.selection.methods import find_method, method_names
from dpd_eval.set_file import read_set_file
from dpd_eval.statistics import Unit, fewest_repeats
from dpd_eval.students.pretrained import PROBE

ONE_BUNDLE = "all sets come from one bundle: the intervals repeat students, not the training that made the bundle"


@dataclass(frozen=True)
class Repeats:
    """What the intervals of an evaluation are over.

    Args:
        bundles: for each set, what its bundle shares with its signed and audited copies: the sha256 of the prototypes.
            The bundle's own hash where it has none, "" where nothing is known.
    """

    bundles: tuple[str, ...]

    @property
    def unit(self) -> Unit:
        return "bundles" if all(self.bundles) and len(set(self.bundles)) > 1 else "pairs"

    def groups(self, arm: ArmResult, reference: ArmResult) -> list[Hashable] | None:
        """What each pair is averaged over; None if each pair counts for itself.

        It is the bundle, or the set where the pairs of one set are the same training again: a probe has no seed, and
        neither has a choice such as herding.
        """
        which = [seed % len(self.bundles) for seed in arm.seeds]
        if self.unit == "bundles":
            return [self.bundles[number] for number in which]
        chosen = reference.arm in method_names() and not find_method(reference.arm).uses_seed
        return [*which] if arm.student.startswith(PROBE) and arm.arm == SET_ARM and chosen else None

    def notes(self, pairs: dict[int, int]) -> list[str]:
        """Notes on what is not repeated, and on IPCs with too few repeats. pairs: IPC → number of pairs."""
        bundles = len(set(self.bundles))
        counts = {ipc: bundles if self.unit == "bundles" else count for ipc, count in pairs.items()}
        one = [ONE_BUNDLE] if self.unit == "pairs" and all(self.bundles) else []
        return one + [
            f"IPC {ipc}: {count} {self.unit.removesuffix('s') if count == 1 else self.unit}, at least "
            f"{fewest_repeats(self.unit, ipc)} are needed for a reported result"
            for ipc, count in counts.items()
            if count < fewest_repeats(self.unit, ipc)
        ]


def repeats_of(sets: Sequence[Path]) -> Repeats:
    """Read from which bundle each set was generated; folders that `dpd generate` did not write have none.

    Raises:
        InputError: a dataset.json is damaged.
    """
    found = [read_set_file(Path(path)) for path in sets]
    return Repeats(tuple(one.matching if one else "" for one in found))
