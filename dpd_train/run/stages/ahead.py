"""The stages that a run goes through, in their order, and what each of them is for."""

from collections.abc import Callable, Mapping

from dpd_train.config import TrainConfig

Announce = Callable[[Mapping[str, str]], None]
"""Title of each stage, in their order → what it is for."""
MEANING = {
    "scoring the training images": "to leave out those that teach little",
    "teacher": "a classifier of your images, which judges the images of the set",
    "perceptual networks": "which judge what the VAE's decoder makes",
    "VAE decoder": "is trained on your images",
    "VAE": "which turns your bands into latents and back",
    "encoding": "turns images into latents, which the cache keeps",
    "encoding the validation part": "does the same for the images that judge",
    "latent classifier": "a classifier of latents",
    "captions": "phrases that describe each image, for the prompts",
    "captions of the validation part": "with which the fine-tuning is validated",
    "classifier of noisy latents": "which tells the fine-tuning whether a class is recognised",
    "federated tuning": "teaches the denoiser together with other sites",
    "fine-tuning": "teaches the denoiser your images",
    "watchers": "small networks, which judge the codes and stay here",
    "starting images": "sampled images, from which the codes begin",
    "statistics": "what the watchers see in all images of a class",
    "matching": "shapes the codes until the watchers see the same in them",
}


def stages_ahead(config: TrainConfig, *, bands: bool, tuned_decoder: bool, federated: str | None) -> dict[str, str]:
    """Title and meaning of each stage of a run, none of which is skipped unless an earlier session finished it.

    Latents and captions that the cache has are not computed again.

    Args:
        config: with the kind of prototypes. bands: whether images carry others than RGB.
        tuned_decoder: whether the VAE's decoder is trained. federated: the role in a federated tuning.
    """
    listed = ["scoring the training images"] * bool(config.prune) + ["teacher"]
    listed += ["VAE"] if bands else ["perceptual networks", "VAE decoder"] * tuned_decoder
    listed += ["encoding", "encoding the validation part", "latent classifier", "captions"]
    if config.steps:
        listed.append("captions of the validation part")
        if config.lambda_cls and config.judge_on == "latents" and federated != "server":
            listed.append("classifier of noisy latents")
        listed.append("fine-tuning" if federated is None else "federated tuning")
    if config.prototypes == "matched":
        listed += ["watchers", *(["starting images"] * (not bands)), "statistics", "matching"]
    return {title: MEANING[title] for title in listed}
