"""bundle.json: what a bundle says of itself."""

import datetime
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from dpd_runtime.bands import MOST_BANDS, Band
from dpd_runtime.errors import BundleError, BundleVersionError
from dpd_runtime.files import parse_json
from dpd_runtime.sampler import BLOCK, BlockGuidance, Sampler
from dpd_runtime.text import LONGEST_NAME, LONGEST_TEXT, is_readable
from dpd_runtime.versions import __version__

# -- What a bundle's manifest says about differential privacy.


MOST_RELEASES = 10
MOST_EPSILON = 100.0
LEAST_NOISE, MOST_NOISE = 1e-3, 1e6
"""Of a noise multiplier. Beyond them a claim means nothing, and the arithmetic below overflows."""
ROUNDING = 1e-3  # relative, of epsilon and of the multipliers as they are written
ONE_IMAGE = "one image, replaced by another of its class"
"""The unit of what `dpd private` makes."""


@dataclass(frozen=True, kw_only=True)
class PrivacyClaim:
    """The differential privacy that a bundle's maker claims; nothing at a site can check it.

    Args:
        epsilon, delta: of everything in the bundle together.
        unit: what can be replaced by another of its kind; what the bundle shows then changes by no more than this.
        noise_multipliers: of each release, standard deviation of its Gaussian noise / its sensitivity.
    """

    epsilon: float
    delta: float
    unit: str
    mechanism: str
    noise_multipliers: Mapping[str, float]

    def describe(self) -> str:
        """One line for people."""
        multipliers = ", ".join(f"{name} {value:.4g}" for name, value in self.noise_multipliers.items())
        guarantee = f"({self.epsilon:.6g}, {self.delta:g})-differential privacy of {self.unit}"
        return f"{guarantee}; {self.mechanism}; noise multipliers: {multipliers}"

    def fault(self) -> str:
        """The field that cannot be and its value; empty if all can be."""
        if not 0 < self.epsilon <= MOST_EPSILON:
            return f"epsilon is {self.epsilon}, it must be above 0 and at most {MOST_EPSILON:g}"
        if not 0 < self.delta < 1:
            return f"delta is {self.delta}, it must be between 0 and 1"
        multipliers: object = self.noise_multipliers
        if not isinstance(multipliers, dict) or not 0 < len(multipliers) <= MOST_RELEASES:
            return f"noise_multipliers are not an object with 1 … {MOST_RELEASES} numbers"
        if not all(
            type(value) in (int, float) and LEAST_NOISE <= value <= MOST_NOISE for value in multipliers.values()
        ):
            return f"noise_multipliers are not numbers of {LEAST_NOISE:g} … {MOST_NOISE:g}"
        if self._delta_of_noise() > self.delta:
            return f"epsilon is {self.epsilon}, less than its noise multipliers give at delta {self.delta:g}"
        return ""

    def _delta_of_noise(self) -> float:
        """δ(ε) of Gaussian releases together: Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), μ² = Σ 1 / m² (Dong et al. 2022).

        As `dpd_train.prototypes.delta_of`, but without SciPy, which a site does not have.
        """
        epsilon = self.epsilon * (1 + ROUNDING)
        shift = math.sqrt(sum(1 / value**2 for value in self.noise_multipliers.values()))
        return _phi(shift / 2 - epsilon / shift) - math.exp(epsilon) * _phi(-shift / 2 - epsilon / shift)


def _phi(x: float) -> float:
    """The normal distribution's share below x."""
    return math.erfc(-x / math.sqrt(2)) / 2


# -- The manifest bundle.json: what a bundle contains and how it is used (docs/reference/bundle-format.md).


FORMAT = "dpd-bundle"
FORMAT_VERSION = 1
CODES_ONLY_VERSION = 2
"""Of codes-only bundles, so that a reader that knows only version 1 says that it is too old. All others have 1."""
PRIVACY_VERSION = 3
"""Of codes-only bundles that claim differential privacy, for the same reason."""
BANDS_VERSION = 4
"""Of codes-only bundles whose images have other bands than red, green and blue."""
MANIFEST_NAME = "bundle.json"
AUDIT_NAME = "audit.json"
VERDICTS = ("PASS", "WARN", "FAIL")
UNAUDITED = "unaudited"
MAX_LATENT_VALUES = 2**22  # of one image: 16 times those of 16 channels at 1024 pixels
MAX_PIXELS = 2**24
MAX_IMAGE_BYTES = 2**27  # all bands, one byte each
MAX_BATCH_BYTES = 2**31  # of one call's latents, and of one call's images
MAX_NOISE_BYTES = 2**29
MAX_LICENCES = 100
MAX_WATCHERS = 64
MAX_SERIAL = 2**53 - 1  # every reader of JSON has it exactly
MAX_GUIDANCE = 100  # entries; a bundle has three or so
MAX_BLOCK = 2**32 // BLOCK  # the noise of an image depends on its index as 32 bits (docs/reference/bundle-format.md)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")


@dataclass(frozen=True)
class FileEntry:
    """A file of a bundle or a classifier.

    Args:
        sha256: of its bytes. bytes: their number.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of bundle.json.

    Args:
        image_shape: (H, W, 3), or (H, W, N) with `bands`. latent_shape: (C, h, w).
        scaling_factor: latents are divided by it before they are decoded.
        files: all other files of the bundle by path.
        tools: package versions at export. training: hash of the run's config, and package versions.
        data: number of training images, and a hash of their contents.
        audit: UNAUDITED, or the verdict in audit.json, one of VERDICTS.
        serial: `dpd sign` writes it, greater for a newer bundle of this name; 0 for none. At most MAX_SERIAL.
        expires: last day (UTC) on which the bundle may be used, such as "2027-11-21"; empty for no end.
        codes_only: it holds matched codes and their decoder, and nothing that samples or judges images.
        privacy: only of a codes-only bundle without an audit and a fingerprint, which would come from the images.
        bands: what the channels stand for; only of a codes-only bundle, empty for red, green and blue.
    """

    name: str
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]
    scaling_factor: float
    prediction_type: str
    sampler: Sampler
    precision: str
    opset: int
    files: Mapping[str, FileEntry] = field(repr=False)
    minimum_runtime: str = "0.1.0"
    tools: Mapping[str, str] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, float] = field(default_factory=dict)
    audit: str = UNAUDITED
    serial: int = 0
    expires: str = ""
    codes_only: bool = False
    privacy: PrivacyClaim | None = None
    bands: tuple[Band, ...] = ()
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @property
    def watchers(self) -> tuple[str, ...]:
        """Names of the networks, beside the run's own ones, in whose features codes were matched, such as hf:NAME."""
        return tuple(watcher["name"] for watcher in self.training.get("watchers", ()))

    def to_json(self) -> bytes:
        """The manifest as JSON with sorted keys, so that equal manifests have equal bytes.

        Serial, expiry, codes_only, privacy and bands are left out where they say nothing, so that such a bundle keeps
        its bytes.
        """
        content = asdict(self) | {"sampler": self.sampler.to_dict()}
        for name in ("serial", "expires", "codes_only", "privacy", "bands"):
            if not content[name]:
                del content[name]
        return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise BundleError(f"{MANIFEST_NAME}: {sentence}; export the bundle again")


def _build(kind: type[T], content: object, where: str) -> T:
    """Make a dataclass from a JSON object with exactly its fields. Types of scalars are checked."""
    _require(isinstance(content, dict), f"{where} is not an object")
    assert isinstance(content, dict)
    known = {f.name: f.type for f in fields(kind)}  # type: ignore[arg-type]
    _require(not set(content) - set(known), f"{where} has unknown keys {sorted(set(content) - set(known))[:8]}")
    scalars: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
    for name, value in content.items():
        expected = scalars.get(known[name])
        good = expected is None or type(value) in expected
        _require(good, f"{where}.{name} has the wrong type {type(value).__name__}")
        longest = LONGEST_NAME if name == "name" else LONGEST_TEXT
        _require(
            is_readable(value, longest), f"{where}.{name} has characters that cannot be printed, or more than {longest}"
        )
    try:
        return kind(**content)
    except TypeError as error:
        raise BundleError(f"{MANIFEST_NAME}: {where}: {error}; export the bundle again") from error


def parse_sampler(content: object) -> Sampler:
    """Read and check the sampler.

    Raises:
        BundleError: a setting is missing, unknown or out of range.
    """
    _require(isinstance(content, dict) and isinstance(content.get("guidance"), list | tuple), "sampler is incomplete")
    assert isinstance(content, dict)
    entries = len(content["guidance"])
    _require(entries <= MAX_GUIDANCE, f"sampler.guidance has {entries} entries, more than {MAX_GUIDANCE}")
    guidance = tuple(_build(BlockGuidance, g, "sampler.guidance") for g in content["guidance"])
    sampler = _build(Sampler, {**content, "guidance": guidance}, "sampler")
    _require(bool(guidance) and guidance[0].from_block == 0, "sampler.guidance does not start at block 0")
    _require(1 <= sampler.steps <= 1000, f"sampler.steps is {sampler.steps}, it must be 1 … 1000")
    _require(1 <= sampler.candidates <= 64, f"sampler.candidates is {sampler.candidates}, it must be 1 … 64")
    _require(1 <= sampler.compute_batch <= 1024, f"sampler.compute_batch is {sampler.compute_batch}")
    power, gain = sampler.timestep_power, sampler.mean_noise_gain
    _require(1 <= power <= 4, f"sampler.timestep_power is {power}, it must be 1 … 4")
    _require(0 <= gain <= 10, f"sampler.mean_noise_gain is {gain}, it must be 0 … 10")
    for g in guidance:
        _require(1 <= g.guidance_scale <= 50, f"guidance_scale is {g.guidance_scale}, it must be 1 … 50")
        _require(0 <= g.prototype_scale <= 1, f"prototype_scale is {g.prototype_scale}, it must be 0 … 1")
        _require(0 <= g.prototype_step <= 10, f"prototype_step is {g.prototype_step}, it must be 0 … 10")
        _require(not (g.prototype_step and g.prototype_scale), "prototype_step and prototype_scale exclude each other")
        _require(0 <= g.prototype_until <= 1, f"prototype_until is {g.prototype_until}, it must be 0 … 1")
        interval = f"guidance_from, guidance_until are {g.guidance_from}, {g.guidance_until}"
        _require(0 <= g.guidance_from <= g.guidance_until <= 1, f"{interval}; they must ascend within 0 … 1")
    starts = [g.from_block for g in guidance]
    _require(starts == sorted(set(starts)), f"sampler.guidance starts at blocks {starts}, which must ascend")
    _require(starts[-1] <= MAX_BLOCK, f"sampler.guidance has a block beyond {MAX_BLOCK}")
    return sampler


def _shape(content: object, name: str, largest: int) -> tuple[int, int, int]:
    good = isinstance(content, list) and len(content) == 3
    good = good and all(type(n) is int and 0 < n <= largest for n in content)  # type: ignore[attr-defined]
    _require(good, f"{name} is {content!r:.80}, not three sizes of 1 … {largest}")
    return tuple(content)  # type: ignore[arg-type, return-value]


def _check_minimum_runtime(needed: object) -> None:
    good = isinstance(needed, str) and re.fullmatch(r"\d{1,6}(\.\d{1,6}){2}", needed, re.ASCII)
    _require(bool(good), f"minimum_runtime is {needed!r}, not a version such as 0.1.0")
    if _numbers(str(needed)) > _numbers(__version__):
        raise BundleVersionError(
            f"{MANIFEST_NAME}: it needs dpd-distill {needed}, this is {__version__}; install a newer dpd-distill"
        )


def _numbers(version: str) -> list[int]:
    """The numbers of a version, without what marks it as one before or after the release: 0.3.0rc1 → [0, 3, 0]."""
    release = re.match(r"\d+(\.\d+)*", version, re.ASCII)
    return [int(number) for number in release[0].split(".")] if release else []


def parse_manifest(raw: bytes) -> Manifest:
    """Parse and check bundle.json.

    Raises:
        BundleVersionError: the bundle needs a newer runtime.
        BundleError: the manifest is invalid in another way.
    """
    content = parse_json(raw, MANIFEST_NAME)
    _require(isinstance(content, dict) and content.get("format") == FORMAT, f"its format is not {FORMAT!r}")
    version = content.get("format_version")
    _require(type(version) is int and version >= 1, f"format_version is {version!r}, not a number ≥ 1")
    if version > BANDS_VERSION:
        raise BundleVersionError(
            f"{MANIFEST_NAME}: format version {version!r}, this runtime reads up to {BANDS_VERSION}; "
            "install a newer dpd-distill"
        )
    _check_minimum_runtime(content.get("minimum_runtime", "0.1.0"))
    _require(isinstance(content.get("files"), dict), "files is not an object")
    files = {path: _build(FileEntry, entry, f"files[{path!r}]") for path, entry in content["files"].items()}
    for path, entry in files.items():
        _require(bool(_HEX.fullmatch(entry.sha256)) and entry.bytes >= 0, f"files[{path!r}] has no valid hash or size")
    content |= {
        "files": files,
        "sampler": parse_sampler(content.get("sampler")),
        "image_shape": _shape(content.get("image_shape"), "image_shape", 8192),
        "latent_shape": _shape(content.get("latent_shape"), "latent_shape", 2048),
    }
    for name in ("tools", "licences", "data", "training", "parity"):
        _require(isinstance(content.get(name, {}), dict), f"{name} is not an object")
    watchers = content.get("training", {}).get("watchers", [])
    listed = isinstance(watchers, list) and len(watchers) <= MAX_WATCHERS
    listed = listed and all(isinstance(watcher, dict) and type(watcher.get("name")) is str for watcher in watchers)
    _require(listed, f"training.watchers is no list of at most {MAX_WATCHERS} networks with a name")
    if "privacy" in content:
        content["privacy"] = _build(PrivacyClaim, content["privacy"], "privacy")
    if "bands" in content:
        content["bands"] = _bands(content["bands"])
    manifest = _build(Manifest, content, "the manifest")
    channels = len(manifest.bands) or 3
    _require(
        manifest.image_shape[2] == channels, f"image_shape is {manifest.image_shape}, the last size must be {channels}"
    )
    _require(0 <= manifest.opset <= 1000, "opset is not a number of 0 … 1000")
    _require(0 < manifest.scaling_factor <= 1e6, f"scaling_factor is {manifest.scaling_factor}")
    for name in ("tools", "licences"):
        _require(
            all(isinstance(text, str) for text in getattr(manifest, name).values()),
            f"{name} has values that are not texts",
        )
    _require(len(manifest.licences) <= MAX_LICENCES, f"{len(manifest.licences)} licences, more than {MAX_LICENCES}")
    verdicts = (*VERDICTS, UNAUDITED)
    _require(manifest.audit in verdicts, f"audit is {manifest.audit!r}, not one of {', '.join(verdicts)}")
    _require(0 <= manifest.serial <= MAX_SERIAL, f"serial is {manifest.serial}, it must be 0 … {MAX_SERIAL}")
    _require(not manifest.expires or is_day(manifest.expires), f"expires is {manifest.expires!r}, not a day")
    _check_codes_only(manifest)
    _check_sizes(manifest)
    return manifest


def _bands(content: object) -> tuple[Band, ...]:
    _require(isinstance(content, list) and 0 < len(content) <= MOST_BANDS, f"bands are not 1 … {MOST_BANDS} bands")
    assert isinstance(content, list)
    bands = tuple(_build(Band, band, f"bands[{number}]") for number, band in enumerate(content))
    for number, band in enumerate(bands):
        _require(not (fault := band.fault()), f"bands[{number}]: its {fault}")
    names = [band.name for band in bands]
    _require(len({*names}) == len(names), f"bands have the names {names!r:.200}, which must differ")
    return bands


def _check_codes_only(manifest: Manifest) -> None:
    expected = CODES_ONLY_VERSION if manifest.codes_only else FORMAT_VERSION
    if manifest.privacy is not None:
        fault = manifest.privacy.fault()
        _require(not fault, f"privacy.{fault}")
        _require(manifest.codes_only, "it claims privacy, which only codes_only bundles have")
        _require(manifest.audit == UNAUDITED, "it claims privacy, but its audit tells about its images")
        _require("fingerprint" not in manifest.data, "it claims privacy, but its fingerprint tells about its images")
        expected = PRIVACY_VERSION
    if manifest.bands:
        _require(manifest.codes_only, "it has bands, which only codes_only bundles have")
        _require(manifest.privacy is None, "it has bands and claims privacy, which no bundle does")
        expected = BANDS_VERSION
    said = "codes_only" if manifest.codes_only else "not codes_only"
    _require(manifest.format_version == expected, f"it is {said}, with format_version {manifest.format_version}")
    decodes = all(guidance.decodes for guidance in manifest.sampler.guidance)
    _require(decodes or not manifest.codes_only, "it is codes_only, but its sampler does more than decode")


def is_day(text: str) -> bool:
    """Whether `text` is a day of the calendar as YYYY-MM-DD."""
    try:
        return _DAY.fullmatch(text) is not None and bool(datetime.date.fromisoformat(text))
    except ValueError:
        return False


def check_noise(latent_shape: tuple[int, int, int], candidates: int, draws: int) -> None:
    """Check the size of the noise of one image, [candidates, 1 + draws, C, h, w] float32.

    Raises:
        ValueError: it is larger than MAX_NOISE_BYTES.
    """
    size = 4 * math.prod(latent_shape) * candidates * (1 + draws)
    if size > MAX_NOISE_BYTES:
        raise ValueError(
            f"{candidates} candidates with {draws} further draws need {size / 1e9:.1f} GB of noise for each image"
        )


def _check_sizes(manifest: Manifest) -> None:
    """Check sizes before anything is allocated: a few numbers in a file could ask for terabytes."""
    latents, pixels = math.prod(manifest.latent_shape), math.prod(manifest.image_shape[:2])
    values = math.prod(manifest.image_shape)
    _require(
        latents <= MAX_LATENT_VALUES, f"latent_shape {manifest.latent_shape} has more than {MAX_LATENT_VALUES} values"
    )
    _require(pixels <= MAX_PIXELS, f"image_shape {manifest.image_shape} has more than {MAX_PIXELS} pixels")
    _require(
        values <= MAX_IMAGE_BYTES, f"image_shape {manifest.image_shape} has more than {MAX_IMAGE_BYTES} bytes an image"
    )
    batch = manifest.sampler.compute_batch
    _require(
        batch * 4 * max(latents, values) <= MAX_BATCH_BYTES,
        f"sampler.compute_batch is {batch}: images or latents of one call have more than {MAX_BATCH_BYTES} bytes",
    )
