"""The samples `tdds:SHARE` and `foreground[:DINO+SAM2]`, for the door `dpd.samples`. Loads no PyTorch."""

from dpd_neighbours.foreground.cropping import cropped, side_to_cut
from dpd_neighbours.foreground.models import find_models
from dpd_runtime.errors import InputError
from dpd_runtime.text import number_or_nan
from dpd_train.samples import Look, Sample, Taken
from dpd_train.scenes import Scenes


def tdds(argument: str) -> Sample:
    """Each class without the share of images that teach least.

    Raises:
        InputError: a share that is not between 0 and 1.
    """
    share = number_or_nan(argument)
    if not 0 < share < 1:
        raise InputError(f"--samples tdds:{argument}: say the share to leave out, above 0 and below 1, as in tdds:0.7")

    def take(look: Look) -> Taken:
        from dpd_neighbours.tdds import best_rows, training_scores

        progress = look.stage("scoring the training images")
        scores = training_scores(look.train, look.cache, progress, seed=look.seed + 3, device=look.device)
        kept = look.train.only(best_rows(scores[:, 0], look.train.labels, share))
        return Taken(train=kept, record={"images_after_pruning": len(kept.labels)})

    return Sample(take=take)


def foreground(argument: str) -> Sample:
    """Images that are larger than the run's, cut to their objects.

    Args:
        argument: the two models that find the objects, as in `find_models`; "" for a saliency map.

    Raises:
        InputError: as `find_models`.
    """
    models = find_models(argument) if argument else None

    def check(scenes: Scenes, side: int) -> None:
        side_to_cut(scenes, side)

    return Sample(take=lambda look: cropped(look, models), check=check, cuts=True)
