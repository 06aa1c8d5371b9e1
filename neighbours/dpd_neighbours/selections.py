"""The selections `tdds` and `foreground`, for the extension point `dpd.selections`. Loads no PyTorch."""

from dpd_eval.selection import Look, Method, Seen, highest_first


def _scores(look: Look) -> Seen:
    from dpd_neighbours.tdds import training_scores

    return Seen(look.scenes, training_scores(look.scenes, look.cache, look.stage("scoring the real images")))


def _patches(look: Look) -> Seen:
    from dpd_neighbours.foreground import foreground_patches

    teacher = look.teacher()
    patches = foreground_patches(look.data, look.scenes, teacher, look.segmenter, look.stage)
    return Seen(
        patches.scenes,
        patches.sure,
        network=teacher.description,
        about=lambda rows: patches.about(rows, look.segmenter),
        picture=patches.picture,
    )


tdds = Method("tdds", sees="its own", uses_seed=False, pick=highest_first, look=_scores)
foreground = Method(
    "foreground", sees="its own", uses_seed=False, pick=highest_first, look=_patches, uses_segmenter=True
)
