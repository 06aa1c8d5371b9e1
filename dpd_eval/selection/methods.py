"""The table of selection methods, and the choice of images by one of them."""

from dpd_eval.selection.foreground import FOREGROUND
from dpd_eval.selection.full import FULL
from dpd_eval.selection.herding import HERDING
from dpd_eval.selection.k_center import K_CENTER
from dpd_eval.selection.k_means import K_MEANS
from dpd_eval.selection.method import Features, Method, Rows, rows_by_class
from dpd_eval.selection.random import RANDOM
from dpd_eval.selection.tdds import TDDS
from dpd_runtime.errors import InputError
from dpd_train.images import SceneSet

METHODS: dict[str, Method] = {
    method.name: method for method in (RANDOM, HERDING, K_CENTER, K_MEANS, TDDS, FOREGROUND, FULL)
}


def find_method(name: str) -> Method:
    """Look up a method by name.

    Raises:
        InputError: no such method.
    """
    if name not in METHODS:
        raise InputError(f"no selection method {name!r}: there are {', '.join(METHODS)}")
    return METHODS[name]


def select(method: str, scenes: SceneSet, ipc: int, seed: int, features: Features | None = None) -> Rows:
    """Choose rows [classes · ipc] of `scenes`, sorted by class and within a class in the method's order.

    A smaller ipc gives a prefix of each class, except with k-means.

    Args:
        method: a key of METHODS.
        ipc: images per class; ignored by `full`, which takes all images.
        seed: used by `random` only.
        features: [n, D] of all images of `scenes`, or scores [n, 1], for the methods that need them. For foreground,
            `scenes` are the patches.

    Raises:
        InputError: an unknown method, ipc < 1, features that are missing or not one row per image.
        DataError: a class has fewer than ipc images, or features that are not finite.
    """
    return rows_by_class(find_method(method), scenes.labels, ipc, seed, features, scenes.classes)
