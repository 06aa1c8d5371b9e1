"""`dpd pretrain --seed` decides every training, also where it begins at a base and draws no weights."""

from dpd_cli.commands.pretrain import _config
from dpd_train.config import TRAININGS
from dpd_train.pool import Sources
from dpd_train.pretrain import PretrainConfig


def seeds(seed: int) -> list[int]:
    sources = Sources(data=("drawn:2",), resolution=32, seed=seed)
    given = {f"{name}_{what}": None for name in TRAININGS for what in ("steps", "batch", "rate")}
    config = _config(sources, "nano", None, None, given | {"perceptual_network": None})
    return [getattr(config, name).seed for name in TRAININGS]


def test_each_training_has_a_seed_of_its_own_for_every_seed() -> None:
    assert seeds(0) == [getattr(PretrainConfig(), name).seed for name in TRAININGS], "the shipped base's"
    assert not set(seeds(0)) & set(seeds(1))
    assert not set(seeds(1)) & set(seeds(2))
