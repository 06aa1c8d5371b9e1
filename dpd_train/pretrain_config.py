"""Everything that decides a base but the data: the constants which the shipped one was made with."""

from dataclasses import dataclass, field

from dpd_train.autoencoder import AutoencoderTraining
from dpd_train.denoiser import DenoiserTraining
from dpd_train.multi_scale import Crops
from dpd_train.perceptual import perceptual_training
from dpd_train.pretrain_pool import Sources
from dpd_train.train_classifier import ClassifierTraining


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides a base but the data."""

    resolution: int = 64
    val_per_class: int | tuple[int, ...] | None = None  # several numbers: one for each source of the data
    shares: tuple[float, ...] | None = None  # of the sources, see `Sources`
    crops: Crops | None = None  # of images larger than the resolution; None: each is resized as a whole
    seed: int = 0
    start: str | None = None  # a base to go on from; None begins at random weights
    latent_channels: int | None = None  # None: those of `start`, else the nano base's four
    perceptual: ClassifierTraining = field(default_factory=lambda: perceptual_training(800))
    autoencoder: AutoencoderTraining = field(
        default_factory=lambda: AutoencoderTraining(
            steps=3000,
            batch=12,
            peak_rate=4e-4,
            l1_weight=1.0,
            coarse_weight=6.0,
            coarse_sides=(2, 4),
            chroma_weight=3.0,
            gradient_weight=1.0,
            spectral_weight=2.0,
            perceptual_weight=1.0,
            statistics_weight=1.0,
            contrast_floor=0.04,
            scale_probability=0.1,
        )
    )
    decoder: AutoencoderTraining = field(
        default_factory=lambda: AutoencoderTraining(
            steps=3000,
            batch=12,
            peak_rate=4e-4,
            l1_weight=0.25,
            coarse_weight=6.0,
            chroma_weight=4.0,
            gradient_weight=0.0,
            spectral_weight=4.0,
            perceptual_weight=1.0,
            statistics_weight=1.5,
            contrast_floor=0.04,
            kl_weight=0.0,
            scale_probability=0.0,
            latent_noise=0.05,
            seed=1,
        )
    )
    denoiser: DenoiserTraining = field(
        default_factory=lambda: DenoiserTraining(steps=8000, direction_weight=0.5, decoder_weight=0.1)
    )

    def sources(self, data: tuple[str, ...]) -> Sources:
        return Sources(
            data=data,
            resolution=self.resolution,
            val_per_class=self.val_per_class,
            shares=self.shares,
            crops=self.crops,
            seed=self.seed,
        )
