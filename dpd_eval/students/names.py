"""The names of students, checked without PyTorch."""

from dpd_eval.students.hub import PREFIX, find_folder, is_hub
from dpd_runtime.errors import InputError

FAMILIES = ("convnet", "resnet", "resnet18", "mobilenetv2", "vit-tiny")
DEEPLY_SUPERVISED = ("convnet", "resnet", "resnet18")
NAMES = (*FAMILIES, *(f"dsdnet:{name}" for name in DEEPLY_SUPERVISED))


def check_student(name: str) -> None:
    """Check that a student exists.

    Raises:
        InputError: an unknown student, or a model that is not on this machine.
    """
    if is_hub(name):
        find_folder(name)
    elif name not in NAMES:
        raise InputError(f"no student {name!r}: there are {', '.join(NAMES)} and {PREFIX}ID_OR_PATH")
