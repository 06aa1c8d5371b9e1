"""run.json, which describes a finished run; JSON from outside as a value of a type; options as records keep them."""

from typing import Any, TypedDict, TypeVar

from dpd_runtime.errors import InputError
from dpd_runtime.files import expanded
from dpd_runtime.settings import WITHHELD

T = TypeVar("T")


def convert(content: Any, kind: type[T], where: str) -> T:
    """Make a value of a type, such as a dataclass, of parsed JSON; fields that the type does not know are left out.

    Raises:
        InputError: a field is missing, of the wrong type or out of range; the message names it.
    """
    import msgspec  # of the extra train; a site generates and reads help without it

    try:
        return msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        said, _, place = str(error).replace("`", "").partition(" - at ")
        said = f"{place.removeprefix('$').removeprefix('.')}: {said}" if place else said
        raise InputError(f"{where}: {said}; the file was changed or written by another version") from None


class RunRecord(TypedDict, total=False):
    """The content of run.json. Fields that a run does not have are absent.

    Args:
        config: the options as they were resolved: `dpd train DATA --config run.json` repeats the run.
        data: of the training images: `images`, `classes` (class → images), `sha256` over the sorted hashes of the
            files, how validation images were held out, `scene_sides`, and `data_card`, the sha256 of the data card.
        rendering: how bands became pixel values, of images that Pillow does not read as they are.
        rejected: files that could not be used. near_duplicates: images that were left out as near duplicates; null
            where they were kept.
        scenes: class → distinct scenes, where they are fewer than the images.
        images_after_pruning: of the sample tdds. crop: of the sample foreground. samples: what samples of other
            packages say of themselves.
        prototypes: class → prototypes. prototypes_too_near: those that decoded too near to a training image: matched
            codes return to their start, others are left out.
        watchers: name, weights_sha256 and, if it is known, licence of each further network that watched.
        prototype_privacy: epsilon, delta and noise of --prototype-noise. private_prototypes: whether they show real
            images.
        metrics: accuracies of the classifiers, quality of the VAE, and the losses of the denoiser.
        base_pretraining: pretrain.json of the base.
        versions, hardware, processes: what computed it.
        federated: of a tuning together with other sites.
        seconds, stages: wall time of all sessions, whole and by stage, once the images are read and samples are taken.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    rendering: dict[str, Any]
    rejected: int
    near_duplicates: int | None
    scenes: dict[str, int]
    images_after_pruning: int
    crop: dict[str, Any]
    samples: dict[str, Any]
    prototypes: dict[str, int]
    prototypes_too_near: int | None
    watchers: list[dict[str, str]]
    prototype_privacy: dict[str, Any]
    private_prototypes: bool
    metrics: dict[str, Any]
    base_pretraining: dict[str, Any]
    versions: dict[str, str]
    hardware: str
    processes: int
    federated: dict[str, Any]
    seconds: float
    stages: dict[str, float]


def kept(value: str) -> str:
    """An option's value that names methods or models, for a record that may leave: WITHHELD where it names a folder.

    What stands before the first colon of NAME:ARGUMENT is a name. An argument may hold a name and a colon itself, and
    several models with + between them.
    """
    arguments = [part.partition(":")[2] for part in (value, *value.split(","))]
    parts = [end for argument in arguments for end in (argument, *argument.split("+"))]
    ends = {part[place:] for part in parts for place in range(len(part)) if not place or part[place - 1] == ":"}
    whole = {part for part in value.split(",") if ":" not in part and ("/" in part or part.startswith("~"))}
    return WITHHELD if any(_is_place(end) for end in ends | whole) else value


def _is_place(text: str) -> bool:
    path = expanded(text)
    try:
        return path.is_absolute() or path.is_dir()
    except (OSError, ValueError):  # too long for a name
        return True
