"""The selections `tdds` and `foreground[:DINO+SAM2]`, for the door `dpd.selections`. Loads no PyTorch."""

from dpd_eval.selection import Look, Method, Seen, highest_first
from dpd_neighbours.foreground.models import find_models


def _scores(look: Look) -> Seen:
    from dpd_neighbours.tdds import training_scores

    return Seen(look.scenes, training_scores(look.scenes, look.cache, look.stage("scoring the real images")))


tdds = Method("tdds", sees="its own", uses_seed=False, pick=highest_first, look=_scores)


def foreground(argument: str) -> Method:
    """Images that are cut to their objects, those first of whose class a teacher is surest.

    Args:
        argument: the two models that find the objects, as in `find_models`; "" for a saliency map.

    Raises:
        InputError: as `find_models`.
    """
    models = find_models(argument) if argument else None

    def patches(look: Look) -> Seen:
        from dpd_neighbours.foreground.patches import foreground_patches

        teacher = look.teacher()
        found = foreground_patches(look.data, look.scenes, teacher, models, look.stage)
        return Seen(
            found.scenes,
            found.sure,
            network=teacher.description,
            about=found.about,
            picture=found.picture,
            note=None if models is None else f"foreground: objects found by {models.description()}",
        )

    return Method("foreground", sees="its own", uses_seed=False, pick=highest_first, look=patches)
