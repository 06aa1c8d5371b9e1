"""dataset.json: what describes a set to programs, as one type that `dpd generate` writes and judges read."""

from dataclasses import dataclass, fields
from typing import Any

from dpd_runtime.bands import Band


@dataclass(frozen=True, kw_only=True)
class SetRecord:
    """What a set is and how it was made. Values that a set does not have are absent from the file.

    Args:
        set_hash: sha256 of the pixels, whatever the format.
        bundle_hash, bundle_name, signature, audit: of the bundle.
        prototypes_sha256: of the bundle's codes, which its signed and audited copies share.
        watchers: names of the networks, beside the run's own ones, that watched while codes were matched; absent for a
            set of another kind, or of an earlier version.
        real_images: whether `dpd select` chose the images, which are private then.
        method, extractor, resolution: of `dpd select`.
        seed: of the request. ipc: images per class, absent where all images were chosen.
        sampler: its settings, as in the bundle's manifest.
        images, counts: of the set, and of each class.
        format, image_format, quality: of the files; quality in percent, of lossy ones.
        bands: of images that are not red, green and blue.
        soft_labels: whether each image has class probabilities of the bundle's teacher.
        files: sha256 of each file of a packed set.
        provider, provider_version, device, precision, threads, cpu_flags, versions: what computed the pixels.
        call_rows: images in one call of each network, where memory was too short for all of them.
        config: the options that make the set again: `dpd generate BUNDLE --config dataset.json`, or of real images
            `dpd select DATA --config dataset.json`.
        made_with: what must be equal for two processes to write into one folder.
        state: complete.
    """

    set_hash: str = ""
    bundle_hash: str | None = None
    bundle_name: str | None = None
    prototypes_sha256: str | None = None
    signature: str | None = None
    audit: str | None = None
    watchers: tuple[str, ...] | None = None
    real_images: bool = False
    method: str | None = None
    extractor: str | None = None
    resolution: int | None = None
    seed: int | None = None
    sampler: dict[str, Any] | None = None
    ipc: int | None = None
    images: int | None = None
    counts: dict[str, int] | None = None
    format: str | None = None
    image_format: str | None = None
    quality: int | None = None
    bands: tuple[Band, ...] = ()
    soft_labels: bool | None = None
    files: dict[str, str] | None = None
    provider: str | None = None
    provider_version: str | None = None
    device: str | None = None
    precision: str | None = None
    call_rows: dict[str, int] | None = None
    threads: int | None = None
    cpu_flags: tuple[str, ...] | None = None
    versions: dict[str, str] | None = None
    config: dict[str, Any] | None = None
    made_with: dict[str, Any] | None = None
    state: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: without what the set does not have."""
        usual = {field.name: field.default for field in fields(self)}
        content = {name: value for name in usual if (value := getattr(self, name)) != usual[name]}
        return content | ({"bands": [band.to_dict() for band in self.bands]} if self.bands else {})
