"""Everything that decides a base except the data; the defaults are those of the shipped base."""

from dataclasses import dataclass, field

from dpd_train.classifiers.training import ClassifierTraining
from dpd_train.diffusion.denoiser import DenoiserTraining
from dpd_train.held_out import By
from dpd_train.images.crops import Crops
from dpd_train.pretrain.pool import Sources
from dpd_train.vae.autoencoder import AutoencoderTraining
from dpd_train.vae.perceptual import perceptual_training
from dpd_train.vae.tune import DECODER


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides a base except the data."""

    resolution: int = 64
    val_per_class: int | tuple[int, ...] | None = None  # several numbers: one for each source
    split: By = "content"
    shares: tuple[float, ...] | None = None  # of the sources, see `Sources`
    crops: Crops | None = None  # of images larger than the resolution; None resizes them as a whole
    seed: int = 0
    start: str | None = None  # a base to start from; None starts from random weights
    latent_channels: int | None = None  # None: those of `start`, or else four
    attention_levels: int | None = None  # None: those of `start`, or else one; see `nano_unet`
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
    decoder: AutoencoderTraining = DECODER
    denoiser: DenoiserTraining = field(
        default_factory=lambda: DenoiserTraining(
            steps=8000, direction_weight=0.5, decoder_weight=0.1, min_snr_gamma=None
        )
    )

    def sources(self, data: tuple[str, ...]) -> Sources:
        """The sources `data` with the settings of this config."""
        return Sources(
            data=data,
            resolution=self.resolution,
            val_per_class=self.val_per_class,
            split=self.split,
            shares=self.shares,
            crops=self.crops,
            seed=self.seed,
        )
