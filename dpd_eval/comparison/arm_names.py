"""Names of the arms of an evaluation, and which of them are compared. Loads no PyTorch: the report reads them too."""

SET_ARM, FULL_ARM = "set", "full"
HELD_OUT = "held-out real"  # the images that students are tested on, where arms are compared with them
LABELS_ARM = "labels"
_JPEGS, _MEGABYTES = "jpegs in ", " MB"
_OWN, _WITH = " real", f"{SET_ARM} + "


def own_arm(count: int) -> str:
    """The arm of `count` real images per class that a site has itself: `5 real`."""
    return f"{count}{_OWN}"


def joint_arm(own: str) -> str:
    """The arm of the set together with the images of an own arm: `set + 5 real`."""
    return f"{_WITH}{own}"


def jpegs_arm(megabytes: float) -> str:
    """The arm of as many real images as fit into so many megabytes as JPEGs: `jpegs in 3.1 MB`."""
    return f"{_JPEGS}{megabytes:g}{_MEGABYTES}"


def is_alternative(arm: str) -> bool:
    """Whether it is what could travel in place of a bundle."""
    return arm == LABELS_ARM or jpeg_megabytes(arm) is not None


def jpeg_megabytes(arm: str) -> float | None:
    """The megabytes of an arm of JPEGs; None for other arms."""
    return float(arm.removeprefix(_JPEGS).removesuffix(_MEGABYTES)) if arm.startswith(_JPEGS) else None


def is_own(arm: str) -> bool:
    return arm.endswith(_OWN) and not is_joint(arm)


def is_joint(arm: str) -> bool:
    return arm.startswith(_WITH)


def own_part(arm: str) -> str:
    """The own arm of a joint one."""
    return arm.removeprefix(_WITH)


def own_count(arm: str) -> int:
    """The number of images per class of an own arm."""
    return int(arm.removesuffix(_OWN))


def is_compared(arm: str, reference: str) -> bool:
    """Whether an evaluation reports `arm` − `reference`.

    The set is compared with everything made of real images alone, and a joint arm with both of its halves.
    """
    if arm == SET_ARM:
        return reference != SET_ARM and not is_joint(reference)
    return is_joint(arm) and reference in (SET_ARM, own_part(arm))
